"""The blocks of a dask array, each with the part of the graph that it is computed from."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.optimization import cull

from gmm_dask.chunked.partitions import is_series, label_array, series_array
from gmm_dask.errors import InputError, SchemaError

logger = logging.getLogger("gmm_dask")

#: How often a scan may compute a task of the graph, on average, without a warning.
MOST_REPETITIONS = 2


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


def beside_rows(given: Any, sizes: tuple[int, ...], unit: str, name: str) -> da.Array:
    """Return weights or labels in the blocks of their rows."""
    if is_series(given):
        beside = label_array(given) if name == "y" else series_array(given)
    elif isinstance(given, da.Array):
        beside = given
    else:
        beside = da.asarray(np.asarray(given))
    if beside.ndim == 1 and any(np.isnan(size) for size in beside.chunks[0]):
        if beside.numblocks[0] != len(sizes):
            raise SchemaError(
                f"{name} has {beside.numblocks[0]:,} {unit}s and X has {len(sizes):,}; "
                "take it from the rows' own frame, or let it know its sizes "
                "(compute_chunk_sizes)"
            )
        return beside  # how many each block has is seen when it is read
    if beside.ndim != 1 or beside.shape[0] != sum(sizes):
        raise SchemaError(f"{name} has shape {beside.shape}; X has {sum(sizes):,} rows")
    return beside.rechunk((sizes,))


def split_blocks(array: da.Array, unit: str) -> tuple[tuple[Block, ...], dict[Any, Any]]:
    """Split an array's graph into blocks, and into what is persisted on a cluster, by name."""
    graph = dict(array.__dask_graph__())
    if any(_is_of("distributed.shuffle", node) for node in graph.values()):
        raise InputError(
            f"X is shuffled or rechunked by messages between workers (p2p), so that no {unit} can "
            "be computed alone; persist X first"
        )
    persisted = {name: node for name, node in graph.items() if is_future(node)}
    if not persisted:  # optimizing would lose the futures
        (array,) = dask.optimize(array)
        graph = dict(array.__dask_graph__())
    blocks, tasks = [], 0
    for key in dask.core.flatten(array.__dask_keys__()):
        ancestors = cull(graph, [key])[0]
        tasks += len(ancestors)
        needs = tuple(name for name in ancestors if name in persisted)
        subgraph = {name: node for name, node in ancestors.items() if name not in persisted}
        blocks.append(Block(subgraph, key, needs))
    if tasks > MOST_REPETITIONS * len(graph):
        logger.warning(
            "each %s of X is computed from many others, by a shuffle, a sort or a sum over all "
            "rows: every scan computes these again for each; persist X first",
            unit,
        )
    return tuple(blocks), persisted


def is_future(node: Any) -> bool:
    """Whether a node of a graph is a result on the workers of a cluster."""
    return _is_of("distributed.client", node)


def _is_of(module: str, node: Any) -> bool:
    return type(node).__module__.startswith(module)
