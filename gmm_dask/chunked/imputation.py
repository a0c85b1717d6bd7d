"""Rows with their holes filled: arrays and data frames, in memory or of dask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from gmm_dask.arrays import RowsArray
from gmm_dask.chunked.array import as_rows, place_of
from gmm_dask.chunked.defects import require_usable
from gmm_dask.chunked.partitions import map_frame, read_partition
from gmm_dask.chunked.transforming import transform_values
from gmm_dask.frames import join_columns
from gmm_dask.mixture.imputation import fill_holes
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.nulls import NullPolicy

Mixture = tuple[MixtureParameters, Transforms | None]


def impute_array(X: da.Array, mixture: Mixture, columns: Sequence[str]) -> da.Array:
    """Fill the holes of a dask array's rows (n, d), lazily.

    Parameters
    ----------
    mixture
        Its parameters, and the transforms of its features.
    columns
        Names of the features, for the error of a row that holds an infinity.
    """
    if X.numblocks[1] > 1:
        X = X.rechunk({1: -1})
    fill = partial(_impute_block, mixture=mixture, columns=tuple(columns))
    dtype = X.dtype if X.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    return X.map_blocks(fill, dtype=dtype)


def _impute_block(
    block: Any, mixture: Mixture, columns: Sequence[str], block_info: Any = None
) -> RowsArray:
    rows = as_rows(block)
    return impute_rows(rows, mixture, columns, partial(place_of, "block", block_info))


def impute_rows(
    rows: RowsArray,
    mixture: Mixture,
    columns: Sequence[str],
    place: Callable[[int], str] = "row {:,}".format,
) -> RowsArray:
    """Fill the holes of rows in memory, (n, d), in natural units.

    Parameters
    ----------
    mixture
        Its parameters, and the transforms of its features.
    columns, place
        Names of the features, and what says where a row is, for an error.

    Raises
    ------
    NonFiniteError
        A value is infinite.
    InputError
        A value is outside of the domain of its transform.
    """
    parameters, transforms = mixture
    require_usable(rows, columns, NullPolicy.MARGINALIZE, place)
    transformed = transform_values(rows, transforms, columns, place)
    return fill_holes(parameters, rows, transforms, transformed)


def impute_table(table: Any, rows: RowsArray, mixture: Mixture, columns: Sequence[str]) -> Any:
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
    filled = impute_rows(rows, mixture, columns)
    return join_columns(table, (), dict(zip(columns, filled.T, strict=True)))


def impute_partitions(
    table: Any, mixture: Mixture, columns: Sequence[str], dtype: np.dtype[Any]
) -> Any:
    """Fill the holes of a dask data frame's features lazily, partition by partition.

    Parameters
    ----------
    columns
        Names of the features.
    dtype
        Type of the rows' values, as in `read_partition`.
    """
    fill = partial(_impute_partition, mixture=mixture, columns=tuple(columns), dtype=dtype)
    features = table[list(columns)]
    return map_frame(features, fill, fill(features._meta, 0))


def _impute_partition(
    partition: Any,
    number: int,
    mixture: Mixture,
    columns: Sequence[str],
    dtype: np.dtype[Any],
) -> Any:
    rows = read_partition(partition, number, tuple(columns), dtype)
    return impute_table(partition, rows, mixture, columns)
