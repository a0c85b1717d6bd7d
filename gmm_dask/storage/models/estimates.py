"""Estimates of shifts, by component and feature, as the history of drift keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, overload


class Estimate(NamedTuple):
    """A measured value and its standard error.

    Attributes
    ----------
    component
        Id; None: of all components, which share a spread.
    feature
        Name of the column; None: of all features, which share a spread, or of none.
    value
        Shift of the mean in σ, ratio of the standard deviations, or change of the share.
    """

    component: int | None
    feature: str | None
    value: float
    error: float


class StoredEstimates(Sequence[Estimate]):
    """Estimates as a file has them, made when they are asked for.

    A history has thousands of them, most of which are only carried forward, and the collector of
    garbage does not follow plain tuples.
    """

    def __init__(self, rows: Iterable[Sequence[Any]]) -> None:
        self._rows = tuple(map(tuple, rows))
        if not all(len(row) == len(Estimate._fields) for row in self._rows):
            raise ValueError("an estimate has other fields than are known")

    @overload
    def __getitem__(self, index: int) -> Estimate: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Estimate, ...]: ...
    def __getitem__(self, index: int | slice) -> Estimate | tuple[Estimate, ...]:
        """Make some of the estimates."""
        if isinstance(index, slice):
            return tuple(map(Estimate._make, self._rows[index]))
        return Estimate._make(self._rows[index])

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._rows == tuple(other)

    def __hash__(self) -> int:
        return hash(self._rows)
