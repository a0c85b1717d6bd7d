"""Dask arrays as row chunks, and predictions as lazy dask arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
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
from gmm_dask.errors import SchemaError
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.nulls import NullPolicy


@dataclass(frozen=True, eq=False)
class Block:
    """What computes one block: a graph, the key in it, and the persisted results it needs."""

    graph: dict[Any, Any]
    key: Any
    needs: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class ArrayChunks:
    """The row blocks of a dask array; each is computed from its own part of the graph.

    Attributes
    ----------
    sizes
        Rows of each block.
    persisted
        Results that the blocks need and that lie on the workers of a cluster: futures of them
        here, the results themselves where a task has brought them. They do not travel with the
        rest.
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
        """Every block can be computed by itself."""
        return tuple(range(len(self.sizes)))

    @property
    def weighted(self) -> bool:
        """Whether sample weights were given."""
        return self.weight_blocks is not None

    def read(self, start: int, stop: int) -> Iterator[Rows]:
        """Compute blocks one after the other, on the calling thread."""
        for chunk in range(start, stop):
            weight = None
            if self.weight_blocks is not None:
                weight = np.asarray(self._compute(self.weight_blocks[chunk]), dtype=np.float64)
            values = as_rows(self._compute(self.blocks[chunk]))
            yield Rows(values, weight, chunk, self._first(chunk))

    def describe(self, chunk: int, row: int | None = None) -> str:
        """Number of the block and rows of the array."""
        first = self._first(chunk)
        if row is not None:
            return f"block {chunk} row {first + row:,}"
        return f"block {chunk} rows {first:,}–{first + self.sizes[chunk]:,}"

    def check(self) -> None:
        """Nothing can be known of a graph before it is computed."""

    def needs(self, start: int, stop: int) -> list[Any]:
        """Names of the persisted results that chunks start … stop − 1 need, always in one order."""
        blocks = [*self.blocks[start:stop], *(self.weight_blocks or ())[start:stop]]
        return list(dict.fromkeys(name for block in blocks for name in block.needs))

    def _compute(self, block: Block) -> Any:
        found = {name: self.persisted[name] for name in block.needs}
        found = {name: one.result() if _is_future(one) else one for name, one in found.items()}
        return dask.get({**block.graph, **found}, block.key)

    @cached_property
    def _bounds(self) -> tuple[int, ...]:
        return tuple(accumulate(self.sizes, initial=0))

    def _first(self, chunk: int) -> int:
        return self._bounds[chunk]


def as_rows(block: Any) -> RowsArray:
    """A block as (m, d) float32 or float64; other numbers become float64."""
    values = np.asarray(block)
    if values.dtype in (np.float32, np.float64):
        return values
    return values.astype(np.float64)


def array_chunks(
    array: da.Array, sample_weight: Any = None, columns: tuple[str, ...] | None = None
) -> ArrayChunks:
    """Row chunks of a two-dimensional dask array.

    Unknown row chunks cost one computation of the whole array, which counts them.

    Parameters
    ----------
    sample_weight
        (n,) numpy or dask array, or None.
    columns
        Names of the features; default x0, x1, …

    Raises
    ------
    SchemaError
        The array has not two dimensions, is not numeric, or the weights do not fit it.
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
        sizes = tuple(dask.compute(*(dask.delayed(len)(b) for b in array.to_delayed()[:, 0])))
    d = int(array.shape[1])
    blocks, persisted = _blocks(array)
    weight_blocks = None
    if sample_weight is not None:
        weights = da.asarray(sample_weight)
        if weights.ndim != 1 or weights.shape[0] != sum(sizes):
            raise SchemaError(f"sample_weight has shape {weights.shape}; X has {sum(sizes):,} rows")
        weight_blocks, also = _blocks(weights.rechunk((sizes,)))
        persisted |= also
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
    """What computes each block, and what of it is persisted on a cluster."""
    graph = dict(array.__dask_graph__())
    persisted = {name: node for name, node in graph.items() if _is_future(node)}
    if not persisted:  # optimizing would lose the futures
        (array,) = dask.optimize(array)
        graph = dict(array.__dask_graph__())
    blocks = []
    for key in dask.core.flatten(array.__dask_keys__()):
        needed = cull(graph, [key])[0]
        there = tuple(name for name in needed if name in persisted)
        here = {name: node for name, node in needed.items() if name not in persisted}
        blocks.append(Block(here, key, there))
    return tuple(blocks), persisted


def _is_future(node: Any) -> bool:
    return type(node).__module__.startswith("distributed")


def predict_array(X: da.Array, parameters: MixtureParameters, what: str) -> da.Array:
    """Labels, log-densities or responsibilities of a dask array's rows, lazily.

    Parameters
    ----------
    what
        ``"labels"``, ``"log_densities"`` (n,) or ``"responsibilities"`` (n, k).
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


def _predict_block(block: Any, parameters: MixtureParameters, what: str) -> FloatArray:
    values = as_rows(block)
    assigned = assign(parameters, values, responsibilities=what == "responsibilities")
    if not assigned.finite:
        columns = tuple(f"x{number}" for number in range(values.shape[1]))
        require_usable(values, columns, NullPolicy.ERROR, lambda row: f"row {row:,} of a block")
    found = getattr(assigned, what)
    return found.astype(np.int64) if what == "labels" else found
