"""
When a covariance becomes singular
==================================

The likelihood of a mixture has no upper bound. A component that sits on a single point can shrink
for ever, and its density, with it the likelihood, grows without limit. EM does not know that this
is not what we want. There are two cures: a floor for the variances, and placing the component
again.
"""

# %%
# A value that repeats
# --------------------
#
# Delays of trains: the distance on a journey, and the delay in whole minutes. Many trains are on
# time, so a tenth of the rows have the delay 0.

import logging
import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse
from sklearn.exceptions import ConvergenceWarning

from gmm_dask import GaussianMixture
from gmm_dask.report.palette import component_colors

random = np.random.default_rng(5)
journey = random.integers(3, size=6000)
X = random.normal(size=(6000, 2)) * [1, 9] + np.array([[5, 20], [11, 40], [17, 10]])[journey]
X[:, 1] = np.abs(np.round(X[:, 1]))
X[random.random(6000) < 0.08, 1] = 0
print(f"{np.mean(X[:, 1] == 0):.1%} of the rows have the delay 0")

# %%
# Without a cure
# --------------
#
# We start with a component on the punctual trains, and watch the standard deviation of its delay.
# Without a floor, ``reg_covar=0``, nothing stops it.

logging.getLogger("gmm_dask").setLevel(logging.ERROR)  # it would warn in every iteration
means = np.array([[5, 20], [11, 40], [17, 10], [11, 0]])
precisions = np.array([np.diag([1.0, 1 / 81])] * 3 + [np.diag([1 / 30, 1.0])])
start = {"weights_init": np.full(4, 1 / 4), "means_init": means, "precisions_init": precisions}


def deviation(iterations, **keywords):
    """Return the standard deviation of the fourth component's delay after that many iterations."""
    gm = GaussianMixture(4, max_iter=iterations, tol=0, **start, **keywords).fit(X)
    return float(np.sqrt(gm.covariances_[3, 1, 1]))


warnings.simplefilter("ignore", ConvergenceWarning)  # we stop EM ourselves
shrinking = []
try:
    while True:
        shrinking.append(deviation(len(shrinking) + 1, reg_covar=0))
except ArithmeticError as error:
    print(f"iteration {len(shrinking) + 1}: {error}")

# %%
# The first cure: a floor
# -----------------------
#
# ``reg_covar`` is added to every variance in each M-step. The fit ends, but the component has
# collapsed: nothing but the floor is left of its variance. The log says so.

log = logging.getLogger("gmm_dask")
log.setLevel(logging.INFO)
log.addHandler(logging.StreamHandler(sys.stdout))
floored = GaussianMixture(4, random_state=0).fit(X)

# %%
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
numbers = range(1, len(shrinking) + 5)
axes.semilogy(numbers[: len(shrinking)], shrinking, "o-", label="reg_covar=0, until it breaks down")
log.setLevel(logging.ERROR)
held = [deviation(number, reg_covar=1e-6) for number in numbers]
log.setLevel(logging.INFO)
axes.semilogy(numbers, held, ".-", label="reg_covar=1e-6")
axes.set(xlabel="iterations", ylabel="minutes", title="Standard deviation of the delay")
axes.legend()

# %%
# The second cure: place it again
# -------------------------------
#
# With ``on_collapse="replace"`` such a component is put where the mixture describes the rows worst,
# with the covariance of all rows, and EM goes on. The log-likelihood is lower afterwards. It had
# been bought by the collapse, and says nothing about trains.

mended = GaussianMixture(4, random_state=0, on_collapse="replace").fit(X)
for name, gm in (("with a floor", floored), ("placed again", mended)):
    smallest = np.sqrt([np.linalg.eigvalsh(covariance)[0] for covariance in gm.covariances_])
    print(f"{name:13} log-likelihood {gm.log_likelihood_:6.3f}, narrowest {smallest.min():.3f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
colors = component_colors(range(4))
for axis, name, gm in zip(axes, ("with a floor", "placed again"), (floored, mended), strict=True):
    labels = gm.predict(X)
    axis.scatter(*X.T, c=colors[labels], s=2)
    for mean, covariance, color in zip(gm.means_, gm.covariances_, colors, strict=True):
        values, vectors = np.linalg.eigh(covariance)
        angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
        width, height = 4 * np.sqrt(values[::-1])
        axis.add_patch(Ellipse(mean, width, height, angle=angle, fill=False, ec=color, lw=2))
    axis.set(title=name, xlabel="distance")
axes[0].set(ylabel="delay, minutes")

# %%
# On the left a component is a line at 0, of no thickness. On the right no component is lost.
#
# Neither cure makes Gaussians of minutes. If the delay 0 means something of its own, such as "not
# measured", leave these rows out (``filter`` in a run file), or fit fewer components.
