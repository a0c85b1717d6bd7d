"""GaussianMixture on dask data frames: read by partition and by name, lazy results."""

from __future__ import annotations

from collections import Counter
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_blobs

from gmm_dask import GaussianMixture, read_parquet
from gmm_dask.chunked import threads
from gmm_dask.errors import ConfigError, NonFiniteError, SchemaError, TooFewRowsError

ROWS = (700, 0, 1, 2_299, 3_000)
# The sample is smaller than the data, so the polish scans the partitions.
KEYWORDS = {"n_components": 3, "random_state": 0, "search_rows": 1_000}
FITTED = ("weights_", "means_", "covariances_", "precisions_cholesky_", "lower_bounds_")


def part(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


def lazy(frame: pd.DataFrame) -> Any:
    """The frame as a dask frame of ragged partitions with unknown divisions."""
    stops = np.cumsum(ROWS)
    partitions = [frame[stop - rows : stop] for rows, stop in zip(ROWS, stops, strict=True)]
    return dd.from_map(part, partitions, meta=frame[:0])


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    blobs, _ = make_blobs(6_000, centers=3, n_features=3, cluster_std=2.5, random_state=1)
    return pd.DataFrame(blobs * [1.0, 10.0, 100.0], columns=["a", "b", "c"])


@pytest.fixture(scope="module")
def array(frame: pd.DataFrame) -> da.Array:
    return da.from_array(frame.to_numpy(), chunks=(ROWS, 3))


@pytest.fixture(scope="module")
def fitted(frame: pd.DataFrame) -> GaussianMixture:
    return GaussianMixture(**KEYWORDS).fit(lazy(frame))


def assert_same_bits(model: GaussianMixture, other: GaussianMixture) -> None:
    for name in FITTED:
        np.testing.assert_array_equal(getattr(model, name), getattr(other, name))
    assert model.log_likelihood_ == other.log_likelihood_
    assert model.low_density_threshold_ == other.low_density_threshold_


def test_a_fit_has_the_bits_of_the_array_of_the_same_chunks(
    frame: pd.DataFrame, array: da.Array, fitted: GaussianMixture
) -> None:
    expected = GaussianMixture(**KEYWORDS).fit(array)
    assert_same_bits(fitted, expected)
    assert fitted.scans_ == expected.scans_ + 1  # which counted the rows
    assert list(fitted.feature_names_in_) == ["a", "b", "c"]
    assert fitted.n_features_in_ == 3


@pytest.mark.parametrize("dtype", ["Int64", "int32", "float32", "int64[pyarrow]"])
def test_other_types_have_the_bits_of_their_numbers(frame: pd.DataFrame, dtype: str) -> None:
    numbers = frame.round().astype(dtype)
    plain = numbers.astype("float32" if dtype == "float32" else "float64").to_numpy()
    model = GaussianMixture(**KEYWORDS).fit(lazy(numbers))
    assert_same_bits(model, GaussianMixture(**KEYWORDS).fit(da.from_array(plain, chunks=(ROWS, 3))))


@pytest.mark.parametrize("cached", [True, False])
def test_each_scan_reads_each_partition_once(
    frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    readings: Counter[int] = Counter()

    def read(number: int, columns: list[str] | None = None) -> pd.DataFrame:
        readings[number] += 1
        narrow.append(columns == ["a"])
        rows = frame[1_000 * number : 1_000 * (number + 1)]
        return rows if columns is None else rows[columns]

    narrow: list[bool] = []
    monkeypatch.setattr(threads, "free_memory", lambda: 1 << 30 if cached else 0)
    lazy_frame = dd.from_map(read, range(6), meta=frame[:0])
    model = GaussianMixture(**KEYWORDS).fit(lazy_frame)
    # Counted, and read; then from memory, or read again in every scan.
    times = 2 if cached else model.scans_
    assert readings == dict.fromkeys(range(6), times)
    assert narrow == [True] * 6 + [False] * 6 * (times - 1)  # one column is enough to count
    readings.clear()
    labels = model.predict(lazy_frame)
    assert not readings
    labels.compute()
    assert readings == dict.fromkeys(range(6), 1)
    readings.clear()
    model.bic(lazy_frame)
    assert readings == dict.fromkeys(range(6), 1)


def test_results_are_lazy_and_equal_to_pandas(frame: pd.DataFrame, fitted: GaussianMixture) -> None:
    X = lazy(frame)
    predictions = fitted.predict(X), fitted.predict_proba(X), fitted.score_samples(X)
    assert all(isinstance(prediction, da.Array) for prediction in predictions)
    labels, shares, densities = dask.compute(*predictions)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, fitted.predict(frame))
    np.testing.assert_array_equal(shares, fitted.predict_proba(frame))
    np.testing.assert_array_equal(densities, fitted.score_samples(frame))
    assert fitted.score(X) == pytest.approx(fitted.score(frame))
    assert fitted.bic(X) == pytest.approx(fitted.bic(frame))
    assert fitted.aic(X) == pytest.approx(fitted.aic(frame))
    labels = GaussianMixture(**KEYWORDS).fit_predict(X)
    np.testing.assert_array_equal(labels.compute(), fitted.predict(frame))


def test_labels_can_be_a_column_of_the_frame(frame: pd.DataFrame, fitted: GaussianMixture) -> None:
    X = lazy(frame)
    labelled = X.assign(label=fitted.predict(X)).compute()
    np.testing.assert_array_equal(labelled["label"], fitted.predict(frame))
    pd.testing.assert_frame_equal(labelled[["a", "b", "c"]], frame)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score", "bic"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["b", "a", "c"], "must be in the same order as they were in fit"),
        (["a", "c"], "seen at fit time, yet now missing:\n- b"),
        (["a", "b", "c", "d"], "unseen at fit time:\n- d"),
    ],
)
def test_other_columns_are_refused_before_anything_is_read(
    frame: pd.DataFrame, fitted: GaussianMixture, method: str, columns: list[str], message: str
) -> None:
    def read(number: int) -> pd.DataFrame:
        raise AssertionError("a partition was read")

    X = dd.from_map(read, range(2), meta=frame.assign(d=1.0)[columns][:0])
    with pytest.raises(ValueError, match=message):
        getattr(fitted, method)(X)


