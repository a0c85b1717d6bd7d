"""Fitted mixtures to scikit-learn's own class and back."""

from __future__ import annotations

import doctest
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.mixture
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import BayesianGaussianMixture

from gmm_dask import GaussianMixture, estimator_exchange, load_model
from gmm_dask.errors import ConfigError
from gmm_dask.mixture.spec import COVARIANCE_NAMES
from tests.steps.tables import make_run, run_fit, write_days

Theirs = sklearn.mixture.GaussianMixture

X, _ = make_blobs(900, centers=4, n_features=3, cluster_std=1.5, random_state=0)
X = X @ np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.2], [0.0, 0.0, 2.0]])
NEW = np.random.default_rng(1).uniform(-20, 20, size=(500, 3))
PARAMETERS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
FITTED = (*PARAMETERS, "converged_", "n_iter_", "lower_bound_", "n_features_in_")
FORMS = [(name, k) for name in COVARIANCE_NAMES for k in (1, 4)]


def assert_equal_predictions(model: Any, other: Any) -> None:
    np.testing.assert_array_equal(model.predict(NEW), other.predict(NEW))
    np.testing.assert_allclose(model.score_samples(NEW), other.score_samples(NEW), rtol=1e-12)
    np.testing.assert_allclose(model.predict_proba(NEW), other.predict_proba(NEW), atol=1e-12)
    for criterion in ("aic", "bic", "score"):
        expected = getattr(other, criterion)(NEW)
        assert getattr(model, criterion)(NEW) == pytest.approx(expected, rel=1e-12)


def assert_same_attributes(model: Any, other: Any, rtol: float = 0.0) -> None:
    for name in FITTED:
        value, expected = getattr(model, name), getattr(other, name)
        assert np.shape(value) == np.shape(expected), name
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol, err_msg=name)
    assert list(getattr(model, "lower_bounds_", [])) == list(getattr(other, "lower_bounds_", []))
    names = [getattr(each, "feature_names_in_", None) for each in (model, other)]
    assert np.array_equal(*names)


def assert_shares_nothing(model: Any, other: Any) -> None:
    for name in PARAMETERS:
        assert not np.shares_memory(getattr(model, name), getattr(other, name))


@pytest.mark.parametrize(("covariance_type", "k"), FORMS)
def test_ours_as_theirs(covariance_type: str, k: int) -> None:
    mixture = GaussianMixture(k, covariance_type=covariance_type, tol=1e-5, random_state=3).fit(X)
    model = mixture.to_sklearn()
    assert type(model) is Theirs
    assert_equal_predictions(model, mixture)
    assert_same_attributes(model, mixture)
    assert_shares_nothing(model, mixture)
    theirs = Theirs().get_params()
    assert model.get_params() == {name: mixture.get_params()[name] for name in theirs}
    samples, labels = model.sample(10)
    assert (samples.shape, labels.shape) == ((10, 3), (10,))
    again = GaussianMixture.from_sklearn(model)
    assert_same_attributes(again, mixture)
    assert again.get_params() == mixture.get_params()
    np.testing.assert_array_equal(again.score_samples(NEW), mixture.score_samples(NEW))


@pytest.mark.parametrize(("covariance_type", "k"), FORMS)
def test_theirs_as_ours(covariance_type: str, k: int) -> None:
    model = Theirs(k, covariance_type=covariance_type, n_init=2, random_state=3).fit(X)
    mixture = GaussianMixture.from_sklearn(model)
    assert type(mixture) is GaussianMixture
    assert_equal_predictions(mixture, model)
    assert_same_attributes(mixture, model, rtol=1e-12)  # precisions are multiplied again
    assert_shares_nothing(mixture, model)
    ours = {"search_rows": "auto", "on_collapse": "report", "nulls": "error", "transforms": None}
    ours |= {"components_per_label": None, "least_label_weight": 1.5}
    assert mixture.get_params() == {**model.get_params(), **ours}
    assert_equal_predictions(mixture.to_sklearn(), model)
    assert mixture.merge_components(X).predict_clusters(NEW, 1).max() == 0
    again = pickle.loads(
        pickle.dumps(GaussianMixture.from_sklearn(pickle.loads(pickle.dumps(model))))
    )
    np.testing.assert_array_equal(again.score_samples(NEW), mixture.score_samples(NEW))


