"""Reading Parquet: as row chunks for a fit, and as a lazy dask array for everything else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gmm_dask.arrays import RowsArray
from gmm_dask.chunked.defects import apply_null_policy, is_finite, require_usable
from gmm_dask.chunked.rows import RowChunks, Rows
from gmm_dask.chunked.transforming import transform_values
from gmm_dask.config import InputSection, check_config
from gmm_dask.errors import ConfigError, InputChangedError, SchemaError
from gmm_dask.mixture.threads import available_cores
from gmm_dask.nulls import NullPolicy
from gmm_dask.storage.input.layout import CHUNK_BYTES, chunk_rows
from gmm_dask.storage.input.location import did_you_mean
from gmm_dask.storage.input.parquet_rows import ParquetChunks, ParquetRows
from gmm_dask.storage.input.plan import InputPlan, plan_input
from gmm_dask.storage.input.transformed import TransformedChunks

if TYPE_CHECKING:
    import dask.array as da

__all__ = [
    "CountedChunks",
    "ParquetChunks",
    "ParquetRows",
    "parquet_chunks",
    "read_parquet",
    "source_of",
]

#: A dask block is a whole row group, not a slice of one, up to this many decoded bytes.
BLOCK_BYTES = 512 << 20


def parquet_chunks(
    plan: InputPlan,
    *,
    split_files: bool = False,
    key_columns: Sequence[str] = (),
    chunk_bytes: int = CHUNK_BYTES,
    least_rows: int = 1,
) -> ParquetChunks:
    """Cut an input plan into row chunks; reads nothing.

    Parameters
    ----------
    plan
        The input plan.
    split_files
        Whether each chunk must lie within one file.
    key_columns
        Columns of any type, or keys of partitions, to pass on with the rows.
    chunk_bytes
        Largest size of a chunk, counting 8 bytes for each value.
    least_rows
        Rows that a chunk should hold even if the input is small, as far as the bytes allow.

    Raises
    ------
    ConfigError
        A key column is named twice.
    SchemaError
        A key column is missing in a file, or its type differs between files.
    """
    for name in key_columns:
        if name not in plan.types:
            raise SchemaError(
                f"key column {name!r} is not in every file with one type"
                f"{did_you_mean(name, plan.types)}"
            )
        if list(key_columns).count(name) > 1:
            raise ConfigError(f"key_columns names {name!r} twice; name each column once")
    most = chunk_rows(plan.rows, len(plan.columns), chunk_bytes, least_rows)
    return ParquetChunks(plan, most, split_files, tuple(key_columns))


def read_parquet(
    path: str | os.PathLike[str],
    columns: Sequence[str],
    nulls: Literal["error", "drop", "marginalize"] = "error",
    convert: Mapping[str, Literal["float", "seconds"]] | None = None,
    filter: str | None = None,
    weight_halflife: Mapping[str, Any] | None = None,
    transform: Mapping[str, Literal["log", "log1p", "asinh", "sqrt", "logit"]] | None = None,
) -> da.Array:
    """Open Parquet data as a lazy dask array with known chunks.

    Only footers are read now, except with ``nulls="drop"`` or a filter that partition keys and
    statistics do not decide: then one scan counts the rows that stay. An estimator of this package
    that is given the array itself, not a slice of it or a result computed from it, reads the files
    directly (`source_of`) and holds it to the names of its columns.

    A block is a run of row chunks that can be read without decoding anything twice. A row group
    of more than 512 MiB becomes several blocks, each of which decodes it from its beginning.

    Parameters
    ----------
    path
        File, directory, glob or ``s3://`` address; see `gmm_dask.storage.input.location`.
    columns
        The d features, in this order.
    nulls
        What to do with rows that hold a null or NaN: refuse them when a block is computed
        ("error"), leave them out ("drop"), or keep them, with NaN for nulls ("marginalize"), for
        an estimator that has ``nulls="marginalize"`` too.
    convert
        Columns to convert: to "float" decimals, and numbers whose type differs between files, as
        integers and doubles where some days hold a null; dates and times to "seconds". What
        float64 cannot hold exactly is refused, save the digits of decimals.
    filter
        Which rows to use, as after SQL's WHERE: ``"dt >= current_date - 30 and price > 0"``
        (`gmm_dask.storage.input.filters.sql`). ``current_date`` is today in UTC.
    weight_halflife
        ``{"column": "dt", "days": 14}``: an estimator that is fitted to the array itself weighs
        each row by 2^(−age/days), from its date, timestamp or partition key to today in UTC. The
        array holds no weights: fits of what is computed from it are refused.
    transform
        ``{"price": "log1p"}``: transforms of columns (`gmm_dask.mixture.transforms`). The array
        holds transformed values, as if the files did, and the column is called ``log1p(price)``.
        For a model that itself takes natural units, and for ``"standardise"``, give
        ``transforms`` to the estimator instead.

    Returns
    -------
    dask.array.Array
        (n, d) float32 if all columns are at most that wide, else float64.

    Raises
    ------
    ConfigError, InputError, SchemaError, TooFewRowsError
        As `gmm_dask.storage.input.plan.plan_input` does.
    NonFiniteError
        When a block with a null (under ``nulls="error"``) or an infinity is computed; at once
        where the rows are counted.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(
            f"read_parquet: path is a {type(path).__name__}; give the path of Parquet files (an "
            "estimator takes arrays and data frames as they are)"
        )
    tables = {
        "path": os.fspath(path),
        "columns": list(columns),
        "nulls": nulls,
        "convert": dict(convert or {}),
        "filter": filter,
        "weight_halflife": weight_halflife and dict(weight_halflife),
        "transform": dict(transform or {}),
    }
    section = check_config(InputSection, tables, "read_parquet")
    plan = plan_input(section)
    transforms = plan.transforms
    if transforms is not None and transforms.pending:
        raise ConfigError(
            'read_parquet: transform: "standardise" takes mean and deviation of the rows of a '
            "fit, which the model must keep; give it to the estimator: "
            "GaussianMixture(transforms={…: 'standardise'})"
        )
    parquet = parquet_chunks(plan)
    counting = section.nulls is NullPolicy.DROP or plan.masked
    chunks = _counted(parquet) if counting else parquet
    return _as_array(chunks if transforms is None else TransformedChunks(chunks, transforms))


