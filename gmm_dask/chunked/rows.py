"""Row chunks: the data as everything above the mixture sees it, blocks of rows to be read.

A source of rows is a `RowChunks`: arrays in memory, the blocks of a dask array
(`gmm_dask.chunked.array`), or the files of an input plan (`gmm_dask.storage.input.reader`). It is
small and picklable: what travels to a worker is the recipe, never the rows of a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one chunk, decoded.

    Attributes
    ----------
    values
        (m, d) float32 or float64; a null is NaN. Best as a view of a feature-major (d, m)
        buffer, which is how columns arrive and how the kernels read.
    sample_weight
        (m,) float64, or None.
    chunk
        Number of the chunk in its source.
    first
        Number of the chunk's first row, counted over the whole input before any is dropped.
    used
        (source rows,) True for the rows that are in ``values``; None when all are.
    """

    values: RowsArray
    sample_weight: FloatArray | None
    chunk: int
    first: int
    used: Mask | None = None

    @property
    def source_rows(self) -> int:
        """Rows in the source, those dropped included."""
        return int(self.values.shape[0] if self.used is None else self.used.shape[0])


@runtime_checkable
class RowChunks(Protocol):
    """Rows as chunks that can be read, again and again, in any process.

    Attributes
    ----------
    columns
        Names of the d features.
    dtype
        float32 or float64: of the values as read (the sums are float64 always).
    rows
        Source rows of each chunk; known before anything is read.
    entries
        Ascending numbers of the chunks at which reading may begin without decoding what comes
        before; the first is 0. A row group that is read in slices is entered at its start.
    weighted
        Whether the rows carry sample weights.
    digest
        Of the recipe: equal digests mean the same rows in the same chunks.
    volatile
        Whether a second reading could give other values (files, a graph): then the values of
        the first scan are fingerprinted and every later reading is held to that.
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

    def read(self, start: int, stop: int) -> Iterator[Rows]:
        """Decode chunks start … stop−1 in order, one at a time.

        ``start`` need not be an entry, but what lies between the entry before it and ``start``
        is then decoded for nothing.
        """
        ...

    def describe(self, chunk: int, row: int | None = None) -> str:
        """Where a chunk, or a row of it, lies: "part-3.parquet rows 0–250,000"."""
        ...

    def check(self) -> None:
        """See that the first and the last row can be reached from here, reading none.

        Raises
        ------
        InputError
            They cannot.
        """
        ...


@dataclass(frozen=True, eq=False)
class MemoryChunks:
    """A numpy array as row chunks: slices of it, cut so that every core has work.

    Attributes
    ----------
    values
        (n, d) float32 or float64.
    sample_weight
        (n,) or None.
    chunk_rows
        Rows per chunk; the last may be shorter.
    """

    values: RowsArray
    sample_weight: FloatArray | None
    chunk_rows: int
    columns: tuple[str, ...]

    volatile = False
    digest = "memory"

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Of the array."""
        return self.values.dtype

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of each slice."""
        n = self.values.shape[0]
        return tuple(min(self.chunk_rows, n - start) for start in range(0, n, self.chunk_rows))

    @property
    def entries(self) -> tuple[int, ...]:
        """Every slice."""
        return tuple(range(len(self.rows)))

    @property
    def weighted(self) -> bool:
        """Whether sample weights were given."""
        return self.sample_weight is not None

    def read(self, start: int, stop: int) -> Iterator[Rows]:
        """Views, no copies."""
        for chunk in range(start, stop):
            first = chunk * self.chunk_rows
            last = first + self.chunk_rows
            weight = None if self.sample_weight is None else self.sample_weight[first:last]
            yield Rows(self.values[first:last], weight, chunk, first)

    def describe(self, chunk: int, row: int | None = None) -> str:
        """Row numbers of the array."""
        first = chunk * self.chunk_rows
        if row is not None:
            return f"row {first + row:,}"
        return f"rows {first:,}–{min(first + self.chunk_rows, self.values.shape[0]):,}"

    def check(self) -> None:
        """They are here."""


def complete(rows: Rows) -> Rows:
    """Without the rows that hold a null: ``used`` says which those were.

    Infinities are not dropped; the survey has refused them.
    """
    # Adding the features is one pass without an (m, d) temporary; NaN survives addition.
    missing = np.isnan(np.add.reduce(rows.values, axis=1))  # (m,)
    if not missing.any():
        return rows
    used = ~missing
    values = rows.values.T.compress(used, axis=1).T  # (used, d), feature-major
    weight = None if rows.sample_weight is None else rows.sample_weight[used]
    return replace(rows, values=values, sample_weight=weight, used=used)
