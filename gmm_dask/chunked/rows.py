"""Sources of rows: the data as chunks that can be read again and again.

A source is a `RowChunks`: an array in memory, the blocks of a dask array or partitions of a dask
data frame (`gmm_dask.chunked.array`), or the files of an input plan
(`gmm_dask.storage.input.reader`). It is small and picklable: a worker receives the recipe for
reading, never the rows of a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from gmm_dask.arrays import FloatArray, MaskArray, RowsArray
from gmm_dask.mixture.labels import RowLabels
from gmm_dask.mixture.patterns import Pattern, Patterns, find_patterns
from gmm_dask.mixture.transforms import Transforms


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one chunk, decoded.

    Attributes
    ----------
    values
        (m, d) float32 or float64; a null is NaN. Fastest as a view of a feature-major (d, m)
        buffer, because columns arrive and kernels read in that order.
    sample_weight
        (m,) float64, or None.
    chunk
        Number of the chunk in its source.
    first
        Number of the chunk's first row in the whole input, before any row is filtered or dropped.
    used
        (source rows,) True for each source row that is in ``values``; None when all are.
    inside
        (source rows,) True for each source row inside the filter of the input; None when all are.
        Until incomplete rows are dropped, it is ``used`` itself.
    transforms
        Those of the mixture that ``values`` have had; None: the values are as they were read.
    fingerprint
        Of the values, where it is not that of their bits.
    digests
        Of the row groups of files that end in this chunk, if they were asked for.
    patterns
        Of ``values``, where rows may have holes; () if all are complete. None: not looked for.
    file
        Number of the file that the rows are of; None unless chunks are split by file.
    young
        Whether the weight of a row does not yet decay with its age, but will.
    labels
        Of the rows of ``values``; None where no labels were asked for.
    """

    values: RowsArray
    sample_weight: FloatArray | None
    chunk: int
    first: int
    used: MaskArray | None = None
    digests: tuple[str, ...] = ()
    inside: MaskArray | None = None
    transforms: Transforms | None = None
    fingerprint: int | None = None
    patterns: Patterns | None = None
    file: int | None = None
    young: bool = False
    labels: RowLabels | None = None

    @property
    def source_rows(self) -> int:
        """Rows of the chunk in the source, including those filtered out or dropped."""
        return int(self.values.shape[0] if self.used is None else self.used.shape[0])

    @property
    def outside(self) -> int:
        """Rows outside the filter."""
        return 0 if self.inside is None else int(self.inside.size - np.count_nonzero(self.inside))

    def source_row(self, row: int) -> int:
        """Return the number of a row of ``values`` among the source rows of the chunk."""
        return row if self.used is None else int(np.flatnonzero(self.used)[row])


