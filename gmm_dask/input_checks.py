"""Checks of the rows that an estimator is given: the names, number and types of their columns."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, validate_data

from gmm_dask.arrays import RowsArray
from gmm_dask.chunked.array import require_matrix
from gmm_dask.chunked.partitions import count_rows, frame_array, is_frame, is_series
from gmm_dask.chunked.scan import Executor
from gmm_dask.chunked.threads import Threads
from gmm_dask.errors import SchemaError
from gmm_dask.frames import as_frame, empty_frame, open_frame, refuse_text_in, require_numbers

FLOATS = [np.float64, np.float32]


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
        A column holds no numbers, or X is a lazy frame, or an array of another library while
        ``array_api_dispatch`` is on.
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
    if open_frame(X) is not None:
        return frame_rows(estimator, X, reset=reset)
    if isinstance(X, list | tuple):
        X = np.asarray(X)
    if isinstance(X, np.ndarray):
        refuse_text_in(X, "X")
    else:
        _refuse_dispatch(X)
    rows: RowsArray = validate_data(
        estimator, X, reset=reset, dtype=FLOATS, ensure_all_finite=False
    )
    return rows


def _refuse_dispatch(X: Any) -> None:
    """Refuse an array that scikit-learn's setting says is to be computed by its own library."""
    if hasattr(X, "__array_namespace__") and get_config()["array_api_dispatch"]:
        library = type(X).__module__.partition(".")[0]
        raise SchemaError(
            f"X is an array of {library}, and array_api_dispatch is on, but gmm-dask computes on "
            "numpy arrays and gives them back; pass np.asarray(X), or turn array_api_dispatch off"
        )


def frame_rows(estimator: BaseEstimator, X: Any, *, reset: bool, least_rows: int = 1) -> RowsArray:
    """Check a data frame's names, then its types, and return its rows as an array.

    As `rows_in_memory`; fewer than ``least_rows`` rows are refused.
    """
    frame = open_frame(X)
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    require_numbers(frame)
    rows: RowsArray = check_array(
        X,
        dtype=FLOATS,
        ensure_all_finite=False,
        ensure_min_samples=least_rows,
        estimator=estimator,
        input_name="X",
    )
    return rows


def lazy_array(
    estimator: BaseEstimator, X: Any, *, reset: bool, scheduler: Any = None
) -> da.Array | None:
    """Check the columns of rows that dask computes, and return the rows as an array.

    Parameters
    ----------
    estimator
        Its ``n_features_in_`` and ``feature_names_in_`` are set, or X is held to them.
    X
        (n, d) dask array or dask data frame; for anything else the result is None. An array as
        `read_parquet` returned it has the names of its columns.
    reset
        Whether this is a fit. It needs to know how many rows each partition of a data frame has,
        so they are counted.
    scheduler
        What counts them, as `dask.compute` takes it: a client, for example.

    Raises
    ------
    SchemaError
        X is not two-dimensional, or a column holds no numbers.
    ValueError
        The columns are not those of the fit, in scikit-learn's words.
    """
    if is_series(X):
        raise SchemaError("Expected 2D array, got a column of a data frame; use X.to_frame()")
    if is_frame(X):
        # What scikit-learn makes of an empty frame says what it would make of the whole.
        empty = frame_rows(estimator, X._meta, reset=reset, least_rows=0)
        return frame_array(X, empty.dtype, count_rows(X, scheduler) if reset else None)
    if isinstance(X, da.Array):
        from gmm_dask.storage.input.reader import source_of

        require_matrix(X)
        source = source_of(X)
        named = X if source is None else empty_frame(source.columns)
        validate_data(estimator, named, reset=reset, skip_check_array=True)
        return X
    return None


def unit_of(X: Any) -> str:
    """Return what the caller of `lazy_array` calls a block of its rows."""
    return "partition" if is_frame(X) else "block"


def columns_of(estimator: BaseEstimator) -> tuple[str, ...]:
    """Return names of the features that an error can use; x0, x1, … where the rows had none."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        return tuple(f"x{number}" for number in range(estimator.n_features_in_))
    return tuple(str(name) for name in names)


def executor_of(client: Any) -> Executor:
    """Return what scans on the workers of a client, or without one on threads here."""
    if client is None:
        return Threads()
    from gmm_dask.chunked.cluster import ClusterExecutor

    return ClusterExecutor(client)
