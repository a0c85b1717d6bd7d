"""Pictures of a mixture of one feature: densities over a histogram, and responsibilities."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.report.view import INK, QUIET, View, add_heading, add_legend, shorten, write_id

PLOT = (0.09, 0.10, 0.68, 0.765)  # left, bottom, width, height of the axes in the figure


def components_figure(view: View) -> Figure:
    """Draw the densities of mixture and components over a histogram of the rows."""
    figure, axes = _figure(
        view,
        "Rows and components",
        f"{view.mixture_words} · black: the mixture, dashed: where EM began · "
        f"{len(view.sample):,} rows",
    )
    heights, edges = histogram(view)
    axes.stairs(heights, edges, fill=True, color="#dedede", zorder=1)
    grid = density_grid(view.final, view.limits[0])
    densities = component_densities(view.final, grid)  # (g, k)
    for j in view.drawing_order:
        axes.plot(grid, densities[:, j], color=tuple(view.colors[j]), linewidth=2.4, zorder=3)
    mixture = densities.sum(axis=1)
    axes.plot(grid, mixture, color=INK, linewidth=1.1, zorder=4)
    before = density_grid(view.initial, view.limits[0])
    axes.plot(
        before, component_densities(view.initial, before).sum(axis=1), color=QUIET,
        linewidth=1.0, linestyle=(0, (4, 3)), zorder=3,
    )  # fmt: skip
    # A collapsed component is a needle, so the histogram limits the height of the picture.
    tallest = 1.15 * min(mixture.max(), 1.7 * heights.max())
    axes.set_ylim(0.0, max(tallest, 1.08 * heights.max()))
    axes.set_ylabel("density")
    _label_peaks(view, axes)
    return figure


def responsibilities_figure(view: View) -> Figure:
    """Draw responsibilities along the axis, above the rows in the blend of their colours."""
    figure, axes = _figure(
        view,
        "Which component each row belongs to",
        f"{view.mixture_words} · curves: responsibilities · below: each row in the blend of "
        "the colours",
    )
    grid = density_grid(view.final, view.limits[0])
    shares = assign(view.final, grid[:, None], responsibilities=True).responsibilities
    assert shares is not None
    for j in view.drawing_order:
        axes.plot(grid, shares[:, j], color=tuple(view.colors[j]), linewidth=1.8, zorder=3)
    values = view.sample[:, 0]
    spread = np.random.default_rng(0).uniform(-0.24, -0.06, len(values))
    axes.scatter(
        values, spread, s=float(np.clip(9_000 / len(values), 2.5, 26.0)), c=view.blends,
        alpha=0.85, linewidths=0, zorder=2,
    )  # fmt: skip
    axes.set_ylim(-0.28, 1.04)
    axes.set_yticks([0.0, 0.25, 0.5, 0.75, 1.0])
    axes.set_ylabel("responsibility")
    return figure


def component_densities(mixture: MixtureParameters, grid: FloatArray) -> FloatArray:
    """π_j N(x; μ_j, σ_j²) at each point of the grid, (g, k)."""
    deviations = np.sqrt(mixture.matrices[:, 0, 0])  # (k,)
    scores = (grid[:, None] - mixture.means[:, 0]) / deviations  # (g, k)
    heights = mixture.weights / (deviations * np.sqrt(2.0 * np.pi))
    return np.asarray(heights * np.exp(-0.5 * scores**2))


def density_grid(mixture: MixtureParameters, limits: tuple[float, float]) -> FloatArray:
    """Sorted points between the limits, fine enough for the narrowest component."""
    deviations = np.sqrt(mixture.matrices[:, 0, 0])
    around = mixture.means[:, :1] + deviations[:, None] * np.linspace(-6.0, 6.0, 121)  # (k, 121)
    grid = np.concatenate([np.linspace(*limits, 1001), around.ravel()])
    return np.unique(grid[(grid >= limits[0]) & (grid <= limits[1])])


def histogram(view: View) -> tuple[FloatArray, FloatArray]:
    """Heights and edges of bins between the limits, scaled so that all rows would have area 1.

    The width of a bin follows the rule of Freedman and Diaconis, but is at most half a σ of the
    narrowest component, and wide enough not to show noise.
    """
    low, high = view.limits[0]
    values = view.sample[:, 0]
    inside = values[(values >= low) & (values <= high)]
    narrowest = float(np.sqrt(view.final.matrices[view.substantial, 0, 0].min()))
    widths = [0.5 * narrowest]
    if len(inside):
        quartiles = np.quantile(inside, [0.25, 0.75])
        widths.append(2.0 * float(quartiles[1] - quartiles[0]) / len(inside) ** (1 / 3))
    most_bins = float(np.clip(3.0 * np.sqrt(len(inside)), 12.0, 160.0))
    least_width = (high - low) / most_bins
    bins = int((high - low) / max(least_width, min(widths)))
    counts, edges = np.histogram(inside, bins=max(bins, 8), range=(low, high))
    return counts / (len(values) * (edges[1] - edges[0])), edges


def _figure(view: View, title: str, subtitle: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9.6, 6.2), dpi=150)
    axes = figure.add_axes(PLOT)
    axes.set_xlim(view.limits[0])
    axes.set_xlabel(shorten(view.names[0], 6.0))
    if view.axes[0].transform is not None:
        view.mark(axes.xaxis, 0, 8)
    axes.grid(visible=False, axis="x")
    add_heading(figure, PLOT[0], title, subtitle)
    add_legend(view, figure, PLOT[0] + PLOT[2] + 0.03, PLOT[1] + PLOT[3], 31)
    return figure, axes


def _label_peaks(view: View, axes: Axes) -> None:
    """Write the id of each visible component at its peak, or at the top of a cut-off peak."""
    low, high = view.limits[0]
    top = axes.get_ylim()[1]
    peaks = component_densities(view.final, view.final.means[:, 0]).diagonal()
    for j in view.drawing_order:
        if low < view.final.means[j, 0] < high:
            write_id(axes, view, j, view.final.means[j, 0], min(peaks[j], 0.96 * top), 10.0)
