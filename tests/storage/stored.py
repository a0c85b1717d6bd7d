"""Models to store in the tests of storage, written and read without a registry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.storage.files.atomic import write_new_files
from gmm_dask.storage.files.contents import Version
from gmm_dask.storage.models.clusters import Clusters
from gmm_dask.storage.models.manifest import Feature, Manifest, Publication, Search
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


def some_manifest(**changes: Any) -> Manifest:
    """A whole manifest; a test says what matters to it."""
    said: dict[str, Any] = {
        "configuration": {"input": {"path": "stars", "columns": ["größe", "b"]}},
        "snapshot": "5afe",
        "files": 2,
        "rows": 1000,
        "rows_dropped": 24,
        "weight": 1000.0,
        "status": "converged",
        "n_iter": 2,
        "history": (-3.5, -2.25),
        "last_moved": 0.0625,
        "counts": (500.0, 300.0, 200.0),
        "log_likelihood": -2.125,
        "aic": 4284.0,
        "bic": 4367.4,
        "icl": 4400.0,
        "collapsed": (),
        "starved": (2,),
        "occupancy": (0.5, 0.3, 0.2),
        "quantiles": {0.001: -12.125, 0.5: -2.0},
        "low_density_threshold": -12.125,
        "scans": 5,
        "search": Search(
            rows=512, starts=16, failed=1, iterations=99, log_likelihoods=(-2.5, -2.75)
        ),
        "features": {
            name: Feature(minimum=-1.0, maximum=1.5, mean=0.25, standard_deviation=0.5)
            for name in ("größe", "b")
        },
        "warnings": ("a sentence",),
        "mixed": (),
        "versions": {"gmm-dask": "0.1.0", "numpy": "2.4.6"},
        "python": "3.11.9",
        "machine": "x86_64",
        "fit_key": "f00d",
        "next_component_id": 8,
        "clusters": Clusters(
            rows=900,
            merges=((4, 7), (0, 4)),
            entropies=(0.375, 0.0625, 0.0),
            shares=(0.75, 1.0),
            n_clusters=2,
            cluster_ids=(4, 0, 4),
        ),
    }
    return Manifest(**(said | changes))


def some_model(kind: str = "full", seed: int = 0, **run: Any) -> StoredModel:
    """A model with that manifest, stored as ``run`` says, where it says anything."""
    publication = None
    if run:
        said = {"run_id": "run-0", "created": "2026-01-01T00:00:00+00:00", "host": "h"}
        publication = Publication(**(said | run))
    columns = ("größe", "b")
    return StoredModel(
        some_parameters(kind, seed), columns, (4, 0, 7), some_manifest(), publication
    )


def write(model: StoredModel, directory: Path, extra: Mapping[str, bytes] | None = None) -> None:
    """Write a model's files into an empty directory."""
    write_new_files(directory, model_files(model, extra))


def read(directory: Path) -> StoredModel:
    """Read the model in a directory."""
    return read_model(Version(directory))


def verified(directory: Path) -> StoredModel:
    """Read a model after checking every file of its directory."""
    verify_files(Version(directory))
    return read(directory)
