"""Checks of the rows that an estimator is given: the names, number and types of their columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from gmm_dask.arrays import RowsArray
from gmm_dask.frames import as_frame, require_numbers


def rows_in_memory(estimator: BaseEstimator, X: Any, *, reset: bool) -> RowsArray:
    """Check the columns of rows in memory, and return the rows as an array.

    Whether the values are finite is for the survey or the prediction to see.

    Parameters
    ----------
    estimator
        Its ``n_features_in_`` and ``feature_names_in_`` are set, or X is held to them.
    X
        (n, d) array-like or data frame.
    reset
        Whether this is a fit.

    Raises
    ------
    SchemaError
        A column holds no numbers, or X is a lazy frame.
    ValueError
        X has no rows or the wrong shape, or its columns are not those of the fit, in
        scikit-learn's words.
    """
    plain = type(X) is np.ndarray and X.ndim == 2 and X.size and X.dtype in (np.float64, np.float32)
    if plain and reset:
        # Nothing needs conversion, and scikit-learn's checks take longer than a small scan.
        estimator.n_features_in_ = X.shape[1]
        if hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
        return X
    X = as_frame(X)
    require_numbers(X)
    rows: RowsArray = validate_data(
        estimator, X, reset=reset, dtype=[np.float64, np.float32], ensure_all_finite=False
    )
    return rows


def columns_of(estimator: BaseEstimator) -> tuple[str, ...]:
    """Return names of the features that an error can use; x0, x1, … where the rows had none."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        return tuple(f"x{number}" for number in range(estimator.n_features_in_))
    return tuple(str(name) for name in names)
