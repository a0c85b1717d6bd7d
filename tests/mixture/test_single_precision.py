"""Statistics of float32 rows in single precision: held to those in float64, and where they are."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gmm_dask.mixture import engine
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.kernels.tiles import ROWS
from gmm_dask.mixture.maximization import maximize
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.single_precision import passes
from gmm_dask.mixture.single_precision.densities import _exp, _log
from gmm_dask.mixture.spec import MixtureSpec
from gmm_dask.mixture.statistics import sum_statistics
from tests.mixture.oracle import expectation
from tests.mixture.test_kernels import LAYOUTS, STATISTICS, mixture, rows_of

TYPES = list(passes.KERNELS)
ONE_ROW = "one row over and over"
ROUNDING = 2.0**-24
FLUSHED = 1e-15  # responsibilities below e^−40, times squares of residuals
N = engine.LEAST_SINGLE_ROWS + 77  # the last tile is not full


def in_doubles(parameters, X, sample_weight=None):
    """The statistics of the same numbers, computed in float64."""
    return sum_statistics(parameters, X.astype(np.float64), sample_weight)


def assert_as_in_doubles(parameters, X, sample_weight=None):
    """Check statistics to 1e-5 of the sizes of their terms, the likelihood to 1e-5 nats."""
    statistics = sum_statistics(parameters, X, sample_weight)
    exact = in_doubles(parameters, X, sample_weight)
    sizes = expectation(parameters, X, sample_weight).sizes
    for name in STATISTICS:
        error = np.abs(np.asarray(getattr(statistics, name)) - getattr(exact, name))
        assert (error <= 1e-5 * np.asarray(sizes[name]) + FLUSHED * len(X)).all(), name
    error = abs(statistics.log_likelihood - exact.log_likelihood)
    assert error <= 1e-5 * exact.weight + 1e-12 * abs(exact.log_likelihood)
    return statistics


def assert_in_singles(parameters, X, sample_weight=None, left_out=0):
    """Check that rows are computed in float32, save some, and what comes of it."""
    computed = passes.statistics(parameters, X, sample_weight)
    assert len(computed[1]) == left_out
    return assert_as_in_doubles(parameters, X, sample_weight)


@pytest.mark.parametrize("covariance_type", TYPES)
@settings(max_examples=25, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 5),
    d=st.sampled_from([1, 2, 3, 4, 5, 8, 13]),
    scale=st.sampled_from([1e-9, 1.0, 1e9]),
    separation=st.sampled_from([0.0, 1.5, 8.0, 1e4]),
    offset=st.sampled_from([0.0, 100.0, 1e6]),
    weighted=st.booleans(),
    layout=st.sampled_from([name for name in LAYOUTS if name != ONE_ROW]),
)
def test_statistics_are_those_in_float64(
    covariance_type, seed, k, d, scale, separation, offset, weighted, layout
):
    rng = np.random.default_rng(seed)
    parameters = mixture(covariance_type, k, d, rng, scale, separation, offset)
    X = LAYOUTS[layout](rows_of(parameters, N, rng).astype(np.float32))
    w = rng.exponential(size=N) * (rng.random(N) < 0.8) + 1e-9 if weighted else None
    assert_in_singles(parameters, X, w)


def test_float32_rows_stay_in_float32_up_to_more_features_than_float64_rows_in_tiles():
    rng = np.random.default_rng(0)
    d = engine.MANY_SINGLE_FEATURES["diag"] - 1
    assert d >= engine.MANY_FEATURES["diag"]
    parameters = mixture("diag", 3, d, rng, separation=0.3)
    X = rows_of(parameters, N, rng).astype(np.float32)
    assert (assert_in_singles(parameters, X).counts > 0.0).all()
    X[3, 7], X[500, 8] = np.nan, np.inf  # of two tiles
    for layout in ("C", "F"):
        assert len(passes.statistics(parameters, np.asarray(X, order=layout), None)[1]) == 2 * ROWS


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("d", [6, 37])  # from 32 on, rows in one piece are loaded as they lie
def test_every_layout_gives_the_same_bits(covariance_type, d):
    rng = np.random.default_rng(0)
    parameters = mixture(covariance_type, 3, d, rng)
    X = rows_of(parameters, N, rng).astype(np.float32)
    w = rng.random(N)
    reference = sum_statistics(parameters, X, w)
    exact = in_doubles(parameters, X, w)
    assert (reference.residual_products != exact.residual_products).any()
    for name, layout in LAYOUTS.items():
        if name == ONE_ROW:
            continue
        laid_out = layout(X)
        laid_out.flags.writeable = False
        again = sum_statistics(parameters, laid_out, w)
        for statistic in STATISTICS:
            np.testing.assert_array_equal(
                getattr(again, statistic), getattr(reference, statistic), err_msg=name
            )


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("d", [2, 6, 37])
def test_rounded_rows_have_the_bits_of_float32_rows(covariance_type, d):
    rng = np.random.default_rng(0)
    parameters = mixture(covariance_type, 3, d, rng, offset=10.0)
    X, w = rows_of(parameters, N, rng), rng.random(N)
    assert passes.rounds(parameters)
    reference = sum_statistics(parameters, X.astype(np.float32), w)
    assert (reference.residual_products != sum_statistics(parameters, X, w).residual_products).any()
    for name, layout in LAYOUTS.items():
        if name == ONE_ROW:
            continue
        again = sum_statistics(parameters, layout(X), w, rounded=True)
        for statistic in STATISTICS:
            np.testing.assert_array_equal(
                getattr(again, statistic), getattr(reference, statistic), err_msg=name
            )


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("deviations", "rounded"), [(63.0, True), (65.0, False)])
def test_rows_far_from_0_are_not_rounded(covariance_type, deviations, rounded):
    rng = np.random.default_rng(0)
    covariances = {"full": np.eye(2)[None], "tied": np.eye(2), "diag": np.ones((1, 2))}
    covariances["spherical"] = np.ones(1)
    parameters = MixtureParameters.from_covariances(
        covariance_type, [1.0], np.array([[0.0, -deviations]]), covariances[covariance_type]
    )
    X = rows_of(parameters, N, rng)
    exact = sum_statistics(parameters, X)
    statistics = sum_statistics(parameters, X, rounded=True)
    differs = statistics.log_likelihood != exact.log_likelihood
    assert (passes.rounds(parameters), differs) == (rounded, rounded)
    np.testing.assert_allclose(statistics.log_likelihood, exact.log_likelihood, rtol=1e-5)
    np.testing.assert_allclose(
        statistics.residual_products, exact.residual_products, rtol=1e-5, atol=1e-3
    )


def test_a_float64_row_that_float32_cannot_hold_is_left_to_float64():
    rng = np.random.default_rng(0)
    parameters = mixture("full", 3, 4, rng)
    X = rows_of(parameters, N, rng)
    X[3, 1], X[700, 0] = 1e60, -1e39
    exact, rounded = (sum_statistics(parameters, X, rounded=flag) for flag in (False, True))
    np.testing.assert_allclose(rounded.log_likelihood, exact.log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(rounded.counts, exact.counts, rtol=1e-6)


def correlated(correlation, offset=0.0):
    """One component of two features with a correlation."""
    matrix = np.array([[[1.0, correlation], [correlation, 1.0]]])
    return MixtureParameters.from_covariances("full", [1.0], np.full((1, 2), offset), matrix)


def test_rows_that_are_divided_among_components_are_in_float64():
    k, n = 64, 60_000
    means = 20.0 * np.stack(np.divmod(np.arange(k), 8), axis=1)
    covariances = np.tile(np.eye(2), (k, 1, 1))
    parameters = MixtureParameters.from_covariances("full", np.full(k, 1 / k), means, covariances)
    rng = np.random.default_rng(0)
    X = (means[rng.integers(0, k, n)] + rng.normal(size=(n, 2))).astype(np.float32)
    for rows, words in ((X, "rows are divided among many components"), (X[:N], "")):
        assert engine.why_doubles(parameters, len(rows)).startswith(words)
        *sums, likelihood = engine.statistics(parameters, rows, None)
        *exact, exact_likelihood = engine.statistics(parameters, rows.astype(np.float64), None)
        assert (likelihood == exact_likelihood) == bool(words)
        assert all(map(np.array_equal, sums, exact)) == bool(words)


@pytest.mark.parametrize(
    ("parameters", "safe"),
    [
        (correlated(0.0), True),
        (correlated(0.998), True),
        (correlated(0.9999), False),
        (correlated(0.0, offset=8e6), True),
        (correlated(0.0, offset=9e6), False),
        (mixture("full", 3, 2, np.random.default_rng(0), scale=1e13), False),
        (mixture("full", 3, 2, np.random.default_rng(0), scale=1e-13), False),
        (mixture("full", 2, engine.MANY_SINGLE_FEATURES["full"], np.random.default_rng(0)), False),
        (mixture("diag", 2, engine.MANY_SINGLE_FEATURES["diag"], np.random.default_rng(0)), False),
    ],
)
def test_where_float32_is_not_safe_float64_is_used(parameters, safe):
    assert (engine.why_doubles(parameters, N) == "") == safe
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(N, parameters.n_features))
    L = np.linalg.cholesky(parameters.matrices[0])
    X = (parameters.means[0] + noise @ L.T).astype(np.float32)
    if safe:
        assert_in_singles(parameters, X)
        return
    statistics, exact = sum_statistics(parameters, X), in_doubles(parameters, X)
    for statistic in STATISTICS:
        np.testing.assert_array_equal(getattr(statistics, statistic), getattr(exact, statistic))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_row_on_a_mean_over_and_over(covariance_type):
    rng = np.random.default_rng(1)
    parameters = mixture(covariance_type, 3, 5, rng, separation=3.0)
    safe = []
    for mean in parameters.means.astype(np.float32):
        X = np.broadcast_to(mean, (N, 5))
        safe.append(passes.statistics(parameters, X, None) is not None)
        assert_as_in_doubles(parameters, X)
    # Of rows that were whitened once, S is a difference that may lose its digits.
    assert all(safe) == (covariance_type != "tied")


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_tile_with_a_row_far_out_is_left_to_float64(covariance_type):
    rng = np.random.default_rng(2)
    parameters = mixture(covariance_type, 3, 5, rng)
    X = rows_of(parameters, N, rng).astype(np.float32)
    for far in (1e3, 1e18, 1e30, np.finfo(np.float32).max):
        X[200], X[N - 1, 2] = far, -far
        statistics = assert_in_singles(parameters, X, left_out=ROWS + N % ROWS)
        assert statistics.finite
    X[200, 1] = np.nan
    assert np.isnan(sum_statistics(parameters, X).log_likelihood)


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_components_of_very_different_sizes(covariance_type):
    """|y|² of the narrow one overflows at the wide one, where its responsibility is 0."""
    covariances = COVARIANCE_TYPES[covariance_type].from_matrices(
        np.array([1e12, 1e-16])[:, None, None] * np.eye(2), np.ones(2)
    )
    parameters = MixtureParameters.from_covariances(
        covariance_type, np.array([0.5, 0.5]), np.array([[1e12, 1e12], [0.0, 0.0]]), covariances
    )
    X = rows_of(parameters, N, np.random.default_rng(6)).astype(np.float32)
    assert assert_as_in_doubles(parameters, X).finite


@pytest.mark.parametrize("covariance_type", TYPES)
def test_where_most_tiles_would_be_left_out_the_rest_is_not_tried(covariance_type):
    rng = np.random.default_rng(3)
    parameters = mixture(covariance_type, 3, 5, rng)
    X = rows_of(parameters, 200 * ROWS, rng).astype(np.float32)
    X[: 64 * ROWS : ROWS] = 1e5
    assert_in_singles(parameters, X, left_out=len(X))


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("weight", [1e-300, 1e-20, 1e20, 1e300])
def test_weights_that_float32_cannot_hold_are_left_to_float64(covariance_type, weight):
    rng = np.random.default_rng(4)
    parameters = mixture(covariance_type, 3, 5, rng)
    X = rows_of(parameters, N, rng).astype(np.float32)
    w = np.ones(N)
    w[ROWS : 2 * ROWS] = weight
    assert_in_singles(parameters, X, w, left_out=ROWS)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_equal_weights_do_not_move_the_likelihood(covariance_type):
    """float32 rounds 0.1 up by 1.5e-8 of itself, and so in every row."""
    rng = np.random.default_rng(7)
    parameters = mixture(covariance_type, 3, 60, rng, scale=1e-9)
    X = rows_of(parameters, N, rng).astype(np.float32)
    light, plain = (sum_statistics(parameters, X, w) for w in (np.full(N, 0.1), None))
    assert light.mean_log_likelihood == pytest.approx(plain.mean_log_likelihood, rel=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_constants_are_not_rounded_in_all_rows_alike(covariance_type):
    """A constant 0.45 steps of ½|y|² below the largest moved the likelihood by as much."""
    k, d, rng = 8, 100, np.random.default_rng(8)
    covariances = COVARIANCE_TYPES[covariance_type].from_matrices(
        np.tile(np.eye(d), (k, 1, 1)), np.ones(k)
    )
    weights = np.exp(np.r_[0.0, np.full(k - 1, -0.45 * 2.0**-18)])
    parameters = MixtureParameters.from_covariances(
        covariance_type, weights / weights.sum(), 8.0 * rng.normal(size=(k, d)), covariances
    )
    X = rows_of(parameters, N, rng).astype(np.float32)
    error = sum_statistics(parameters, X).log_likelihood - in_doubles(parameters, X).log_likelihood
    assert abs(error) / N < 7e-7


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_component_of_weight_0_gets_nothing(covariance_type):
    rng = np.random.default_rng(5)
    template = mixture(covariance_type, 3, 3, rng)
    for absent in range(3):
        weights = np.full(3, 0.5)
        weights[absent] = 0.0
        parameters = MixtureParameters.from_covariances(
            covariance_type, weights, template.means, template.covariances
        )
        X = rows_of(parameters, N, rng).astype(np.float32)
        statistics = assert_in_singles(parameters, X)
        assert statistics.counts[absent] == 0.0
        assert not statistics.residual_sums[absent].any()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_em_climbs_as_in_float64(covariance_type):
    rng = np.random.default_rng(6)
    truth = mixture(covariance_type, 4, 6, rng, offset=30.0)
    X = rows_of(truth, 4_000, rng).astype(np.float32)
    means = truth.means + rng.normal(size=truth.means.shape)
    start = MixtureParameters.from_covariances(
        covariance_type, np.full(4, 0.25), means, truth.covariances
    )
    climbs = []
    for rows in (X, X.astype(np.float64)):
        parameters, climb = start, []
        for _ in range(40):
            statistics = sum_statistics(parameters, rows)
            climb.append(statistics.mean_log_likelihood)
            parameters = maximize(parameters, statistics, MixtureSpec()).parameters
        climbs.append(climb)
    single, double = np.array(climbs)
    assert np.abs(single - double).max() <= 1e-5
    assert np.diff(single).min() >= -1e-7


@settings(max_examples=300, derandomize=True)
@given(st.floats(-40.0, 0.0, width=32))
@example(0.0)
@example(-40.0)
def test_exp_errs_by_less_than_two_roundings(x):
    assert abs(_exp(np.float32(x)) / np.exp(np.float64(x)) - 1.0) <= 2.0 * ROUNDING


def test_exp_ends_at_zero():
    for x in (-40.0001, -1e30, -np.inf):
        assert _exp(np.float32(x)) == 0.0
    assert np.isnan(_exp(np.float32(np.nan)))
    assert _exp(np.float32(0.0)) == 1.0


@settings(max_examples=300, derandomize=True)
@given(st.floats(1.0, 2.0**20, width=32))
@example(1.0)
@example(2.0)
def test_log_errs_by_less_than_four_roundings(x):
    error = abs(float(_log(np.float32(x))) - np.log(np.float64(x)))
    assert error <= 4.0 * ROUNDING * np.log(np.float64(x))


def test_log_of_nan_is_nan():
    assert np.isnan(_log(np.float32(np.nan)))


def test_many_features_need_a_larger_tol():
    # Rounding moves the mean log-likelihood by more, the more features there are.
    assert [engine.least_single_tol(d) for d in (1, 100, 600)] == [1e-6, 1e-6, pytest.approx(6e-6)]
    assert engine.least_rounded_tol(600) == pytest.approx(6e-4)
