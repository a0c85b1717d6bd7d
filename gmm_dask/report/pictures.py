"""The pictures of a fit, as the bytes of PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.printable import typeset
from gmm_dask.report import densities, pairs
from gmm_dask.report.entropy import entropy_figure
from gmm_dask.report.frame import first_drawn
from gmm_dask.report.view import LINE, QUIET, STYLE, View, add_heading
from gmm_dask.storage.models.clusters import Clusters


def fit_pictures(
    sample: FloatArray,
    columns: Sequence[str],
    initial: MixtureParameters,
    final: MixtureParameters,
    lower_bounds: Sequence[float],
    component_ids: Sequence[int],
    clusters: Clusters,
    transforms: Transforms | None = None,
) -> dict[str, bytes]:
    """Draw a fit: the same arguments give the same bytes, and nothing is read or written.

    Parameters
    ----------
    sample
        (m, d), m ≥ 1, finite but for holes: a uniform sample of the rows, in model units.
    columns
        Names of the d features.
    initial, final
        The mixtures before and after EM, components in the same order.
    lower_bounds
        Mean log-likelihood of each iteration, nats per row.
    component_ids
        Permanent ids of the components, (k,); they decide the colours.
    clusters
        Their merge tree.
    transforms
        Of the features; their axes are marked in natural units.

    Returns
    -------
    dict
        ``log_likelihood.png``; ``components.png``, the rows under the 1-, 2- and 3-σ ellipses
        (d = 1: densities over a histogram); ``responsibilities.png``, the rows in the blend of
        their components' colours; ``entropy.png``, which components make one cluster (only if
        there are two or more). If there are more than six features, the six that separate the
        components most are shown and the others named. Outliers may lie outside the axes.
    """
    with style.context(["default", STYLE]):
        view = View.of(sample, columns, initial, final, component_ids, transforms)
        merging = {}
        if final.n_components > 1:
            merging = {"entropy.png": _png(entropy_figure(clusters))}
        return {
            **merging,
            "log_likelihood.png": _png(log_likelihood_figure(lower_bounds)),
            **_mixture_pictures(view),
        }


def _mixture_pictures(view: View) -> dict[str, bytes]:
    """Draw the rows with the components, and with their responsibilities."""
    if view.final.n_features == 1:
        components = densities.components_figure(view)
        return {
            "components.png": _png(components),
            "responsibilities.png": _png(densities.responsibilities_figure(view)),
        }
    figure = pairs.components_figure(view)
    encoded = _png(figure)
    figure = pairs.responsibilities_figure(view, over=figure)
    return {"components.png": encoded, "responsibilities.png": _png(figure)}


def log_likelihood_figure(lower_bounds: Sequence[float]) -> Figure:
    """Draw the mean log-likelihood of each iteration and, from three on, the gain of each."""
    figure = Figure(figsize=(8.4, 5.0), dpi=150)
    bounds = np.asarray(lower_bounds, dtype=np.float64)
    iterations = np.arange(1, len(bounds) + 1)
    gains = np.diff(bounds)
    rising = gains > 0.0
    split = 0.27 if np.count_nonzero(rising) >= 2 else 0.0
    axes = figure.add_axes((0.14, 0.12 + 1.12 * split, 0.82, 0.70 - 1.12 * split))
    first = first_drawn(bounds)
    marker = "o" if len(bounds) <= 30 else ""
    axes.plot(
        iterations[first:], bounds[first:], color=LINE, linewidth=1.8, marker=marker, markersize=5
    )
    axes.set_ylabel("nats per row")
    axes.margins(y=0.14)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlim(0.5, max(len(bounds), 2) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    add_heading(figure, 0.14, "Mean log-likelihood", *_describe(bounds, first))
    bottom = axes
    if split:
        bottom = figure.add_axes((0.14, 0.12, 0.82, split), sharex=axes)
        axes.tick_params(labelbottom=False)
        bottom.plot(
            iterations[1:][rising], gains[rising], color=QUIET, linewidth=1.4, marker=marker,
            markersize=5,
        )  # fmt: skip
        bottom.set_yscale("log")
        bottom.set_ylabel("gain (log scale)")
        bottom.yaxis.set_major_formatter(FuncFormatter(lambda gain, _: typeset(f"{gain:.0e}")))
        bottom.yaxis.set_minor_formatter(NullFormatter())
    bottom.set_xlabel("iteration")
    return figure


def _describe(bounds: FloatArray, first: int) -> tuple[str, str]:
    """Lines that say where the last iteration arrived and which iterations are not drawn."""
    if not len(bounds):
        return "no iteration: the parameters given were kept", ""
    arrived = typeset(f"{bounds[-1]:,.6g} nats per row at iteration {len(bounds)}")
    if not first:
        return arrived, ""
    left_out = typeset(f"not drawn: iteration 1 at {bounds[0]:,.3g}")
    return arrived, left_out + (f", to iteration {first}" if first > 1 else "")


def _png(figure: Figure) -> bytes:
    """Encode a figure without the name and version of the software, which change the bytes."""
    buffer = io.BytesIO()
    # A higher level takes half as long again, to save a thirtieth.
    FigureCanvasAgg(figure).print_png(  # type: ignore[no-untyped-call]
        buffer, metadata={"Software": None}, pil_kwargs={"compress_level": 3}
    )
    return buffer.getvalue()
