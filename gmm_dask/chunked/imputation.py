"""Rows with their holes filled: arrays and data frames, in memory or of dask."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from gmm_dask.arrays import RowsArray
from gmm_dask.chunked.array import as_rows, place_of
from gmm_dask.chunked.defects import require_usable
from gmm_dask.chunked.partitions import map_frame, read_partition
from gmm_dask.frames import join_columns
from gmm_dask.mixture.imputation import impute
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.nulls import NullPolicy


def impute_array(X: da.Array, parameters: MixtureParameters, columns: Sequence[str]) -> da.Array:
    """Fill the holes of a dask array's rows (n, d), lazily.

    Parameters
    ----------
    columns
        Names of the features, for the error of a row that holds an infinity.
    """
    if X.numblocks[1] > 1:
        X = X.rechunk({1: -1})
    fill = partial(_impute_block, parameters=parameters, columns=tuple(columns))
    dtype = X.dtype if X.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    return X.map_blocks(fill, dtype=dtype)


def _impute_block(
    block: Any, parameters: MixtureParameters, columns: Sequence[str], block_info: Any = None
) -> RowsArray:
    rows = as_rows(block)
    require_usable(rows, columns, NullPolicy.MARGINALIZE, partial(place_of, "block", block_info))
    return impute(parameters, rows)


def impute_table(
    table: Any, rows: RowsArray, parameters: MixtureParameters, columns: Sequence[str]
) -> Any:
    """Return the features of a data frame in memory with their holes filled, as such a frame.

    Parameters
    ----------
    table
        The frame.
    rows
        The features of its rows, (n, d).
    columns
        Their names.
    """
    require_usable(rows, columns, NullPolicy.MARGINALIZE, "row {:,}".format)
    return join_columns(table, (), dict(zip(columns, impute(parameters, rows).T, strict=True)))


def impute_partitions(
    table: Any, parameters: MixtureParameters, columns: Sequence[str], dtype: np.dtype[Any]
) -> Any:
    """Fill the holes of a dask data frame's features lazily, partition by partition.

    Parameters
    ----------
    columns
        Names of the features.
    dtype
        Type of the rows' values, as in `read_partition`.
    """
    fill = partial(_impute_partition, parameters=parameters, columns=tuple(columns), dtype=dtype)
    features = table[list(columns)]
    return map_frame(features, fill, fill(features._meta, 0))


def _impute_partition(
    partition: Any,
    number: int,
    parameters: MixtureParameters,
    columns: Sequence[str],
    dtype: np.dtype[Any],
) -> Any:
    rows = read_partition(partition, number, tuple(columns), dtype)
    return impute_table(partition, rows, parameters, columns)
