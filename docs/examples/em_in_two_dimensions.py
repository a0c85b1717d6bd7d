"""
EM in two dimensions
====================

The steps are those of :doc:`em_in_one_dimension`. What is new is that a Gaussian has a shape: its
covariance is a matrix, and its contours are ellipses that stretch and turn until they fit.
"""

# %%
# The rows
# --------
#
# Five hundred points in three clusters, which a random matrix stretches.

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation
from scipy.stats import multivariate_normal
from sklearn.datasets import make_blobs

from gmm_dask import GaussianMixture
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.em import EMOptions, em_steps, start_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import MixtureSpec
from gmm_dask.report.palette import component_colors

X, _ = make_blobs(cluster_std=1.5, random_state=20, n_samples=500, centers=3)
X = X @ np.random.RandomState(0).randn(2, 2)

# %%
# The start
# ---------
#
# Means drawn at random from the range of the data, the covariance 5·I for each, equal weights.


def random_start(seed):
    """Make three round Gaussians somewhere in the range of the data."""
    means = np.random.RandomState(seed).randint(X.min(), X.max(), (3, 2)).astype(float)
    covariances = np.array([5 * np.eye(2)] * 3)
    return MixtureParameters.from_covariances("full", np.full(3, 1 / 3), means, covariances)


colors = component_colors(range(3))
line = np.linspace(X.min() - 7, X.max() + 5, 160)
grid_x, grid_y = np.meshgrid(line, line)
grid = np.stack([grid_x, grid_y], axis=-1)


def draw(axes, mixture, title):
    """Draw the rows in the blend of their responsibilities, and the contours of each component."""
    axes.clear()
    shares = assign(mixture, X, responsibilities=True).responsibilities
    axes.scatter(*X.T, c=np.clip(shares @ colors, 0, 1), s=8)
    for mean, covariance, color in zip(mixture.means, mixture.matrices, colors, strict=True):
        distances = -2 * multivariate_normal(mean, covariance).logpdf(grid)
        distances -= distances.min()  # squared, in standard deviations
        axes.contour(grid_x, grid_y, distances, levels=[1, 4, 9], colors=[color], linewidths=1)
        axes.plot(*mean, "x", color=color, markersize=9, markeredgewidth=2)
    axes.set(title=title, xlim=line[[0, -1]], ylim=line[[0, -1]])


start = random_start(5)
figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
draw(axes, start, "the start: contours at 1, 2 and 3 standard deviations")

# %%
# Fifty iterations
# ----------------
#
# ``reg_covar``, a millionth, is added to the diagonal of each covariance in every M-step, so that
# none can become singular.

spec, options = MixtureSpec(n_components=3, reg_covar=1e-6), EMOptions(tol=0.0, max_iter=50)


def climb(start):
    """Return the mixture after each iteration, the start first, and the log-likelihoods."""
    states = list(em_steps(ExpectationOn(X, None), start_em([start], options), spec, options))
    mixtures = [start, *(state.candidates[0].parameters for state in states)]
    return mixtures, states[-1].candidates[0].lower_bounds


mixtures, log_likelihoods = climb(start)
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.plot(log_likelihoods, ".-", color=colors[0])
axes.set(xlabel="iteration", ylabel="log-likelihood per row, nats")
axes.spines[["top", "right"]].set_visible(False)

# %%
# Every state, to be played or stepped through:

figure, axes = plt.subplots(figsize=(6.5, 5), layout="constrained", dpi=56)
replay = FuncAnimation(
    figure,
    lambda iteration: draw(axes, mixtures[iteration], f"iteration {iteration}"),
    frames=len(mixtures),
    interval=200,
)

# %%
# The final state, and a new point
# --------------------------------
#
# A fitted mixture says of any point how much it belongs to each component. The point (0.5, 0.5),
# in orange, was not among the rows.

new_point = np.array([[0.5, 0.5]])
membership = assign(mixtures[-1], new_point, responsibilities=True).responsibilities
print("membership:", "  ".join(f"{share:.3e}" for share in np.sort(membership.ravel())))

figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
draw(axes, mixtures[-1], "after 50 iterations")
axes.scatter(*new_point.T, color="orange", edgecolor="black", s=90, zorder=4)

# %%
# Which start?
# ------------
#
# That start was a lucky one. Each of these six climbs to a top, but not each to the highest:

for seed in range(6):
    _, lower_bounds = climb(random_start(seed))
    print(f"start {seed}: {lower_bounds[-1]:.4f}")

# %%
# :class:`~gmm_dask.GaussianMixture` searches, so nobody has to be lucky. The order of components is
# arbitrary; here the heaviest comes first.

gm = GaussianMixture(n_components=3, random_state=0).fit(X)
print(f"search:  {gm.log_likelihood_:.4f}")
print("membership:", "  ".join(f"{share:.3e}" for share in np.sort(gm.predict_proba(new_point)[0])))

# %%
# The same in three lines
# -----------------------
#
# Five clusters of a thousand rows. They are so narrow that the new point belongs to one of them
# beyond any doubt.

X, _ = make_blobs(cluster_std=0.5, random_state=20, n_samples=1000, centers=5)
X = X @ np.random.RandomState(0).randn(2, 2)
gm = GaussianMixture(n_components=5, random_state=0).fit(X)
five_memberships = gm.predict_proba(new_point)[0]
print("converged:", gm.converged_)
print("membership:", "  ".join(f"{share:.1e}" for share in np.sort(five_memberships)))

figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
axes.scatter(*X.T, c=component_colors(range(5))[gm.predict(X)], s=8)
axes.scatter(*new_point.T, color="orange", edgecolor="black", s=90, zorder=4)
axes.set_title("each row in the colour of its most probable component")
