"""What all pictures of a fit share: the sample, both mixtures, names, colours and limits."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.report.axes import FeatureAxis, axes_of
from gmm_dask.report.frame import feature_limits, separating_features, substantial_components
from gmm_dask.report.palette import component_colors

MOST_FEATURES = 6  # of a grid of pairs: more than 15 panels cannot be read
MOST_LISTED = 30  # components in a legend; there are as many colours
INK = "#222222"
QUIET = "#6b6b6b"
LINE = "#0072b2"
GREYS = LinearSegmentedColormap.from_list("rows", ["#e6e6e6", "#747474"])

#: Added to matplotlib's defaults, so that a user's matplotlibrc changes nothing.
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
    """A fit as its pictures show it.

    Attributes
    ----------
    sample
        (m, d) float64, in random order: in file order one component could hide another. NaN where
        a row has a hole.
    names
        Printable names of the d columns.
    initial, final
        The mixtures before and after EM, components in the same order.
    component_ids
        Permanent ids of the components, (k,).
    axes
        Of the d features, (d,).
    """

    sample: FloatArray
    names: tuple[str, ...]
    initial: MixtureParameters
    final: MixtureParameters
    component_ids: tuple[int, ...]
    axes: tuple[FeatureAxis, ...]

    @classmethod
    def of(
        cls,
        sample: FloatArray,
        columns: Sequence[str],
        initial: MixtureParameters,
        final: MixtureParameters,
        component_ids: Sequence[int],
        transforms: Transforms | None = None,
    ) -> View:
        """Make a view: shuffle the sample, always alike, and make the names printable."""
        order = np.random.default_rng(0).permutation(len(sample))
        axes = axes_of(columns, transforms)
        return cls(
            np.asarray(sample, dtype=np.float64)[order],
            tuple(make_printable(axis.label) for axis in axes),
            initial,
            final,
            tuple(int(component_id) for component_id in component_ids),
            axes,
        )

    def mark(self, axis: Axis, feature: int, most: int) -> None:
        """Mark round values of a feature on an axis, at most so many intervals."""
        axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
        if self.axes[feature].transform is not None:
            marks = self.axes[feature].ticks(self.limits[feature], most)
            axis.set_major_locator(FixedLocator([place for place, _ in marks]))
            axis.set_major_formatter(FixedFormatter([text for _, text in marks]))

    @cached_property
    def colors(self) -> FloatArray:
        """Colours of the components, RGB, (k, 3)."""
        return component_colors(self.component_ids)

    @cached_property
    def features(self) -> list[int]:
        """Indices of the features shown."""
        return separating_features(self.final, MOST_FEATURES)

    @cached_property
    def substantial(self) -> npt.NDArray[np.bool_]:
        """Mask (k,) of the components that decide the limits."""
        return substantial_components(self.final, len(self.sample))

    @cached_property
    def limits(self) -> dict[int, tuple[float, float]]:
        """Limits of the axis of each feature shown."""
        substantial = self.substantial
        return {
            feature: feature_limits(
                self.sample[:, feature],
                self.final.means[substantial, feature],
                np.sqrt(self.final.matrices[substantial, feature, feature]),
            )
            for feature in self.features
        }

    @cached_property
    def responsibilities(self) -> FloatArray:
        """Responsibilities of the final mixture for the sample, (m, k)."""
        shares = assign(self.final, self.sample, responsibilities=True).responsibilities
        assert shares is not None
        return shares

    @cached_property
    def blends(self) -> FloatArray:
        """Each row's mixture of the components' colours, RGB, (m, 3)."""
        return np.clip(self.responsibilities @ self.colors, 0.0, 1.0)

    @cached_property
    def drawing_order(self) -> list[int]:
        """Components from heavy to light, so that light ones lie on top."""
        return [int(j) for j in np.argsort(-self.final.weights, kind="stable")]

    @property
    def mixture_words(self) -> str:
        """Description of the mixture for titles."""
        k = self.final.n_components
        return f"{k} {self.final.covariance_type} Gaussian{'s' if k > 1 else ''}"

    @property
    def notes(self) -> str:
        """What a picture does not show, or nothing: rows without its features, and features."""
        return " · ".join(filter(None, [self.holes_words, self.left_out_words]))

    @property
    def holes_words(self) -> str:
        """Phrase that says how many rows are complete, or nothing if all are."""
        complete = int(np.count_nonzero(~np.isnan(self.sample).any(axis=1)))
        if complete == len(self.sample):
            return ""
        return f"{complete:,} of the rows are complete; a panel shows those with its features"

    @property
    def left_out_words(self) -> str:
        """Sentence that names the features not shown, or nothing."""
        left_out = [name for feature, name in enumerate(self.names) if feature not in self.features]
        if not left_out:
            return ""
        listed = textwrap.shorten(", ".join(left_out), 70, placeholder=" …")
        return f"left out {len(left_out)} of {len(self.names)} columns: {listed}"

    def label_components(self, axes: Axes, x: int, y: int, width: float) -> None:
        """Write the ids at the means, because colours alone are not enough.

        An id goes beside its mean if that of a heavier component is in the way, and is left out
        if there is no room at all. The axes are ``width`` inches wide.
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
                if all(np.abs(place - taken).max() > clearance for taken in written):
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
    """Add the ids and weights of the components, in columns of at most ``rows``.

    The upper left corner is (left, top). Of more than `MOST_LISTED` components the heaviest are
    listed and the others summed up.
    """
    weights = view.final.weights
    listed = sorted(view.drawing_order[:MOST_LISTED])
    entries = [
        Line2D([], [], linestyle="", marker="o", markersize=7, color=tuple(view.colors[j]))
        for j in listed
    ]
    texts = [f"{view.component_ids[j]}   {format_percent(weights[j])}" for j in listed]
    if len(listed) < len(weights):
        entries.append(Line2D([], [], linestyle=""))
        others = format_percent(1.0 - weights[listed].sum())
        texts.append(f"{len(weights) - len(listed)} others   {others}")
    size = 9.0 if len(texts) <= 20 else 7.2
    figure.legend(
        entries, texts, loc="upper left", bbox_to_anchor=(left, top), fontsize=size,
        ncols=-(-len(texts) // rows), title="component, weight", title_fontsize=size,
        alignment="left", handletextpad=0.3, borderaxespad=0.0, columnspacing=1.2,
    )  # fmt: skip


def add_heading(figure: Figure, left: float, title: str, *lines: str) -> None:
    """Add a title with smaller lines below it, at the upper left."""
    inch = 1.0 / figure.get_figheight()
    figure.text(left, 1.0 - 0.18 * inch, title, size=13, weight="bold", va="top")
    for number, line in enumerate(line for line in lines if line):
        figure.text(left, 1.0 - (0.46 + 0.2 * number) * inch, line, size=9.5, color=QUIET, va="top")


def format_percent(share: float) -> str:
    """Write a share in percent with three significant digits, below 1 % with two."""
    value = 100.0 * share
    if value >= 99.95:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if value >= 1.0 else f"{value:.2g} %"


def make_printable(name: str) -> str:
    """Put a name on one line, with a square for each letter that the bundled font lacks."""
    face = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    letters = " ".join(str(name).split())
    return "".join(
        letter if face.get_char_index(ord(letter)) else "\N{WHITE SQUARE}" for letter in letters
    )


def shorten(name: str, inches: float) -> str:
    """Cut a name to the length of its axis."""
    most = int(inches / 0.079)
    return name if len(name) <= most else name[: most - 1] + "…"
