"""Dask arrays as sources of rows, and predictions as lazy dask arrays.

A dask data frame is an array too, with a block for each partition (`gmm_dask.chunked.partitions`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.base import tokenize

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.chunked.blocks import Block, beside_rows, is_future, split_blocks
from gmm_dask.chunked.defects import require_usable
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.transforming import transform_values
from gmm_dask.errors import SchemaError, TooFewRowsError
from gmm_dask.frames import refuse_text
from gmm_dask.mixture.assignment import Assignment, assign, sum_assignment
from gmm_dask.mixture.label_names import encode_labels
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.nulls import NullPolicy


@dataclass(frozen=True, eq=False)
class ArrayChunks:
    """A dask array as a source of rows: each chunk is a block, computed from its part of the graph.

    Attributes
    ----------
    blocks, weight_blocks, label_blocks
        Computations of the values, of the sample weights and of the labels, one for each chunk.
    sizes
        Rows of each block.
    columns
        Names of the d features.
    unit
        What a block is to the caller: a "block" of an array, or a "partition" of a data frame.
    dtype
        Type of the values as read, float32 or float64.
    digest
        Digest of the graph's name and of the weights.
    persisted
        Persisted results that the blocks need, by name: in the client, futures of results on the
        workers; in a task, the results themselves. They are not pickled with the rest.
    """

    blocks: tuple[Block, ...]
    weight_blocks: tuple[Block, ...] | None
    label_blocks: tuple[Block, ...] | None
    sizes: tuple[int, ...]
    columns: tuple[str, ...]
    unit: str
    dtype: np.dtype[np.floating]
    digest: str
    persisted: Mapping[Any, Any]

    volatile = True

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"persisted": {}}

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of each block."""
        return self.sizes

    @property
    def entries(self) -> tuple[int, ...]:
        """Number of every block: each can be computed alone."""
        return tuple(range(len(self.sizes)))

    @property
    def weighted(self) -> bool:
        """Whether sample weights were given."""
        return self.weight_blocks is not None

    def read(self, start: int, stop: int, digests: bool = False) -> Iterator[Rows]:
        """Compute blocks one after the other, on the calling thread.

        Raises
        ------
        SchemaError
            A block has another number of sample weights or labels than of rows.
        """
        for chunk in range(start, stop):
            weight = None
            if self.weight_blocks is not None:
                weight = np.asarray(self._compute(self.weight_blocks[chunk]), dtype=np.float64)
                self._require_size(chunk, len(weight), "sample weights")
            labels = None
            if self.label_blocks is not None:
                labels = encode_labels(self._compute(self.label_blocks[chunk]))
                self._require_size(chunk, len(labels.codes), "labels")
            values = as_rows(self._compute(self.blocks[chunk]))
            yield Rows(values, weight, chunk, self._first(chunk), labels=labels)

    def _require_size(self, chunk: int, size: int, what: str) -> None:
        if size != self.sizes[chunk]:
            raise SchemaError(
                f"{self.describe(chunk)}: {self.sizes[chunk]:,} rows have {size:,} {what}; take "
                f"the {what.removeprefix('sample ')} from the rows' own frame"
            )

    def describe(self, chunk: int, row: int | None = None) -> str:
        """Say which block a chunk is, and which rows of the array."""
        first = self._first(chunk)
        if row is not None:
            return f"{self.unit} {chunk} row {first + row:,}"
        return f"{self.unit} {chunk} rows {first:,}–{first + self.sizes[chunk]:,}"

    def check(self) -> None:
        """Do nothing: only computing a graph shows whether its rows can be reached."""

    def needs(self, start: int, stop: int) -> list[Any]:
        """Names of the persisted results that chunks start … stop − 1 need, in a fixed order."""
        others = [*(self.weight_blocks or ())[start:stop], *(self.label_blocks or ())[start:stop]]
        blocks = [*self.blocks[start:stop], *others]
        return list(dict.fromkeys(name for block in blocks for name in block.needs))

    def _compute(self, block: Block) -> Any:
        persisted = {name: self.persisted[name] for name in block.needs}
        results = {
            name: result.result() if is_future(result) else result
            for name, result in persisted.items()
        }
        return dask.get({**block.graph, **results}, block.key)

    @cached_property
    def _bounds(self) -> tuple[int, ...]:
        return tuple(accumulate(self.sizes, initial=0))

    def _first(self, chunk: int) -> int:
        return self._bounds[chunk]