@pytest.mark.parametrize("covariance_type", COVARIANCE_NAMES)
def test_parameters_in_float32_become_float64_as_they_are(covariance_type: str) -> None:
    model = Theirs(4, covariance_type=covariance_type, random_state=0).fit(X.astype(np.float32))
    for name in PARAMETERS:  # an older scikit-learn fits in float64
        setattr(model, name, getattr(model, name).astype(np.float32))
    mixture = GaussianMixture.from_sklearn(model)
    for name in PARAMETERS:
        value = getattr(mixture, name)
        assert value.dtype == np.float64
        tolerance = 1e-6 if name == "precisions_" else 0.0  # multiplied again, in float64
        np.testing.assert_allclose(value, getattr(model, name), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(mixture.score_samples(NEW), model.score_samples(NEW), rtol=1e-5)
    assert np.mean(mixture.predict(NEW) == model.predict(NEW)) > 0.99
    assert mixture.bic(NEW) == pytest.approx(model.bic(NEW), rel=1e-6)
    assert_equal_predictions(mixture.to_sklearn(), mixture)
    assert mixture.sample(50)[0].shape == (50, 3)


def test_names_of_columns_are_kept_both_ways() -> None:
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model = GaussianMixture(2, random_state=0).fit(frame).to_sklearn()
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="must be in the same order"):
        model.predict(frame[["b", "a", "c"]])
    mixture = GaussianMixture.from_sklearn(Theirs(2, random_state=0).fit(frame))
    with pytest.raises(ValueError, match="must be in the same order"):
        mixture.predict(frame[["b", "a", "c"]])
    assert list(mixture.predict_frame(frame, ["a"]).columns) == ["a", "component", "log_density"]


def test_keywords_are_copied() -> None:
    keywords = {"means_init": X[:2].copy(), "random_state": np.random.RandomState(0)}
    mixture = GaussianMixture(2, **keywords).fit(X)
    for other in (mixture.to_sklearn(), GaussianMixture.from_sklearn(Theirs(2, **keywords).fit(X))):
        for name, value in keywords.items():
            assert getattr(other, name) is not value
        np.testing.assert_array_equal(other.means_init, X[:2])


WITHOUT_US = """
import pickle, sys
model = pickle.load(sys.stdin.buffer)
print(model.predict([[0.0, 0.0, 0.0]]).shape, "gmm_dask" in sys.modules)
"""


def test_a_pickle_of_theirs_does_not_need_us(tmp_path: Path) -> None:
    mixture = GaussianMixture(2, random_state=0).fit(X)
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_US],
        input=pickle.dumps(mixture.to_sklearn()),
        capture_output=True,
        check=True,
        cwd=tmp_path,
    )
    assert run.stdout == b"(1,) False\n"


def test_a_published_model_goes_to_scikit_learn(tmp_path: Path) -> None:
    write_days(tmp_path, nulls=False)
    run = make_run(tmp_path, model__n_components=3)
    run_fit(run)
    published = load_model(tmp_path / "models" / "boxes")
    model = published.to_sklearn()
    assert_same_attributes(model, published)
    rows = pd.DataFrame(published.means_, columns=published.feature_names_in_)
    np.testing.assert_allclose(model.score_samples(rows), published.score_samples(rows), rtol=1e-12)


