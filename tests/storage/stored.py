"""Models to store in the tests of storage, written and read without a registry."""

from typing import Any

import numpy as np

from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.storage.files.atomic import write_new_files
from gmm_dask.storage.files.contents import Version
from gmm_dask.storage.models.model import StoredModel, model_files, read_model, verify_files

SHAPES = {"full": (3, 2, 2), "tied": (2, 2), "diag": (3, 2), "spherical": (3,)}


def some_parameters(kind: str = "full", seed: int = 0) -> MixtureParameters:
    """Three components in two dimensions, with digits that any loss of precision would show."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(3))
    means = rng.normal(size=(3, 2)) * 1e3
    if kind in ("full", "tied"):
        root = rng.normal(size=SHAPES[kind])
        covariances = root @ np.swapaxes(root, -1, -2) + np.eye(2)
    else:
        covariances = rng.uniform(0.1, 2, SHAPES[kind])
    return MixtureParameters.from_covariances(kind, weights, means, covariances)


def some_model(kind: str = "full", seed: int = 0, **run: Any) -> StoredModel:
    """A model of `some_parameters` with all that a fit says of itself."""
    manifest = {
        "fit_key": "f00d",
        "snapshot": "5afe",
        "rows": 1000,
        "status": "converged",
        "history": [-3.5, -2.25],
        "quantiles": {"0.001": -12.125, "0.5": -2.0},
        "low_density_threshold": -12.125,
    }
    columns = ("größe", "b")
    return StoredModel(some_parameters(kind, seed), columns, (4, 0, 7), manifest, run)


def write(model, directory, extra=None):
    """Write a model's files into an empty directory."""
    write_new_files(directory, model_files(model, extra))


def read(directory):
    return read_model(Version(directory))


def verified(directory):
    """Read a model after checking every file of its directory."""
    verify_files(Version(directory))
    return read(directory)
