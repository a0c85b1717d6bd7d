"""Dask arrays as sources of rows, and predictions as lazy dask arrays."""

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
from dask.optimization import cull

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.chunked.defects import require_usable
from gmm_dask.chunked.rows import Rows
from gmm_dask.errors import SchemaError, TooFewRowsError
from gmm_dask.mixture.assignment import Assignment, assign, sum_assignment
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.nulls import NullPolicy


@dataclass(frozen=True, eq=False)
class Block:
    """The computation of one block.

    Attributes
    ----------
    graph
        The part of the array's dask graph that the block is computed from.
    key
        Key of the block in the graph.
    needs
        Names of the persisted results that the graph refers to.
    """

    graph: dict[Any, Any]
    key: Any
    needs: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class ArrayChunks:
    """A dask array as a source of rows: each chunk is a block, computed from its part of the graph.

    Attributes
    ----------
    blocks, weight_blocks
        Computations of the values and of the sample weights, one for each chunk.
    sizes
        Rows of each block.
    columns
        Names of the d features.
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
    sizes: tuple[int, ...]
    columns: tuple[str, ...]
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
        """Compute blocks one after the other, on the calling thread."""
        for chunk in range(start, stop):
            weight = None
            if self.weight_blocks is not None:
                weight = np.asarray(self._compute(self.weight_blocks[chunk]), dtype=np.float64)
            values = as_rows(self._compute(self.blocks[chunk]))
            yield Rows(values, weight, chunk, self._first(chunk))

    def describe(self, chunk: int, row: int | None = None) -> str:
        """Say which block a chunk is, and which rows of the array."""
        first = self._first(chunk)
        if row is not None:
            return f"block {chunk} row {first + row:,}"
        return f"block {chunk} rows {first:,}–{first + self.sizes[chunk]:,}"

    def check(self) -> None:
        """Do nothing: only computing a graph shows whether its rows can be reached."""

    def needs(self, start: int, stop: int) -> list[Any]:
        """Names of the persisted results that chunks start … stop − 1 need, in a fixed order."""
        blocks = [*self.blocks[start:stop], *(self.weight_blocks or ())[start:stop]]
        return list(dict.fromkeys(name for block in blocks for name in block.needs))

    def _compute(self, block: Block) -> Any:
        persisted = {name: self.persisted[name] for name in block.needs}
        results = {
            name: result.result() if _is_future(result) else result
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
    return values.astype(np.float64)


def array_chunks(
    array: da.Array, sample_weight: Any = None, columns: tuple[str, ...] | None = None
) -> ArrayChunks:
    """Make a source of rows from a two-dimensional dask array.

    Where the array does not know how many rows its blocks have, it is computed once to count them.

    Parameters
    ----------
    array
        (n, d), of numbers; blocks of columns are joined.
    sample_weight
        (n,) numpy or dask array, or None.
    columns
        Names of the features; by default x0, x1, …

    Raises
    ------
    SchemaError
        The array is not two-dimensional or not numeric, or the weights do not fit it.
    """
    if array.ndim != 2:
        raise SchemaError(
            f"Expected 2D array, got {array.ndim}D array instead; X is (n_samples, n_features): "
            "use X.reshape(-1, 1) for one feature"
        )
    if array.dtype.kind not in "fiub":
        raise SchemaError(f"X has dtype {array.dtype}; only numbers can be clustered")
    if array.numblocks[1] > 1:
        array = array.rechunk({1: -1})
    sizes = array.chunks[0]
    if any(np.isnan(size) for size in sizes):
        lengths = (dask.delayed(len)(block) for block in array.to_delayed()[:, 0])
        sizes = tuple(dask.compute(*lengths))
    d = int(array.shape[1])
    n = int(sum(sizes))
    if not d:
        raise SchemaError(f"Found array with 0 feature(s) (shape={(n, d)}); at least 1 is needed")
    if not n:
        raise TooFewRowsError(f"Found array with 0 sample(s) (shape={(n, d)}); give some rows")
    blocks, persisted = _blocks(array)
    weight_blocks = None
    if sample_weight is not None:
        weights = da.asarray(sample_weight)
        if weights.ndim != 1 or weights.shape[0] != sum(sizes):
            raise SchemaError(f"sample_weight has shape {weights.shape}; X has {sum(sizes):,} rows")
        weight_blocks, persisted_weights = _blocks(weights.rechunk((sizes,)))
        persisted |= persisted_weights
    return ArrayChunks(
        blocks,
        weight_blocks,
        tuple(int(size) for size in sizes),
        columns or tuple(f"x{number}" for number in range(d)),
        np.dtype(array.dtype if array.dtype in (np.float32, np.float64) else np.float64),
        tokenize(array.name, None if sample_weight is None else tokenize(sample_weight)),
        persisted,
    )


def _blocks(array: da.Array) -> tuple[tuple[Block, ...], dict[Any, Any]]:
    """Split an array's graph into blocks, and into what is persisted on a cluster, by name."""
    graph = dict(array.__dask_graph__())
    persisted = {name: node for name, node in graph.items() if _is_future(node)}
    if not persisted:  # optimizing would lose the futures
        (array,) = dask.optimize(array)
        graph = dict(array.__dask_graph__())
    blocks = []
    for key in dask.core.flatten(array.__dask_keys__()):
        ancestors = cull(graph, [key])[0]
        needs = tuple(name for name in ancestors if name in persisted)
        subgraph = {name: node for name, node in ancestors.items() if name not in persisted}
        blocks.append(Block(subgraph, key, needs))
    return tuple(blocks), persisted