def test_a_warm_start_goes_on_from_theirs() -> None:
    with pytest.warns(ConvergenceWarning):
        model = Theirs(4, init_params="random", max_iter=5, tol=1e-6, random_state=0).fit(X)
    for mixture in (GaussianMixture.from_sklearn(model), by_hand(model)):
        mixture.set_params(warm_start=True, max_iter=400).fit(X)
        expected = clone(model).set_params(max_iter=400).fit(X)
        assert mixture.converged_
        np.testing.assert_allclose(mixture.means_, expected.means_, rtol=1e-3)


def by_hand(model: Any) -> GaussianMixture:
    """The mixture of a model that has the parameters of another and nothing else."""
    copy = clone(model)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        setattr(copy, name, getattr(model, name))
    return GaussianMixture.from_sklearn(copy)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_factors_may_be_lower_ones_set_by_hand(covariance_type: str) -> None:
    model = Theirs(3, covariance_type=covariance_type, random_state=0).fit(X)
    model.precisions_cholesky_ = np.linalg.cholesky(model.precisions_)
    mixture = GaussianMixture.from_sklearn(model)
    np.testing.assert_allclose(mixture.score_samples(NEW), model.score_samples(NEW), rtol=1e-11)
    np.testing.assert_allclose(mixture.covariances_, model.covariances_, rtol=1e-9)
    assert not np.tril(mixture.precisions_cholesky_, -1).any()
    model.precisions_cholesky_ = model.precisions_
    with pytest.raises(ConfigError, match=r"no triangular matrices; take those of numpy\.linalg"):
        GaussianMixture.from_sklearn(model)


def test_what_is_not_fitted_or_no_mixture_of_theirs_is_refused() -> None:
    unfitted = r"^This GaussianMixture instance is not fitted yet\..*$"
    for function in (
        GaussianMixture(2).to_sklearn,
        lambda: GaussianMixture.from_sklearn(Theirs(2)),
    ):
        with pytest.raises(NotFittedError, match=unfitted) as caught:
            function()
        assert "\n" not in str(caught.value)
    for other, name in (
        (
            BayesianGaussianMixture(n_components=2, random_state=0).fit(X),
            r"\S+\.BayesianGaussianMixture",
        ),
        (GaussianMixture(2, random_state=0).fit(X), r"gmm_dask\.estimator\.GaussianMixture"),
        (Theirs, r"the class \S+\.GaussianMixture"),
        (None, r"builtins\.NoneType"),
    ):
        with pytest.raises(ConfigError, match=rf"fitted sklearn\.\S+, not {name}$"):
            GaussianMixture.from_sklearn(other)


@pytest.mark.parametrize(
    "change", [{"n_components": 5}, {"covariance_type": "tied"}, {"covariance_type": "diag"}]
)
def test_keywords_that_changed_after_the_fit_are_refused(change: dict[str, Any]) -> None:
    model = Theirs(2, random_state=0).fit(X).set_params(**change)
    message = r"^\w+_ has the shape .*, but . \w+ components of 3 features have .* fit again$"
    with pytest.raises(ConfigError, match=message):
        GaussianMixture.from_sklearn(model)
    mixture = GaussianMixture(2, random_state=0).fit(X).set_params(**change)
    with pytest.raises(ConfigError, match=message):
        mixture.to_sklearn()


@pytest.mark.parametrize("covariance_type", COVARIANCE_NAMES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights_", np.nan),
        ("weights_", -0.5),
        ("means_", np.inf),
        ("covariances_", np.nan),
        ("precisions_cholesky_", 0.0),
        ("precisions_cholesky_", -1.0),
    ],
)
def test_parameters_that_describe_no_mixture_are_refused(
    covariance_type: str, name: str, value: float
) -> None:
    model = Theirs(2, covariance_type=covariance_type, random_state=0).fit(X)
    getattr(model, name).flat[0] = value
    with pytest.raises(ConfigError, match=r"^the model's parameters describe no mixture: weights_"):
        GaussianMixture.from_sklearn(model)


def test_the_examples_of_the_docstrings() -> None:
    results = doctest.testmod(estimator_exchange)
    assert results.attempted
    assert not results.failed