def source_of(array: da.Array) -> RowChunks | None:
    """Return the row chunks behind an array from `read_parquet`; None for any other array."""
    if array.name + _SOURCE not in array.dask:
        return None
    source: RowChunks = array.dask[array.name + _SOURCE]
    return source


def source_to_fit(array: da.Array, sample_weight: Any, labels: Any = None) -> RowChunks | None:
    """Return the row chunks to fit in place of an array; None to fit the array.

    ``labels`` of the rows, if there are any, are not in the files.

    Raises
    ------
    ConfigError
        The rows weigh by their age, and the array is computed from them, so that the weights are
        lost; or there are other weights too.
    """
    source = source_of(array)
    if sample_weight is None:
        for name in array.dask.layers:
            if name != array.name and name + _SOURCE in array.dask:
                before: RowChunks = array.dask[name + _SOURCE]
                if before.weighted:
                    raise ConfigError(
                        "X is computed from an array of read_parquet(weight_halflife=…), and the "
                        "weights are lost; fit the array itself, choose rows by its filter, or "
                        "give sample_weight"
                    )
        if labels is None or source is None:
            return source
        if source.weighted:
            raise ConfigError(
                "y is given, but X has weights by weight_halflife, which a fit with labels takes "
                "from a run file only; leave one out"
            )
        return None
    if source is not None and source.weighted:
        raise ConfigError(
            "sample_weight is given, but X has weights by weight_halflife; leave one out"
        )
    return None


@dataclass(frozen=True, eq=False)
class CountedChunks:
    """Row chunks without the rows that are filtered out or dropped; those that stay are counted.

    Attributes
    ----------
    source
        The row chunks with all rows.
    rows
        Number of rows that stay, for each chunk.
    """

    source: ParquetChunks
    rows: tuple[int, ...]

    volatile = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the d features."""
        return self.source.columns

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Type of the values as they are read."""
        return self.source.dtype

    @property
    def entries(self) -> tuple[int, ...]:
        """Chunks that begin with a row group."""
        return self.source.entries

    @property
    def weighted(self) -> bool:
        """Whether the plan has a column of weights."""
        return self.source.weighted

    @cached_property
    def digest(self) -> str:
        """Digest of the source and the counts."""
        text = f"{self.source.digest} {self.rows}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def read(self, start: int, stop: int, digests: bool = False) -> Iterator[Rows]:
        """Decode chunks start … stop−1 and leave out the rows that do not stay.

        Raises
        ------
        InputChangedError
            The number of rows that stay is not the one that was counted.
        NonFiniteError
            A row holds an infinity, or a null where the plan refuses nulls.
        """
        firsts = (0, *accumulate(self.rows))
        for rows in self.source.read(start, stop, digests):
            kept = _kept_rows(self.source, rows, rows.chunk + 1)
            _check_count(self, rows.chunk, rows.chunk + 1, kept)
            yield Rows(
                kept.values,
                kept.sample_weight,
                rows.chunk,
                firsts[rows.chunk],
                digests=rows.digests,
            )

    def describe(self, chunk: int, row: int | None = None) -> str:
        """Name a chunk's place; its row is not known without reading which rows were left out."""
        return self.source.describe(chunk)

    def check(self) -> None:
        """Check the files as `ParquetChunks.check` does."""
        self.source.check()


