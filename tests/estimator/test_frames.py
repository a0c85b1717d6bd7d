"""GaussianMixture on data frames in memory: their columns count by name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from gmm_dask import GaussianMixture
from gmm_dask.errors import NonFiniteError, SchemaError

Columns = dict[str, Any]
X = np.random.default_rng(0).normal(size=(200, 3)) * [1, 10, 100]
COLUMNS = dict(zip("abc", X.T, strict=True))


def arrow_stream(columns: Columns) -> Any:
    return pa.table(columns).to_batches()[0]


FRAMES: dict[str, Callable[[Columns], Any]] = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
    "record batch": arrow_stream,
}


@pytest.fixture(params=FRAMES)
def make(request: pytest.FixtureRequest) -> Callable[[Columns], Any]:
    """How a frame is made from columns, for each kind in turn."""
    return FRAMES[request.param]


@pytest.fixture(scope="module")
def fitted() -> GaussianMixture:
    return GaussianMixture(2, random_state=0).fit(pd.DataFrame(COLUMNS))


def test_the_columns_names_are_remembered_and_the_values_are_the_arrays(
    make: Callable[[Columns], Any], fitted: GaussianMixture
) -> None:
    model = GaussianMixture(2, random_state=0).fit(make(COLUMNS))
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    np.testing.assert_array_equal(model.means_, fitted.means_)
    np.testing.assert_array_equal(
        model.predict(make(COLUMNS)), fitted.predict(pd.DataFrame(COLUMNS))
    )


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score", "bic"])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("bac", "must be in the same order as they were in fit"),
        ("ab", "seen at fit time, yet now missing:\n- c"),
        ("abcd", "unseen at fit time:\n- d"),
        ("abz", r"unseen at fit time:\n- z\n.*yet now missing:\n- c"),
    ],
)
def test_other_columns_are_refused_by_name(
    make: Callable[[Columns], Any],
    fitted: GaussianMixture,
    method: str,
    names: str,
    message: str,
) -> None:
    frame = make({name: COLUMNS.get(name, X[:, 0]) for name in names})
    with pytest.raises(ValueError, match=message):
        getattr(fitted, method)(frame)


def test_other_names_are_told_before_types(
    make: Callable[[Columns], Any], fitted: GaussianMixture
) -> None:
    with pytest.raises(ValueError, match="unseen at fit time:\n- name"):
        fitted.predict(make({**COLUMNS, "name": TEXT}))


def test_names_on_one_side_only_are_a_warning(
    make: Callable[[Columns], Any], fitted: GaussianMixture
) -> None:
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        fitted.predict(X)
    nameless = GaussianMixture(2, random_state=0).fit(X)
    with pytest.warns(UserWarning, match="X has feature names"):
        nameless.predict(make(COLUMNS))


TEXT = ["1.5"] * 200
DATES = [date(2020, 1, 1)] * 200


@pytest.mark.parametrize("values", [TEXT, DATES, [b"1"] * 200, [[1.0]] * 200], ids=lambda v: v[0])
@pytest.mark.parametrize("method", ["fit", "predict"])
def test_columns_of_no_numbers_are_refused_by_name(
    make: Callable[[Columns], Any], fitted: GaussianMixture, method: str, values: Any
) -> None:
    frame = make({**COLUMNS, "b": values})
    with pytest.raises(SchemaError, match=r"^column 'b' is of type .*, not a number; choose"):
        getattr(fitted, method)(frame)


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": X[:, 0], "b": pd.Categorical(TEXT)}),
        pd.DataFrame({"a": X[:, 0], "b": pd.Series(TEXT, dtype="string[pyarrow]")}),
        pd.DataFrame({"a": X[:, 0], "b": np.array([1, "1"] * 100, dtype=object)}),
        pd.DataFrame({"a": X[:, 0], "b": np.array([1, pd.NA] * 100, dtype=object)}),
        pd.DataFrame({"a": X[:, 0], "b": X[:, 1] * 1j}),
        pd.DataFrame({"a": X[:, 0], "b": pd.period_range("2020", periods=200)}),
        pl.DataFrame({"a": X[:, 0], "b": pl.Series(TEXT, dtype=pl.Categorical)}),
        pl.DataFrame({"a": X[:, 0], "b": pl.Series(TEXT, dtype=pl.Enum(["1.5"]))}),
        pl.DataFrame({"a": X[:, 0], "b": [None] * 200}),
        pa.table({"a": X[:, 0], "b": pa.array(TEXT).dictionary_encode()}),
        pa.table({"a": X[:, 0], "b": pa.nulls(200)}),
    ],
    ids=lambda frame: str(type(frame)),
)
def test_text_in_disguise_is_refused_too(frame: Any) -> None:
    with pytest.raises(SchemaError, match=r"^column 'b' is of type"):
        GaussianMixture(2).fit(frame)


@pytest.mark.parametrize(
    "values",
    [
        pd.array(np.arange(200), "Int64"),
        pd.array(np.arange(200) / 2, "Float32"),
        pd.array(np.arange(200), "int64[pyarrow]"),
        pd.array([True, False] * 100, "boolean"),
        pd.Categorical(np.arange(200) % 7),
        pd.arrays.SparseArray(np.arange(200) % 7),
        np.array([Decimal("1.5"), 2] * 100, dtype=object),
        np.arange(200, dtype=np.float16),
        np.arange(200, dtype=np.uint8),
        pl.Series(np.arange(200)).cast(pl.Decimal(10, 2)),
        pl.Series([True, False] * 100),
        pa.array(np.arange(200) % 7).dictionary_encode(),
    ],
    ids=lambda values: str(getattr(values, "dtype", None) or values.type),
)
@pytest.mark.filterwarnings("ignore:pandas.DataFrame with sparse columns found")
def test_numbers_of_any_type_are_taken(values: Any) -> None:
    kind = {pl.Series: pl.DataFrame, pa.DictionaryArray: pa.table}.get(type(values), pd.DataFrame)
    model = GaussianMixture(2, random_state=0).fit(kind({"a": X[:, 0], "b": values}))
    plain = np.asarray(values.to_pylist() if kind is pa.table else values).astype(np.float64)
    expected = GaussianMixture(2, random_state=0).fit(np.column_stack([X[:, 0], plain]))
    np.testing.assert_array_equal(model.means_, expected.means_)


@pytest.mark.parametrize("method", ["fit", "predict"])
@pytest.mark.parametrize("bad", [None, np.nan, np.inf])
def test_values_that_cannot_be_used_are_named_by_column_and_row(
    make: Callable[[Columns], Any], fitted: GaussianMixture, method: str, bad: Any
) -> None:
    values: list[float | None] = X[:, 1].tolist()
    values[17] = bad
    with pytest.raises(NonFiniteError, match=r"column 'b' holds 1 .* the first at row 17"):
        getattr(fitted, method)(make({**COLUMNS, "b": values}))


@pytest.mark.parametrize("method", ["fit", "predict"])
def test_a_name_that_occurs_twice_is_refused(fitted: GaussianMixture, method: str) -> None:
    twice = pd.DataFrame(X, columns=["a", "b", "a"])
    message = "^column 'a' occurs 2 times; rename"
    with pytest.raises(SchemaError, match=message):
        getattr(fitted, method)(twice)
    with pytest.raises(SchemaError, match=message):
        getattr(fitted, method)(pa.table([*X.T], names=["a", "b", "a"]))


def test_weights_of_text_are_refused() -> None:
    with pytest.raises(
        SchemaError, match="sample_weight has dtype <U1; only numbers can be used: conv"
    ):
        GaussianMixture(2).fit(X, sample_weight=np.array(["1"] * 200))


def test_a_frame_without_columns_is_refused() -> None:
    for frame in (pd.DataFrame(index=range(9)), pl.DataFrame(), pa.table({})):
        with pytest.raises(SchemaError, match=r"0 feature\(s\): X has no columns"):
            GaussianMixture(2).fit(frame)


def test_a_lazy_frame_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"X is a lazy frame of polars, .* collect\(\) them"):
        GaussianMixture(2).fit(pl.LazyFrame(COLUMNS))


def test_names_that_are_numbers_are_no_names() -> None:
    model = GaussianMixture(2, random_state=0).fit(pd.DataFrame(X))
    assert not hasattr(model, "feature_names_in_")
    with pytest.raises(TypeError, match="only supported if all input features have string names"):
        model.fit(pd.DataFrame(X, columns=["a", 1, 2]))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (
            [["1", "2"], ["3", "4"]] * 9,
            "X has dtype <U1; only numbers can be used: convert it first",
        ),
        (np.array([[1, 2], [3, "4"]] * 9, dtype=object), r"X\[1, 1\] is '4'; only numbers"),
    ],
)
def test_numbers_written_as_text_are_refused_in_any_array(X, message):
    with pytest.raises(SchemaError, match=message):
        GaussianMixture(2).fit(X)
    mixture = GaussianMixture(2).fit(np.random.default_rng(0).normal(size=(50, 2)))
    with pytest.raises(SchemaError, match=message):
        mixture.predict(X)


def test_an_object_array_of_numbers_is_one_of_numbers():
    X = np.random.default_rng(0).normal(size=(50, 2))
    expected = GaussianMixture(2, random_state=0).fit(X)
    fitted = GaussianMixture(2, random_state=0).fit(X.astype(object))
    np.testing.assert_array_equal(fitted.means_, expected.means_)
