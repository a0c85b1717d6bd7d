"""The columns of a table of predictions: what it says of each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gmm_dask.mixture.assignment import Assignment
from gmm_dask.mixture.merging import assign_clusters


def prediction_columns(
    assigned: Assignment, component_ids: Sequence[int], cluster_ids: Sequence[int] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Return the columns by name, each (n,), in their order.

    Parameters
    ----------
    assigned
        Its responsibilities are needed for clusters.
    component_ids
        Id of each component, (k,).
    cluster_ids
        Id of the cluster of each component, (k,); None: there is no column of clusters.

    Returns
    -------
    columns
        ``component``, the id of the row's most probable component, int32; ``cluster``, the id of
        its most probable cluster, int32; ``log_density``, nats.
    """
    columns: dict[str, npt.NDArray[Any]] = {
        "component": np.asarray(component_ids, dtype=np.int32)[assigned.labels]
    }
    if cluster_ids is not None:
        assert assigned.responsibilities is not None
        clusters = assign_clusters(assigned.responsibilities, cluster_ids)
        columns["cluster"] = clusters.astype(np.int32)
    columns["log_density"] = assigned.log_densities
    return columns
