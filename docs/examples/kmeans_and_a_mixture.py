"""
k-means and a mixture side by side
==================================

k-means gives each row to the nearest centre. So its clusters have straight borders midway between
the centres, whatever the shape of the data, and a row on a border belongs wholly to one side. A
mixture knows shapes, sizes and doubt.
"""

# %%
# Stretched clusters
# ------------------
#
# Three clusters of known origin: two long ones side by side, and a small round one. Since we know
# where each row came from, we can count mistakes.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from gmm_dask import GaussianMixture
from gmm_dask.report.palette import component_colors

random = np.random.default_rng(0)
long = [[12.0, 7.0], [7.0, 4.6]]
X = np.vstack(
    [
        random.multivariate_normal([0, 0], long, 700),
        random.multivariate_normal([1.7, -1.4], long, 700),
        random.multivariate_normal([-6, 4], [[0.5, 0], [0, 0.5]], 200),
    ]
)
origin = np.repeat([0, 1, 2], [700, 700, 200])

kmeans = KMeans(n_clusters=3, n_init=10, random_state=0).fit(X)
gm = GaussianMixture(n_components=3, random_state=0).fit(X)

# %%
# Both are told that there are three clusters. The lines are the borders.

colors = component_colors(range(3))
grid_x, grid_y = np.meshgrid(
    np.linspace(X[:, 0].min() - 1, X[:, 0].max() + 1, 300),
    np.linspace(X[:, 1].min() - 1, X[:, 1].max() + 1, 300),
)
grid = np.column_stack([grid_x.ravel(), grid_y.ravel()])


def draw(axes, row_colors, grid_labels, title):
    """Draw the rows, and the borders between the labels of the grid."""
    axes.scatter(*X.T, c=row_colors, s=6)
    for label in range(3):
        inside = (grid_labels == label).reshape(grid_x.shape)
        axes.contour(grid_x, grid_y, inside, levels=[0.5], colors="black", linewidths=0.8)
    axes.set(title=title, xticks=[], yticks=[])


figure, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
axes[0].scatter(*X.T, c=colors[origin], s=6)
axes[0].set(title="where the rows came from", xticks=[], yticks=[])
draw(axes[1], colors[kmeans.labels_], kmeans.predict(grid), "k-means")
shares = gm.predict_proba(X)
draw(axes[2], np.clip(shares @ colors, 0, 1), gm.predict(grid), "a mixture")

# %%
# The adjusted Rand index compares a clustering with the origin: 1 is agreement, 0 is chance.

kmeans_agreement = adjusted_rand_score(origin, kmeans.labels_)
mixture_agreement = adjusted_rand_score(origin, gm.predict(X))
print(f"k-means {kmeans_agreement:.2f}   mixture {mixture_agreement:.2f}")

# %%
# k-means cut the long clusters across, because a cut there makes the distances to the centres
# smallest. Circles do not fit stretched clusters.

# %%
# Doubt
# -----
#
# k-means gives every row one label. A mixture gives shares, and some rows are shared. These are
# points on the way from one long cluster to the other:

way = np.linspace(gm.means_[0], gm.means_[1], 11)
for point, parts in zip(way, gm.predict_proba(way), strict=True):
    bar = "█" * round(20 * parts[0])
    print(f"({point[0]:5.2f}, {point[1]:5.2f})  {parts[0]:5.0%} {parts[1]:5.0%}  {bar}")

# %%
# How many rows are in doubt, with less than 90 % for their most probable component?

doubtful = shares.max(axis=1) < 0.9
print(f"{doubtful.sum()} of {len(X)} rows")

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
axes.scatter(*X.T, c="lightgrey", s=6)
axes.scatter(*X[doubtful].T, c=np.clip(shares[doubtful] @ colors, 0, 1), s=14)
axes.set(title="rows in doubt, in the blend of their components", xticks=[], yticks=[])

# %%
# Are the doubts justified? Of the rows to which the mixture gives a label with 60 to 70 %, about
# that many should come from the component it names.

likely, confidence = shares.argmax(axis=1), shares.max(axis=1)
name_of = np.array([np.bincount(origin[likely == c]).argmax() for c in range(3)])
right = name_of[likely] == origin
for low, high in [(0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.0)]:
    rows = (confidence > low) & (confidence <= high)
    print(f"{low:.0%} to {high:.0%}: {right[rows].mean():.0%} of {rows.sum()} rows are right")

# %%
# k-means is a mixture in disguise: equal weights, one small round covariance for all, and each
# responsibility rounded to 0 or 1. Where that is true of the data it is as good, and quicker.
