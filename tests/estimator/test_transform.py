"""The responsibilities as features: `transform`, in scikit-learn's pipelines and as data frames."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gmm_dask import GaussianMixture, estimator_frames
from gmm_dask.errors import ConfigError

BLOBS, CLASSES = make_blobs(600, centers=3, n_features=2, random_state=0)
FRAME = pd.DataFrame(BLOBS, columns=["a", "b"], index=np.arange(600) + 1000)
NAMES = ["gaussianmixture0", "gaussianmixture1", "gaussianmixture2"]


@pytest.fixture
def mixture() -> GaussianMixture:
    return GaussianMixture(3, random_state=0).fit(FRAME)


@pytest.fixture(params=[pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "pyarrow"])
def make(request: pytest.FixtureRequest) -> Callable[[dict[str, Any]], Any]:
    return request.param


def test_a_transform_is_the_responsibilities(
    mixture: GaussianMixture, make: Callable[[dict[str, Any]], Any]
) -> None:
    expected = mixture.predict_proba(FRAME)
    features = mixture.transform(make({"a": BLOBS[:, 0], "b": BLOBS[:, 1]}))
    assert type(features) is np.ndarray
    np.testing.assert_array_equal(features, expected)
    weights = np.random.default_rng(0).uniform(size=600)
    fitted = clone(mixture).fit(FRAME, sample_weight=weights)
    features = clone(mixture).fit_transform(FRAME, sample_weight=weights)
    np.testing.assert_array_equal(features, fitted.predict_proba(FRAME))


def test_set_output_makes_data_frames(
    mixture: GaussianMixture, make: Callable[[dict[str, Any]], Any]
) -> None:
    rows, expected = make({"a": BLOBS[:, 0], "b": BLOBS[:, 1]}), mixture.predict_proba(FRAME)
    for container, kind in (("pandas", pd.DataFrame), ("polars", pl.DataFrame)):
        mixture.set_output(transform=container)
        for features in (mixture.transform(rows), clone(mixture).fit_transform(rows)):
            assert isinstance(features, kind)
            assert list(features.columns) == NAMES
            np.testing.assert_array_equal(features.to_numpy(), expected)
        assert type(mixture.predict_proba(rows)) is np.ndarray
    features = mixture.set_output(transform="pandas").transform(FRAME)
    pd.testing.assert_index_equal(features.index, FRAME.index)
    with config_context(transform_output="polars"):
        assert isinstance(mixture.set_output(transform="default").transform(rows), np.ndarray)
        assert isinstance(clone(GaussianMixture(2)).fit_transform(rows), pl.DataFrame)


def test_a_mixture_is_a_step_of_a_pipeline() -> None:
    pipeline = make_pipeline(
        StandardScaler(), GaussianMixture(3, random_state=0), LogisticRegression()
    ).set_output(transform="pandas")
    assert pipeline.fit(FRAME, CLASSES).score(FRAME, CLASSES) > 0.9
    assert list(pipeline[:-1].get_feature_names_out()) == NAMES
    assert list(pipeline[1].feature_names_in_) == ["a", "b"]
    assert list(pipeline[-1].feature_names_in_) == NAMES
    assert list(pipeline[:-1].transform(FRAME).columns) == NAMES
    beside = make_column_transformer(
        (GaussianMixture(2), ["b"]), remainder="passthrough", verbose_feature_names_out=False
    )
    assert list(beside.set_output(transform="polars").fit_transform(FRAME).columns) == [
        *NAMES[:2],
        "a",
    ]


def test_the_columns_of_a_published_model_have_its_permanent_ids(mixture: GaussianMixture) -> None:
    mixture.component_ids_ = np.array([4, 0, 11])
    expected = ["gaussianmixture4", "gaussianmixture0", "gaussianmixture11"]
    assert list(mixture.get_feature_names_out()) == expected
    assert list(mixture.set_output(transform="pandas").transform(FRAME).columns) == expected
    mixture.fit(FRAME)  # other components
    assert list(mixture.get_feature_names_out(["a", "b"])) == NAMES


def test_dasks_rows_stay_lazy_and_are_no_frame_in_memory(mixture: GaussianMixture) -> None:
    named = dd.from_pandas(FRAME, npartitions=4)
    nameless = GaussianMixture(3, random_state=0).fit(BLOBS)
    for model, rows in ((mixture, named), (nameless, da.from_array(BLOBS, chunks=(200, 2)))):
        features = model.transform(rows)
        assert isinstance(features, da.Array)
        np.testing.assert_array_equal(features, mixture.predict_proba(FRAME))
        features = clone(model).fit_transform(rows)
        assert isinstance(features, da.Array)
        model.set_output(transform="polars")
        with pytest.raises(ConfigError, match=r"^set_output\(transform='polars'\) makes .* lazy"):
            model.transform(rows)
        with config_context(transform_output="pandas"), pytest.raises(ConfigError, match="pandas"):
            GaussianMixture(2).fit_transform(rows)


def test_what_cannot_be_transformed_is_refused(mixture: GaussianMixture) -> None:
    unfitted = GaussianMixture(2)
    for method in (unfitted.get_feature_names_out, lambda: unfitted.transform(FRAME)):
        with pytest.raises(NotFittedError):
            method()
    with pytest.raises(ValueError, match="unseen at fit time:\n- c"):
        mixture.transform(FRAME.assign(c=1.0))
    with pytest.raises(ValueError, match="input_features is not equal to feature_names_in_"):
        mixture.get_feature_names_out(["b", "a"])


def test_the_examples_of_the_docstrings() -> None:
    results = doctest.testmod(estimator_frames)
    assert results.attempted
    assert not results.failed
