"""Gaussian mixtures by expectation maximization over chunks of rows, from Parquet of any size.

>>> from gmm_dask import GaussianMixture, select, read_parquet, load_model
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gmm_dask.estimator import GaussianMixture
    from gmm_dask.loading import load_model
    from gmm_dask.selection import Selection, select
    from gmm_dask.storage.input.reader import read_parquet
    from gmm_dask.versions import compare_models, list_models

__all__ = [
    "GaussianMixture",
    "Selection",
    "compare_models",
    "list_models",
    "load_model",
    "read_parquet",
    "select",
]

_MODULES = {
    "GaussianMixture": "gmm_dask.estimator",
    "Selection": "gmm_dask.selection",
    "compare_models": "gmm_dask.versions",
    "list_models": "gmm_dask.versions",
    "load_model": "gmm_dask.loading",
    "read_parquet": "gmm_dask.storage.input.reader",
    "select": "gmm_dask.selection",
}


def __getattr__(name: str) -> Any:
    # Lazily: `gmm-dask --help` must not wait for numba, dask and pyarrow.
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'gmm_dask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
