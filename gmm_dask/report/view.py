"""One fit as all its pictures see it: the sample, both mixtures, names, colours and limits."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.report.frame import feature_limits, separating_features, substantial_components
from gmm_dask.report.palette import component_colors

MOST_FEATURES = 6  # of a grid of pairs: 15 panels are as many as one can read
MOST_LISTED = 30  # in a legend, and as many colours
INK = "#222222"
QUIET = "#6b6b6b"
LINE = "#0072b2"
GREYS = LinearSegmentedColormap.from_list("rows", ["#e6e6e6", "#747474"])

#: On top of matplotlib's own defaults, so that a user's matplotlibrc changes nothing.
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": QUIET,
    "axes.formatter.limits": (-3, 5),
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": ["DejaVu Sans"],
    "grid.color": "#ececec",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": QUIET,
    "xtick.labelsize": 8.5,
    "ytick.color": QUIET,
    "ytick.labelsize": 8.5,
}


@dataclass(frozen=True, eq=False)
class View:
    """What is shown.

    Attributes
    ----------
    sample
        (m, d) float64, in a random order so that no component hides another by file order.
    names
        Of the d columns, fit to print.
    initial, final
        The mixtures before and after EM, components in the same order.
    component_ids
        (k,).
    """

    sample: FloatArray
    names: tuple[str, ...]
    initial: MixtureParameters
    final: MixtureParameters
    component_ids: tuple[int, ...]

    @classmethod
    def of(
        cls,
        sample: FloatArray,
        columns: Sequence[str],
        initial: MixtureParameters,
        final: MixtureParameters,
        component_ids: Sequence[int],
    ) -> View:
        """Shuffle the sample, always in the same way, and make the names printable."""
        order = np.random.default_rng(0).permutation(len(sample))
        return cls(
            np.asarray(sample, dtype=np.float64)[order],
            tuple(printable(column) for column in columns),
            initial,
            final,
            tuple(int(component_id) for component_id in component_ids),
        )

    @cached_property
    def colors(self) -> FloatArray:
        """RGB, (k, 3)."""
        return component_colors(self.component_ids)

    @cached_property
    def features(self) -> list[int]:
        """The features shown."""
        return separating_features(self.final, MOST_FEATURES)

    @cached_property
    def substantial(self) -> npt.NDArray[np.bool_]:
        """Which components decide the limits, (k,)."""
        return substantial_components(self.final, len(self.sample))

    @cached_property
    def limits(self) -> dict[int, tuple[float, float]]:
        """Of the axis of each feature shown."""
        shown = self.substantial
        return {
            feature: feature_limits(
                self.sample[:, feature],
                self.final.means[shown, feature],
                np.sqrt(self.final.matrices[shown, feature, feature]),
            )
            for feature in self.features
        }

    @cached_property
    def responsibilities(self) -> FloatArray:
        """Of the final mixture for the sample, (m, k)."""
        shares = assign(self.final, self.sample, responsibilities=True).responsibilities
        assert shares is not None
        return shares

    @cached_property
    def blends(self) -> FloatArray:
        """Each row's mixture of the components' colours, RGB, (m, 3)."""
        return np.clip(self.responsibilities @ self.colors, 0.0, 1.0)

    @cached_property
    def drawing_order(self) -> list[int]:
        """Heavy components first, so that light ones lie on top."""
        return [int(j) for j in np.argsort(-self.final.weights, kind="stable")]

    @property
    def mixture_words(self) -> str:
        """For titles."""
        k = self.final.n_components
        return f"{k} {self.final.covariance_type} Gaussian{'s' if k > 1 else ''}"

    @property
    def left_out_words(self) -> str:
        """Names of the features not shown, or nothing."""
        left_out = [name for feature, name in enumerate(self.names) if feature not in self.features]
        if not left_out:
            return ""
        listed = textwrap.shorten(", ".join(left_out), 70, placeholder=" …")
        return f"left out {len(left_out)} of {len(self.names)} columns: {listed}"

    def label_components(self, axes: Axes, x: int, y: int, width: float) -> None:
        """Write the ids at the means, as colours alone do not carry the meaning.

        Beside its mean where a heavier one is written already, in axes ``width`` inches wide;
        nowhere if there is no room either.
        """
        size = 10.0 if width > 3.0 else 8.0
        clearance = 1.3 * size / 72.0 / width  # of the axes
        lows, highs = np.transpose([self.limits[x], self.limits[y]])
        means = (self.final.means[:, [x, y]] - lows) / (highs - lows)  # (k, 2)
        beside = 1.01 * clearance * np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])
        written: list[FloatArray] = []
        for j in self.drawing_order:
            if not np.all((means[j] > 0.0) & (means[j] < 1.0)):
                continue
            for place in means[j] + beside:
                if all(np.abs(place - other).max() > clearance for other in written):
                    written.append(place)
                    at_x, at_y = lows + place * (highs - lows)
                    write_id(axes, self, j, at_x, at_y, size)
                    break


def write_id(axes: Axes, view: View, j: int, x: float, y: float, size: float) -> None:
    """Write the id of component j at a point of the data, in its colour on white."""
    text = axes.text(
        x, y, str(view.component_ids[j]), size=size, weight="bold",
        color=tuple(0.75 * view.colors[j]), ha="center", va="center", zorder=5,
    )  # fmt: skip
    text.set_path_effects([withStroke(linewidth=2.2, foreground="white")])


def add_legend(view: View, figure: Figure, left: float, top: float, rows: int) -> None:
    """Component ids with their weights, in columns of ``rows`` at the most, from a corner.

    Of more than `MOST_LISTED` components the heaviest are listed and the others summed up.
    """
    weights = view.final.weights
    listed = sorted(view.drawing_order[:MOST_LISTED])
    entries = [
        Line2D([], [], linestyle="", marker="o", markersize=7, color=tuple(view.colors[j]))
        for j in listed
    ]
    texts = [f"{view.component_ids[j]}   {percent(weights[j])}" for j in listed]
    if len(listed) < len(weights):
        entries.append(Line2D([], [], linestyle=""))
        others = percent(1.0 - weights[listed].sum())
        texts.append(f"{len(weights) - len(listed)} others   {others}")
    size = 9.0 if len(texts) <= 20 else 7.2
    figure.legend(
        entries, texts, loc="upper left", bbox_to_anchor=(left, top), fontsize=size,
        ncols=-(-len(texts) // rows), title="component, weight", title_fontsize=size,
        alignment="left", handletextpad=0.3, borderaxespad=0.0, columnspacing=1.2,
    )  # fmt: skip


def add_heading(figure: Figure, left: float, title: str, *lines: str) -> None:
    """Title and quieter lines below it, at the upper left."""
    inch = 1.0 / figure.get_figheight()
    figure.text(left, 1.0 - 0.18 * inch, title, size=13, weight="bold", va="top")
    for number, line in enumerate(line for line in lines if line):
        figure.text(left, 1.0 - (0.46 + 0.2 * number) * inch, line, size=9.5, color=QUIET, va="top")


def percent(share: float) -> str:
    """Three significant digits above 1 %, two below."""
    value = 100.0 * share
    if value >= 99.95:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if value >= 1.0 else f"{value:.2g} %"


def printable(name: str) -> str:
    """A name in one line, of letters that the bundled font has."""
    face = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    letters = " ".join(str(name).split())
    return "".join(
        letter if face.get_char_index(ord(letter)) else "\N{WHITE SQUARE}" for letter in letters
    )


def shortened(name: str, inches: float) -> str:
    """As much of a name as fits on an axis of that length."""
    most = int(inches / 0.079)
    return name if len(name) <= most else name[: most - 1] + "…"
