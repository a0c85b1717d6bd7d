"""Groups and lanes: how a source of rows is cut into sums, and into what is read at a stretch.

*Groups* are runs of consecutive chunks, the unit of summation. The source alone fixes them.
*Lanes* are runs of groups that can be read without decoding anything twice, the least that a
worker is given.
"""

from __future__ import annotations

from dataclasses import dataclass

from gmm_dask.chunked.rows import RowChunks

#: Groups to aim for: enough to keep hundreds of cores busy, few enough to add quickly.
GROUPS = 256
LEAST_GROUP_ROWS = 32_768
MOST_GROUP_ROWS = 1_048_576


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


def group_rows(n: int) -> int:
    """Rows that a group should hold when the source has n rows."""
    return min(max(-(-n // GROUPS), LEAST_GROUP_ROWS), MOST_GROUP_ROWS)


def lanes_of(chunks: RowChunks) -> tuple[Lane, ...]:
    """Cut a source into groups and lanes; its chunks and entries alone decide how."""
    target = group_rows(sum(chunks.rows))
    entries = set(chunks.entries)
    lanes: list[Lane] = []
    groups: list[Group] = []
    start, size, sliced, index = 0, 0, False, 0
    for chunk, rows in enumerate(chunks.rows):
        size += rows
        sliced = sliced or chunk not in entries
        stop = chunk + 1
        last = stop == len(chunks.rows)
        # A group with slices of a row group ends no later than the row group does. Otherwise it
        # could end inside the next row group, and both would have to be in one lane.
        if last or size >= target or (sliced and stop in entries):
            groups.append(Group(index, start, stop, size))
            start, size, sliced, index = stop, 0, False, index + 1
            if last or stop in entries:
                lanes.append(Lane(tuple(groups)))
                groups = []
    return tuple(lanes)
