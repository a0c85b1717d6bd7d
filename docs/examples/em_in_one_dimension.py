"""
EM from nothing in one dimension
================================

Three clusters of numbers, three Gaussians that know nothing of them, and two steps in turn:
*expectation* says how much each Gaussian is responsible for each number, *maximization* moves each
Gaussian to the numbers that it is responsible for. The functions on this page are those that every
fit of gmm-dask calls, on a hundred rows or on a hundred million.
"""

# %%
# The numbers
# -----------
#
# Sixty of them, in three groups of twenty, around 10, −10 and 0. Rows are a matrix (n, d), here
# with d = 1 column.

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation
from scipy.stats import norm

from gmm_dask import GaussianMixture
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.em import EMOptions, em_steps, start_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.maximization import maximize
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import MixtureSpec
from gmm_dask.mixture.statistics import sum_statistics
from gmm_dask.report.palette import component_colors


def three_groups(distance):
    """Draw sixty numbers around ``distance``, ``-distance`` and 0."""
    np.random.seed(0)
    line = np.linspace(-5, 5, 20)
    right = line * np.random.rand(20) + distance
    left = line * np.random.rand(20) - distance
    middle = line * np.random.rand(20)
    return np.concatenate([right, left, middle])[:, None]


X = three_groups(10)

# %%
# The start
# ---------
#
# Three Gaussians with means μ, standard deviations σ and equal weights π. They are a guess, and not
# a good one. gmm-dask keeps covariances, so the standard deviations are squared.


def gaussians(means, deviations, weights=(1 / 3, 1 / 3, 1 / 3)):
    """Make a mixture of one-dimensional Gaussians."""
    variances = np.square(np.array(deviations, dtype=float))
    return MixtureParameters.from_covariances(
        "full", np.array(weights), np.array(means, dtype=float)[:, None], variances[:, None, None]
    )


start = gaussians(means=(-5, 8, 1.5), deviations=(5, 3, 1))

# %%
# Expectation
# -----------
#
# The responsibility r of component c for row i is its share of the density there::
#
#     r_ic = π_c N(x_i | μ_c, σ_c) / Σ_k π_k N(x_i | μ_k, σ_k)
#
# Each row of the table sums to 1. With equal weights π cancels, so the table is the same without
# it.

responsibilities = assign(start, X, responsibilities=True).responsibilities
for row in responsibilities:
    print("  ".join(f"{share:.8e}" for share in row))

# %%
# The same in the words of a textbook:

densities = norm(start.means.ravel(), np.sqrt(start.matrices.ravel())).pdf(X)  # (60, 3)
assert np.allclose(responsibilities, densities / densities.sum(axis=1, keepdims=True), rtol=1e-12)
assert np.allclose(responsibilities.sum(axis=1), 1)

# %%
# In the picture each row has the three colours of the components, mixed by its responsibilities.
# Rows on the left belong to the first component, rows on the right to the second, and those near
# 1.5 to the third. Where two densities cross, the colours blend.

colors = component_colors(range(3))


def draw(axes, X, mixture, shares, title):
    """Draw the rows in the blend of their shares, and the weighted density of each component."""
    x = np.linspace(X.min() - 4, X.max() + 4, 800)
    deviations = np.sqrt(mixture.matrices.ravel())
    parts = zip(mixture.weights, mixture.means.ravel(), deviations, colors, strict=True)
    for weight, mean, deviation, color in parts:
        density = weight * norm(mean, deviation).pdf(x)
        axes.plot(x, density, color=color)
        axes.fill_between(x, density, color=color, alpha=0.15)
    axes.scatter(X.ravel(), np.zeros(len(X)), c=np.clip(shares @ colors, 0, 1), s=30, zorder=3)
    axes.set(xlim=(x[0], x[-1]), ylim=(-0.012, 0.2), yticks=[])
    axes.text(0.005, 0.75, title, transform=axes.transAxes)
    axes.spines[["left", "top", "right"]].set_visible(False)


figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
draw(axes, X, start, responsibilities, "the start, and its responsibilities")

# %%
# Maximization
# ------------
#
# Each component gets the weight, the mean and the variance of the rows that it is responsible for.
# Of m rows it has m_c, and the variance is about its *new* mean::
#
#     m_c  = Σ_i r_ic
#     π_c  = m_c / m
#     μ_c  = Σ_i r_ic x_i / m_c
#     σ²_c = Σ_i r_ic (x_i − μ_c)² / m_c
#
# gmm-dask never holds the table. It sums over the rows once, and these *sufficient statistics* are
# all that the M-step needs. For rows in many places the sums are simply added: that is the whole
# trick of a fit that is larger than memory.

statistics = sum_statistics(start, X)
half, other_half = sum_statistics(start, X[:30]), sum_statistics(start, X[30:])
assert np.allclose((half + other_half).counts, statistics.counts)