_SOURCE = "-source"


def _parquet_of(chunks: RowChunks) -> ParquetChunks:
    """Return the row chunks of files behind others."""
    while isinstance(chunks, CountedChunks | TransformedChunks):
        chunks = chunks.source
    assert isinstance(chunks, ParquetChunks)
    return chunks


def _as_array(chunks: RowChunks) -> da.Array:
    # Imported here: it takes 0.4 s, and a flow that reads chunks does not need it.
    import dask.array as da

    source = _parquet_of(chunks)
    # With the hints: Dask may hold results, and must see a rewritten file as a new input.
    hints = [file.hint for file in source.plan.files]
    text = f"{chunks.digest} {source.plan.root} {hints}"
    token = hashlib.blake2b(text.encode(), digest_size=16)
    name = f"parquet-{token.hexdigest()}"
    runs = _block_runs(source)
    # The chunks are one key of the graph: they are sent once, however many blocks there are.
    graph: dict[object, object] = {name + _SOURCE: chunks}
    for block, (start, stop) in enumerate(runs):
        graph[name, block, 0] = (_block, name + _SOURCE, start, stop)
    sizes = tuple(sum(chunks.rows[start:stop]) for start, stop in runs)
    return da.Array(graph, name, (sizes, (len(chunks.columns),)), dtype=chunks.dtype)


def _block_runs(chunks: ParquetChunks) -> list[tuple[int, int]]:
    """Return the chunks of each block: from one entry to the next, unless that is too large."""
    most = BLOCK_BYTES // (8 * len(chunks.columns))
    edges = [*chunks.entries, len(chunks.rows)]
    runs = []
    for entry, following in pairwise(edges):
        start, rows = entry, 0
        for chunk in range(entry, following):
            if rows and rows + chunks.rows[chunk] > most:
                runs.append((start, chunk))
                start, rows = chunk, 0
            rows += chunks.rows[chunk]
        runs.append((start, following))
    return runs


def _block(chunks: RowChunks, start: int, stop: int) -> RowsArray:
    """Decode chunks start … stop−1 into one array, (m, d)."""
    if isinstance(chunks, TransformedChunks):
        source, parquet = chunks.source, _parquet_of(chunks)
        # Rows that stay of a block that was counted have no numbers.
        numbered = source is parquet

        def place(row: int) -> str:
            return parquet.describe_run(start, stop, row if numbered else None)

        values = _block(source, start, stop)
        return transform_values(values, chunks.transforms, source.columns, place)
    if isinstance(chunks, CountedChunks):
        rows = chunks.source.read_joined(start, stop)
        kept = _kept_rows(chunks.source, rows, stop)
        _check_count(chunks, start, stop, kept)
        return kept.values
    assert isinstance(chunks, ParquetChunks)
    rows = chunks.read_joined(start, stop)
    _refuse(chunks, rows, stop, chunks.plan.nulls)
    return rows.values


def _counted(chunks: ParquetChunks) -> CountedChunks:
    """Count the rows of each chunk that stay; costs one scan."""

    def count(run: tuple[int, int]) -> list[int]:
        return [
            _kept_rows(chunks, rows, rows.chunk + 1).values.shape[0] for rows in chunks.read(*run)
        ]

    edges = [*chunks.entries, len(chunks.rows)]
    with ThreadPoolExecutor(available_cores()) as pool:
        counts = pool.map(count, pairwise(edges))
        return CountedChunks(chunks, tuple(rows for run in counts for rows in run))


def _kept_rows(chunks: ParquetChunks, rows: Rows, stop: int) -> Rows:
    """Drop, refuse or keep rows with nulls; ``rows`` are chunks ``rows.chunk`` … stop−1."""
    marginalized = chunks.plan.nulls is NullPolicy.MARGINALIZE
    kept = rows if marginalized else apply_null_policy(rows, chunks.plan.nulls)
    if kept is not rows or not is_finite(kept.values):
        _refuse(chunks, rows, stop, chunks.plan.nulls)
    return kept


def _check_count(chunks: CountedChunks, start: int, stop: int, kept: Rows) -> None:
    counted, staying = sum(chunks.rows[start:stop]), kept.values.shape[0]
    if staying != counted:
        raise InputChangedError(
            f"{chunks.source.describe_run(start, stop)}: {staying:,} rows are complete where "
            f"{counted:,} were counted; the input has changed, open it again"
        )


def _refuse(chunks: ParquetChunks, rows: Rows, stop: int, nulls: NullPolicy) -> None:
    """Refuse values that cannot be used in chunks ``rows.chunk`` … stop−1."""
    require_usable(
        rows.values,
        chunks.columns,
        nulls,
        lambda row: chunks.describe_run(rows.chunk, stop, rows.source_row(row)),
    )