@runtime_checkable
class RowChunks(Protocol):
    """A source of rows: chunks that can be read again and again, in any process.

    Attributes
    ----------
    columns
        Names of the d features.
    dtype
        Type of the values as read, float32 or float64. Sums are always float64.
    rows
        Source rows of each chunk, known before anything is read.
    entries
        Numbers of the chunks at which reading may begin without decoding earlier rows, in
        ascending order; the first is 0. A row group read in slices has one entry, its start.
    weighted
        Whether the rows carry sample weights.
    digest
        Digest of the recipe: equal digests mean the same rows in the same chunks.
    volatile
        Whether a second reading could give other values, as files and graphs can. The values of
        the first scan are then fingerprinted, and every later reading is checked against them.
    """

    @property
    def columns(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def dtype(self) -> np.dtype[np.floating]: ...  # noqa: D102

    @property
    def rows(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def entries(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def weighted(self) -> bool: ...  # noqa: D102

    @property
    def digest(self) -> str: ...  # noqa: D102

    @property
    def volatile(self) -> bool: ...  # noqa: D102

    def read(self, start: int, stop: int, digests: bool = False) -> Iterator[Rows]:
        """Decode chunks start … stop−1 in order, one at a time.

        ``start`` need not be an entry, but the rows between the entry before it and ``start``
        are then decoded for nothing. With ``digests``, rows of files bring those of their row
        groups (`Rows.digests`).
        """
        ...

    def describe(self, chunk: int, row: int | None = None) -> str:
        """Say where a chunk, or a row of it, lies: "part-3.parquet rows 0–250,000"."""
        ...

    def check(self) -> None:
        """Check that this process can reach the first and the last row, without reading any.

        Raises
        ------
        InputError
            A row cannot be reached.
        """
        ...


@dataclass(frozen=True, eq=False)
class MemoryChunks:
    """A numpy array as a source of rows: each chunk is a slice of it.

    Attributes
    ----------
    values
        (n, d) float32 or float64.
    sample_weight
        (n,) or None.
    chunk_rows
        Rows per chunk; the last chunk may be shorter.
    columns
        Names of the d features.
    labels
        Of the n rows, or None.
    """

    values: RowsArray
    sample_weight: FloatArray | None
    chunk_rows: int
    columns: tuple[str, ...]
    labels: RowLabels | None = None

    volatile = False
    digest = "memory"

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Type of the array's values."""
        return self.values.dtype

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Rows of each slice."""
        n = self.values.shape[0]
        return tuple(min(self.chunk_rows, n - start) for start in range(0, n, self.chunk_rows))

    @cached_property
    def entries(self) -> tuple[int, ...]:
        """Number of every slice: reading may begin at any."""
        return tuple(range(len(self.rows)))

    @property
    def weighted(self) -> bool:
        """Whether sample weights were given."""
        return self.sample_weight is not None

    def read(self, start: int, stop: int, digests: bool = False) -> Iterator[Rows]:
        """Yield slices start … stop−1 as views of the array."""
        for chunk in range(start, stop):
            first = chunk * self.chunk_rows
            after = first + self.chunk_rows
            weight = None if self.sample_weight is None else self.sample_weight[first:after]
            labels = None if self.labels is None else self.labels.take(slice(first, after))
            yield Rows(self.values[first:after], weight, chunk, first, labels=labels)

    def describe(self, chunk: int, row: int | None = None) -> str:
        """Say which rows of the array a chunk or a row of it is."""
        first = chunk * self.chunk_rows
        if row is not None:
            return f"row {first + row:,}"
        return f"rows {first:,}–{min(first + self.chunk_rows, self.values.shape[0]):,}"

    def check(self) -> None:
        """Do nothing: an array in memory can always be reached."""


def drop_incomplete(rows: Rows) -> Rows:
    """Drop the rows that hold a null; ``used`` of the result says which are left.

    Rows with infinities stay: the survey refuses them.
    """
    # Adding the features is one pass without an (m, d) temporary; NaN survives addition.
    missing = np.isnan(np.add.reduce(rows.values, axis=1))  # (m,)
    if not missing.any():
        return rows
    return _keep(rows, ~missing)


def find_holes(rows: Rows) -> Rows:
    """Find the patterns of rows with holes, and drop the rows without any value."""
    patterns = find_patterns(rows.values)
    if patterns and isinstance(patterns[-1], Pattern) and not len(patterns[-1].observed):
        kept = np.ones(len(rows.values), dtype=np.bool_)
        kept[patterns[-1].rows] = False
        rows = _keep(rows, kept)
        patterns = find_patterns(rows.values)
    return replace(rows, patterns=patterns)


def _keep(rows: Rows, kept: MaskArray) -> Rows:
    """Leave out the rows of ``values`` that a mask (m,) does not keep."""
    values = rows.values.T.compress(kept, axis=1).T  # (used, d), feature-major
    weight = None if rows.sample_weight is None else rows.sample_weight[kept]
    labels = None if rows.labels is None else rows.labels.take(kept)
    used = kept
    if rows.used is not None:
        used = rows.used.copy()
        used[rows.used] = kept
    return replace(rows, values=values, sample_weight=weight, used=used, labels=labels)
