"""Axes of features, and their ticks: round values in the data's own units.

A feature that is transformed is drawn as the mixture sees it, on the scale of its transform. Its
ticks stand where the natural values are round, as on a logarithmic scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from gmm_dask.mixture.transforms import Transform, Transforms
from gmm_dask.printable import typeset


@dataclass(frozen=True)
class FeatureAxis:
    """The axis of a feature.

    Attributes
    ----------
    column
        Its name.
    transform
        Its transform; None: it has none.
    """

    column: str
    transform: Transform | None = None

    @property
    def label(self) -> str:
        """What is written at the axis: the column, and the scale where it is not even."""
        if self.transform is None or self.transform.name == "standardise":
            return self.column
        return f"{self.column} ({self.transform.name} scale)"

    def ticks(self, limits: tuple[float, float], most: int) -> list[tuple[float, str]]:
        """Choose round natural values; return their places in model units, and their texts.

        Parameters
        ----------
        limits
            Ends of the axis, in model units.
        most
            Most intervals.
        """
        if self.transform is None:
            return ticks(limits, most)
        low, high = self.transform.inverse(limits).tolist()
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            return []
        even = ticks((low, high), most)
        places = self._places(even, limits)
        least = (limits[1] - limits[0]) / most
        gaps = [after - before for before, after in pairwise(places)]
        if len(gaps) > 1 and min(gaps) >= least / 2:
            return [(place, text) for place, (_, text) in zip(places, even, strict=False)]
        return self._uneven(low, high, limits, least)

    def _places(
        self, marks: Sequence[tuple[float, str]], limits: tuple[float, float]
    ) -> list[float]:
        """Return the places of natural values, if all of them have one between the limits."""
        assert self.transform is not None
        first, last = self.transform.domain
        if not all(first < value < last for value, _ in marks):
            return []
        places = [float(self.transform.forward(value)) for value, _ in marks]
        return places if all(limits[0] <= place <= limits[1] for place in places) else []

    def _uneven(
        self, low: float, high: float, limits: tuple[float, float], least: float
    ) -> list[tuple[float, str]]:
        """Choose 1, 2 and 5 times powers of ten, the roundest first, at least so far apart."""
        assert self.transform is not None
        chosen: list[tuple[float, float]] = []
        for value in _decades(low, high, self.transform.domain):
            place = float(self.transform.forward(value))
            apart = all(abs(place - other) >= least for other, _ in chosen)
            if limits[0] <= place <= limits[1] and apart:
                chosen.append((place, value))
        return [(place, typeset(f"{value:,.6g}")) for place, value in sorted(chosen)]


def axes_of(columns: Sequence[str], transforms: Transforms | None) -> tuple[FeatureAxis, ...]:
    """Return the axis of each feature."""
    if transforms is None:
        return tuple(FeatureAxis(column) for column in columns)
    return tuple(
        FeatureAxis(column, transform)
        for column, transform in zip(columns, transforms.by_feature, strict=True)
    )


def _decades(low: float, high: float, domain: tuple[float, float]) -> list[float]:
    """Return 0, and 1, 2 and 5 times powers of ten of both signs; towards 1 also below it."""
    largest = max(abs(low), abs(high))
    top = math.floor(math.log10(largest)) if largest > 0.0 else 0
    powers = [10.0**power for power in range(top + 1, top - 12, -1)]
    sizes = [size * power for size in (1.0, 5.0, 2.0) for power in powers]
    values = [0.0, *(sign * size for size in sizes for sign in (1.0, -1.0))]
    if domain == (0.0, 1.0):
        values = [0.5, *(value for size in sizes if size < 0.5 for value in (size, 1.0 - size))]
    return [value for value in values if domain[0] < value < domain[1] and low <= value <= high]


def ticks(
    limits: tuple[float, float], most: int, *, whole: bool = False
) -> list[tuple[float, str]]:
    """Choose round values between the limits, and write them all to the same digit."""
    low, high = limits
    width = high / most - low / most  # a difference of huge limits could overflow
    decade = 10.0 ** math.floor(math.log10(width))
    step = next(decade * size for size in (1, 2, 2.5, 5, 10) if decade * size >= width * (1 - 1e-9))
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [count * step for count in range(first, last + 1)]
    return list(zip(values, write_alike(values), strict=True))


def write_alike(values: Sequence[float]) -> list[str]:
    """Write numbers in full if they are short so, else with as many digits as tell them apart."""
    largest = max(map(abs, values), default=0.0)
    if largest == 0.0 or 1e-3 <= largest < 1e5:
        for digits in range(7):
            texts = [f"{value + 0.0:,.{digits}f}" for value in values]
            if all(
                abs(float(text.replace(",", "")) - value) <= 1e-6 * largest
                for text, value in zip(texts, values, strict=True)
            ):
                return [typeset(text) for text in texts]
    for digits in range(1, 17):
        texts = [f"{value:.{digits}g}" for value in values]
        if len(set(texts)) == len(texts):
            break
    return [typeset(text) for text in texts]
