"""The rows of an input plan as row chunks, decoded into feature-major buffers in one pass."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gmm_dask.arrays import MaskArray
from gmm_dask.chunked.rows import Rows
from gmm_dask.errors import InputError, SchemaError
from gmm_dask.mixture.labels import RowLabels
from gmm_dask.storage.input.columns import write_values
from gmm_dask.storage.input.decay import Decay
from gmm_dask.storage.input.decode import OpenFile, check_files
from gmm_dask.storage.input.digests import RowGroupDigest, batch_rows, columns_of
from gmm_dask.storage.input.filters.predicate import Predicate
from gmm_dask.storage.input.label_columns import decode_labels, repeat_label
from gmm_dask.storage.input.layout import Layout, RowGroup, lay_out
from gmm_dask.storage.input.location import reason
from gmm_dask.storage.input.plan import InputPlan


@dataclass(frozen=True, eq=False)
class ParquetRows(Rows):
    """Rows read from Parquet files.

    Attributes
    ----------
    keys
        The key columns of the rows inside the filter, as stored; None if there are none.
    first_in_file
        Number of the first row within that file; None unless chunks are split by file.
    """

    keys: pa.Table | None = None
    first_in_file: int | None = None


@dataclass(frozen=True, eq=False)
class ParquetChunks:
    """The rows of an input plan as row chunks; the cut depends on plan and configuration only.

    Safe to read from several threads at once: each read opens its files itself, one at a time.

    Attributes
    ----------
    plan
        The input plan.
    chunk_rows
        Largest number of rows in a chunk.
    split_files
        Whether each chunk lies within one file.
    key_columns
        Columns that are passed on with the rows.
    """

    plan: InputPlan
    chunk_rows: int
    split_files: bool = False
    key_columns: tuple[str, ...] = ()

    volatile = True

    def __getstate__(self) -> dict[str, Any]:
        # Without the layout: it is larger than the plan and quickly computed again.
        return {attribute.name: getattr(self, attribute.name) for attribute in fields(self)}

    @cached_property
    def layout(self) -> Layout:
        """Places of the chunks in the files."""
        return lay_out(self.plan, self.chunk_rows, self.split_files)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the d features."""
        return self.plan.names

    @cached_property
    def dtype(self) -> np.dtype[np.floating]:
        """float32 if it holds every feature's type exactly, else float64."""
        narrow = all(column.narrow for column in self.plan.columns)
        return np.dtype(np.float32 if narrow else np.float64)

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Rows of each chunk."""
        bounds = self.layout.bounds
        return tuple(stop - start for start, stop in pairwise(bounds))

    @property
    def entries(self) -> tuple[int, ...]:
        """Chunks that begin with a row group."""
        return self.layout.entries

    @property
    def weighted(self) -> bool:
        """Whether the plan has weights."""
        return self.plan.weighted

    @cached_property
    def digest(self) -> str:
        """Digest of the snapshot and its cut into chunks."""
        text = f"{self.plan.digest} {self.chunk_rows} {self.split_files}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def read(self, start: int, stop: int, digests: bool = False) -> Iterator[ParquetRows]:
        """Decode chunks start … stop−1 in order, one at a time; nulls become NaN.

        Rows outside the filter are left out, and ``used`` and ``inside`` say which stay. With
        ``digests``, each chunk carries the digests of the row groups that end in it.

        Raises
        ------
        InputChangedError
            A file is not the one that was planned: it is gone, shortened, grown or replaced.
        InputError
            A file is damaged or cannot be read.
        SchemaError
            A 64-bit integer is beyond 2⁵³.
        """
        return self._decode(self.layout.bounds[start : stop + 1], start, digests)

    def read_joined(self, start: int, stop: int) -> ParquetRows:
        """Decode chunks start … stop−1 as a single block of rows; raises as `read` does."""
        bounds = self.layout.bounds
        return next(self._decode((bounds[start], bounds[stop]), start))

    def describe(self, chunk: int, row: int | None = None) -> str:
        """Name the file and the rows in it, from row 0: "part-3.parquet rows 0–250,000"."""
        return self.describe_run(chunk, chunk + 1, row)

    def describe_run(self, start: int, stop: int, row: int | None = None) -> str:
        """Describe chunks start … stop−1 together, as `describe` does one chunk."""
        first, last = self.layout.bounds[start], self.layout.bounds[stop]
        if row is not None:
            first, last = first + row, first + row + 1
        (file, begin), (last_file, end) = self.locate(first), self.locate(last - 1)
        name, last_name = self.plan.files[file].path, self.plan.files[last_file].path
        if row is not None:
            return f"{name} row {begin:,}"
        if file == last_file:
            return f"{name} rows {begin:,}–{end + 1:,}"
        return f"{name} row {begin:,} to {last_name} row {end:,}"

    def locate(self, row: int) -> tuple[int, int]:
        """Find a row of the input: the index of its file, and its number within that file."""
        (group,) = self.layout.between(row, row + 1)
        before = sum(self.plan.files[group.file].row_groups[: group.index])
        return group.file, row - group.first + before

    def check(self) -> None:
        """Check that the first and the last file are present and unchanged; reads no rows.

        Raises
        ------
        InputChangedError
            One of them is gone or changed, or this process cannot see the input at all.
        InputError
            One of them cannot be read.
        """
        check_files(self.plan, sorted({0, len(self.plan.files) - 1}))

    def _decode(
        self, bounds: Sequence[int], chunk: int, digests: bool = False
    ) -> Iterator[ParquetRows]:
        """Fill one buffer for each pair of neighbours in ``bounds``."""
        with closing(self._pieces(bounds, digests)) as pieces:  # also closes the open file
            for offset, (first, last) in enumerate(pairwise(bounds)):
                target = _Target(self, first, last)
                for piece in pieces:
                    target.write(piece)
                    # Go on at the very end: only then does the file check its number of rows.
                    if piece.stop == last < bounds[-1]:
                        break
                yield target.rows(chunk + offset)

    def _pieces(self, bounds: Sequence[int], digests: bool) -> Generator[_Piece]:
        """Yield the rows between the first and the last bound in pieces, cut at every bound."""
        if len(bounds) < 2:
            return
        position = bounds[0]
        by_file: dict[int, list[RowGroup]] = {}
        for group in self.layout.between(bounds[0], bounds[-1]):
            by_file.setdefault(group.file, []).append(group)
        for number, groups in by_file.items():
            residual = self.plan.residual(self.plan.files[number])
            names = columns_of(self.plan, self.key_columns, residual)
            with OpenFile(self.plan, number) as file:
                stored = [name for name in names if file.stores(name)]
                for group in groups:
                    row, ending = group.first, group.first + group.rows
                    digest = RowGroupDigest() if digests else None
                    for batch in file.batches(group.index, stored, batch_rows(names)):
                        if digest is not None:
                            digest.update(batch)
                        end = min(row + batch.num_rows, bounds[-1])
                        mask = None if residual is None else self._mask(residual, batch, file)
                        while position < end:
                            stop = min(end, bounds[bisect_right(bounds, position)])
                            part = batch.slice(position - row, stop - position)
                            inside = None if mask is None else mask[position - row : stop - row]
                            complete = None if digest is None or stop < ending else digest
                            yield _Piece(position, stop, part, inside, file, complete)
                            position = stop
                        row += batch.num_rows
                        if position == bounds[-1] and row < ending:
                            return

    def _mask(self, residual: Predicate, batch: pa.RecordBatch, file: OpenFile) -> MaskArray:
        # Imported here: pyarrow makes a function for each of its kernels, in 30 ms.
        from gmm_dask.storage.input.filters.mask import mask_of

        try:
            return mask_of(residual, batch)
        except pa.ArrowException as error:
            raise InputError(
                f"{file.file.path}: the filter cannot compare its columns exactly "
                f"({reason(error)}); compare them with values instead"
            ) from error


class _Piece(NamedTuple):
    """Rows ``first`` … ``stop`` − 1 of the input, from a single batch.

    ``inside`` says which of them are inside the filter; None: all. The last piece of a row group
    carries its ``digest``.
    """

    first: int
    stop: int
    batch: pa.RecordBatch
    inside: MaskArray | None
    file: OpenFile
    digest: RowGroupDigest | None


@dataclass(eq=False)
class _Target:
    """The buffers of the chunk that is being decoded: rows ``first`` … ``last`` − 1."""

    chunks: ParquetChunks
    first: int
    last: int
    values: npt.NDArray[Any] = field(init=False)
    weight: npt.NDArray[np.float64] | None = field(init=False)
    labels: RowLabels | None = field(init=False)
    keys: list[pa.RecordBatch] = field(init=False, default_factory=list)
    digests: list[str] = field(init=False, default_factory=list)
    inside: MaskArray | None = field(init=False, default=None)
    filled: int = field(init=False, default=0)
    young: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        m = self.last - self.first
        self.values = np.empty((len(self.chunks.columns), m), self.chunks.dtype)  # (d, m)
        self.weight = np.empty(m) if self.chunks.weighted else None
        labelled = self.chunks.plan.labels is not None
        self.labels = RowLabels(np.empty(m, np.int64), {}) if labelled else None

    def write(self, piece: _Piece) -> None:
        """Write a piece into its place in the buffers."""
        if piece.digest is not None:
            self.digests.append(piece.digest.hexdigest())
        plan = self.chunks.plan
        piece = self._masked(piece)
        place = slice(self.filled, self.filled + piece.batch.num_rows)
        self.filled = place.stop
        for feature, column in enumerate(plan.columns):
            self._write_column(column.name, piece, self.values[feature, place])
        if self.weight is not None:
            self._write_weights(piece, self.weight[place])
        if self.labels is not None and plan.labels is not None:
            labels = self._labels(plan.labels, piece)
            self.labels.codes[place] = labels.codes
            self.labels = replace(self.labels, names={**self.labels.names, **labels.names})
        if self.chunks.key_columns:
            columns = [self._key(name, piece) for name in self.chunks.key_columns]
            self.keys.append(pa.RecordBatch.from_arrays(columns, list(self.chunks.key_columns)))

    def _masked(self, piece: _Piece) -> _Piece:
        """Leave out the rows outside the filter, and note which these are."""
        if piece.inside is None or piece.inside.all():
            return piece
        if self.inside is None:
            self.inside = np.ones(self.last - self.first, dtype=np.bool_)
        self.inside[piece.first - self.first : piece.stop - self.first] = piece.inside
        return piece._replace(batch=piece.batch.filter(pa.array(piece.inside)))

    def rows(self, chunk: int) -> ParquetRows:
        """Return what was written; ``values`` is the (m, d) view of the (d, m) buffer."""
        values, weight, labels = self.values, self.weight, self.labels
        if self.inside is not None:
            values = np.ascontiguousarray(values[:, : self.filled])
            weight = None if weight is None else weight[: self.filled].copy()
            labels = None if labels is None else labels.take(np.arange(self.filled))
        keys = pa.Table.from_batches(self.keys) if self.chunks.key_columns else None
        file, first_in_file = None, None
        if self.chunks.split_files:
            file, first_in_file = self.chunks.locate(self.first)
        return ParquetRows(
            values.T,
            weight,
            chunk,
            self.first,
            used=self.inside,
            inside=self.inside,
            digests=tuple(self.digests),
            labels=labels,
            keys=keys,
            file=file,
            young=self.young,
            first_in_file=first_in_file,
        )

    def _write_column(self, name: str, piece: _Piece, out: npt.NDArray[Any]) -> None:
        index = piece.batch.schema.get_field_index(name)
        if index < 0:
            value = piece.file.partitions[name]
            out.fill(np.nan if value is None else float(value))
            return
        inexact = write_values(piece.batch.column(index), out)
        if inexact is not None:
            row = self._row(piece, inexact)
            value = piece.batch.column(index)[inexact].as_py()
            raise SchemaError(
                f"{piece.file.file.path}: column {name!r} row {row:,} is {value}, beyond 2^53, "
                "which float64 cannot hold exactly; write the column as float64 to round it"
            )

    def _labels(self, name: str, piece: _Piece) -> RowLabels:
        index = piece.batch.schema.get_field_index(name)
        try:
            if index < 0:
                return repeat_label(piece.file.partitions[name], piece.batch.num_rows)
            return decode_labels(piece.batch.column(index))
        except InputError as error:
            raise type(error)(f"{piece.file.file.path}: column {name!r}: {error}") from error

    def _write_weights(self, piece: _Piece, out: npt.NDArray[np.float64]) -> None:
        plan = self.chunks.plan
        if plan.sample_weight is None:
            out.fill(1.0)
        else:
            self._write_column(plan.sample_weight.name, piece, out)
        if plan.decay is not None:
            factors = self._ageing(plan.decay, piece)
            # An age of 0, which may be that of a row from later than the first moment of the day.
            self.young = self.young or bool((factors == 1.0).any())
            out *= factors

    def _ageing(self, decay: Decay, piece: _Piece) -> npt.NDArray[np.float64]:
        """Return the factors of the rows' ages, (m,); refuse rows without an age."""
        if decay.column in piece.file.partitions:
            factor = decay.key_factor(piece.file.partitions[decay.column])
            factors = np.full(piece.batch.num_rows, factor)
        else:
            factors = decay.factors(piece.batch.column(decay.column))
        if (refused := decay.refused(factors)) is not None:
            row, problem = refused
            raise InputError(
                f"{piece.file.file.path} row {self._row(piece, row):,}: column {decay.column!r}, "
                f"which weight_halflife names, {problem}"
            )
        return factors

    def _row(self, piece: _Piece, index: int) -> int:
        """Return the number in its file of a row of a piece from which rows were masked."""
        if piece.inside is not None:
            index = int(np.flatnonzero(piece.inside)[index])
        return self.chunks.locate(piece.first + index)[1]

    def _key(self, name: str, piece: _Piece) -> pa.Array:
        index = piece.batch.schema.get_field_index(name)
        expected = self.chunks.plan.types[name]
        if index < 0:
            value = pa.scalar(piece.file.partitions[name]).cast(pa.type_for_alias(expected))
            return pa.repeat(value, piece.batch.num_rows)
        keys = piece.batch.column(index)
        if str(keys.type) == expected:
            return keys
        try:
            return keys.cast(pa.type_for_alias(expected))
        except pa.ArrowException as error:
            raise SchemaError(
                f"{piece.file.file.path}: key column {name!r} is {keys.type}, and {expected} in "
                f"other files, which cannot hold its values ({reason(error)}); rewrite the file"
            ) from error
