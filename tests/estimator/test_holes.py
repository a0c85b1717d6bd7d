"""GaussianMixture and rows with holes: refused, or taken by what they have."""

from __future__ import annotations

import doctest
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask import GaussianMixture, estimator_values, read_parquet, select
from gmm_dask.errors import NonFiniteError

NAMES = ["a", "b", "c"]
# Without a search: that of rows with holes has tests of its own.
KEYWORDS: dict[str, Any] = {
    "n_components": 2, "random_state": 0, "nulls": "marginalize", "search_rows": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    random = np.random.default_rng(3)
    rows = random.normal(size=(600, 3)) + 8.0 * random.integers(2, size=(600, 1))
    rows = np.where(random.uniform(size=rows.shape) < 0.2, np.nan, rows)
    rows[0] = [np.nan, 1.0, 2.0]
    rows[5] = np.nan
    return rows


@pytest.fixture(scope="module")
def fitted(X: np.ndarray) -> GaussianMixture:
    return GaussianMixture(**KEYWORDS).fit(X)


@pytest.fixture(scope="module")
def named(X: np.ndarray) -> GaussianMixture:
    return GaussianMixture(**KEYWORDS).fit(pd.DataFrame(X, columns=NAMES))


def test_holes_are_refused_unless_they_are_asked_for(X: np.ndarray) -> None:
    message = r"column 'x0' holds \d+ nulls or NaN, .* use what the rows have \(with nulls = 'mar"
    with pytest.raises(NonFiniteError, match=message):
        GaussianMixture(2).fit(X)
    complete = GaussianMixture(2, random_state=0).fit(np.nan_to_num(X))
    for method in ("predict", "predict_proba", "score_samples", "score", "bic"):
        with pytest.raises(NonFiniteError, match="contains NaN"):
            getattr(complete, method)(X)
        with pytest.raises(NonFiniteError, match="infinity"):
            getattr(complete.set_params(nulls="marginalize"), method)([[np.inf, np.nan, 0.0]])
        complete.set_params(nulls="error")
    with pytest.raises(NonFiniteError, match="infinity"):
        complete.impute([[np.inf, np.nan, 0.0]])
    with pytest.raises(ValueError, match="'nulls' parameter"):
        GaussianMixture(nulls="drop").fit(X)
    assert GaussianMixture(**KEYWORDS).__sklearn_tags__().input_tags.allow_nan
    assert not GaussianMixture().__sklearn_tags__().input_tags.allow_nan


def test_rows_are_predicted_by_what_they_have(fitted: GaussianMixture, X: np.ndarray) -> None:
    labels, densities = fitted.predict(X), fitted.score_samples(X)
    shares = fitted.predict_proba(X)
    has_value = ~np.isnan(X).all(axis=1)
    assert labels[5] == -1
    assert np.isnan(densities[5])
    assert np.isnan(shares[5]).all()
    assert np.isfinite(densities[has_value]).all()
    np.testing.assert_array_equal(labels[has_value], shares[has_value].argmax(axis=1))
    near = np.nansum(X - 4.0, axis=1) > 0.0
    heavy = fitted.means_[:, 0] > 4.0
    assert (heavy[labels[has_value]] == near[has_value]).mean() > 0.99
    assert fitted.score(X) == pytest.approx(densities[has_value].mean())
    assert fitted.log_likelihood_ == pytest.approx(densities[has_value].mean())
    n = has_value.sum()
    parameters = 2 * 9 + 1
    expected = -2.0 * densities[has_value].sum() + parameters * np.log(n)
    assert fitted.bic(X) == pytest.approx(expected)
    again = GaussianMixture(**KEYWORDS)
    np.testing.assert_array_equal(again.fit_predict(X), labels)
    tree = again.merge_components(X).merge_tree_
    assert tree.n_clusters == 2
    assert again.predict_clusters(X)[5] == -1


def frames(X: np.ndarray) -> dict[str, Any]:
    pandas = pd.DataFrame(X, columns=NAMES)
    table = pa.Table.from_pandas(pandas, preserve_index=False)  # with nulls
    return {
        "pandas": pandas,
        "nullable": pandas.convert_dtypes(),
        "arrow": table,
        "polars": pl.from_arrow(table),
        "dask": dd.from_pandas(pandas, npartitions=4),
    }


@pytest.mark.parametrize("kind", ["pandas", "nullable", "arrow", "polars", "dask"])
def test_frames_have_the_same_fit_and_predictions(
    named: GaussianMixture, X: np.ndarray, kind: str
) -> None:
    frame = frames(X)[kind]
    model = GaussianMixture(**KEYWORDS).fit(frame)
    np.testing.assert_allclose(model.means_, named.means_, rtol=1e-9)
    for method in ("predict", "predict_proba", "score_samples"):
        predicted, expected = getattr(named, method)(frame), getattr(named, method)(X_of(X))
        assert_same(np.asarray(predicted), expected, lazy=kind == "dask")
    assert named.bic(frame) == pytest.approx(named.bic(X_of(X)), rel=1e-12)
    assert named.score(frame) == pytest.approx(named.score(X_of(X)), rel=1e-12)
    filled = named.impute(frame)
    assert isinstance(filled, type(frame))
    values = np.asarray(filled.compute() if kind == "dask" else filled, dtype=float)
    if kind == "arrow":
        values = np.column_stack([filled[name].to_numpy() for name in NAMES])
    assert_same(values, named.impute(X_of(X))[NAMES].to_numpy(), lazy=kind == "dask")
    np.testing.assert_array_equal(values[~np.isnan(X)], X[~np.isnan(X)])
    assert not np.isnan(values).any()


def assert_same(actual: Any, expected: Any, lazy: bool) -> None:
    """Compare; how many rows of its chunk share the holes of a row decides its last digits."""
    if lazy:
        np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-12)
    else:
        np.testing.assert_array_equal(actual, expected)


