"""Rows with holes: EM over patterns against a textbook in loops, and laws of the lift."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris

from gmm_dask.mixture import expectation
from gmm_dask.mixture import patterns as patterns_module
from gmm_dask.mixture.assignment import LOOK_ROWS, assign
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.imputation import Filled, fit_pooled, impute
from gmm_dask.mixture.initialization import (
    initial_parameters,
    labelled_start,
    start_from_responsibilities,
)
from gmm_dask.mixture.maximization import maximize
from gmm_dask.mixture.moves import split
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import (
    COMMON_ROWS,
    Scattered,
    _Marginals,
    count_observed,
    count_patterns,
    each_pattern,
    find_patterns,
    has_holes,
    marginal,
)
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.search import search
from gmm_dask.mixture.spec import (
    COVARIANCE_NAMES,
    INITIALIZATION_NAMES,
    EMOptions,
    MixtureSpec,
    Start,
)
from gmm_dask.mixture.statistics import sum_statistics
from tests.mixture.textbook import textbook_incomplete_em

K, D = 3, 4


def random_mixture(covariance_type, seed=0, k=K, d=D):
    random = np.random.default_rng(seed)
    roots = random.normal(size=(k, d, d))
    matrices = roots @ roots.transpose(0, 2, 1) + 0.3 * np.eye(d)
    weights = random.dirichlet(np.full(k, 5.0))
    covariances = COVARIANCE_TYPES[covariance_type].from_matrices(matrices, weights)
    return MixtureParameters.from_covariances(
        covariance_type, weights, 2.0 * random.normal(size=(k, d)), covariances
    )


def with_holes(X, share, seed):
    """The rows without a share of their values, taken at random; each row keeps one or more."""
    random = np.random.default_rng(seed)
    holes = random.uniform(size=X.shape) < share
    holes[np.arange(len(X)), random.integers(X.shape[1], size=len(X))] = False
    return np.where(holes, np.nan, X)


def rows_with_holes(seed=1, n=60, d=D, share=0.3):
    random = np.random.default_rng(seed)
    X = 2.0 * random.normal(size=(n, d)) + random.integers(3, size=(n, 1))
    return with_holes(X, share, seed)


def assert_equal_statistics(found, expected, rtol=1e-11):
    for name in ("counts", "residual_sums", "residual_products"):
        value, reference = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(value, reference, rtol, atol=rtol * np.abs(reference).max())
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=rtol)
    assert found.weight == pytest.approx(expected.weight)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("covariance_type", COVARIANCE_NAMES)
def test_em_over_patterns_is_that_of_the_textbook(covariance_type, weighted):
    X, parameters = rows_with_holes(), random_mixture(covariance_type)
    weight = np.random.default_rng(2).uniform(0.0, 3.0, len(X)) if weighted else None
    spec = MixtureSpec(K, covariance_type, reg_covar=1e-3)
    expected = textbook_incomplete_em(
        X, parameters.weights, parameters.means, parameters.matrices, covariance_type, 5,
        spec.reg_covar, weight,
    )  # fmt: skip
    bounds = []
    for _ in range(5):
        statistics = sum_statistics(parameters, X, weight, find_patterns(X))
        bounds.append(statistics.mean_log_likelihood)
        parameters = maximize(parameters, statistics, spec)[0]
    found = (parameters.weights, parameters.means, parameters.matrices, bounds)
    for value, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-9, atol=1e-9)


@pytest.fixture(params=[1, COMMON_ROWS], ids=["a pass for each pattern", "scattered rows"])
def common_rows(request, monkeypatch):
    """The rows from which on a pattern has a pass of its own."""
    monkeypatch.setattr(patterns_module, "COMMON_ROWS", request.param)
    return request.param


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(COVARIANCE_NAMES),
    d=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    offset=st.sampled_from([0.0, 1e8]),
)
def test_laws_of_rows_with_holes(common_rows, kind, d, seed, share, offset):
    random = np.random.default_rng(seed)
    parameters = random_mixture(kind, seed, d=d)
    X = rows_with_holes(seed, 40, d, share)
    weight = random.integers(0, 4, 40).astype(float)
    patterns = find_patterns(X)
    # Patterns divide the rows, and say what each has.
    rows = np.concatenate([pattern.rows for pattern in patterns]) if patterns else np.arange(40)
    assert sorted(rows.tolist()) == list(range(40))
    assert bool(patterns) == bool(np.isnan(X).any()) == has_holes(X)
    expected = len(np.unique(np.isnan(X), axis=0)) if np.isnan(X).any() else 0
    assert count_patterns(X) == expected
    for pattern in patterns:
        if isinstance(pattern, Scattered):
            assert common_rows > 1
            assert np.isnan(X[pattern.rows]).any(axis=1).all()
            np.testing.assert_array_equal(pattern.take(X), X[pattern.rows])
            continue
        assert pattern.complete or len(pattern.rows) >= common_rows
    for pattern in each_pattern(X, patterns):
        assert (~np.isnan(X[pattern.rows]) == np.isin(np.arange(d), pattern.observed)).all()
        assert pattern.complete == (len(pattern.observed) == d)
        np.testing.assert_array_equal(pattern.take(X), X[np.ix_(pattern.rows, pattern.observed)])
    np.testing.assert_array_equal(count_observed(X), (~np.isnan(X)).sum(axis=1))
    # Weights count as repetitions, and the order of rows does not matter.
    statistics = sum_statistics(parameters, X, weight, patterns)
    repeated = np.repeat(X, weight.astype(int), axis=0)[::-1]
    again = sum_statistics(parameters, repeated, None, find_patterns(repeated))
    assert_equal_statistics(statistics, again)
    assert (statistics.rows, again.rows) == (40, len(repeated))
    # Far from the origin no digit of the residuals is lost beyond those of the rows themselves.
    moved = MixtureParameters(
        kind, parameters.weights, parameters.means + offset, parameters.covariances,
        parameters.precisions_cholesky,
    )  # fmt: skip
    far = sum_statistics(moved, X + offset, weight, patterns)
    assert_equal_statistics(far, statistics, 1e-5 if offset else 1e-15)
    # An M-step does not lower the likelihood.
    if weight.sum() > 0:
        after = maximize(parameters, statistics, MixtureSpec(K, kind, 1e-9))[0]
        gained = sum_statistics(after, X, weight, patterns).log_likelihood
        assert gained >= statistics.log_likelihood - 1e-6 * abs(statistics.log_likelihood)


@pytest.mark.parametrize("covariance_type", COVARIANCE_NAMES)
@pytest.mark.parametrize("condition", [1.0, 1e-6, 1e-12])
def test_scattered_rows_have_the_statistics_of_their_marginals(covariance_type, condition):
    parameters, X = random_mixture(covariance_type, d=9), rows_with_holes(6, 300, 9, 0.4)
    if covariance_type in ("full", "tied"):
        # The last feature is the first one, but for a little.
        root = np.linalg.cholesky(parameters.covariances)
        root[..., -1, :] = root[..., 0, :]
        root[..., -1, -1] = np.sqrt(condition)
        factors = np.ascontiguousarray(np.swapaxes(np.linalg.inv(root), -1, -2))
        parameters = MixtureParameters(
            covariance_type, parameters.weights, parameters.means,
            root @ np.swapaxes(root, -1, -2), factors,
        )  # fmt: skip
        X[:, -1] = np.where(np.isnan(X[:, -1]), np.nan, X[:, 0])
    X = X[np.isnan(X).any(axis=1) & ~np.isnan(X).all(axis=1)]
    weight = np.random.default_rng(1).uniform(size=len(X))
    patterns = find_patterns(X)
    assert [type(pattern) for pattern in patterns] == [Scattered]
    for rows in (X, X.astype(np.float32), np.asfortranarray(X)):
        by_marginals = sum_statistics(parameters, rows, weight, tuple(each_pattern(rows, patterns)))
        scattered = sum_statistics(parameters, rows, weight, patterns)
        scale = 1e-13 / np.sqrt(condition)
        for name in ("counts", "residual_sums", "residual_products", "log_likelihood"):
            expected = np.asarray(getattr(by_marginals, name))
            error = np.abs(getattr(scattered, name) - expected).max()
            assert error <= max(scale, 1e-12) * np.abs(expected).max(), name
        assert (scattered.rows, scattered.weight) == (
            by_marginals.rows,
            pytest.approx(weight.sum()),
        )


@pytest.mark.parametrize("covariance_type", COVARIANCE_NAMES)
def test_a_marginal_is_the_mixture_of_its_features(covariance_type):
    parameters, observed = random_mixture(covariance_type, d=6), np.array([0, 2, 5])
    of_features = marginal(parameters, observed)
    mixture = of_features.parameters
    np.testing.assert_array_equal(mixture.means, parameters.means[:, observed])
    expected = parameters.matrices[:, observed][:, :, observed]
    np.testing.assert_allclose(mixture.matrices, expected, rtol=1e-12)
    covariance = mixture.covariance
    again = covariance.covariances(mixture.precisions_cholesky)
    np.testing.assert_allclose(again, mixture.covariances, rtol=1e-10, atol=1e-12)
    products = np.swapaxes(of_features.axes, -1, -2) @ of_features.axes
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), products.shape), atol=1e-14)


def test_a_marginal_of_a_nearly_singular_mixture_is_not_singular():
    root = np.tril(np.full((5, 5), 1.0)) * [1.0, 1e-9, 1e-9, 1e-9, 1e-9]
    parameters = MixtureParameters(
        "full", np.ones(1), np.zeros((1, 5)), (root @ root.T)[None], np.linalg.inv(root).T[None]
    )
    for observed in ([1, 2], [0, 4], [2, 3, 4]):
        factors = marginal(parameters, np.array(observed)).parameters.precisions_cholesky
        assert np.isfinite(factors).all()


def test_marginals_are_computed_once_within_a_budget():
    parameters, observed = random_mixture("full"), np.array([0, 2])
    assert marginal(parameters, observed) is marginal(parameters, observed.copy())
    small = _Marginals(budget=1)
    first = small.get(parameters, observed)
    again = small.get(parameters, observed)
    assert first is not again
    np.testing.assert_array_equal(first.axes, again.axes)


@pytest.mark.parametrize("n", [50, LOOK_ROWS + 200])
@pytest.mark.parametrize("covariance_type", COVARIANCE_NAMES)
def test_rows_are_assigned_by_what_they_have(covariance_type, n, common_rows):
    parameters, X = random_mixture(covariance_type), rows_with_holes(3, n)
    X[7] = np.nan
    options = {"responsibilities": True, "certainties": True}
    assigned = assign(parameters, X, **options)
    joint = np.full((50, K), np.nan)
    for i in range(50):
        o = np.flatnonzero(~np.isnan(X[i]))
        if not len(o):
            continue
        for j in range(K):
            covariance = parameters.matrices[j][np.ix_(o, o)]
            density = multivariate_normal.logpdf(X[i, o], parameters.means[j, o], covariance)
            joint[i, j] = np.log(parameters.weights[j]) + density
    log_densities = np.log(np.exp(joint).sum(axis=1))
    shares = np.exp(joint - log_densities[:, None])
    np.testing.assert_allclose(assigned.log_densities[:50], log_densities, rtol=1e-10)
    np.testing.assert_allclose(assigned.responsibilities[:50], shares, atol=1e-12)
    np.testing.assert_allclose(assigned.certainties[:50], shares.max(axis=1), rtol=1e-11)
    expected = np.where(np.isnan(log_densities), -1, shares.argmax(axis=1))
    np.testing.assert_array_equal(assigned.labels[:50], expected)
    assert not assigned.finite
    known = assign(parameters, X, **options, threads=3, patterns=find_patterns(X))
    for name in ("labels", "log_densities", "responsibilities", "certainties"):
        np.testing.assert_array_equal(getattr(known, name), getattr(assigned, name))


@pytest.mark.parametrize("far", [1e30, 1e200, np.finfo(np.float64).max])
@pytest.mark.parametrize("covariance_type", COVARIANCE_NAMES)
def test_a_scattered_row_far_out_has_a_density(covariance_type, far):
    """A number that stands for a missing value is an outlier in a row with holes, too."""
    parameters = random_mixture(covariance_type)
    X = np.array([[far, 0.0, np.nan, 0.0], [0.0, -far, 0.0, 0.0], [0.0, np.nan, 0.0, 0.0]])
    scattered = assign(parameters, X, responsibilities=True)
    common = assign(parameters, np.repeat(X, COMMON_ROWS, axis=0))
    assert np.isfinite(scattered.log_densities).all()
    assert scattered.responsibilities.sum(axis=1) == pytest.approx(1.0)
    sizes = common.log_densities[::COMMON_ROWS] / scattered.log_densities
    assert np.abs(np.log10(sizes)).max() < 2.0  # clipped a little elsewhere
    assert sum_statistics(parameters, X, None, find_patterns(X)).finite


@pytest.mark.parametrize("covariance_type", COVARIANCE_NAMES)
def test_holes_are_filled_with_conditional_means(covariance_type):
    parameters, X = random_mixture(covariance_type), rows_with_holes(4)
    X[3] = np.nan
    filled = impute(parameters, X)
    np.testing.assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])
    np.testing.assert_allclose(filled[3], parameters.weights @ parameters.means)
    shares = assign(parameters, X, responsibilities=True).responsibilities
    for i in np.flatnonzero(np.isnan(X).any(axis=1) & ~np.isnan(X).all(axis=1)):
        o, m = np.flatnonzero(~np.isnan(X[i])), np.flatnonzero(np.isnan(X[i]))
        expected = np.zeros(len(m))
        for j in range(K):
            S, mean = parameters.matrices[j], parameters.means[j]
            regression = np.linalg.solve(S[np.ix_(o, o)], S[np.ix_(o, m)]).T
            expected += shares[i, j] * (mean[m] + regression @ (X[i, o] - mean[o]))
        np.testing.assert_allclose(filled[i, m], expected, rtol=1e-9, atol=1e-11)
    single = X.astype(np.float32)
    assert impute(parameters, single).dtype == np.float32
    complete = np.where(np.isnan(X), 0.0, X)
    np.testing.assert_array_equal(impute(parameters, complete), complete)


@pytest.mark.parametrize("weighted", [False, True])
def test_pieces_and_threads_change_nothing(weighted, monkeypatch):
    X, parameters = rows_with_holes(5, 2_000), random_mixture("full")
    weight = np.random.default_rng(0).uniform(size=2_000) if weighted else None
    (whole,) = ExpectationOn(X, weight)([parameters])
    assert_equal_statistics(whole, sum_statistics(parameters, X, weight, find_patterns(X)))
    monkeypatch.setattr(expectation, "PIECE_ROWS", 100)
    monkeypatch.setattr(expectation, "WORTH_THREADS", 0)
    batch = [parameters, random_mixture("diag")]
    alone = ExpectationOn(X, weight)(batch)
    assert_equal_statistics(alone[0], whole)
    with ThreadPoolExecutor(3) as pool:
        shared = ExpectationOn(X, weight, pool, 3)(batch)
    for single, several in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(single.residual_products, several.residual_products)
        assert single.log_likelihood == several.log_likelihood


@pytest.mark.parametrize("method", INITIALIZATION_NAMES)
@pytest.mark.parametrize("covariance_type", COVARIANCE_NAMES)
def test_every_start_takes_rows_with_holes(covariance_type, method):
    X = with_holes(load_iris().data, 0.3, 0)
    spec = MixtureSpec(3, covariance_type, 1e-3, Start(method))
    sample = Sample(X, None)
    filled = sample.filled(spec)
    start = initial_parameters(X, None, spec, np.random.RandomState(0), filled)
    assert np.isfinite(ExpectationOn(X, None)([start])[0].log_likelihood)
    means = np.arange(12.0).reshape(3, 4)
    fixed = MixtureSpec(3, covariance_type, 1e-3, Start(method, means=means))
    again = initial_parameters(X, None, fixed, np.random.RandomState(0), filled)
    np.testing.assert_array_equal(again.means, means)
    np.testing.assert_array_equal(again.weights, start.weights)


@pytest.mark.parametrize("covariance_type", COVARIANCE_NAMES)
def test_a_cluster_without_rows_is_no_warning(covariance_type):
    """k-means leaves some where rows repeat themselves."""
    X = rows_with_holes(3, 300, D, 0.2)
    spec = MixtureSpec(2, covariance_type)
    filled = Filled.of(X, fit_pooled(X, None, spec))
    start = labelled_start(X, np.zeros(len(X), np.int32), None, spec, filled)
    assert np.isfinite(start.means).all()
    assert start.weights[0] == pytest.approx(1.0)


@pytest.mark.parametrize("covariance_type", COVARIANCE_NAMES)
def test_the_first_m_step_is_that_of_the_conditional_moments(covariance_type):
    """From shares of one component it is EM's own M-step, and without holes that of the rows."""
    X, spec = with_holes(load_iris().data, 0.3, 1), MixtureSpec(1, covariance_type, 1e-6)
    pooled = fit_pooled(X, None, MixtureSpec(1, "full", 1e-6))
    start = start_from_responsibilities(X, np.ones((150, 1)), spec, Filled.of(X, pooled))
    expected = maximize(
        pooled, sum_statistics(pooled, X, None, find_patterns(X)), MixtureSpec(1, "full", 1e-6)
    )[0]
    np.testing.assert_allclose(start.means, expected.means, rtol=1e-12)
    covariances = COVARIANCE_TYPES[covariance_type].from_matrices(expected.matrices, np.ones(1))
    np.testing.assert_allclose(start.covariances, covariances, rtol=1e-10)
    complete = load_iris().data
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 150)
    spec = MixtureSpec(3, covariance_type)
    plain = start_from_responsibilities(complete, shares, spec)
    lifted = start_from_responsibilities(complete, shares, spec, Filled.of(complete, pooled))
    np.testing.assert_allclose(lifted.means, plain.means, rtol=1e-9)
    np.testing.assert_allclose(lifted.covariances, plain.covariances, rtol=1e-8, atol=1e-10)


