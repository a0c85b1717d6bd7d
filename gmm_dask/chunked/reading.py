"""Reading the chunks of a group and summing over them: what threads and workers do alike.

Every chunk read is held to the plan and to the values of the first scan, freed of incomplete
rows, and cached for the next scan where there is room.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import xxhash

from gmm_dask.arrays import RowsArray
from gmm_dask.chunked.defects import usable_rows
from gmm_dask.chunked.rows import RowChunks, Rows
from gmm_dask.chunked.scan import Group, GroupResult, Work
from gmm_dask.errors import InputChangedError


def fingerprint(values: RowsArray) -> int:
    """Hash (xxh3, 64 bits) of the bits of an array, whatever its layout in memory."""
    columns = values.T  # (d, m)
    if not columns.flags.c_contiguous:
        columns = columns.copy(order="C")
    return xxhash.xxh3_64_intdigest(columns.data.cast("B") if columns.size else b"")


def checked(chunks: RowChunks, rows: Rows, work: Work) -> int:
    """Fingerprint a chunk just read, and hold it to the first scan's.

    Raises
    ------
    InputChangedError
        Rows are missing, or values are not those of the first scan.
    """
    if rows.source_rows != chunks.rows[rows.chunk]:
        raise InputChangedError(
            f"{chunks.describe(rows.chunk)}: {rows.source_rows:,} rows were read where the plan "
            f"has {chunks.rows[rows.chunk]:,}; the input has changed, start again"
        )
    if not work.volatile:
        return 0
    found = fingerprint(rows.values)
    if rows.sample_weight is not None:
        found ^= fingerprint(rows.sample_weight[:, None])
    same_values(chunks, rows.chunk, found, work)
    return found


def same_values(chunks: RowChunks, chunk: int, found: int, work: Work) -> None:
    """Hold a chunk's fingerprint to the first scan's.

    Raises
    ------
    InputChangedError
        They differ.
    """
    if work.fingerprints is not None and found != work.fingerprints[chunk]:
        raise InputChangedError(
            f"{chunks.describe(chunk)}: the values are not those of the first scan; the "
            "input was changed during the fit, start again"
        )


def nbytes(rows: Rows) -> int:
    """Bytes that rows occupy."""
    size = rows.values.nbytes
    if rows.sample_weight is not None:
        size += rows.sample_weight.nbytes
    return size if rows.used is None else size + rows.used.nbytes


class RowCache:
    """Chunks cached in memory between scans, with the fingerprint each had when it was read.

    Parameters
    ----------
    budget
        Bytes at the most: what comes beyond is not cached. None: the caller knows that all fit.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self.size = 0
        self._chunks: dict[int, tuple[Rows, int]] = {}
        self._changing = threading.Lock()

    def get(self, chunk: int) -> tuple[Rows, int] | None:
        """Rows and fingerprint of a chunk, if it is here."""
        return self._chunks.get(chunk)

    def put(self, chunk: int, rows: Rows, found: int) -> None:
        """Keep a chunk, or its smaller self once rows have been dropped."""
        with self._changing:
            before = self._chunks.get(chunk)
            size = self.size + nbytes(rows) - (0 if before is None else nbytes(before[0]))
            if self.budget is None or size <= self.budget:
                self._chunks[chunk] = rows, found
                self.size = size


class Reader:
    """The chunks of a run of groups, one after the other: cached, or else decoded.

    Parameters
    ----------
    stop
        Chunk at which the run ends.
    cache
        Where rows are looked for and put; None to cache none.
    """

    def __init__(self, chunks: RowChunks, work: Work, stop: int, cache: RowCache | None) -> None:
        self.chunks = chunks
        self.work = work
        self.stop = stop
        self.cache = cache
        self._decoding: Iterator[Rows] = iter(())
        self._next: int | None = None

    def read(self, chunk: int) -> tuple[Rows, int | None]:
        """Rows of a chunk, and their fingerprint if they were cached."""
        found = None if self.cache is None else self.cache.get(chunk)
        if found is not None:
            return found
        if self._next != chunk:
            self._decoding = self.chunks.read(chunk, self.stop)
        rows = next(self._decoding, None)
        if rows is None:
            raise InputChangedError(
                f"{self.chunks.describe(chunk)}: no rows could be read where the plan has "
                f"{self.chunks.rows[chunk]:,}; the input has changed, start again"
            )
        self._next = chunk + 1
        if self._next == self.stop:
            self._decoding = iter(())  # or its file stays open, with what it has decoded
        return rows, None

    def use(self, rows: Rows, known: int | None) -> tuple[Rows, int]:
        """Check, clean and cache rows just read; gives the fingerprint of what was read."""
        if known is None:
            found = checked(self.chunks, rows, self.work)
        else:
            found = known
            same_values(self.chunks, rows.chunk, found, self.work)
        usable = usable_rows(rows, self.work.nulls)
        if self.cache is not None and (known is None or usable is not rows):
            self.cache.put(rows.chunk, usable, found)
        return usable, found


def sum_group(
    reader: Reader, group: Group, decoded: Callable[[], None] = lambda: None
) -> GroupResult:
    """Read, check and sum the chunks of a group, in order.

    ``decoded`` is called when the last chunk has been decoded, before it is worked on.
    """
    work = reader.work
    total: Any = None
    prints = []
    for chunk in range(group.start, group.stop):
        rows, known = reader.read(chunk)
        if chunk == group.stop - 1:
            decoded()
        usable, found = reader.use(rows, known)
        result = work.function(usable, work.argument)
        total = result if total is None else total + result
        prints.append(found)
    return GroupResult(group, total, tuple(prints))