def _is_future(node: Any) -> bool:
    return type(node).__module__.startswith("distributed")


def predict_array(X: da.Array, parameters: MixtureParameters, what: str) -> da.Array:
    """Predict labels, log-densities or responsibilities of a dask array's rows, lazily.

    Parameters
    ----------
    X
        (n, d).
    what
        What is returned: ``"labels"`` or ``"log_densities"``, (n,), the latter in nats, or
        ``"responsibilities"``, (n, k).
    """
    if X.ndim == 2 and X.numblocks[1] > 1:
        X = X.rechunk({1: -1})
    if what == "responsibilities":
        k = parameters.n_components
        return X.map_blocks(
            _predict_block, parameters, what, dtype=np.float64, chunks=(X.chunks[0], (k,))
        )
    dtype = np.int64 if what == "labels" else np.float64
    return X.map_blocks(_predict_block, parameters, what, dtype=dtype, drop_axis=1)


def sum_array(X: da.Array, parameters: MixtureParameters) -> tuple[float, float, float]:
    """Sum over the rows of a dask array (n, d): log p(x) in nats, 1, and −log r.

    r is the largest responsibility of a row. The array is computed once.
    """
    if X.numblocks[1] > 1:
        X = X.rechunk({1: -1})
    sums = X.map_blocks(_sum_block, parameters, dtype=np.float64, chunks=(1, 3))
    log_likelihood, rows, uncertainty = sums.sum(axis=0).compute().tolist()
    return log_likelihood, rows, uncertainty


def _sum_block(block: Any, parameters: MixtureParameters, block_info: Any = None) -> FloatArray:
    return np.array([sum_assignment(_assign_block(block, parameters, block_info, "certainties"))])


def _predict_block(
    block: Any, parameters: MixtureParameters, what: str, block_info: Any = None
) -> FloatArray:
    predicted = getattr(_assign_block(block, parameters, block_info, what), what)
    return predicted.astype(np.int64) if what == "labels" else predicted


def _assign_block(
    block: Any, parameters: MixtureParameters, block_info: Any, what: str
) -> Assignment:
    """Assign the rows of a block; ``block_info`` is what dask knows of its place in the array."""
    values = as_rows(block)
    wanted = {name: name == what for name in ("responsibilities", "certainties")}
    assigned = assign(parameters, values, **wanted)
    if not assigned.finite:
        columns = tuple(f"x{number}" for number in range(values.shape[1]))
        require_usable(values, columns, NullPolicy.ERROR, partial(_place_of, block_info))
    return assigned


def _place_of(block_info: Any, row: int) -> str:
    """Say which row of the array a row of a block is; rows of unknown chunks have no number."""
    (first, _), _ = block_info[0]["array-location"] if block_info else ((np.nan, 0), (0, 0))
    if np.isnan(first):
        return f"row {row:,} of its block"
    return f"row {int(first) + row:,}"
