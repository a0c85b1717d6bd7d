"""GaussianMixture on arrays in memory: scikit-learn's keywords, and the additional ones."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn import get_config
from sklearn.datasets import load_iris, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Peer

from gmm_dask import GaussianMixture, input_checks
from gmm_dask.errors import (
    ConfigError,
    NonFiniteError,
    NumericalError,
    SchemaError,
    TooFewRowsError,
)

TYPES = ("full", "tied", "diag", "spherical")


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    blobs, _ = make_blobs(600, centers=3, n_features=3, cluster_std=[1.0, 2.0, 0.5], random_state=1)
    return blobs


@pytest.mark.parametrize("covariance_type", TYPES)
def test_without_search_a_fit_is_scikit_learns(X: np.ndarray, covariance_type: str) -> None:
    keywords = {"covariance_type": covariance_type, "random_state": 3, "tol": 1e-5}
    ours = GaussianMixture(3, search_rows=None, **keywords).fit(X)
    peer = Peer(3, **keywords).fit(X)
    order = np.argsort(-peer.weights_)
    np.testing.assert_allclose(ours.weights_, peer.weights_[order], rtol=1e-9)
    np.testing.assert_allclose(ours.means_, peer.means_[order], rtol=1e-9)
    assert ours.n_iter_ == peer.n_iter_
    assert ours.lower_bound_ == pytest.approx(peer.lower_bound_, rel=1e-12)
    assert ours.converged_
    assert ours.score(X) == pytest.approx(peer.score(X), rel=1e-12)
    assert ours.bic(X) == pytest.approx(peer.bic(X), rel=1e-12)
    assert ours.aic(X) == pytest.approx(peer.aic(X), rel=1e-12)
    entropy = -np.log(peer.predict_proba(X).max(axis=1)).sum()
    assert ours.icl(X) == pytest.approx(peer.bic(X) + 2 * entropy, rel=1e-12)
    np.testing.assert_allclose(ours.predict_proba(X), peer.predict_proba(X)[:, order], atol=1e-9)
    np.testing.assert_array_equal(ours.predict(X), np.argsort(order)[peer.predict(X)])
    np.testing.assert_allclose(ours.score_samples(X), peer.score_samples(X), rtol=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("max_iter", [1, 2, 5])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_given_starts_keep_their_order_and_scikit_learns_steps(
    X: np.ndarray, covariance_type: str, max_iter: int
) -> None:
    start = Peer(3, covariance_type=covariance_type, max_iter=1, random_state=5).fit(X)
    keywords = {
        "covariance_type": covariance_type,
        "weights_init": start.weights_,
        "means_init": start.means_,
        "precisions_init": start.precisions_,
        "max_iter": max_iter,
        "tol": 0.0,
    }
    ours, peer = GaussianMixture(3, **keywords).fit(X), Peer(3, **keywords).fit(X)
    np.testing.assert_allclose(ours.weights_, peer.weights_, rtol=1e-9)
    np.testing.assert_allclose(ours.means_, peer.means_, rtol=1e-9)
    np.testing.assert_allclose(ours.covariances_, peer.covariances_, rtol=1e-9)
    assert len(ours.lower_bounds_) == max_iter


def test_warm_start_goes_on_where_the_last_fit_ended(X: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = GaussianMixture(
            3, warm_start=True, max_iter=1, tol=0.0, random_state=0, search_rows=None
        )
        bounds = [model.fit(X).lower_bound_ for _ in range(4)]
        whole = GaussianMixture(3, max_iter=4, tol=0.0, random_state=0, search_rows=None).fit(X)
    np.testing.assert_allclose(bounds, whole.lower_bounds_, rtol=1e-12)


def test_exhausted_iterations_warn_and_say_so(X: np.ndarray) -> None:
    with pytest.warns(ConvergenceWarning, match="did not converge in 1 iterations"):
        model = GaussianMixture(3, max_iter=1, tol=0.0, random_state=0).fit(X)
    assert not model.converged_
    assert model.n_iter_ == 1


def test_the_same_seed_gives_the_same_bits_and_none_does_not_fail(X: np.ndarray) -> None:
    first = GaussianMixture(3, random_state=7).fit(X)
    second = GaussianMixture(3, random_state=7).fit(X)
    np.testing.assert_array_equal(first.means_, second.means_)
    np.testing.assert_array_equal(first.covariances_, second.covariances_)
    assert GaussianMixture(3).fit(X).converged_
    assert GaussianMixture(3, random_state=np.random.RandomState(1)).fit(X).converged_


@pytest.mark.parametrize("covariance_type", TYPES)
def test_samples_have_the_moments_of_the_mixture(X: np.ndarray, covariance_type: str) -> None:
    model = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X)
    drawn, labels = model.sample(40_000)
    assert drawn.shape == (40_000, 3)
    assert (np.diff(labels) >= 0).all()
    np.testing.assert_allclose(np.bincount(labels) / 40_000, model.weights_, atol=0.02)
    for component in range(3):
        rows = drawn[labels == component]
        np.testing.assert_allclose(rows.mean(axis=0), model.means_[component], atol=0.1)
        expected = model._parameters().matrices[component]
        np.testing.assert_allclose(np.cov(rows.T), expected, atol=0.06 * np.abs(expected).max())
    with pytest.raises(ValueError, match="at least one sample"):
        model.sample(0)


@pytest.mark.filterwarnings("ignore:Best performing initialization did not converge")
def test_weights_count_rows(X: np.ndarray) -> None:
    weights = np.random.default_rng(0).integers(0, 4, len(X))
    start = Peer(3, max_iter=1, random_state=0).fit(np.repeat(X, weights, axis=0))
    given = {
        "weights_init": start.weights_,
        "means_init": start.means_,
        "precisions_init": start.precisions_,
        "tol": 1e-8,
        "max_iter": 1000,
    }
    weighted = GaussianMixture(3, **given).fit(X, sample_weight=weights)
    repeated = GaussianMixture(3, **given).fit(np.repeat(X, weights, axis=0))
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-9)
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-8)
    assert weighted.log_likelihood_ == pytest.approx(repeated.log_likelihood_, rel=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_smallest_fits_work(covariance_type: str) -> None:
    column = np.array([[0.0], [1.0], [5.0]])
    single = GaussianMixture(1, covariance_type=covariance_type).fit(column)
    np.testing.assert_allclose(single.means_, [[2.0]])
    np.testing.assert_allclose(np.ravel(single.covariances_), [14 / 3 + 1e-6])
    triple = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(column)
    np.testing.assert_allclose(np.sort(triple.means_.ravel()), [0.0, 1.0, 5.0], atol=0.6)
    assert GaussianMixture(1, covariance_type=covariance_type).fit(column[:1]).converged_


def test_float32_is_read_as_such_and_summed_in_float64(X: np.ndarray) -> None:
    single = X.astype(np.float32)
    model = GaussianMixture(3, random_state=0).fit(single)
    double = GaussianMixture(3, random_state=0).fit(single.astype(np.float64))
    assert model.means_.dtype == np.float64
    np.testing.assert_allclose(model.means_, double.means_, rtol=1e-6)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_fit_of_float32_rows_says_where_it_computes_in_float64(
    caplog: pytest.LogCaptureFixture, in_memory: bool
) -> None:
    rng = np.random.default_rng(0)
    single = (rng.normal(size=(6_000, 3)) + rng.integers(0, 3, (6_000, 1))).astype(np.float32)
    double = single.astype(np.float64)
    options = {
        "weights_init": np.full(3, 1 / 3),
        "means_init": double[:3],
        "precisions_init": np.tile(np.eye(3), (3, 1, 1)),
        "max_iter": 5,
        "tol": 0.0,
    }
    if not in_memory:
        options["search_rows"] = 100
    caplog.set_level("INFO", "gmm_dask")
    with pytest.warns(ConvergenceWarning):
        exact = GaussianMixture(3, **options).fit(double)
    with pytest.warns(ConvergenceWarning):
        asked = GaussianMixture(3, **options).fit(single)
    assert asked.lower_bounds_ == exact.lower_bounds_
    assert "computed in float64: tol is below 1e-06" in caplog.text
    caplog.clear()
    rounded = GaussianMixture(3, **{**options, "tol": 1e-6, "max_iter": 1_000}).fit(single)
    assert not [message for message in caplog.messages if "float64" in message]
    assert rounded.lower_bounds_[:5] != exact.lower_bounds_
    np.testing.assert_allclose(rounded.lower_bounds_[:5], exact.lower_bounds_, rtol=0, atol=1e-5)
    narrow = np.hstack([single, single[:, :1] + 1e-5 * rng.normal(size=(6_000, 1))])
    GaussianMixture(1, reg_covar=1e-12).fit(narrow.astype(np.float32))
    assert "computed in float64: a component is too narrow" in caplog.text


def test_refusals_say_what_and_what_to_try(X: np.ndarray) -> None:
    with pytest.raises(TooFewRowsError, match=r"n_components = 9.*n_samples = 4"):
        GaussianMixture(9).fit(X[:4])
    with pytest.raises(ConfigError, match=r"means_init.*shape of \(3, 3\)"):
        GaussianMixture(3, means_init=np.zeros((2, 3))).fit(X)
    with pytest.raises(ConfigError, match=r"weights_init.*normalized"):
        GaussianMixture(3, weights_init=[0.5, 0.5, 0.5]).fit(X)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        GaussianMixture(3).fit(np.where(X > 5, np.nan, X))
    with pytest.raises(ValueError, match="expecting 3 features"):
        GaussianMixture(3, random_state=0).fit(X).predict(X[:, :2])


def test_an_impossible_covariance_is_an_error_that_advises() -> None:
    flat = np.column_stack([np.arange(50.0), np.zeros(50)])
    with pytest.raises(NumericalError, match="reg_covar"):
        GaussianMixture(2, reg_covar=0.0, random_state=0).fit(flat)


def test_a_large_reg_covar_and_a_frequent_value_are_noticed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rng = np.random.default_rng(0)
    small = np.column_stack([rng.normal(size=500), 1e-3 * rng.normal(size=500)])
    GaussianMixture(1, reg_covar=1e-6).fit(small)
    assert "reg_covar 1e-06" in caplog.text
    assert "'x1'" in caplog.text
    caplog.clear()
    repeated = np.where(rng.random((500, 1)) < 0.3, 4.0, rng.normal(size=(500, 1)))
    GaussianMixture(4, random_state=0).fit(repeated)
    assert "column 'x0' = 4; a component can collapse on it" in caplog.text


def test_verbose_prints_stages_and_iterations(
    X: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    GaussianMixture(3, verbose=2, random_state=0).fit(X)
    printed = capsys.readouterr().out
    assert "survey" in printed
    assert "Iteration 1" in printed
    GaussianMixture(3, random_state=0).fit(X)
    assert capsys.readouterr().out == ""


def test_the_tutorials_responsibilities() -> None:
    np.random.seed(0)
    grid = np.linspace(-5, 5, 20)
    X = np.concatenate(
        [grid * np.random.rand(20) + 10, grid * np.random.rand(20) - 10, grid * np.random.rand(20)]
    )[:, None]
    model = GaussianMixture(3, random_state=0).fit(X)
    model.weights_ = np.full(3, 1 / 3)
    model.means_ = np.array([[-5.0], [8.0], [1.5]])
    model.covariances_ = np.array([[[25.0]], [[9.0]], [[1.0]]])
    model.precisions_cholesky_ = np.array([[[1 / 5]], [[1 / 3]], [[1.0]]])
    shares = model.predict_proba(X)
    first = [[2.97644006e-02, 9.70235407e-01, 1.91912550e-07]]
    first += [[3.85713024e-02, 9.61426220e-01, 2.47747304e-06]]
    np.testing.assert_allclose(shares[:2], first, rtol=1e-8)
    np.testing.assert_allclose(
        shares[-1], [8.53513721e-02, 2.40396004e-02, 8.90609028e-01], rtol=1e-8
    )


def test_rows_far_out_get_finite_results(X: np.ndarray) -> None:
    model = GaussianMixture(3, random_state=0).fit(X)
    far = np.array([[1e150, 0.0, 0.0], [1e300, -1e300, 1e300]])
    shares = model.predict_proba(far)
    assert np.isfinite(shares).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert np.isfinite(model.score_samples(far)).all()


def test_a_data_frames_columns_are_remembered() -> None:
    frame = load_iris(as_frame=True).data
    model = GaussianMixture(3, random_state=0).fit(frame)
    assert list(model.feature_names_in_) == list(frame.columns)
    assert model.predict(frame).shape == (150,)


def test_column_names_are_forgotten_with_an_array_that_has_none() -> None:
    frame = load_iris(as_frame=True).data
    model = GaussianMixture(3, random_state=0).fit(frame).fit(frame.to_numpy()[:, :2])
    assert not hasattr(model, "feature_names_in_")
    assert model.n_features_in_ == 2


@pytest.mark.parametrize("dtype", [">f8", np.float16, np.int32, np.float32, object])
def test_numbers_of_any_kind_are_taken(X: np.ndarray, dtype: type | str) -> None:
    rows = X.round().astype(dtype)
    model = GaussianMixture(2, random_state=0).fit(rows)
    same = GaussianMixture(2, random_state=0).fit(rows.astype(np.float64))
    np.testing.assert_allclose(model.means_, same.means_, rtol=1e-6)


def test_infinity_is_refused(X: np.ndarray) -> None:
    with pytest.raises(ValueError, match="infinity"):
        GaussianMixture(2).fit(np.where(X > 5, np.inf, X))
    assert issubclass(NonFiniteError, ValueError)


@pytest.mark.parametrize(
    ("change", "columns"),
    [({}, 2), ({"n_components": 2}, 3), ({"covariance_type": "diag"}, 3)],
    ids=["features", "components", "covariances"],
)
def test_a_warm_start_from_another_model_is_refused(
    X: np.ndarray, change: dict[str, object], columns: int
) -> None:
    model = GaussianMixture(3, warm_start=True, random_state=0).fit(X)
    with pytest.raises(ConfigError, match="warm_start: the last fit left means of shape"):
        model.set_params(**change).fit(X[:, :columns])
    model.set_params(warm_start=False).fit(X[:, :columns])


def test_criteria_take_what_predict_takes(X: np.ndarray) -> None:
    model = GaussianMixture(3, random_state=0).fit(X)
    assert model.bic(X.tolist()) == model.bic(X)
    assert model.aic(X.tolist()) == model.aic(X)
    assert model.icl(X.tolist()) == model.icl(X)


def test_load_model_gives_a_fitted_estimator(tmp_path: Path, X: np.ndarray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from gmm_dask import load_model, steps
    from gmm_dask.config import RunConfig, ThreadsCluster
    from gmm_dask.events import silent

    pq.write_table(
        pa.table({name: X[:, j] for j, name in enumerate("abc")}), tmp_path / "x.parquet"
    )
    run = RunConfig.model_validate(
        {
            "input": {"path": str(tmp_path / "x.parquet"), "columns": ["a", "b", "c"]},
            "model": {"n_components": 3},
            "output": {"models": str(tmp_path / "models"), "name": "abc"},
        }
    )
    plan = steps.inspect_input(run)
    with steps.open_scanner(run, plan, ThreadsCluster(), silent) as scanner:
        evaluation = steps.evaluate(run, plan, scanner, steps.fit(run, plan, scanner, silent), None)
    steps.publish(run, evaluation, "run-1")
    model = load_model(tmp_path / "models" / "abc")
    same = load_model(tmp_path / "models" / "abc", version=1)
    np.testing.assert_array_equal(model.means_, same.means_)
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    assert list(model.component_ids_) == [0, 1, 2]
    direct = GaussianMixture(3, random_state=0).fit(X)
    np.testing.assert_allclose(model.means_, direct.means_, rtol=1e-12)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        assert model.score(X) == pytest.approx(direct.score(X))
    assert (model.n_iter_, model.converged_, model.scans_) == (direct.n_iter_, True, 1)
    np.testing.assert_allclose(model.lower_bounds_, direct.lower_bounds_, rtol=1e-12)
    continued = model.set_params(warm_start=True, max_iter=0).fit(X)
    np.testing.assert_array_equal(continued.means_, same.means_)
    # The ids are the published model's; after another fit it is no longer that model.
    assert not hasattr(continued, "component_ids_")


def test_values_that_cannot_be_squared_and_a_client_for_numpy_are_refused(X: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"column 'x1' holds values up to 1e\+149.*rescale"):
        GaussianMixture(2).fit(np.where(np.arange(3) == 1, 1e149, X))
    assert GaussianMixture(2, random_state=0).fit(X * 1e100).converged_
    with pytest.raises(ConfigError, match="client is for dask arrays"):
        GaussianMixture(2).fit(X, client=object())


def test_sample_weights_of_any_size_give_the_same_parameters(X: np.ndarray) -> None:
    sides = np.where(np.arange(len(X)) % 3, 2.0, 1.0)
    reference = GaussianMixture(3, random_state=0).fit(X + 50, sample_weight=sides)
    for scale in (1e-20, 1e-150, 1e20):
        scaled = GaussianMixture(3, random_state=0).fit(X + 50, sample_weight=sides * scale)
        np.testing.assert_allclose(scaled.means_, reference.means_, rtol=1e-6)
        np.testing.assert_allclose(scaled.covariances_, reference.covariances_, rtol=1e-5)
        np.testing.assert_allclose(scaled.weights_, reference.weights_, rtol=1e-6)


def test_a_fit_that_fails_leaves_the_fit_before_it(X: np.ndarray) -> None:
    model = GaussianMixture(3, random_state=0).fit(X)
    labels = model.predict(X)
    with pytest.raises(TooFewRowsError):
        model.fit(X[:2, :2])
    assert model.n_features_in_ == 3
    np.testing.assert_array_equal(model.predict(X), labels)


def test_given_means_keep_their_order_when_the_rest_is_left_to_the_rows(X: np.ndarray) -> None:
    fitted = GaussianMixture(3, random_state=0).fit(X)
    lightest_first = fitted.means_[::-1]
    again = GaussianMixture(3, random_state=0, means_init=lightest_first).fit(X)
    np.testing.assert_allclose(again.means_, lightest_first, atol=0.1)


def test_float32_values_whose_squares_leave_its_range() -> None:
    rng = np.random.default_rng(0)
    sides = np.repeat([-1.0, 1.0], 300)[:, None] * 1e20
    X = (sides + rng.normal(size=(600, 2)) * 1e19).astype(np.float32)
    fitted = GaussianMixture(2, random_state=0).fit(X)
    np.testing.assert_allclose(fitted.weights_, 0.5, atol=1e-3)
    np.testing.assert_allclose(np.sort(fitted.means_[:, 0]), [-1e20, 1e20], rtol=0.05)


@pytest.mark.parametrize(
    "strange", [np.array([["1.5"], ["2"]]), np.array([[1], [2]], "datetime64[s]")]
)
def test_dates_and_text_are_no_numbers(strange: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"X has dtype .*; only numbers can be used"):
        GaussianMixture().fit(strange)


def test_a_breakdown_is_a_value_error_as_with_scikit_learn() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 2))
    rows[:, 1] = 7.0
    with pytest.raises(ValueError, match="not positive definite"):
        GaussianMixture(2, reg_covar=0.0, random_state=0).fit(rows)


def test_weights_computed_in_float32_sum_to_one(X: np.ndarray) -> None:
    weights = np.array([0.2, 0.3, 0.5], np.float32) / np.float32(1.0)
    GaussianMixture(3, weights_init=weights, random_state=0).fit(X)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_iris_is_fitted_without_a_word_of_repeated_values(
    covariance_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows, _ = load_iris(return_X_y=True)
    GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(rows)
    assert caplog.text == ""


def test_a_value_that_could_fill_a_component_is_named(caplog: pytest.LogCaptureFixture) -> None:
    rows = np.random.default_rng(0).normal(size=(3_000, 2))
    rows[:1_200, 1] = 15.0
    GaussianMixture(3, covariance_type="tied", random_state=0).fit(rows)
    assert "can collapse on it" not in caplog.text
    GaussianMixture(3, random_state=0).fit(rows)
    assert "40.0% of the rows have column 'x1' = 15; a component can collapse on it" in caplog.text


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_single_iterations_with_warm_start_converge_at_scikit_learns_call(X: np.ndarray) -> None:
    start = Peer(3, max_iter=1, random_state=5).fit(X)
    calls = []
    for kind in (GaussianMixture, Peer):
        model = kind(
            3, max_iter=1, tol=1e-9, warm_start=True, random_state=0, weights_init=start.weights_,
            means_init=start.means_, precisions_init=start.precisions_,
        )  # fmt: skip
        calls.append(next(call for call in range(1, 100) if model.fit(X).converged_))
    assert calls[0] == calls[1] > 2


def test_a_column_whose_squares_are_zero_is_refused_by_name(X: np.ndarray) -> None:
    tiny = X * [1.0, 1e-160, 1.0]
    with pytest.raises(ValueError, match=r"column 'x1' holds no value beyond 1e-150 .*rescale"):
        GaussianMixture(2, random_state=0).fit(tiny)
    tiny[:, 1] = 0.0  # a constant column is another matter
    GaussianMixture(2, random_state=0).fit(tiny)


def test_a_warning_names_ten_of_many_lost_components(caplog):
    X = np.random.default_rng(0).normal(size=(60, 1))
    GaussianMixture(50, random_state=0).fit(X)
    words = next(message for message in caplog.messages if "try fewer components" in message)
    assert re.fullmatch(r"components (\d+, ){9}\d+ and \d+ more collapsed; try .*", words)


def test_on_collapse_places_a_lost_component_again(caplog):
    X = np.random.default_rng(0).integers(0, 3, size=(500, 1)).astype(float)
    with caplog.at_level("WARNING", logger="gmm_dask"):
        reported = GaussianMixture(3, random_state=0).fit(X)
    assert reported.covariances_.min() < 2e-6
    assert "collapsed" in caplog.text
    mended = GaussianMixture(3, random_state=0, on_collapse="replace").fit(X)
    assert mended.covariances_.min() > 0.1
    with pytest.raises(ValueError, match="'on_collapse'"):
        GaussianMixture(on_collapse="mend").fit(X)


class OtherArray:
    """Rows of another library that follows the array standard."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values
        self.shape, self.ndim, self.dtype = values.shape, values.ndim, values.dtype

    def __array_namespace__(self) -> object:
        return np

    def __array__(self, *arguments: object, **keywords: object) -> np.ndarray:
        return self._values


def test_an_array_that_its_own_library_is_to_compute_is_refused(
    X: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = GaussianMixture(3, random_state=0).fit(X)
    np.testing.assert_array_equal(fitted.predict(OtherArray(X)), fitted.predict(X))
    # What scikit-learn's own setting needs, it does not find everywhere.
    dispatching = {**get_config(), "array_api_dispatch": True}
    monkeypatch.setattr(input_checks, "get_config", lambda: dispatching)
    for call in (GaussianMixture(3).fit, fitted.predict, fitted.score):
        with pytest.raises(SchemaError, match=r"X is an array of tests, .* np\.asarray\(X\), or"):
            call(OtherArray(X))
    np.testing.assert_array_equal(fitted.predict(X), fitted.predict(X.tolist()))
