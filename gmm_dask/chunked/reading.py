"""Reading the chunks of a group and summing over them, on a thread or a worker alike.

Every chunk read is checked against the plan and the values of the first scan. The null policy is
applied to incomplete rows, and what is left is cached for the next scan where memory allows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy.typing as npt
import xxhash

from gmm_dask.chunked.defects import apply_null_policy
from gmm_dask.chunked.groups import Group, GroupResult
from gmm_dask.chunked.rows import RowChunks, Rows
from gmm_dask.chunked.scan import Work
from gmm_dask.chunked.transforming import continues, transform_rows
from gmm_dask.errors import InputChangedError, ValuesChangedError


def fingerprint_of(values: npt.NDArray[Any]) -> int:
    """Hash the bits of an array (xxh3, 64 bits), whatever its layout in memory."""
    columns = values.T  # (d, m)
    if not columns.flags.c_contiguous:
        columns = columns.copy(order="C")
    return xxhash.xxh3_64_intdigest(columns.data.cast("B") if columns.size else b"")


def verify_rows(chunks: RowChunks, rows: Rows, work: Work) -> int:
    """Check a chunk just read against the plan and the first scan; return its fingerprint.

    The fingerprint is 0 where values cannot change.

    Raises
    ------
    InputChangedError
        Rows are missing, or values are not those of the first scan.
    """
    if rows.source_rows != chunks.rows[rows.chunk]:
        raise InputChangedError(
            f"{chunks.describe(rows.chunk)}: {rows.source_rows:,} rows were read, "
            f"{chunks.rows[rows.chunk]:,} were expected; the input has changed, start again"
        )
    if not work.volatile:
        return 0
    fingerprint = fingerprint_of(rows.values) if rows.fingerprint is None else rows.fingerprint
    if rows.sample_weight is not None:
        fingerprint ^= fingerprint_of(rows.sample_weight[:, None])
    if rows.labels is not None:
        fingerprint ^= fingerprint_of(rows.labels.codes[:, None])
    verify_fingerprint(chunks, rows.chunk, fingerprint, work)
    return fingerprint


def verify_fingerprint(chunks: RowChunks, chunk: int, fingerprint: int, work: Work) -> None:
    """Check a chunk's fingerprint against the first scan's.

    Raises
    ------
    ValuesChangedError
        The fingerprints differ.
    """
    if work.fingerprints is not None and fingerprint != work.fingerprints[chunk]:
        raise ValuesChangedError(
            f"{chunks.describe(chunk)}: the values are not those of the first scan; the "
            "input was changed during the fit, start again"
        )


def nbytes(rows: Rows) -> int:
    """Bytes of memory that rows occupy."""
    size = rows.values.nbytes
    if rows.sample_weight is not None:
        size += rows.sample_weight.nbytes
    if rows.labels is not None:
        size += rows.labels.codes.nbytes
    masks = [rows.used] if rows.used is rows.inside else [rows.used, rows.inside]
    size += sum(pattern.rows.nbytes for pattern in rows.patterns or ())
    return size + sum(mask.nbytes for mask in masks if mask is not None)


class RowCache:
    """Chunks cached in memory between scans, with the fingerprint each had when it was read.

    Parameters
    ----------
    budget
        Most bytes to cache; chunks beyond it are not cached. None: the caller knows that all fit.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self.size = 0
        self._chunks: dict[int, tuple[Rows, int]] = {}
        self._changing = threading.Lock()

    def get(self, chunk: int) -> tuple[Rows, int] | None:
        """Return the rows and the fingerprint of a chunk, or None if it is not cached."""
        return self._chunks.get(chunk)

    def put(self, chunk: int, rows: Rows, fingerprint: int) -> None:
        """Cache a chunk within the budget, in place of the one cached under its number."""
        with self._changing:
            previous = self._chunks.get(chunk)
            size = self.size + nbytes(rows) - (0 if previous is None else nbytes(previous[0]))
            if self.budget is None or size <= self.budget:
                self._chunks[chunk] = rows, fingerprint
                self.size = size


class Reader:
    """Reads the chunks of consecutive groups, from the cache or else by decoding.

    Parameters
    ----------
    stop
        Chunk before which reading ends.
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
        """Return the rows of a chunk, and their fingerprint if they were cached."""
        cached = None if self.cache is None else self.cache.get(chunk)
        if cached is not None and continues(cached[0].transforms, self.work.transforms):
            return cached
        if self._next != chunk:
            # The first scan says what the files hold; later ones are held to its fingerprints.
            first = self.work.fingerprints is None
            self._decoding = self.chunks.read(chunk, self.stop, digests=first)
        rows = next(self._decoding, None)
        if rows is None:
            raise InputChangedError(
                f"{self.chunks.describe(chunk)}: no rows could be read, "
                f"{self.chunks.rows[chunk]:,} were expected; the input has changed, start again"
            )
        self._next = chunk + 1
        if self._next == self.stop:
            # Otherwise the file stays open, and its decoded rows stay in memory.
            self._decoding = iter(())
        return rows, None

    def prepare(self, rows: Rows, cached_fingerprint: int | None) -> tuple[Rows, int]:
        """Check rows just read, transform them, apply the null policy, and cache what is left.

        Returns the rows that are left, and the fingerprint of all that were read, which is of
        values in natural units.
        """
        if cached_fingerprint is None:
            fingerprint = verify_rows(self.chunks, rows, self.work)
        else:
            fingerprint = cached_fingerprint
            verify_fingerprint(self.chunks, rows.chunk, fingerprint, self.work)
        transformed = transform_rows(rows, self.work.transforms, self.chunks)
        prepared = apply_null_policy(transformed, self.work.nulls)
        if self.cache is not None and (cached_fingerprint is None or prepared is not rows):
            self.cache.put(rows.chunk, prepared, fingerprint)
        return prepared, fingerprint


def sum_group(
    reader: Reader, group: Group, when_decoded: Callable[[], None] = lambda: None
) -> GroupResult:
    """Read and check the chunks of a group in order, and sum the function of a scan over them.

    ``when_decoded`` is called as soon as the last chunk is decoded, before it is computed on.
    """
    work = reader.work
    total: Any = None
    fingerprints = []
    digests: list[str] = []
    for chunk in range(group.start, group.stop):
        rows, cached_fingerprint = reader.read(chunk)
        if chunk == group.stop - 1:
            when_decoded()
        prepared, fingerprint = reader.prepare(rows, cached_fingerprint)
        result = work.function(prepared, work.argument)
        total = result if total is None else total + result
        fingerprints.append(fingerprint)
        digests.extend(rows.digests)
    return GroupResult(group, total, tuple(fingerprints), tuple(digests))
