"""`load_model`: a published model as a fitted estimator."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gmm_dask.estimator import GaussianMixture
from gmm_dask.mixture.em import Status
from gmm_dask.nulls import NullPolicy
from gmm_dask.storage.models.paths import load_model_at


def load_model(path: str | Path, version: int | None = None) -> GaussianMixture:
    """Load a published model as a fitted estimator.

    Parameters
    ----------
    path
        ``models/NAME``, or one version of it, ``models/NAME/v000007``; a local directory, or on a
        store: ``s3://bucket/models/NAME``.
    version
        Number of a version of ``models/NAME``; by default the current one.

    Returns
    -------
    GaussianMixture
        Fitted, with the model's columns as ``feature_names_in_``, its permanent
        ``component_ids_``, and its ``merge_tree_`` unless an older gmm-dask stored it; and
        ``component_labels_`` if the model has labels, which are text then. It takes
        rows with holes if it was fitted to such (``nulls="marginalize"``). A model with transforms
        has them too: its methods take rows in natural units. ``log_likelihood_`` is NaN after an
        incremental fit, which does not read all rows, and ``lower_bound_`` is what it is at least.

    Raises
    ------
    ModelError
        The model does not exist, or its files are damaged.
    ConfigError
        The path is on no storage that holds models: ``hdfs://…``, for example.
    """
    stored = load_model_at(path, version)
    parameters = stored.parameters
    model = GaussianMixture(
        parameters.n_components,
        covariance_type=parameters.covariance_type,
        nulls="marginalize" if stored.nulls is NullPolicy.MARGINALIZE else "error",
    )
    model._take_parameters(parameters)
    if stored.transforms is not None:
        names = zip(stored.columns, stored.transforms.names, strict=True)
        model.transforms = {column: name for column, name in names if name is not None}
        model.transforms_ = stored.transforms
    model.n_features_in_ = parameters.n_features
    model.feature_names_in_ = np.asarray(stored.columns, dtype=object)
    model.component_ids_ = np.asarray(stored.component_ids)
    if stored.manifest.clusters is not None:
        model.merge_tree_ = stored.manifest.clusters.tree(stored.component_ids)
    if stored.manifest.labels is not None:
        model.component_labels_ = stored.manifest.labels
    threshold = stored.manifest.low_density_threshold
    model.low_density_threshold_ = np.nan if threshold is None else threshold
    likelihood = stored.manifest.log_likelihood  # not known after an incremental fit
    model.log_likelihood_ = np.nan if likelihood is None else likelihood
    model.converged_ = stored.manifest.status == Status.CONVERGED.value
    model.n_iter_ = stored.manifest.n_iter
    model.lower_bounds_ = list(stored.manifest.history)
    refit = stored.manifest.refit
    model.lower_bound_ = model.lower_bounds_[-1] if model.lower_bounds_ else -np.inf
    if refit is not None:
        model.lower_bound_ = refit.bound
    model.scans_ = stored.manifest.scans
    return model
