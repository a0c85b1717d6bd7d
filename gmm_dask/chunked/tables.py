"""Predictions of a data frame's rows as a frame of its kind: keys, and what is predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gmm_dask.arrays import RowsArray
from gmm_dask.chunked.defects import require_usable
from gmm_dask.chunked.partitions import map_frame, read_partition
from gmm_dask.chunked.transforming import transform_values
from gmm_dask.frames import join_columns
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.labels import ComponentLabels
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import count_observed
from gmm_dask.mixture.prediction_columns import prediction_columns
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.nulls import NullPolicy


@dataclass(frozen=True, eq=False)
class TableRequest:
    """What is needed to predict a table; it is sent to the workers.

    Attributes
    ----------
    parameters
        The mixture, of k components and d features.
    features
        Names of the columns that hold the features, in the order of the parameters, (d,).
    keys
        Names of the columns that are copied beside the predictions.
    component_ids
        Id of each component, (k,).
    cluster_ids
        Id of the cluster of each component, (k,), if clusters are predicted.
    nulls
        ``MARGINALIZE`` predicts rows with holes, and counts what they have; else they are refused.
    transforms
        Of the mixture; tables are in natural units.
    labels
        Of the components, if the mixture has any.
    """

    parameters: MixtureParameters
    features: tuple[str, ...]
    keys: tuple[str, ...]
    component_ids: tuple[int, ...]
    cluster_ids: tuple[int, ...] | None = None
    nulls: NullPolicy = NullPolicy.ERROR
    transforms: Transforms | None = None
    labels: ComponentLabels | None = None


def predict_table(
    table: Any,
    rows: RowsArray,
    request: TableRequest,
    place: Callable[[int], str] = "row {:,}".format,
    threads: int = 1,
) -> Any:
    """Predict the rows of a data frame in memory.

    Parameters
    ----------
    table
        A frame of n rows that has the keys.
    rows
        The features of its rows, (n, d).
    place
        Says where a row is, for an error.
    threads
        Threads that share the rows.

    Returns
    -------
    table
        A frame of the same kind, and of the same index where it has one: the keys, and the
        columns of `prediction_columns`.

    Raises
    ------
    NonFiniteError
        A value is infinite, or null or NaN where such rows are refused.
    InputError
        A value is outside of the domain of its transform.
    """
    clusters = request.cluster_ids is not None
    rows = transform_values(rows, request.transforms, request.features, place)
    assigned = assign(
        request.parameters,
        rows,
        responsibilities=clusters,
        transforms=request.transforms,
        threads=threads,
    )
    if not assigned.finite:
        require_usable(rows, request.features, request.nulls, place)
    observed = count_observed(rows) if request.nulls is NullPolicy.MARGINALIZE else None
    ids, labels = (request.component_ids, request.cluster_ids), request.labels
    columns = prediction_columns(assigned, *ids, observed, labels)
    return join_columns(table, request.keys, columns)


def predict_partitions(table: Any, request: TableRequest, meta: Any, dtype: np.dtype[Any]) -> Any:
    """Predict the rows of a dask data frame lazily, partition by partition.

    Only the keys and the features are computed.

    Parameters
    ----------
    meta
        What `predict_table` makes of the empty frame.
    dtype
        Type of the rows' values, as in `read_partition`.
    """
    needed = list(dict.fromkeys((*request.keys, *request.features)))
    predict = partial(_predict_partition, request=request, dtype=dtype)
    return map_frame(table[needed], predict, meta)


def _predict_partition(
    partition: Any, number: int, request: TableRequest, dtype: np.dtype[Any]
) -> Any:
    rows = read_partition(partition, number, request.features, dtype)
    return predict_table(partition, rows, request, lambda row: f"row {row:,} of partition {number}")
