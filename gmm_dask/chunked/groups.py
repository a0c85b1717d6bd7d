"""Groups and lanes: how a source of rows is cut into sums, and into what is read at a stretch.

*Groups* are runs of consecutive chunks, the unit of summation. The source alone fixes them.
*Lanes* are runs of groups that can be read without decoding anything twice, the least that a
worker is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.chunked.rows import MemoryChunks, RowChunks
from gmm_dask.mixture.labels import RowLabels

#: Groups to aim for: enough to keep hundreds of cores busy to the end of a scan.
GROUPS = 2048
#: Products of two features that the rows of a group should need for each component, at least: then
#: what a group costs beside its arithmetic is little. That is 0.04 to 0.08 ms in memory and 0.15 ms
#: from Parquet, and threads hold the interpreter's lock for it, one after the other. The price: a
#: million rows of eight features are 31 groups, so that 64 cores do not all have one. That costs
#: time from about 16 components on; with fewer, by a simulation, twice the groups would cost more.
LEAST_GROUP_PRODUCTS = 1 << 22
#: Bounds of the least rows of a group, whatever their arithmetic.
LEAST_GROUP_ROWS = 2048
LEAST_NARROW_ROWS = 65_536
MOST_GROUP_ROWS = 262_144


@dataclass(frozen=True)
class Group:
    """Chunks ``start`` … ``stop`` − 1, summed as one.

    Attributes
    ----------
    index
        Number of the group in its source.
    rows
        Source rows of all its chunks.
    """

    index: int
    start: int
    stop: int
    rows: int


@dataclass(frozen=True)
class Lane:
    """Consecutive groups; the first begins at an entry."""

    groups: tuple[Group, ...]

    @property
    def start(self) -> int:
        """First chunk."""
        return self.groups[0].start

    @property
    def stop(self) -> int:
        """Last chunk + 1."""
        return self.groups[-1].stop


@dataclass(frozen=True, eq=False)
class GroupResult:
    """What a scan found in one group.

    Attributes
    ----------
    total
        The sum over ``span`` groups from this one on; None where ``span`` is 0, since the sum of an
        earlier group holds this one too, or comes as a `Subtree` later.
    fingerprints
        Of the chunks of the group.
    digests
        Of the row groups that end in it, where the scan asked for them.
    """

    group: Group
    total: Any
    fingerprints: tuple[int, ...]
    digests: tuple[str, ...] = ()
    span: int = 1


def group_rows(n: int, d: int) -> int:
    """Rows that a group should hold when the source has n rows of d features.

    Of wide rows, whose arithmetic takes longer, fewer make a group.
    """
    least = LEAST_GROUP_PRODUCTS // (d * (d + 8))
    least = min(max(least, LEAST_GROUP_ROWS), LEAST_NARROW_ROWS)
    return min(max(-(-n // GROUPS), least), MOST_GROUP_ROWS)


def cut_array(
    values: RowsArray,
    sample_weight: FloatArray | None,
    columns: tuple[str, ...],
    labels: RowLabels | None = None,
) -> MemoryChunks:
    """Cut an array of n rows of d features evenly into chunks that are groups.

    Parameters
    ----------
    sample_weight
        (n,) or None.
    columns
        Names of the d features.
    labels
        Of the n rows, or None.
    """
    # Otherwise 70,000 rows of two features would be a group of 65,536 and another of 4,464.
    n = len(values)
    groups = max(-(-n // group_rows(*values.shape)), 1)
    return MemoryChunks(values, sample_weight, max(-(-n // groups), 1), columns, labels)


def lanes_of(chunks: RowChunks) -> tuple[Lane, ...]:
    """Cut a source into groups and lanes; its chunks, entries and columns alone decide how.

    Row groups are joined to groups of at most twice the rows that a group should hold. A larger
    row group is cut between its slices, and its groups are one lane. Chunks of an array are groups.
    """
    target = group_rows(sum(chunks.rows), len(chunks.columns))
    if isinstance(chunks, MemoryChunks):
        target = chunks.chunk_rows  # they are groups
    lanes: list[Lane] = []
    start, size, index = 0, 0, 0  # of the group that row groups are being joined to
    for first, stop in pairwise([*chunks.entries, len(chunks.rows)]):
        rows = sum(chunks.rows[first:stop])
        if start < first and size + rows >= 2 * target:
            lanes.append(Lane((Group(index, start, first, size),)))
            start, size, index = first, 0, index + 1
        size += rows
        if size >= target:
            group = Group(index, start, stop, size)
            pieces = _slice(chunks.rows, group, target) if start == first else (group,)
            lanes.append(Lane(tuple(pieces)))
            start, size, index = stop, 0, index + len(lanes[-1].groups)
    if start < len(chunks.rows):
        lanes.append(Lane((Group(index, start, len(chunks.rows), size),)))
    return tuple(lanes)


def _slice(rows: Sequence[int], group: Group, target: int) -> Iterator[Group]:
    """Slice a group between its chunks, as evenly as these allow, where it is large enough."""
    pieces = (2 * group.rows + target) // (2 * target)
    index, start, size, done = group.index, group.start, 0, 0
    for chunk in range(group.start, group.stop):
        size += rows[chunk]
        piece = index - group.index + 1
        full = size and piece < pieces and done + size >= group.rows * piece // pieces
        if full or chunk == group.stop - 1:  # the last takes chunks without rows at the end too
            yield Group(index, start, chunk + 1, size)
            index, start, size, done = index + 1, chunk + 1, 0, done + size