def test_names_on_one_side_only_are_a_warning(
    frame: pd.DataFrame, array: da.Array, fitted: GaussianMixture
) -> None:
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        fitted.predict(array)
    nameless = GaussianMixture(**KEYWORDS).fit(array)
    with pytest.warns(UserWarning, match="X has feature names"):
        nameless.predict(lazy(frame))
    numbered = GaussianMixture(**KEYWORDS).fit(lazy(frame.set_axis([0, 1, 2], axis=1)))
    assert not hasattr(numbered, "feature_names_in_")
    assert_same_bits(numbered, nameless)


@pytest.mark.parametrize("method", ["fit", "predict"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"b": "1.5"}, SchemaError, "^column 'b' is of type string, not a number; choose"),
        ({"b": pd.Timestamp(0)}, SchemaError, "^column 'b' is of type datetime64"),
        ({"b": 1j}, SchemaError, "^column 'b' is of type complex128"),
    ],
)
def test_columns_of_no_numbers_are_refused_by_name(
    frame: pd.DataFrame,
    fitted: GaussianMixture,
    method: str,
    change: Any,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        getattr(fitted, method)(lazy(frame.assign(**change)))


def test_a_name_that_occurs_twice_is_refused(frame: pd.DataFrame, fitted: GaussianMixture) -> None:
    twice = dd.from_pandas(frame.set_axis(["a", "b", "a"], axis=1), npartitions=2)
    for method in (fitted.fit, fitted.predict):
        with pytest.raises(SchemaError, match=r"^column 'a' occurs 2 times; rename"):
            method(twice)


@pytest.mark.parametrize(("bad", "words"), [(None, "null or NaN"), (np.inf, "infinite value")])
def test_values_that_cannot_be_used_are_named_by_partition_and_column(
    frame: pd.DataFrame, fitted: GaussianMixture, bad: Any, words: str
) -> None:
    values = frame["b"].astype("Float64")
    values[4_321] = bad
    X = lazy(frame.assign(b=values))
    message = f"column 'b' holds 1 {words}, the first at "
    with pytest.raises(NonFiniteError, match=message + "partition 4 row 4,321"):
        GaussianMixture(**KEYWORDS).fit(X)
    with pytest.raises(NonFiniteError, match=message + "row 1,321 of partition 4"):
        fitted.predict(X).compute()


def test_frames_without_rows_and_single_columns_are_refused(
    frame: pd.DataFrame, fitted: GaussianMixture
) -> None:
    X = lazy(frame)
    with pytest.raises(TooFewRowsError, match=r"Found array with 0 sample\(s\) \(shape=\(0, 3\)\)"):
        fitted.fit(X[X["a"] > 1e9])
    assert fitted.predict(X[X["a"] > 1e9]).compute().shape == (0,)
    with pytest.raises(ValueError, match=r"Found array with 0 feature\(s\)"):
        fitted.fit(X[[]])
    with pytest.raises(SchemaError, match=r"Expected 2D array, .* use X.to_frame\(\)"):
        fitted.fit(X["a"])
    for method in ("fit", "predict", "score", "predict_frame"):
        with pytest.raises(TooFewRowsError, match="data frame has no partitions, and so no rows"):
            getattr(fitted, method)(X.partitions[:0])
    with pytest.raises(ConfigError, match="read_parquet: path is a DataFrame; give"):
        read_parquet(X, columns=["a"])


def test_weights_may_be_a_column(frame: pd.DataFrame, array: da.Array) -> None:
    weights = np.random.default_rng(0).uniform(0, 2, len(frame))
    expected = GaussianMixture(**KEYWORDS).fit(array, sample_weight=weights)
    X = lazy(frame.assign(w=weights))
    for given in (X["w"], X["w"].to_dask_array(), weights, pd.Series(weights)):
        model = GaussianMixture(**KEYWORDS).fit(X[["a", "b", "c"]], sample_weight=given)
        assert_same_bits(model, expected)
    assert_same_bits(GaussianMixture(**KEYWORDS).fit(array, sample_weight=X["w"]), expected)


def test_a_failed_fit_leaves_the_names_of_the_fit_before(frame: pd.DataFrame) -> None:
    model = GaussianMixture(**KEYWORDS).fit(lazy(frame))
    with pytest.raises(NonFiniteError):
        model.fit(lazy(frame[["a", "b"]].where(frame["a"] > frame["a"].min())))
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    assert model.predict(lazy(frame)).compute().shape == (6_000,)