def as_rows(block: Any) -> RowsArray:
    """Convert a block to (m, d) float32 or float64; other numbers become float64."""
    values = np.asarray(block)
    if values.dtype in (np.float32, np.float64):
        return values
    refuse_text(values.dtype, "a block of X")
    return values.astype(np.float64)


def require_matrix(array: da.Array) -> None:
    """Refuse a dask array that is not two-dimensional or not of numbers, as a `SchemaError`."""
    if array.ndim != 2:
        raise SchemaError(
            f"Expected 2D array, got {array.ndim}D array instead; X is (n_samples, n_features): "
            "use X.reshape(-1, 1) for one feature"
        )
    if array.dtype.kind not in "fiub":
        raise SchemaError(f"X has dtype {array.dtype}; only numbers can be used: convert it first")


def array_chunks(
    array: da.Array,
    sample_weight: Any = None,
    columns: tuple[str, ...] | None = None,
    unit: str = "block",
    scheduler: Any = None,
    labels: Any = None,
) -> ArrayChunks:
    """Make a source of rows from a two-dimensional dask array.

    Where the array does not know how many rows its blocks have, it is computed once to count them.

    Parameters
    ----------
    array
        (n, d), of numbers; blocks of columns are joined.
    sample_weight
        (n,) numpy or dask array, column of a dask data frame, or None. If it does not know how
        many rows its blocks have, each belongs to the rows of one block of the array.
    columns
        Names of the features; by default x0, x1, …
    unit
        What a block is to the caller: a "block" of an array, or a "partition" of a data frame.
    scheduler
        What counts the rows, as `dask.compute` takes it: a client, for example.
    labels
        As ``sample_weight``: a label for each row, or None.

    Raises
    ------
    SchemaError
        The array is not two-dimensional or not numeric, or weights or labels do not fit it.
    """
    require_matrix(array)
    if array.numblocks[1] > 1:
        array = array.rechunk({1: -1})
    sizes = array.chunks[0]
    if any(np.isnan(size) for size in sizes):
        lengths = (dask.delayed(len)(block) for block in array.to_delayed()[:, 0])
        sizes = tuple(dask.compute(*lengths, scheduler=scheduler))
    d = int(array.shape[1])
    n = int(sum(sizes))
    if not d:
        raise SchemaError(f"Found array with 0 feature(s) (shape={(n, d)}); at least 1 is needed")
    if not n:
        raise TooFewRowsError(f"Found array with 0 sample(s) (shape={(n, d)}); give some rows")
    blocks, persisted = split_blocks(array, unit)
    weight_blocks = None
    if sample_weight is not None:
        weights = beside_rows(sample_weight, sizes, unit, "sample_weight")
        refuse_text(weights.dtype, "sample_weight")
        weight_blocks, persisted_weights = split_blocks(weights, unit)
        persisted |= persisted_weights
    label_blocks = None
    if labels is not None:
        label_blocks, persisted_labels = split_blocks(beside_rows(labels, sizes, unit, "y"), unit)
        persisted |= persisted_labels
    return ArrayChunks(
        blocks,
        weight_blocks,
        label_blocks,
        tuple(int(size) for size in sizes),
        columns or tuple(f"x{number}" for number in range(d)),
        unit,
        np.dtype(array.dtype if array.dtype in (np.float32, np.float64) else np.float64),
        tokenize(
            array.name,
            None if sample_weight is None else tokenize(sample_weight),
            *(() if labels is None else (tokenize(labels),)),
        ),
        persisted,
    )


