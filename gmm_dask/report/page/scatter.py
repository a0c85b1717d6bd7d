"""The features: heat maps of pairs under the components' ellipses, histograms under their curves.

A component is a group of circles at 1, 2 and 3 σ in its own coordinates; a matrix puts it into the
picture, and the replay changes the matrix. The script computes the same from the same frames.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
from PIL import Image

from gmm_dask.arrays import FloatArray
from gmm_dask.report.aggregates import Aggregates, Json, pairs_of
from gmm_dask.report.axes import FeatureAxis
from gmm_dask.report.page.markup import Markup, element, join
from gmm_dask.report.page.plot import TOP, Plot

SIGMAS = (1, 2, 3)
#: Backgrounds of a pair of features: name, colour, and what it shows.
LAYERS = (
    ("rows", (84, 96, 112), "rows"),
    ("doubt", (196, 110, 0), "uncertain assignment"),
    ("moved", (190, 30, 90), "where k-means differs"),
)
#: Of compression: the library's own, one higher, takes half as long again for the same bytes.
_LEVEL = 5
#: Least deviation that is drawn, as a share of an axis: a matrix without an inverse draws nothing.
LEAST = 1e-4
#: The circles of a component, which its matrix turns into ellipses: the largest lies below.
_CIRCLES = join(*(element("circle", class_=f"s{sigma}", r=sigma) for sigma in reversed(SIGMAS)))


def pair_panels(
    aggregates: Aggregates, axes: Sequence[FeatureAxis], ids: Sequence[int], wide: bool
) -> list[Markup]:
    """Draw a panel for each pair of the features drawn."""
    panels = []
    for number, (x, y) in enumerate(pairs_of(len(aggregates.features))):
        size = (440.0, 370.0) if wide else (320.0, 280.0)
        x_axis, y_axis = (axes[aggregates.features[feature]] for feature in (x, y))
        limits = aggregates.limits[x], aggregates.limits[y]
        plot = Plot(*size, *limits, x_axis=x_axis, y_axis=y_axis)
        x_name, y_name = x_axis.label, y_axis.label
        cells = aggregates.pairs[number] if aggregates.pairs else ()
        label = f"{y_name} against {x_name}: density of the rows, and the components' ellipses"
        panels.append(
            plot.picture(
                label,
                plot.frame(x_name, y_name),
                _clipped(
                    plot,
                    *_backgrounds(plot, cells, aggregates.bins),
                    *_kmeans_crosses(plot, aggregates, x, y),
                    *_ellipses(plot, aggregates, ids, number, x, y),
                ),
                class_="chart pair",
            )
        )
    return panels


def _clipped(plot: Plot, *children: Markup) -> Markup:
    """Put children into a picture of its own, which is cut off at the axes."""
    width, height = plot.inner
    return element(
        "svg", *children, x=plot.left, y=TOP, width=width, height=height,
        viewBox=f"0 0 {width:g} {height:g}",
    )  # fmt: skip


def _backgrounds(plot: Plot, cells: Sequence[tuple[int, int, int, int]], bins: int) -> list[Markup]:
    if not cells:
        return []
    table = np.fromiter(chain.from_iterable(cells), np.int64, 4 * len(cells)).reshape(-1, 4)
    rows = np.log1p(table[:, 1]) / math.log1p(table[:, 1].max())
    moved = table[:, 3] / table[:, 1]
    strengths = {
        "rows": 0.10 + 0.80 * rows,
        "doubt": np.clip(table[:, 2] / 50.0, 0.0, 1.0) * (0.35 + 0.65 * rows),
        "moved": moved * (0.35 + 0.65 * rows),
    }
    width, height = plot.inner
    return [
        element(
            "image", class_=f"layer {layer}", width=width, height=height,
            preserveAspectRatio="none",
            href=heat_map(table[:, 0], strengths[layer], bins, color),
        )
        for layer, color, _ in LAYERS
    ]  # fmt: skip


def heat_map(
    cells: npt.NDArray[np.int64], strengths: FloatArray, bins: int, color: tuple[int, int, int]
) -> str:
    """Make a picture with a point for each cell, as the address of its own content.

    Parameters
    ----------
    cells
        Numbers of the cells, x · bins + y.
    strengths
        Opacity of each, between 0 and 1.
    """
    levels = np.zeros((bins, bins), dtype=np.uint8)
    levels[bins - 1 - cells % bins, cells // bins] = np.rint(255 * strengths)
    # A palette of one colour in 256 opacities: a byte for each point instead of four.
    picture = Image.fromarray(levels)
    picture.putpalette(256 * bytes(color))
    buffer = io.BytesIO()
    picture.save(buffer, "png", transparency=bytes(range(256)), compress_level=_LEVEL)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def ellipse_matrix(frame: Json, component: int, pair: int, x: int, y: int) -> FloatArray:
    """Return the lower triangle and the mean of a pair of features: l, m, n, μx, μy.

    In coordinates of the axes, the point at angle t on the s-σ ellipse is
    (μx + s l cos t, μy + s (m cos t + n sin t)).
    """
    means, deviations = frame["means"][component], frame["deviations"][component]
    correlation = frame["correlations"][component][pair]
    upright = math.sqrt(max(0.0, 1.0 - correlation**2))
    return np.array(
        [
            max(deviations[x], LEAST),
            deviations[y] * correlation,
            max(deviations[y] * upright, LEAST),
            means[x],
            means[y],
        ]
    )


def _ellipses(
    plot: Plot, aggregates: Aggregates, ids: Sequence[int], pair: int, x: int, y: int
) -> list[Markup]:
    width, height = plot.inner
    final = aggregates.frames[-1]
    groups, labels = [], []
    taken: list[tuple[float, float]] = []
    for place, component in enumerate(aggregates.components):
        across, along, upright, at_x, at_y = ellipse_matrix(final, place, pair, x, y).tolist()
        left, top = width * at_x, height * (1.0 - at_y)
        groups.append(
            element(
                "g", _CIRCLES, class_="ellipse", data_id=ids[component],
                data_move=f"{place} {pair} {x} {y}",
                transform=(
                    f"matrix({width * across:.2f} {-height * along:.2f} 0 "
                    f"{-height * upright:.2f} {left:.2f} {top:.2f})"
                ),
            )
        )  # fmt: skip
        # An id that would hide that of a heavier component is shown when its component is chosen.
        free = all(abs(left - a) > 15.0 or abs(top - b) > 12.0 for a, b in taken)
        if free:
            taken.append((left, top))
        labels.append(
            element(
                "text", str(ids[component]), class_="id" if free else "id crowded",
                data_id=ids[component], data_at=f"{place} {x} {y}",
                transform=f"translate({left:.2f} {top:.2f})",
            )
        )  # fmt: skip
    return [*groups, *labels]


def _kmeans_crosses(plot: Plot, aggregates: Aggregates, x: int, y: int) -> list[Markup]:
    """Mark the centres of k-means, which are seen with its background."""
    if aggregates.kmeans is None:
        return []
    width, height = plot.inner
    places = [
        (width * centre[x], height * (1.0 - centre[y])) for centre in aggregates.kmeans["centres"]
    ]
    crosses = (
        f"M{left - 5:.1f} {top - 5:.1f}l10 10m0 -10l-10 10"
        for left, top in places
        if abs(left) < 1e4 and abs(top) < 1e4
    )
    return [element("path", class_="cross", d="".join(crosses))]


def marginal_panels(
    aggregates: Aggregates, axes: Sequence[FeatureAxis], ids: Sequence[int], wide: bool
) -> list[Markup]:
    """Draw a panel for each feature: a histogram under the densities of the components."""
    panels = []
    for place, feature in enumerate(aggregates.features):
        counts = aggregates.histograms[place] if aggregates.histograms else ()
        heights = _heights(counts)
        frame = aggregates.frames[-1]
        grid, total = mixture_curve(frame, place)
        tallest = _tallest(heights, total)
        low, high = aggregates.limits[place]
        size = (480.0, 210.0) if wide else (320.0, 200.0)
        axis = axes[feature]
        plot = Plot(*size, (low, high), (0.0, tallest), y_ticks=0, x_axis=axis)
        width, height = plot.inner
        paths = [
            element(
                "path", class_="curve", data_id=ids[component], data_curve=f"{number} {place}",
                d=curve_path(*component_curve(frame, number, place), width, height, tallest),
            )
            for number, component in enumerate(aggregates.components)
        ]  # fmt: skip
        sum_path = element(
            "path", class_="total", data_total=place,
            d=curve_path(grid, total, width, height, tallest),
        )  # fmt: skip
        name = axis.label
        panels.append(
            plot.picture(
                f"{name}: histogram of the rows, and the densities of the components",
                plot.frame(name, "density"),
                _clipped(plot, _bars(plot, heights), *paths, sum_path),
                class_="chart marginal",
                data_tallest=f"{tallest:.6g}",
            )
        )
    return panels


def _heights(counts: Sequence[int]) -> FloatArray:
    """Densities of a histogram in coordinates of its axis: area 1 if all rows are within."""
    heights = np.asarray(counts, dtype=np.float64)
    return heights * len(heights) / max(heights.sum(), 1.0)


def _tallest(heights: FloatArray, curve: FloatArray) -> float:
    """Height of a panel: a collapsed component is a needle and may be cut off."""
    mixture = float(curve.max())
    if not len(heights):
        return 1.1 * mixture or 1.0
    highest = float(heights.max())
    return 1.08 * max(highest, min(mixture, 1.7 * highest)) or 1.0  # where nothing is seen


def _bars(plot: Plot, heights: FloatArray) -> Markup:
    width, height = plot.inner
    if not len(heights):
        return Markup("")
    step = width / len(heights)
    tops = height * (1.0 - heights / plot.y_limits[1])
    steps = (f"V{top:.1f}H{(bar + 1) * step:.1f}" for bar, top in enumerate(tops.tolist()))
    return element("path", class_="bars", d=f"M0 {height:g}" + "".join(steps) + f"V{height:g}Z")


def component_curve(frame: Json, component: int, feature: int) -> tuple[FloatArray, FloatArray]:
    """Density π N(x) of a component over ±4 σ: points of the axis, and heights in its units."""
    mean, deviation = frame["means"][component][feature], frame["deviations"][component][feature]
    deviation = max(deviation, LEAST)
    scores = np.linspace(-4.0, 4.0, 33)
    peak = frame["weights"][component] / (deviation * math.sqrt(2.0 * math.pi))
    return mean + deviation * scores, peak * np.exp(-0.5 * scores**2)


def mixture_curve(frame: Json, feature: int) -> tuple[FloatArray, FloatArray]:
    """Density of the mixture, with more points where a narrow component needs them."""
    means = np.array(frame["means"])[:, feature, None]
    deviations = np.maximum(np.array(frame["deviations"])[:, feature, None], LEAST)
    around = means + deviations * np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    grid = np.concatenate([np.linspace(0.0, 1.0, 121), around.ravel()])
    grid = np.sort(grid[(grid >= 0.0) & (grid <= 1.0)])
    peaks = np.array(frame["weights"])[:, None] / (deviations * math.sqrt(2.0 * math.pi))
    heights = peaks * np.exp(-0.5 * ((grid - means) / deviations) ** 2)  # (c, g)
    return grid, heights.sum(axis=0)


def curve_path(
    grid: FloatArray, curve: FloatArray, width: float, height: float, tallest: float
) -> str:
    """Write a curve as the ``d`` of a path, cut off a little above the panel."""
    tops = np.maximum(height * (1.0 - curve / tallest), -20.0)
    points = (f"{width * x:.1f} {y:.1f}" for x, y in zip(grid.tolist(), tops.tolist(), strict=True))
    return "M" + "L".join(points)


def legend(version: int, layers: bool, kmeans: bool) -> Markup:
    """Let the reader choose the background of the pairs; a choice in each version."""
    if not layers:
        return Markup("")
    shown = [layer for layer in LAYERS if layer[0] != "moved" or kmeans]
    return element(
        "fieldset",
        element("legend", "Background"),
        *(
            element(
                "label",
                element(
                    "input",
                    type="radio",
                    name=f"layer-{version}",
                    value=name,
                    checked=name == "rows",
                ),
                element("span", words),
            )
            for name, _, words in shown
        ),
        class_="layers",
    )
