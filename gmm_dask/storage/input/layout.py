"""The cut of an input plan into chunks: large row groups are sliced, small ones are joined."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from gmm_dask.chunked.groups import group_rows
from gmm_dask.storage.input.plan import InputPlan

#: Decoded bytes of a chunk. A little under 32 MiB: from there on glibc gives each buffer back to
#: the system, and the next buffer costs its page faults again (a tenth of the decoding).
CHUNK_BYTES = 31 << 20


def chunk_rows(n: int, d: int, chunk_bytes: int = CHUNK_BYTES, least: int = 1) -> int:
    """Return the largest number of rows in a chunk, for n rows of d features."""
    return max(1, min(chunk_bytes // (8 * d), max(group_rows(n, d), least)))


@dataclass(frozen=True, eq=False)
class RowGroup:
    """A row group that has rows.

    Attributes
    ----------
    file, index
        Index of its file in the plan, and its own index within that file.
    first, rows
        Its first row, counted over all rows that are read, and its number of rows.
    """

    file: int
    index: int
    first: int
    rows: int


@dataclass(frozen=True, eq=False)
class Layout:
    """The bounds of the chunks, and the row groups that they are read from.

    Attributes
    ----------
    bounds
        First row of each chunk over all rows that are read, and at the end their number.
    entries
        Chunks that begin with a row group.
    groups
        Row groups with rows, in order.
    """

    bounds: tuple[int, ...]
    entries: tuple[int, ...]
    groups: tuple[RowGroup, ...]

    def between(self, first: int, last: int) -> tuple[RowGroup, ...]:
        """Return the row groups that hold any of the rows ``first`` … ``last`` − 1."""
        start = bisect_right(self.groups, first, key=lambda group: group.first) - 1
        stop = bisect_right(self.groups, last - 1, key=lambda group: group.first)
        return self.groups[start:stop]


def lay_out(plan: InputPlan, most: int, split_files: bool) -> Layout:
    """Cut the rows of a plan into chunks of at most ``most`` rows.

    A larger row group is cut into slices of nearly equal size. Smaller row groups are joined
    while they fit. With ``split_files`` not across files, nor across row groups of a file that the
    filter leaves out: then the rows of a chunk follow each other in their file.
    """
    groups: list[RowGroup] = []
    bounds: list[int] = []
    entries: list[int] = []
    row = 0  # first row of the row group at hand
    for file, contents in enumerate(plan.files):
        for index, rows in contents.groups:
            fits = bool(bounds) and row + rows - bounds[-1] <= most
            if not fits or (split_files and not _follows(plan, groups[-1], file, index)):
                entries.append(len(bounds))
                slices = -(-rows // most)
                bounds.extend(row + rows * i // slices for i in range(slices))
            groups.append(RowGroup(file, index, row, rows))
            row += rows
    return Layout((*bounds, row), tuple(entries), tuple(groups))


def _follows(plan: InputPlan, group: RowGroup, file: int, index: int) -> bool:
    """Whether a row group's rows follow those of another in the same file."""
    between = plan.files[file].row_groups[group.index + 1 : index]
    return group.file == file and not any(between)