def predict_array(
    X: da.Array,
    parameters: MixtureParameters,
    what: str,
    columns: tuple[str, ...] | None = None,
    unit: str = "block",
    nulls: NullPolicy = NullPolicy.ERROR,
    transforms: Transforms | None = None,
) -> da.Array:
    """Predict labels, log-densities or responsibilities of a dask array's rows, lazily.

    Parameters
    ----------
    X
        (n, d).
    what
        What is returned: ``"labels"`` or ``"log_densities"``, (n,), the latter in nats, or
        ``"responsibilities"``, (n, k).
    columns, unit
        As in `array_chunks`, for the error of a row that cannot be predicted.
    nulls
        Whether rows with holes are predicted (``MARGINALIZE``) or refused.
    transforms
        Of the mixture; X is in natural units.
    """
    if X.ndim == 2 and X.numblocks[1] > 1:
        X = X.rechunk({1: -1})
    columns = columns or tuple(f"x{number}" for number in range(X.shape[1]))
    request = _BlockRequest(parameters, columns, unit, nulls, transforms)
    predict = partial(_predict_block, request=request, what=what)
    if what == "responsibilities":
        k = parameters.n_components
        return X.map_blocks(predict, dtype=np.float64, chunks=(X.chunks[0], (k,)))
    dtype = np.int64 if what == "labels" else np.float64
    return X.map_blocks(predict, dtype=dtype, drop_axis=1)


def sum_array(
    X: da.Array,
    parameters: MixtureParameters,
    columns: tuple[str, ...],
    unit: str = "block",
    nulls: NullPolicy = NullPolicy.ERROR,
    transforms: Transforms | None = None,
) -> tuple[float, float, float]:
    """Sum over the rows of a dask array (n, d): log p(x) in nats, 1, and −log r.

    r is the largest responsibility of a row. The array is computed once.

    Parameters
    ----------
    columns, unit, nulls, transforms
        As in `predict_array`.
    """
    if X.numblocks[1] > 1:
        X = X.rechunk({1: -1})
    request = _BlockRequest(parameters, columns, unit, nulls, transforms)
    add_up = partial(_sum_block, request=request)
    sums = X.map_blocks(add_up, dtype=np.float64, chunks=(1, 3))
    log_likelihood, rows, uncertainty = sums.sum(axis=0).compute().tolist()
    return log_likelihood, rows, uncertainty


@dataclass(frozen=True, eq=False)
class _BlockRequest:
    """What is needed to predict a block; the fields are arguments of `predict_array`."""

    parameters: MixtureParameters
    columns: tuple[str, ...]
    unit: str
    nulls: NullPolicy
    transforms: Transforms | None


def _sum_block(block: Any, request: _BlockRequest, block_info: Any = None) -> FloatArray:
    return np.array([sum_assignment(_assign_block(block, request, "certainties", block_info))])


def _predict_block(
    block: Any, request: _BlockRequest, what: str, block_info: Any = None
) -> FloatArray:
    """Predict a block; ``block_info`` is what dask knows of its place in the array."""
    predicted = getattr(_assign_block(block, request, what, block_info), what)
    return predicted.astype(np.int64) if what == "labels" else predicted


def _assign_block(block: Any, request: _BlockRequest, what: str, block_info: Any) -> Assignment:
    place = partial(place_of, request.unit, block_info)
    values = transform_values(as_rows(block), request.transforms, request.columns, place)
    assigned = assign(
        request.parameters,
        values,
        responsibilities=what == "responsibilities",
        certainties=what == "certainties",
        transforms=request.transforms,
    )
    if not assigned.finite:
        require_usable(values, request.columns, request.nulls, place)
    return assigned


def place_of(unit: str, block_info: Any, row: int) -> str:
    """Say which row of the array a row of a block is; rows of unknown chunks have no number."""
    if not block_info:
        return f"row {row:,} of its {unit}"
    (first, _), _ = block_info[0]["array-location"]
    if np.isnan(first):
        return f"row {row:,} of {unit} {block_info[0]['chunk-location'][0]}"
    return f"row {int(first) + row:,}"
