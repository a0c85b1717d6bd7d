"""Dask data frames, partition by partition: as arrays of as many blocks, and mapped to frames."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from math import nan
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.base import tokenize

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.errors import SchemaError, TooFewRowsError
from gmm_dask.frames import open_frame, require_numbers


def is_frame(X: Any) -> bool:
    """Whether X is a dask data frame."""
    return _is("DataFrame", X)


def is_series(X: Any) -> bool:
    """Whether X is a column of a dask data frame."""
    return _is("Series", X)


def _is(kind: str, X: Any) -> bool:
    # Who holds a frame has imported the module, which takes a second and pandas.
    module = sys.modules.get("dask.dataframe")
    return module is not None and isinstance(X, getattr(module, kind))


def frame_array(frame: Any, dtype: np.dtype[Any], rows: tuple[int, ...] | None = None) -> da.Array:
    """Make a lazy dask array of the columns of a dask data frame, in their order.

    Parameters
    ----------
    frame
        A `dask.dataframe.DataFrame` of d columns.
    dtype
        Type of the values, float32 or float64. A partition that float32 would round is float64.
    rows
        Rows of each partition, if they are known.

    Returns
    -------
    dask.array.Array
        (n, d), a block for each partition. When a block is computed, a column that its partition
        lacks, or in which it holds no numbers, is a `SchemaError`. Nulls become NaN.
    """
    columns = tuple(frame.columns)
    read = partial(read_partition, columns=columns, dtype=dtype)
    return _blockwise(frame, read, rows, dtype, len(columns))


def series_array(series: Any) -> da.Array:
    """Make a lazy dask array, (n,) float64, of a `dask.dataframe.Series`; nulls become NaN."""
    require_numbers(open_frame(series._meta.to_frame()))
    return _blockwise(series, read_series, None, np.dtype(np.float64))


def label_array(series: Any) -> da.Array:
    """Make a lazy dask array, (n,) of objects, of a `dask.dataframe.Series` of labels."""

    def read(partition: Any, number: int) -> Any:
        return np.asarray(partition, dtype=object)

    return _blockwise(series, read, None, np.dtype(object))


def count_rows(frame: Any, scheduler: Any = None) -> tuple[int, ...]:
    """Count the rows of each partition; reads one column, where the frame's source can do so.

    ``scheduler`` is what `dask.compute` takes: a client, for example.
    """
    first = frame[[frame.columns[0]]]
    counts = _blockwise(first, count_partition, None, np.dtype(np.int64))
    return tuple(counts.compute(scheduler=scheduler).tolist())


def map_frame(frame: Any, function: Callable[[Any, int], Any], meta: Any) -> Any:
    """Map ``function(partition, number)`` over a frame, to a lazy dask data frame.

    Parameters
    ----------
    frame
        A `dask.dataframe.DataFrame`; its partitions, index and divisions stay as they are.
    function
        Makes a pandas frame of each partition, with the same index.
    meta
        What it makes of an empty partition.
    """
    import dask.dataframe as dd

    name, graph, partitions = _map_partitions(frame, function)
    keys = [(name, number) for number in range(partitions)]
    return dd.from_graph(graph, meta, frame.divisions, keys, "predictions")


def _blockwise(
    frame: Any,
    function: Callable[[Any, int], Any],
    rows: tuple[int, ...] | None,
    dtype: np.dtype[Any],
    *others: int,
) -> da.Array:
    """Map ``function(partition, number)`` over a frame; ``others`` are further sizes of the array.

    That is an array of as many blocks, each of which knows its ``rows``.
    """
    name, graph, partitions = _map_partitions(frame, function, *(0 for _ in others))
    sizes = (nan,) * partitions if rows is None else rows
    return da.Array(graph, name, (sizes, *((size,) for size in others)), dtype=dtype)


def _map_partitions(
    frame: Any, function: Callable[[Any, int], Any], *others: int
) -> tuple[str, dict[Any, Any], int]:
    """Return a graph of ``function(partition, number)``, and the number of partitions.

    The keys of the results are (name, number, *others). Columns that nobody needs are not read,
    but partitions stay as they are: dask's next optimization would join small ones, others for a
    frame than for its weights, and the numbers in errors would mean nothing to the caller.
    """
    # By tasks: a shuffle by messages between workers cannot be computed block by block.
    with dask.config.set({"dataframe.shuffle.method": "tasks"}):
        frame = frame.simplify()
        _require_partitions(frame)
        keys, graph = frame.__dask_keys__(), dict(frame.__dask_graph__())
    needed = set(keys).union(*(getattr(task, "dependencies", ()) for task in graph.values()))
    if missing := len(needed - graph.keys()):  # dask 2026.8 persists some columns of Parquet so
        raise SchemaError(
            f"X cannot be computed: {missing} of the results that its graph needs are not in it; "
            "if columns of Parquet files were persisted, persist the whole frame and take them then"
        )
    name = f"partitions-{tokenize(frame, function)}"
    for number, key in enumerate(keys):
        graph[name, number, *others] = (function, key, number)
    return name, graph, len(keys)


def _require_partitions(frame: Any) -> None:
    """Refuse a frame of no partitions, as ``frame.partitions[:0]`` makes it."""
    try:
        partitions = frame.npartitions
    except UnboundLocalError:  # dask 2026.8 cannot count none of them
        partitions = 0
    if not partitions:
        raise TooFewRowsError(
            "the dask data frame has no partitions, and so no rows; give one or more"
        )


def read_partition(
    partition: Any, number: int, columns: tuple[Any, ...], dtype: np.dtype[Any]
) -> RowsArray:
    """Return the columns of a partition, (m, d), feature-major; nulls become NaN."""
    place = f"partition {number}: "
    for name in columns:
        if name not in partition.columns:
            raise SchemaError(
                f"{place}column {name!r} is missing, though the frame is said to have it; give "
                "dask the columns that all partitions have (meta)"
            )
    partition = partition[list(columns)]
    require_numbers(open_frame(partition, place), place)
    if dtype == np.float32 and not all(map(_is_narrow, partition.dtypes)):
        dtype = np.dtype(np.float64)
    return partition.to_numpy(dtype, na_value=np.nan)


def read_series(series: Any, number: int) -> FloatArray:
    """Return a partition of sample weights, (m,)."""
    place = f"partition {number}: "
    require_numbers(open_frame(series.to_frame(), place), place)
    return series.to_numpy(np.float64, na_value=np.nan)


def count_partition(partition: Any, number: int) -> Any:
    """Count the rows of a partition, (1,)."""
    return np.array([len(partition)])


def _is_narrow(kind: Any) -> bool:
    return isinstance(kind, np.dtype) and np.can_cast(kind, np.float32)
