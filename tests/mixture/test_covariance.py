"""The covariance types: factors, determinants, estimates, the M-step and its guard."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from gmm_dask.errors import ConfigError, IllConditionedError
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import MixtureSpec
from gmm_dask.mixture.statistics import sum_statistics
from tests.mixture.oracle import estimate, full_factors, in_form, update

TYPES = list(COVARIANCE_TYPES)
EPS = np.finfo(np.float64).eps
property_test = settings(max_examples=40, derandomize=True)


def random_covariances(covariance_type, k, d, rng, scale=1.0):
    A = rng.normal(size=(k, d, d)) / np.sqrt(d)
    matrices = (A @ A.mT + 0.3 * np.eye(d)) * scale**2
    return {
        "full": matrices,
        "tied": matrices[0],
        "diag": np.diagonal(matrices, axis1=1, axis2=2).copy(),
        "spherical": matrices[:, 0, 0].copy(),
    }[covariance_type]


def random_mixture(covariance_type, k, d, rng, scale=1.0):
    return MixtureParameters.from_covariances(
        covariance_type,
        rng.dirichlet(np.full(k, 3.0)),
        scale * rng.normal(size=(k, d)),
        random_covariances(covariance_type, k, d, rng, scale),
    )


sizes = st.tuples(st.integers(1, 5), st.integers(1, 9))
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([1e-12, 1e-3, 1.0, 1e12])


# Forms of the same matrix.


@pytest.mark.parametrize("covariance_type", TYPES)
@property_test
@given(size=sizes, seed=seeds, scale=scales)
def test_narrow_is_judged_by_the_smallest_eigenvalue(covariance_type, size, seed, scale):
    k, d = size
    random = np.random.default_rng(seed)
    covariance = COVARIANCE_TYPES[covariance_type]
    covariances = random_covariances(covariance_type, k, d, random, scale)
    units = np.exp(random.normal(size=d))
    scaled = covariance.matrices(covariances, k, d) / np.outer(units, units)
    smallest = np.linalg.eigvalsh(scaled)[:, 0]  # (k,)
    for c in range(k):
        for factor, narrow in ((1.0 - 1e-6, False), (1.0 + 1e-6, True)):
            least = factor * smallest[c]
            found = covariance.find_narrow(covariances, units, k, least)
            assert found.shape == (k,)
            assert found[c] == narrow
            both = covariance.find_narrow(np.stack([covariances] * 2), units, k, least)
            np.testing.assert_array_equal(both, [found, found])


@pytest.mark.parametrize("covariance_type", TYPES)
@property_test
@given(size=sizes, seed=seeds, scale=scales)
def test_factors_covariances_and_precisions_agree(covariance_type, size, seed, scale):
    k, d = size
    covariance = COVARIANCE_TYPES[covariance_type]
    covariances = random_covariances(covariance_type, k, d, np.random.default_rng(seed), scale)
    assert covariances.shape == covariance.shape(k, d)
    factors = covariance.precisions_cholesky(covariances)
    assert factors.shape == covariance.shape(k, d)
    matrices = covariance.matrices(covariances, k, d)
    assert matrices.shape == (k, d, d)
    U = full_factors(covariance_type, factors, k, d)
    assert not np.tril(U, -1).any()
    np.testing.assert_allclose(
        U.mT @ matrices @ U, np.broadcast_to(np.eye(d), (k, d, d)), atol=1e-12
    )
    np.testing.assert_allclose(
        covariance.covariances(factors), covariances, rtol=1e-11, atol=1e-12 * scale**2
    )
    precisions = covariance.precisions(factors)
    np.testing.assert_allclose(
        covariance.matrices(precisions, k, d), U @ U.mT, rtol=1e-12, atol=1e-12 / scale**2
    )
    again = covariance.precisions_cholesky_of_precisions(precisions)
    np.testing.assert_allclose(again, factors, rtol=1e-9, atol=1e-10 / scale)
    _, log_determinants = np.linalg.slogdet(matrices)
    np.testing.assert_allclose(
        covariance.log_determinants(factors, k, d), -0.5 * log_determinants, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("covariance_type", TYPES)
def test_factors_and_free_parameters_are_scikit_learns(covariance_type):
    X = np.random.default_rng(0).normal(size=(300, 4)) @ np.diag([1.0, 2.0, 0.1, 30.0])
    reference = GaussianMixture(3, covariance_type=covariance_type, random_state=0, tol=1.0).fit(X)
    covariance = COVARIANCE_TYPES[covariance_type]
    factors = covariance.precisions_cholesky(reference.covariances_)
    np.testing.assert_allclose(factors, reference.precisions_cholesky_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        covariance.precisions(factors), reference.precisions_, rtol=1e-9, atol=1e-12
    )
    free = (reference.aic(X) + 2.0 * reference.score(X) * len(X)) / 2.0
    assert covariance.n_parameters(3, 4) + 3 * 4 + 2 == round(free)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_reorder_moves_the_values_of_a_component(covariance_type):
    rng = np.random.default_rng(1)
    covariance = COVARIANCE_TYPES[covariance_type]
    values = random_covariances(covariance_type, 3, 2, rng)
    order = np.array([2, 0, 1])
    np.testing.assert_array_equal(
        covariance.matrices(covariance.reorder(values, order), 3, 2),
        covariance.matrices(values, 3, 2)[order],
    )


# Errors.


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_the_component_of_a_covariance_that_is_not_finite_is_named(covariance_type, bad):
    covariances = random_covariances(covariance_type, 3, 2, np.random.default_rng(2))
    covariances[2] = bad
    with pytest.raises(IllConditionedError, match=r"component 2 is not finite.*larger reg_covar"):
        COVARIANCE_TYPES[covariance_type].precisions_cholesky(covariances)


def test_the_component_of_a_matrix_that_is_not_definite_is_named():
    covariances = random_covariances("full", 3, 2, np.random.default_rng(3))
    covariances[1] = [[1.0, 1.0], [1.0, 1.0]]
    covariances[2] = 0.0
    with pytest.raises(IllConditionedError, match=r"component 1 is not positive definite.*fewer"):
        COVARIANCE_TYPES["full"].precisions_cholesky(covariances)
    with pytest.raises(IllConditionedError, match="component 0 is not positive definite"):
        COVARIANCE_TYPES["tied"].precisions_cholesky(np.array([[1.0, 2.0], [2.0, 1.0]]))


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
@pytest.mark.parametrize("variance", [0.0, -1.0])
def test_the_component_of_a_variance_that_is_not_positive_is_named(covariance_type, variance):
    variances = random_covariances(covariance_type, 3, 2, np.random.default_rng(4))
    variances[1] = variance
    with pytest.raises(IllConditionedError, match=f"component 1 has a variance of {variance:g}"):
        COVARIANCE_TYPES[covariance_type].precisions_cholesky(variances)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_precisions_init_is_checked(covariance_type):
    covariance = COVARIANCE_TYPES[covariance_type]
    good = random_covariances(covariance_type, 2, 2, np.random.default_rng(5))
    component = 0 if covariance_type == "tied" else 1

    def refuses(change, message):
        bad = good.copy()
        target = bad if covariance_type == "tied" else bad[1:]
        target[...] = change(target)
        with pytest.raises(
            ConfigError, match=f"precisions_init of component {component} {message}"
        ):
            covariance.precisions_cholesky_of_precisions(bad)

    refuses(lambda p: p * np.nan, "is not finite")
    refuses(lambda p: -p, "is not.*positive")
    if covariance_type in ("full", "tied"):
        refuses(lambda p: p + np.eye(2, k=1), "is not symmetric")


# Estimates from responsibilities.


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("dtype", "offset"), [(np.float64, 0.0), (np.float64, 1e9), ("f4", 10.0)])
def test_estimate_is_the_weighted_covariance(covariance_type, dtype, offset):
    rng = np.random.default_rng(6)
    X = (rng.normal(size=(80, 3)) + offset).astype(dtype)
    responsibilities = rng.dirichlet(np.ones(2), size=80) * rng.exponential(size=(80, 1))
    counts = responsibilities.sum(axis=0) + 10 * EPS
    means = responsibilities.T @ X.astype(float) / counts[:, None]
    spec = MixtureSpec(reg_covar=1e-3)
    estimated = COVARIANCE_TYPES[covariance_type].estimate(X, responsibilities, counts, means, spec)
    expected = estimate(covariance_type, X, responsibilities, counts, means, 1e-3)
    np.testing.assert_allclose(estimated, expected, rtol=1e-11, atol=1e-13)


# The M-step.


def statistics_of(parameters, n, rng):
    """The arguments of `update`, from rows near the mixture."""
    k, d = parameters.means.shape
    spread = np.sqrt(np.diagonal(parameters.matrices, axis1=1, axis2=2))  # (k, d)
    component = rng.integers(0, k, n)
    X = parameters.means[component] + 1.3 * spread[component] * rng.normal(size=(n, d))
    statistics = sum_statistics(parameters, X)
    counts = statistics.counts + 10 * EPS
    return counts, statistics.residual_sums / counts[:, None], statistics.residual_products


def update_of(parameters, counts, delta, products, spec):
    """The M-step of a single mixture: Σ', L δ, and which components were kept."""
    arrays = parameters.covariances, parameters.precisions_cholesky, counts, delta, products
    step = parameters.covariance.update(*(array[None] for array in arrays), spec)
    return step.covariances[0], step.shifts[0], step.guarded[0]


