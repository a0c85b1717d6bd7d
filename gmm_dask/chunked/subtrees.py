"""Sums of groups in a fixed tree: whoever sums a run of groups sends back a few sums of subtrees.

The tree is binary and depends on the number of groups alone: a subtree of ``span`` groups, a power
of two, begins at a multiple of its span. So the order of the additions, and with it every bit of
the result, is the same for any cut of the groups into runs, on any workers, and whichever run is
there first.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gmm_dask.chunked.groups import GroupResult


@dataclass(frozen=True, eq=False)
class Subtree:
    """The sum over ``span`` groups from group ``first`` on."""

    first: int
    span: int
    total: Any


class TreeSum:
    """Adds the sums of subtrees, given in any order, also by several threads at a time."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._subtrees: dict[int, Subtree] = {}  # by first group

    def add(self, first: int, span: int, total: Any) -> None:
        """Add the sum over ``span`` groups from ``first`` on, a subtree."""
        while (half := self._take_half(first, span, total)) is not None:
            total = half.total + total if half.first < first else total + half.total
            first, span = min(first, half.first), 2 * span

    def _take_half(self, first: int, span: int, total: Any) -> Subtree | None:
        """Take the other half out if it is there; else leave this one to whoever has the other."""
        with self._changing:
            # Half of a subtree differs from the other half in one bit of its first group.
            half = self._subtrees.get(first ^ span)
            if half is not None and half.span == span:
                return self._subtrees.pop(half.first)
            self._subtrees[first] = Subtree(first, span, total)
            return None

    @property
    def subtrees(self) -> tuple[Subtree, ...]:
        """The subtrees that are not part of a larger one, in the order of their groups."""
        return tuple(self._subtrees[first] for first in sorted(self._subtrees))

    @property
    def total(self) -> Any:
        """The sum over all groups, once they are all added; None without any."""
        total = None
        for subtree in reversed(self.subtrees):
            total = subtree.total if total is None else subtree.total + total
        return total


def join_subtrees(results: Sequence[GroupResult]) -> list[GroupResult]:
    """Join the sums of a run of groups to those of the largest subtrees within the run."""
    tree = TreeSum()
    for result in results:
        tree.add(result.group.index, result.span, result.total)
    subtrees = {subtree.first: (subtree.span, subtree.total) for subtree in tree.subtrees}
    return [
        replace(result, span=span, total=total)
        for result in results
        for span, total in [subtrees.get(result.group.index, (0, None))]
    ]
