"""The columns of a table of predictions: what it says of each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gmm_dask.mixture.assignment import Assignment
from gmm_dask.mixture.labels import UNKNOWN, ComponentLabels
from gmm_dask.mixture.merging import assign_clusters

LABEL = "label"
LABEL_CONFIDENCE = "label_confidence"


def prediction_columns(
    assigned: Assignment,
    component_ids: Sequence[int],
    cluster_ids: Sequence[int] | None = None,
    observed: npt.NDArray[np.integer[Any]] | None = None,
    labels: ComponentLabels | None = None,
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
    observed
        Number of features that each row has, (n,); None: there is no column of it.
    labels
        Of the components; None: there are no columns of them.

    Returns
    -------
    columns
        ``component``, the id of the row's most probable component, int32; ``label``, the label of
        that component, text, and ``label_confidence``, NaN where it is "unknown"; ``cluster``, the
        id of the most probable cluster, int32; ``log_density``, nats; ``observed``, int32. Of a
        row without any value they are −1, "unknown", NaN, −1, NaN and 0.
    """
    ids = np.asarray([*component_ids, -1], dtype=np.int32)  # the label −1 is the last
    columns: dict[str, npt.NDArray[Any]] = {"component": ids[assigned.labels]}
    if labels is not None:
        names = np.array([*labels.labels, UNKNOWN], dtype=object)
        confidences = np.array([*labels.confidences, None], dtype=np.float64)  # None is NaN
        columns[LABEL] = names[assigned.labels]
        columns[LABEL_CONFIDENCE] = confidences[assigned.labels]
    if cluster_ids is not None:
        assert assigned.responsibilities is not None
        clusters = assign_clusters(assigned.responsibilities, cluster_ids)
        columns["cluster"] = clusters.astype(np.int32)
    columns["log_density"] = assigned.log_densities
    if observed is not None:
        columns["observed"] = observed.astype(np.int32)
    return columns
