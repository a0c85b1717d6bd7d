"""Sums of groups in a fixed tree: whoever sums a run of groups sends back a few sums of subtrees.

The tree is binary and depends on the number of groups alone: a subtree of ``span`` groups, a power
of two, begins at a multiple of its span. So the order of the additions, and with it every bit of
the result, is the same for any cut of the groups into runs, on any workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gmm_dask.chunked.groups import GroupResult


class TreeSum:
    """Adds the sums of subtrees, given in the order of their groups."""

    def __init__(self) -> None:
        self._subtrees: list[tuple[int, int, Any]] = []  # first group, span, total

    def add(self, first: int, span: int, total: Any) -> None:
        """Add the sum over ``span`` groups from ``first`` on, a subtree."""
        while self._subtrees:
            before, size, left = self._subtrees[-1]
            if size != span or before + size != first or before % (2 * size):
                break
            self._subtrees.pop()
            first, span, total = before, 2 * size, left + total
        self._subtrees.append((first, span, total))

    @property
    def subtrees(self) -> dict[int, tuple[int, Any]]:
        """Span and sum of each subtree that is not part of a larger one, by its first group."""
        return {first: (span, total) for first, span, total in self._subtrees}

    @property
    def total(self) -> Any:
        """The sum over all groups, of which the first must be group 0; None without any."""
        total = None
        for _, _, left in reversed(self._subtrees):
            total = left if total is None else left + total
        return total


def join_subtrees(results: Sequence[GroupResult]) -> list[GroupResult]:
    """Join the sums of a run of groups to those of the largest subtrees within the run."""
    tree = TreeSum()
    for result in results:
        tree.add(result.group.index, result.span, result.total)
    return [
        replace(result, span=span, total=total)
        for result in results
        for span, total in [tree.subtrees.get(result.group.index, (0, None))]
    ]
