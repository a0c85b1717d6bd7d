"""The frame of a chart in SVG: scales, ticks, labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from gmm_dask.printable import typeset
from gmm_dask.report.axes import FeatureAxis, ticks
from gmm_dask.report.page.markup import Markup, element, join

RIGHT, TOP, BOTTOM = 12.0, 12.0, 40.0


@dataclass(frozen=True)
class Plot:
    """A chart's area and its scales.

    Attributes
    ----------
    width, height
        Of the whole chart, in units of the picture.
    x_limits, y_limits
        Values at the ends of the axes.
    y_ticks
        Most intervals of the y axis; 0: none, where heights have no unit.
    x_axis, y_axis
        Features, whose ticks are in the data's units.
    """

    width: float
    height: float
    x_limits: tuple[float, float]
    y_limits: tuple[float, float]
    y_ticks: int = 5
    x_axis: FeatureAxis | None = None
    y_axis: FeatureAxis | None = None

    @cached_property
    def y_marks(self) -> list[tuple[float, str]]:
        """Ticks of the y axis."""
        if self.y_axis is not None:
            return self.y_axis.ticks(self.y_limits, self.y_ticks)
        return ticks(self.y_limits, self.y_ticks) if self.y_ticks else []

    @cached_property
    def left(self) -> float:
        """Width left of the area: for a label, and for the longest tick on a phone."""
        return 30.0 + 8.0 * max((len(text) for _, text in self.y_marks), default=0)

    @property
    def inner(self) -> tuple[float, float]:
        """Width and height of the area between the axes."""
        return self.width - self.left - RIGHT, self.height - TOP - BOTTOM

    def x(self, value: float) -> float:
        """Return the place of a value from the left."""
        low, high = self.x_limits
        return self.left + (value - low) / (high - low) * self.inner[0]

    def y(self, value: float) -> float:
        """Return the place of a value from the top."""
        low, high = self.y_limits
        return TOP + (high - value) / (high - low) * self.inner[1]

    def path(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        """Return the line through points as the ``d`` of a path."""
        points = (f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in zip(xs, ys, strict=True))
        return "M" + "L".join(points)

    def frame(
        self,
        x_label: str,
        y_label: str,
        *,
        x_whole: bool = False,
        x_first: float = -math.inf,
    ) -> Markup:
        """Draw grid, ticks and labels.

        Parameters
        ----------
        x_whole
            Whether only whole numbers have a meaning on the x axis.
        x_first
            Least value of the x axis that has a meaning.
        """
        right, bottom = self.width - RIGHT, self.height - BOTTOM
        marks: list[Markup] = []
        for value, label in self._x_marks(x_whole):
            if value < x_first:
                continue
            place = self.x(value)
            marks.append(element("line", class_="grid", x1=place, x2=place, y1=TOP, y2=bottom))
            marks.append(
                element(
                    "text", label, class_="tick", x=place, y=bottom + 14.0, text_anchor="middle"
                )
            )
        for value, label in self.y_marks:
            place = self.y(value)
            marks.append(element("line", class_="grid", x1=self.left, x2=right, y1=place, y2=place))
            marks.append(
                element(
                    "text",
                    label,
                    class_="tick",
                    x=self.left - 6.0,
                    y=place + 3.5,
                    text_anchor="end",
                )
            )
        middle = TOP + self.inner[1] / 2.0
        marks += [
            element(
                "text", shorten(x_label, int(self.inner[0] / 7.0)), element("title", x_label),
                class_="axis", x=self.left + self.inner[0] / 2.0, y=self.height - 6.0,
                text_anchor="middle",
            ),
            element(
                "text", shorten(y_label, int(self.inner[1] / 7.0)), element("title", y_label),
                class_="axis", x=11.0, y=middle, text_anchor="middle",
                transform=f"rotate(-90 11 {middle:.1f})",
            ),
            element("path", class_="frame", d=f"M{self.left} {TOP}V{bottom}H{right}"),
        ]  # fmt: skip
        return join(*marks)

    def _x_marks(self, whole: bool) -> list[tuple[float, str]]:
        """Ticks of the x axis, as many as have room beside each other."""
        width = self.inner[0]
        most = max(2, int(width // 55))
        marks = self._x_ticks(most, whole)
        while most > 1 and sum(8.0 * len(text) + 8.0 for _, text in marks) > width:
            most -= 1
            marks = self._x_ticks(most, whole)
        return marks

    def _x_ticks(self, most: int, whole: bool) -> list[tuple[float, str]]:
        if self.x_axis is not None:
            return self.x_axis.ticks(self.x_limits, most)
        return ticks(self.x_limits, most, whole=whole)

    def picture(
        self, label: str, *children: Markup, class_: str = "chart", **attributes: str
    ) -> Markup:
        """Make the SVG; the label is what a screen reader says of it."""
        return element(
            "svg", *children, class_=class_, role="img", aria_label=label,
            viewBox=f"0 0 {self.width:g} {self.height:g}", data_width=self.width,
            **attributes,
        )  # fmt: skip


def shorten(name: str, most: int) -> str:
    """Cut a name to so many characters."""
    return name if len(name) <= most else name[: max(most - 1, 1)] + "…"


def number(value: float, digits: int = 4) -> str:
    """Write a number for a sentence or a table."""
    if abs(value) >= 10**digits and abs(value) < 1e15:
        return typeset(f"{value:,.0f}")
    return typeset(f"{value:.{digits}g}")


def percent(share: float) -> str:
    """Write a share in percent, with a digit more where it is small."""
    value = 100.0 * share
    if value == 0.0 or value >= 99.95:
        return f"{value:.0f} %"
    if value < 0.1:
        return "< 0.1 %"
    return f"{value:.1f} %"


def padded(low: float, high: float, share: float = 0.06) -> tuple[float, float]:
    """Widen a range by a share of its width on both sides; a range of no width gets one."""
    width = high - low
    if not width > 0.0:
        width = max(abs(high) * 1e-3, 1e-12)
    return low - share * width, high + share * width
