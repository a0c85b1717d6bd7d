"""
From a few labels to all
========================

Somebody has looked at thirty rows out of six thousand, and written down what they are. The other
rows are many, and cheap. A mixture can use both: the rows without a label show where the clusters
are, the rows with one say what the clusters are called.
"""

# %%
# Fish on a conveyor
# ------------------
#
# A camera measures length and brightness of fish. Of thirty an expert has said the species. The
# fourth kind is one that he never saw: something has fallen into the sea.

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

from gmm_dask import GaussianMixture
from gmm_dask.report.palette import component_colors

random = np.random.default_rng(3)
species = np.array(["cod", "herring", "plaice", "litter"])
truth = random.choice(4, size=6000, p=[0.4, 0.3, 0.25, 0.05])
centres = np.array([[60, 4], [40, 6], [46, 2], [85, 9]])
spread = np.array([[[90, 9], [9, 2]], [[25, 4], [4, 1.5]], [[40, -5], [-5, 1]], [[4, 0], [0, 0.3]]])
X = centres[truth] + np.einsum(
    "nij,nj->ni", np.linalg.cholesky(spread)[truth], random.normal(size=(6000, 2))
)

y = np.full(6000, None)
known = random.choice(np.flatnonzero(truth < 3), 30, replace=False)
y[known] = species[truth[known]]
fish = truth < 3
print(*(f"{name}: {np.sum(y == name)}" for name in species[:3]), "of 6,000")

# %%
figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
axis.scatter(*X.T, s=2, c="0.75", label="not known")
for name, color in zip(species, component_colors(range(3)), strict=False):
    axis.scatter(*X[y == name].T, s=40, color=color, ec="k", label=name)
axis.set(xlabel="length, cm", ylabel="brightness")
axis.legend()

# %%
# The labelled rows alone
# -----------------------
#
# A classifier learns from the thirty rows, and nothing from the others. It gives every row one of
# the three names, also the litter.

classifier = QuadraticDiscriminantAnalysis(reg_param=1e-3).fit(X[known], y[known].astype(str))
print(f"right, of the fish: {np.mean(classifier.predict(X[fish]) == species[truth[fish]]):.1%}")

# %%
# Both kinds of rows
# ------------------
#
# With ``components_per_label=1`` each label owns a component; of four components one stays free.
# A row without a label belongs to each component in part, as ever. A row with a label belongs to
# the component of its label, so its responsibility is fixed: 1 there, 0 elsewhere. Nothing else
# changes in EM.

gm = GaussianMixture(4, components_per_label=1, random_state=0).fit(X, y)
labels = gm.predict_labels(X)
print(f"right, of the fish: {np.mean(labels[fish] == species[truth[fish]]):.1%}")
print(f"litter that has no name: {np.mean(labels[~fish] == 'unknown'):.1%}")

# %%
# ``y`` is used only because we asked for it. Pipelines and searches of scikit-learn give ``y`` to
# every step, and a mixture that is a step there must not learn the answers by accident.
#
# How far can a name be trusted? Each component says which labelled rows lie in it, counted as if
# the mixture knew no label. The most frequent is its name, and the share of it the confidence. A
# component with fewer than ``least_label_weight`` labelled rows, 1.5, has no name: one row alone
# could be a stray one.

named = gm.component_labels_
for name, confidence, weight in zip(named.labels, named.confidences, named.weights, strict=True):
    sure = "–" if confidence is None else f"{confidence:.0%}"
    print(f"{name:8} {sure:>5}, {weight:4.1f} labelled rows")

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
colors = dict(zip([*species[:3], "unknown"], component_colors(range(4)), strict=True))
for axis, title, names in (
    (axes[0], "thirty rows alone", classifier.predict(X)),
    (axes[1], "thirty rows, and the others", labels),
):
    axis.scatter(*X.T, c=[colors[name] for name in names], s=2)
    axis.set(title=title, xlabel="length, cm")
for mean, covariance, name in zip(gm.means_, gm.covariances_, named.labels, strict=True):
    values, vectors = np.linalg.eigh(covariance)
    angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
    width, height = 4 * np.sqrt(values[::-1])
    axes[1].add_patch(Ellipse(mean, width, height, angle=angle, fill=False, ec="k"))
    axes[1].annotate(name, mean, ha="center", weight="bold")
axes[0].set(ylabel="brightness")

# %%
# How many labels are enough?
# ---------------------------
#
# The fewer there are, the more the other rows help. Each point is the mean of five draws of the
# labelled rows, at least three of each species.


def draw(number):
    """Return that many labels, three of each species at least."""
    some = [random.choice(np.flatnonzero(truth == kind), 3, replace=False) for kind in range(3)]
    more = random.choice(np.flatnonzero(fish), number - 9, replace=False)
    given = np.full(6000, None)
    rows = np.unique(np.concatenate([*some, more]))
    given[rows] = species[truth[rows]]
    return given


numbers, alone, both = [9, 15, 30, 60, 150], [], []
for number in numbers:
    scores = []
    for given in [draw(number) for _ in range(5)]:
        rows = np.array([name is not None for name in given])
        simple = QuadraticDiscriminantAnalysis(reg_param=1e-3).fit(X[rows], given[rows].astype(str))
        mixture = GaussianMixture(4, components_per_label=1, random_state=0).fit(X, given)
        answers = simple.predict(X[fish]), mixture.predict_labels(X[fish])
        scores.append([np.mean(names == species[truth[fish]]) for names in answers])
    for curve, score in zip((alone, both), np.mean(scores, axis=0), strict=True):
        curve.append(score)

figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
axis.semilogx(numbers, alone, "o-", label="the labelled rows alone")
axis.semilogx(numbers, both, "o-", label="both kinds of rows")
axis.set(xlabel="labelled rows", ylabel="right, of the fish", xticks=numbers, xticklabels=numbers)
axis.minorticks_off()
axis.legend()
print("alone:", *(f"{score:.1%}" for score in alone))
print("both: ", *(f"{score:.1%}" for score in both))

# %%
# When it does not help
# ---------------------
#
# The other rows help where a class is a cluster, or a few (``components_per_label=2``). Where two
# classes share one cluster, as male and female fish of one size would, rows without a label pull
# the components towards clusters and away from the classes. The confidences show it: they are then
# hardly above the share that the label has everywhere.
#
# A mixture that is fitted already gets its names without a new fit: ``gm.label_components(X, y)``,
# or ``gmm-dask label models/fish --with few.parquet`` for a published model. In a run file, labels
# are a column: ``[labels] column = "species"``.