@pytest.mark.parametrize("covariance_type", TYPES)
@property_test
@given(size=sizes, seed=seeds, scale=scales, reg_covar=st.sampled_from([0.0, 1e-6, 1e-2]))
def test_update_is_the_oracles(covariance_type, size, seed, scale, reg_covar):
    rng = np.random.default_rng(seed)
    parameters = random_mixture(covariance_type, *size, rng, scale)
    given_statistics = statistics_of(parameters, 400, rng)
    reg_covar *= scale**2
    covariances, shifts, guarded = update_of(
        parameters,
        *given_statistics,
        MixtureSpec(reg_covar=reg_covar),
    )
    expected, expected_shifts = update(parameters, *given_statistics, reg_covar)
    np.testing.assert_allclose(covariances, expected, rtol=1e-9, atol=1e-13 * scale**2)
    np.testing.assert_allclose(shifts, expected_shifts, rtol=1e-9, atol=1e-13 * scale)
    assert guarded.dtype == np.bool_
    assert guarded.shape == (size[0],)
    assert not guarded.any()
    if covariance_type in ("full", "tied"):
        np.testing.assert_array_equal(covariances, covariances.mT)


def moments(covariance_type, counts, means_of_y, covariances_of_y):
    """S of given weights, means (k, d) and covariances (k, d, d) of whitened residuals."""
    outer = means_of_y[:, :, None] * means_of_y[:, None, :]
    return in_form(covariance_type, counts[:, None, None] * (covariances_of_y + outer))


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("distance", "kept"), [(10.0, False), (1e3, True), (1e6, True)])
def test_a_covariance_far_below_the_jump_of_the_mean_is_kept(covariance_type, distance, kept):
    parameters = random_mixture(covariance_type, 3, 2, np.random.default_rng(7))
    counts = np.array([100.0, 50.0, 70.0])
    delta = np.array([[0.1, 0.2], [distance, 0.0], [0.0, -0.1]])
    products = moments(covariance_type, counts, delta, np.array([np.eye(2)] * 3))
    covariances, shifts, guarded = update_of(
        parameters,
        counts,
        delta,
        products,
        MixtureSpec(),
    )
    if covariance_type == "tied":  # a single covariance: all are kept, or none
        assert guarded.tolist() == [kept] * 3
    else:
        assert guarded.tolist() == [False, kept, False]
    expected, expected_shifts = update(parameters, counts, delta, products, 1e-6)
    np.testing.assert_allclose(shifts, expected_shifts, rtol=1e-12, atol=1e-14)
    held = guarded if covariance_type != "tied" else slice(None) if kept else slice(0, 0)
    np.testing.assert_array_equal(covariances[held], parameters.covariances[held])
    if not kept or covariance_type != "tied":
        np.testing.assert_allclose(covariances[0], expected[0], rtol=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_covariance_that_rounding_made_negative_is_kept(covariance_type):
    parameters = random_mixture(covariance_type, 2, 3, np.random.default_rng(7))
    counts = np.array([100.0, 50.0])
    delta = np.array([[1e8, -1e8, 1e8], [0.0, 0.1, 0.0]])
    remainder = np.array([-2.0 * np.eye(3), np.eye(3)])  # about an ulp of 1e16
    products = moments(covariance_type, counts, delta, remainder)
    covariances, _, guarded = update_of(
        parameters,
        counts,
        delta,
        products,
        MixtureSpec(),
    )
    assert guarded.tolist() == [True, covariance_type == "tied"]
    held = slice(None) if covariance_type == "tied" else 0
    np.testing.assert_array_equal(covariances[held], parameters.covariances[held])
    parameters.covariance.precisions_cholesky(covariances)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_start_at_0_with_data_at_1e9_is_exact_at_the_second_step(covariance_type):
    rng = np.random.default_rng(8)
    X = rng.normal(size=(500, 3)) * [1.0, 2.0, 0.5] + 1e9
    parameters = MixtureParameters.from_covariances(
        covariance_type,
        [1.0],
        np.zeros((1, 3)),
        {"full": np.eye(3)[None], "tied": np.eye(3)}.get(
            covariance_type, np.ones((1, 3)) if covariance_type == "diag" else np.ones(1)
        ),
    )
    history = []
    for _ in range(2):
        statistics = sum_statistics(parameters, X)
        counts = statistics.counts + 10 * EPS
        covariances, shifts, guarded = update_of(
            parameters,
            counts,
            statistics.residual_sums / counts[:, None],
            statistics.residual_products,
            MixtureSpec(reg_covar=0.0),
        )
        history.append(guarded.tolist())
        parameters = MixtureParameters.from_covariances(
            covariance_type, [1.0], parameters.means + shifts, covariances
        )
    assert history == [[True], [False]]
    matrix = np.cov(X.T, bias=True)
    expected = in_form(covariance_type, matrix[None]) / (3 if covariance_type == "spherical" else 1)
    np.testing.assert_allclose(covariances, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
def test_scales_that_differ_from_the_start_are_not_a_cancellation(covariance_type):
    """S has entries of 1 and of 1e-12, and nothing is subtracted: it must be used as it is."""
    d = 3
    parameters = MixtureParameters.from_covariances(
        covariance_type,
        [1.0],
        np.zeros((1, d)),
        {"full": np.eye(d)[None], "tied": np.eye(d), "diag": np.ones((1, d))}[covariance_type],
    )
    X = np.random.default_rng(9).normal(size=(400, d)) * [1.0, 1e-3, 1e-6]
    X -= X.mean(axis=0)
    statistics = sum_statistics(parameters, X)
    counts = statistics.counts + 10 * EPS
    covariances, _, guarded = update_of(
        parameters,
        counts,
        statistics.residual_sums / counts[:, None],
        statistics.residual_products,
        MixtureSpec(reg_covar=0.0),
    )
    assert not guarded.any()
    expected = in_form(covariance_type, np.cov(X.T, bias=True)[None])
    np.testing.assert_allclose(covariances, expected, rtol=1e-10, atol=1e-22)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_point_mass_ends_at_the_floor_and_not_at_the_guard(covariance_type):
    parameters = random_mixture(covariance_type, 2, 3, np.random.default_rng(10))
    counts = np.array([5.0, 5.0])
    nothing = np.zeros((2, 3))
    covariances, _, guarded = update_of(
        parameters,
        counts,
        nothing,
        np.zeros(parameters.covariance.shape(2, 3)),
        MixtureSpec(),
    )
    assert not guarded.any()
    np.testing.assert_array_equal(
        parameters.covariance.matrices(covariances, 2, 3), np.array([1e-6 * np.eye(3)] * 2)
    )


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_a_constant_column_gets_the_floor(covariance_type):
    X = np.random.default_rng(11).normal(size=(300, 2))
    X[:, 1] = 3.0
    ones = {"full": np.eye(2)[None], "diag": np.ones((1, 2))}[covariance_type]
    parameters = MixtureParameters.from_covariances(covariance_type, [1.0], [[0.3, 3.0]], ones)
    statistics = sum_statistics(parameters, X)
    counts = statistics.counts + 10 * EPS
    arguments = (
        parameters,
        counts,
        statistics.residual_sums / counts[:, None],
        statistics.residual_products,
    )
    covariances, _, guarded = update_of(*arguments, MixtureSpec())
    assert not guarded.any()
    matrix = parameters.covariance.matrices(covariances, 1, 2)[0]
    expected = np.diag([X[:, 0].var() + 1e-6, 1e-6])
    np.testing.assert_allclose(matrix, expected, rtol=1e-12, atol=1e-20)
    covariances, _, guarded = update_of(*arguments, MixtureSpec(reg_covar=0.0))
    assert not guarded.any()  # the data are the cause: the error says so, and names the component
    with pytest.raises(IllConditionedError, match="component 0"):
        parameters.covariance.precisions_cholesky(covariances)


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_a_component_without_weight_keeps_its_covariance(covariance_type):
    parameters = random_mixture(covariance_type, 2, 3, np.random.default_rng(12))
    counts, delta, products = statistics_of(parameters, 100, np.random.default_rng(13))
    counts[1], delta[1], products[1] = 10 * EPS, 0.0, 0.0
    covariances, shifts, guarded = update_of(
        parameters,
        counts,
        delta,
        products,
        MixtureSpec(),
    )
    np.testing.assert_array_equal(covariances[1], parameters.covariances[1])
    assert not shifts[1].any()
    assert not guarded.any()


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
@pytest.mark.parametrize("jump", [0.1, 1e4])
def test_the_compiled_update_is_that_of_numpy(covariance_type, jump, monkeypatch):
    """Both are there because one is faster for small matrices, the other for large ones."""
    rng = np.random.default_rng(3)
    mixtures = [random_mixture(covariance_type, 3, 7, rng) for _ in range(2)]
    counts = np.stack([[100.0, 50.0, 10 * EPS], [20.0, 30.0, 40.0]])
    deltas = 0.1 * rng.normal(size=(2, 3, 7))
    deltas[0, 1, 2] = jump
    products = np.stack(
        [
            moments(covariance_type, row, delta, np.array([np.eye(7)] * 3))
            for row, delta in zip(counts, deltas, strict=True)
        ]
    )

    def run():
        return mixtures[0].covariance.update(
            np.stack([mixture.covariances for mixture in mixtures]),
            np.stack([mixture.precisions_cholesky for mixture in mixtures]),
            counts,
            deltas,
            products,
            MixtureSpec(),
        )

    compiled = run()
    monkeypatch.setattr(f"gmm_dask.mixture.covariance.{covariance_type}.COMPILED_FEATURES", 0)
    plain = run()
    assert compiled.guarded.any() == (jump > 1.0)
    assert compiled.definite.all()
    for name in ("guarded", "definite"):
        np.testing.assert_array_equal(getattr(compiled, name), getattr(plain, name))
    for name in ("covariances", "precisions_cholesky", "shifts"):
        values, expected = getattr(compiled, name), getattr(plain, name)
        np.testing.assert_allclose(values, expected, rtol=1e-11, atol=1e-11)