def X_of(X: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(X, columns=NAMES)


def test_predictions_as_a_frame_say_how_much_was_observed(
    named: GaussianMixture, X: np.ndarray
) -> None:
    for lazy in (False, True):
        frame = dd.from_pandas(X_of(X), npartitions=3) if lazy else X_of(X)
        model = named.merge_components(frame)
        predicted = model.predict_frame(frame, cluster=True)
        predicted = predicted.compute() if lazy else predicted
        assert list(predicted.columns) == ["component", "cluster", "log_density", "observed"]
        np.testing.assert_array_equal(predicted["observed"], (~np.isnan(X)).sum(axis=1))
        assert predicted["component"][5] == predicted["cluster"][5] == -1
        assert_same(predicted["log_density"], named.score_samples(X_of(X)), lazy)


def test_a_lazy_array_and_parquet_are_taken(
    tmp_path: Any, fitted: GaussianMixture, named: GaussianMixture, X: np.ndarray
) -> None:
    array = da.from_array(X, chunks=(250, 2))
    model = GaussianMixture(**KEYWORDS).fit(array)
    np.testing.assert_allclose(model.means_, fitted.means_, rtol=1e-9)
    np.testing.assert_array_equal(fitted.predict(array).compute(), fitted.predict(X))
    np.testing.assert_array_equal(fitted.impute(array).compute(), fitted.impute(X))
    pq.write_table(pa.Table.from_pandas(X_of(X)), tmp_path / "rows.parquet", row_group_size=200)
    rows = read_parquet(tmp_path, NAMES, nulls="marginalize")
    np.testing.assert_array_equal(rows.compute(), X)
    read = GaussianMixture(**KEYWORDS).fit(rows)
    np.testing.assert_allclose(read.means_, named.means_, rtol=1e-9)
    filtered = read_parquet(tmp_path, NAMES, nulls="marginalize", filter="a > 4")
    np.testing.assert_array_equal(filtered.compute(), X[X[:, 0] > 4.0])
    with pytest.raises(NonFiniteError, match="nulls or NaN"):
        GaussianMixture(2).fit(rows)


def test_a_selection_takes_holes(X: np.ndarray) -> None:
    best = select(X, range(1, 4), "diag", random_state=0, nulls="marginalize").best_
    assert best.n_components == 2
    assert np.isfinite(best.low_density_threshold_)


def test_without_a_complete_row_there_is_no_threshold() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(300, 2))
    rows[np.arange(300), np.arange(300) % 2] = np.nan
    model = GaussianMixture(1, nulls="marginalize", covariance_type="diag").fit(rows)
    assert np.isnan(model.low_density_threshold_)
    np.testing.assert_allclose(model.means_[0], np.nanmean(rows, axis=0), atol=1e-6)
    np.testing.assert_allclose(model.covariances_[0], np.nanvar(rows, axis=0), atol=1e-3)


def test_the_examples_print_what_they_say() -> None:
    results = doctest.testmod(estimator_values)
    assert results.attempted
    assert not results.failed
