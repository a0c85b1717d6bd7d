"""Pictures of a mixture of two or more features: a panel for each pair of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.report.frame import ellipse
from gmm_dask.report.view import GREYS, QUIET, View, add_heading, add_legend, shorten

SIGMAS = (1.0, 2.0, 3.0)
DENSE = 2_500  # rows from which counts show more than a scatter of grey dots
LEFT = 0.85  # inches left of the panels
MOST_POINTS = 24_000  # coloured points in all panels together


def components_figure(view: View) -> Figure:
    """Draw the rows in grey under the components' ellipses."""
    dense = len(view.sample) >= DENSE
    heading = (
        "Rows and components",
        f"{view.mixture_words} · ellipses at 1, 2, 3 σ, dashed where EM began · "
        f"{len(view.sample):,} rows" + (", counted in hexagons, log scale" if dense else ""),
    )
    return _fill(view, _grid(view), _draw_components, *heading)


def responsibilities_figure(view: View, over: Figure | None = None) -> Figure:
    """Draw the rows in the blend of the components' colours.

    Parameters
    ----------
    over
        The figure that `components_figure` made of the view. It is drawn over, since axes and
        ticks take longer than what lies on them.
    """
    shown = _points_per_panel(view)
    return _fill(
        view,
        over or _grid(view),
        _draw_responsibilities,
        "Which component each row belongs to",
        f"{view.mixture_words} · each of {shown:,} rows in the blend of the colours of its "
        "responsibilities",
    )


def _fill(
    view: View,
    figure: Figure,
    draw: Callable[[View, Axes, int, int, float], None],
    title: str,
    subtitle: str,
) -> Figure:
    """Draw on each panel, and write the heading, in place of what was there."""
    for axes, (x, y) in zip(figure.axes, _pairs(view), strict=True):
        for drawn in [*axes.collections]:
            drawn.remove()
        draw(view, axes, x, y, _panel_inches(view))
    for text in [*figure.texts]:
        text.remove()
    add_heading(figure, LEFT / figure.get_figwidth(), title, subtitle, view.notes)
    return figure


def _pairs(view: View) -> list[tuple[int, int]]:
    """Features (x, y) of the panels, row by row of the lower triangle."""
    features = view.features
    return [(x, y) for row, y in enumerate(features[1:]) for x in features[: row + 1]]


def _panel_inches(view: View) -> float:
    """Width of a panel, inches."""
    return {1: 5.6, 2: 3.6, 3: 2.8, 4: 2.35}.get(len(view.features) - 1, 2.05)


def _points_per_panel(view: View) -> int:
    panels = len(view.features) * (len(view.features) - 1) // 2
    return min(len(view.sample), MOST_POINTS // panels)


def _grid(view: View) -> Figure:
    """Arrange the panels of all pairs as a lower triangle, with the legend in the empty corner."""
    side, panel = len(view.features) - 1, _panel_inches(view)
    bottom, top, gap = 0.62, 1.05 if view.notes else 0.85, 0.16
    width = LEFT + side * panel + (2.2 if side == 1 else 0.3)
    width, height = max(width, 9.0), bottom + side * panel + top
    figure = Figure(figsize=(width, height), dpi=150 if side == 1 else 120)
    for x, y in _pairs(view):
        column, row = view.features.index(x), view.features.index(y) - 1
        corner = LEFT + column * panel, bottom + (side - 1 - row) * panel
        size = panel + (0.9 if side == 1 else -gap), panel - gap
        axes = figure.add_axes(
            (corner[0] / width, corner[1] / height, size[0] / width, size[1] / height)
        )
        axes.set_xlim(view.limits[x])
        axes.set_ylim(view.limits[y])
        axes.autoscale(False)
        _label(axes, view, x if row == side - 1 else None, y if column == 0 else None, panel)
        view.mark(axes.xaxis, x, 6 if side == 1 else 4)
        view.mark(axes.yaxis, y, 6 if side == 1 else 4)
        view.label_components(axes, x, y, panel)
    if side == 1:
        add_legend(view, figure, (LEFT + panel + 1.1) / width, 1 - top / height, 31)
    else:
        legend_left = (LEFT + panel + gap) / width
        rows = int((panel - gap) / 0.21) - 1
        add_legend(view, figure, legend_left, 1 - (top + gap) / height, rows)
    return figure


def _label(axes: Axes, view: View, x: int | None, y: int | None, panel: float) -> None:
    if x is None:
        axes.tick_params(labelbottom=False)
        axes.xaxis.offsetText.set_visible(False)
    else:
        axes.set_xlabel(shorten(view.names[x], panel))
    if y is None:
        axes.tick_params(labelleft=False)
        axes.yaxis.offsetText.set_visible(False)
    else:
        axes.set_ylabel(shorten(view.names[y], panel))


def _draw_components(view: View, axes: Axes, x: int, y: int, panel: float) -> None:
    points = view.sample[_visible(view, x, y)][:, [x, y]]
    if len(view.sample) >= DENSE:
        cells = int(14 * panel)
        hexagons = axes.hexbin(
            points[:, 0], points[:, 1], gridsize=(cells, int(cells / 1.9)), mincnt=1,
            extent=(*view.limits[x], *view.limits[y]), cmap=GREYS, linewidths=0.1,
        )  # fmt: skip
        hexagons.set_norm(LogNorm(1.0, max([2.0, *np.asarray(hexagons.get_array())])))
    else:
        area = float(np.clip(4_000 / len(view.sample), 14.0, 40.0))
        axes.scatter(points[:, 0], points[:, 1], s=area, c=QUIET, alpha=0.45, linewidths=0)
    _draw_ellipses(view, axes, view.initial, [x, y], dashed=True)
    _draw_ellipses(view, axes, view.final, [x, y], dashed=False)


def _draw_ellipses(
    view: View, axes: Axes, mixture: MixtureParameters, pair: list[int], *, dashed: bool
) -> None:
    order = view.drawing_order
    for sigma, strength in zip(SIGMAS, (1.0, 0.75, 0.45), strict=True):
        outlines = [
            ellipse(mixture.means[j, pair], mixture.matrices[j][np.ix_(pair, pair)], sigma)
            for j in order
        ]
        axes.add_collection(
            LineCollection(
                outlines,
                colors=[tuple(view.colors[j]) for j in order],
                linewidths=0.8 if dashed else 1.9 - 0.35 * sigma,
                linestyles=(0, (4, 3)) if dashed else "solid",
                alpha=(0.5 if dashed else 1.0) * strength,
                zorder=3 if dashed else 4,
            ),
            autolim=False,
        )


def _draw_responsibilities(view: View, axes: Axes, x: int, y: int, panel: float) -> None:
    visible = np.flatnonzero(_visible(view, x, y))[: _points_per_panel(view)]
    area = float(np.clip(9_000 * (panel / 5.6) ** 2 / max(len(visible), 1), 2.5, 26.0))
    axes.scatter(
        view.sample[visible, x], view.sample[visible, y], s=area, c=view.blends[visible],
        alpha=0.85, linewidths=0, zorder=2,
    )  # fmt: skip


def _visible(view: View, x: int, y: int) -> npt.NDArray[np.bool_]:
    """Mask (m,) of the rows within the limits of a panel."""
    visible = np.ones(len(view.sample), dtype=np.bool_)
    for feature in (x, y):
        low, high = view.limits[feature]
        visible &= (view.sample[:, feature] >= low) & (view.sample[:, feature] <= high)
    return visible