def test_a_component_of_rows_with_holes_is_split_in_two():
    random = np.random.default_rng(0)
    X = random.normal(size=(400, 3)) + 12.0 * random.integers(2, size=(400, 1))
    X = with_holes(X, 0.3, 2)
    gaussian = fit_pooled(X, None, MixtureSpec())
    gain, halves = split(X, np.ones(400), gaussian, MixtureSpec(), 0)
    assert gain > 400
    np.testing.assert_allclose(np.sort(halves.means[:, 0]), [0.0, 12.0], atol=0.5)


def test_on_held_out_rows_a_fit_to_what_there_is_beats_one_to_complete_rows():
    X = load_iris().data[np.random.default_rng(0).permutation(150)]
    spec, em = MixtureSpec(2, "full", 1e-3), EMOptions()
    for seed in range(3):
        holes = with_holes(X[:100], 0.25, seed)
        samples = [holes, holes[~np.isnan(holes).any(axis=1)]]
        scores = []
        for rows in samples:
            (best,), _ = search(
                Sample(rows, None), spec, em, random_state=0, keep=1, threads=1, whole=True
            )
            scores.append(assign(best, X[100:]).log_densities.mean())
        assert scores[0] > scores[1]


def test_what_is_missing_at_random_does_no_harm():
    """The second value is missing where the first is high: complete rows alone are biased."""
    random = np.random.default_rng(0)
    X = random.multivariate_normal([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]], 4_000)
    X[X[:, 0] > 0.0, 1] = np.nan
    gaussian = fit_pooled(X, None, MixtureSpec(1))
    assert abs(gaussian.means[0, 1]) < 0.08
    assert gaussian.covariances[0, 0, 1] == pytest.approx(0.8, abs=0.1)
    assert np.nanmean(X[:, 1]) < -0.5
