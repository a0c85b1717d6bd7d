"""The picture of a merge tree: the entropy that is left, and the overlap of each merge."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from gmm_dask.mixture.merging import APART, LEAST_OVERLAP, ONE_HUMP
from gmm_dask.report.view import INK, LINE, QUIET, add_heading
from gmm_dask.storage.models.clusters import Clusters

MOST_LABELLED = 40  # components whose merges are named: more cannot be read
LINE_LETTERS = 70  # of the names that fit beside each other; longer ones stand upright
LEFT, WIDTH = 0.11, 0.73  # of the axes in the figure


def entropy_figure(clusters: Clusters) -> Figure:
    """Draw the entropy against the number of clusters and, below, the overlap of each merge.

    Read from left to right, from k clusters to one: merges that the suggested number of clusters
    includes are blue, the others grey. There must be two components or more.
    """
    k, n = len(clusters.entropies), clusters.n_clusters
    figure = Figure(figsize=(8.4, 6.0), dpi=150)
    overlaps = figure.add_axes((LEFT, 0.10, WIDTH, 0.36))
    entropies = figure.add_axes((LEFT, 0.52, WIDTH, 0.335), sharex=overlaps)
    add_heading(
        figure,
        LEFT,
        "Which components make one cluster",
        f"{n} cluster{'s' if n > 1 else ''} suggested, from {k} components · "
        f"{clusters.rows:,} rows decided",
    )
    _draw_entropies(clusters, entropies)
    _draw_overlaps(clusters, overlaps)
    for axes in (entropies, overlaps):
        axes.axvline(n, color=LINE, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
        axes.grid(visible=False, axis="x")
    overlaps.set_xlim(k + 0.5, 0.5)
    overlaps.xaxis.set_major_locator(FixedLocator(range(1, k + 1, -(-k // 15))))
    overlaps.set_xlabel("number of clusters")
    return figure


def _draw_entropies(clusters: Clusters, axes: Axes) -> None:
    counts = np.arange(len(clusters.entropies), 0, -1)
    entropies = np.array(clusters.entropies)
    axes.plot(
        counts,
        entropies,
        color=QUIET,
        linewidth=1.4,
        marker="o",
        markersize=4,
        clip_on=False,
        zorder=2,
    )
    made = counts >= clusters.n_clusters
    axes.plot(
        counts[made], entropies[made], color=LINE, linewidth=1.8, marker="o", markersize=5,
        clip_on=False, zorder=3,
    )  # fmt: skip
    # Where nearly nothing is uncertain, the axis shows that instead of magnifying it.
    axes.set_ylim(0.0, max(1.12 * float(entropies[0]), 0.1))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_ylabel("entropy, nats per row")
    axes.tick_params(labelbottom=False)


def _draw_overlaps(clusters: Clusters, axes: Axes) -> None:
    """Draw each merge between the numbers of clusters before and after it."""
    overlaps = clusters.overlaps
    k = len(overlaps) + 1
    floor = 0.6 * LEAST_OVERLAP
    words = [f"{a}+{b}" for a, b in clusters.merges] if k <= MOST_LABELLED else []
    upright = len("  ".join(words)) > LINE_LETTERS
    for step, overlap in enumerate(overlaps.tolist()):
        color = LINE if step < k - clusters.n_clusters else QUIET
        x, height = k - step - 0.5, max(overlap, floor)
        axes.plot([x, x], [floor, height], color=color, linewidth=2.4, solid_capstyle="butt")
        axes.plot([x], [height], color=color, marker="o", markersize=5, clip_on=False, zorder=3)
        if step < len(words):
            text = axes.annotate(
                words[step], (x, height), (0, 6), textcoords="offset points", ha="center",
                va="bottom", rotation=90 if upright else 0, size=7.5 if upright else 9, color=INK,
                zorder=4,
            )  # fmt: skip
            text.set_path_effects([withStroke(linewidth=2.2, foreground="white")])
    for level, meaning in (
        (ONE_HUMP, "one hump:\nas two Gaussians\n2 σ apart"),
        (APART, "clearly apart:\nas two Gaussians\n5 σ apart"),
    ):
        axes.axhline(level, color=QUIET, linewidth=0.8, zorder=1)
        axes.annotate(
            meaning, (1.0, level), (6, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", size=8, color=QUIET,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(floor, 4.0 if upright else 1.4)
    axes.yaxis.set_major_locator(FixedLocator([0.003, 0.01, 0.03, 0.1, 0.3, 0.7]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda overlap, _: f"{overlap:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("overlap, nats (log scale)")