spec = MixtureSpec(n_components=3, reg_covar=0.0)
after_one = maximize(start, statistics, spec).parameters
print("m ", statistics.counts.round(4))
print("π ", after_one.weights.round(4))
print("μ ", after_one.means.ravel().round(4))
print("σ²", after_one.matrices.ravel().round(4))

# %%
# And in the words of a textbook:

counts = responsibilities.sum(axis=0)
means = responsibilities.T @ X.ravel() / counts
variances = (responsibilities * (X - means) ** 2).sum(axis=0) / counts
assert np.allclose(after_one.weights, counts / 60)
assert np.allclose(after_one.means.ravel(), means)
assert np.allclose(after_one.matrices.ravel(), variances)

# %%
# Above, the new Gaussians with the responsibilities of the old ones, which moved them. Below, with
# their own. (A density has a *standard deviation*. It is a common slip to hand the variance to a
# function that wants its root; then the curves come out far too wide or too narrow.)

figure, axes = plt.subplots(2, figsize=(8, 5.2), layout="constrained")
draw(axes[0], X, after_one, responsibilities, "one M-step later, old responsibilities")
new = assign(after_one, X, responsibilities=True).responsibilities
draw(axes[1], X, after_one, new, "one M-step later, new responsibilities")

# %%
# Ten iterations
# --------------
#
# Now with the groups around 15, −15 and 0, and another start: means −8, 8 and 5. `em_steps` yields
# the state after each iteration. It is given a function from parameters to statistics, and does not
# know where the rows are.

X = three_groups(15)
start = gaussians(means=(-8, 8, 5), deviations=(5, 3, 1))
options = EMOptions(tol=0.0, max_iter=10)  # tol=0: all ten
states = list(em_steps(ExpectationOn(X, None), start_em([start], options), spec, options))
mixtures = [start, *(state.candidates[0].parameters for state in states)]

figure, axes = plt.subplots(11, figsize=(8, 15), layout="constrained", sharex=True)
for iteration, mixture in enumerate(mixtures):
    shares = assign(mixture, X, responsibilities=True).responsibilities
    title = f"iteration {iteration}" if iteration else "the start"
    draw(axes[iteration], X, mixture, shares, title)

# %%
# The same as a film, to be played or stepped through:

figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained", dpi=80)


def show(iteration):
    """Draw the state after an iteration."""
    axes.clear()
    mixture = mixtures[iteration]
    shares = assign(mixture, X, responsibilities=True).responsibilities
    draw(axes, X, mixture, shares, f"iteration {iteration}")


replay = FuncAnimation(figure, show, frames=len(mixtures), interval=700)

# %%
# The log-likelihood says how well the mixture describes the rows::
#
#     Σ_i ln Σ_k π_k N(x_i | μ_k, σ_k)
#
# It never falls, and when it no longer changes, EM has arrived. Here it is divided by the rows.

log_likelihoods = [sum_statistics(mixture, X).mean_log_likelihood for mixture in mixtures]
for iteration, log_likelihood in enumerate(log_likelihoods):
    print(f"{iteration:2d}  {log_likelihood:.6f}")

figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
axes.plot(log_likelihoods, "o-", color=colors[0])
axes.set(xlabel="iteration", ylabel="log-likelihood per row, nats")
axes.spines[["top", "right"]].set_visible(False)

# %%
# Where EM arrived
# ----------------

final = mixtures[-1]
for weight, mean, variance in zip(final.weights, final.means, final.matrices, strict=True):
    print(f"weight {weight:.3f}   mean {mean[0]:6.2f}   deviation {variance[0, 0] ** 0.5:5.2f}")

# %%
# Not at the three groups. The first component has taken two of them, and the third has *starved* on
# two rows that lie close together. Nothing is wrong with the steps: EM climbs from where it starts,
# to the nearest top. It is the start that was poor.
#
# Some lectures show these ten iterations with another end: one Gaussian on each group. Their code
# computes the new deviations but never assigns them, so they stay 5, 3 and 1. With the deviations
# held, ours ends there too:

mixture = start
for _ in range(10):
    moved = maximize(mixture, sum_statistics(mixture, X), spec).parameters
    held = MixtureParameters.from_covariances(
        "full", moved.weights, moved.means, mixture.covariances
    )
    mixture = held
print("μ ", held.means.ravel().round(2))
print("π ", held.weights.round(3))

# %%
# A search
# --------
#
# The cure is not to forget half of the M-step but to begin at more than one place.
# :class:`~gmm_dask.GaussianMixture` does so by itself: it runs many short EMs from different starts
# and goes on with the best.

gm = GaussianMixture(n_components=3, random_state=0).fit(X)
print("μ ", gm.means_.ravel().round(2))
print("π ", gm.weights_.round(3))
print(f"log-likelihood per row: {gm.log_likelihood_:.3f}, above it was {log_likelihoods[-1]:.3f}")

searched = MixtureParameters.from_covariances("full", gm.weights_, gm.means_, gm.covariances_)
figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
draw(axes, X, searched, gm.predict_proba(X), "what the search finds")
