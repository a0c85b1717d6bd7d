"""Laws that hold for any data: merging, chunks, order, translation, weights, ascent, the guard."""

from dataclasses import replace
from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gmm_dask.errors import IllConditionedError, NumericalError
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.em import (
    Candidate,
    EMState,
    Iteration,
    Status,
    em_steps,
    fit_em,
)
from gmm_dask.mixture.initialization import wide_start
from gmm_dask.mixture.maximization import maximize, maximize_each
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.statistics import SufficientStatistics, empty_statistics, sum_statistics

TYPES = list(COVARIANCE_TYPES)
ARRAYS = ("counts", "residual_sums", "residual_products")
NUMBERS = ("rows", "weight", "log_likelihood")
law = settings(max_examples=30, derandomize=True)
# Around the kernels' tiles of rows, where an off-by-one would be.
row_counts = st.sampled_from([1, 2, 127, 128, 129, 256, 257, 385]) | st.integers(1, 700)
covariance_types = st.sampled_from(TYPES)
seeds = st.integers(0, 2**32 - 1)


def in_memory(X, sample_weight=None):
    return lambda candidates: [sum_statistics(p, X, sample_weight) for p in candidates]


def covariances_of(covariance_type, matrices):
    return {
        "full": matrices,
        "tied": matrices[0],
        "diag": np.diagonal(matrices, axis1=1, axis2=2).copy(),
        "spherical": matrices[:, 0, 0].copy(),
    }[covariance_type]


@st.composite
def mixtures(draw, most_components=5, most_features=5):
    """A mixture whose components overlap, well conditioned."""
    covariance_type, k = draw(covariance_types), draw(st.integers(1, most_components))
    d = draw(st.integers(1, most_features))
    rng = np.random.default_rng(draw(seeds))
    factors = rng.normal(size=(k, d, d)) / np.sqrt(d)
    matrices = factors @ factors.mT + 0.5 * np.eye(d)
    return MixtureParameters.from_covariances(
        covariance_type,
        rng.dirichlet(np.full(k, 5.0)),
        2.0 * rng.normal(size=(k, d)),
        covariances_of(covariance_type, matrices),
    )


def rows_near(parameters, n, seed):
    """Rows (n, d) among and around the components."""
    return 2.5 * np.random.default_rng(seed).normal(size=(n, parameters.n_features))


def assert_bitwise(left, right):
    for name in ARRAYS + NUMBERS:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
    assert left.parameters_digest == right.parameters_digest


def assert_close(left, right, tolerance=1e-12):
    """Equal to ``tolerance`` of the size of the terms: F cancels, and its sum may be near 0."""
    assert left.rows == right.rows
    size = {
        "counts": left.weight,
        "residual_sums": np.sqrt(left.weight * np.abs(left.residual_products).max() + 1e-300),
        "residual_products": np.abs(left.residual_products).max(),
        "weight": left.weight,
        "log_likelihood": abs(left.log_likelihood) + left.weight,
    }
    for name, scale in size.items():
        np.testing.assert_allclose(
            getattr(left, name), getattr(right, name), rtol=0, atol=tolerance * scale, err_msg=name
        )


def split(draw, n):
    """Edges of ragged chunks of n rows, empty ones among them."""
    return [0, *sorted(draw(st.lists(st.integers(0, n), max_size=8))), n]


# Merging is a monoid.


@st.composite
def dyadic_statistics(draw, how_many):
    """Statistics of small dyadic numbers, whose sums are exact."""
    parameters = draw(mixtures())
    k, d = parameters.means.shape
    rng = np.random.default_rng(draw(seeds))

    def numbers(shape):
        return rng.integers(-(2**20), 2**20, shape) / 2.0**10

    shape = parameters.covariance.shape(k, d)
    return parameters, [
        SufficientStatistics(
            numbers(k), numbers((k, d)), numbers(shape), int(rng.integers(0, 99)),
            float(numbers(())), float(numbers(())), parameters.digest,
        )
        for _ in range(how_many)
    ]  # fmt: skip


@law
@given(dyadic_statistics(3))
def test_merging_is_a_commutative_monoid_bitwise_on_dyadic_numbers(given_statistics):
    parameters, (a, b, c) = given_statistics
    assert_bitwise((a + b) + c, a + (b + c))
    assert_bitwise(a + b, b + a)
    assert_bitwise(a + empty_statistics(parameters), a)
    assert_bitwise(empty_statistics(parameters) + a, a)
    for name in ARRAYS + NUMBERS:  # and it is the sum, of every part
        np.testing.assert_array_equal(getattr(a + b, name), getattr(a, name) + getattr(b, name))


@law
@given(mixtures(), mixtures())
def test_statistics_of_different_mixtures_do_not_merge(parameters, other):
    statistics = sum_statistics(parameters, rows_near(parameters, 5, 0))
    if parameters.digest == other.digest:
        statistics + empty_statistics(other)
        return
    with pytest.raises(NumericalError, match="different parameters cannot be added"):
        statistics + empty_statistics(other)
    with pytest.raises(NumericalError, match="belong to other parameters"):
        maximize(other, statistics, MixtureSpec(reg_covar=0.0))


@st.composite
def chunked_rows(draw):
    parameters = draw(mixtures())
    n = draw(row_counts)
    weights = draw(st.booleans())
    X = rows_near(parameters, n, draw(seeds))
    w = np.random.default_rng(n).exponential(size=n) if weights else None
    return parameters, X, w, split(draw, n)


@law
@given(chunked_rows())
def test_any_chunking_gives_the_same_statistics(given_rows):
    parameters, X, w, edges = given_rows
    parts = [
        sum_statistics(parameters, X[a:b], None if w is None else w[a:b])
        for a, b in pairwise(edges)
    ]
    whole = sum_statistics(parameters, X, w)
    assert_close(reduce(add, parts), whole)
    assert_close(reduce(add, reversed(parts), empty_statistics(parameters)), whole)


@law
@given(covariance_types, st.integers(1, 4), seeds, st.data())
def test_any_chunking_is_bitwise_on_dyadic_rows(covariance_type, d, seed, data):
    # Two components, each the unit Gaussian, so far apart that a row belongs to one alone.
    matrices = np.broadcast_to(np.eye(d), (2, d, d)).copy()
    means = np.vstack([np.zeros(d), np.full(d, 512.0)])
    parameters = MixtureParameters.from_covariances(
        covariance_type, [0.5, 0.5], means, covariances_of(covariance_type, matrices)
    )
    rng = np.random.default_rng(seed)
    n = data.draw(row_counts)
    X = rng.integers(-(2**10), 2**10, (n, d)) / 2.0**8 + means[rng.integers(0, 2, n)]
    parts = [sum_statistics(parameters, X[a:b]) for a, b in pairwise(split(data.draw, n))]
    merged, whole = reduce(add, parts), sum_statistics(parameters, X)
    for name in (*ARRAYS, "rows", "weight"):  # the log-likelihood has log 2π in it
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name), err_msg=name)
    assert whole.counts.sum() == n


# Order does not matter.


@law
@given(mixtures(), st.integers(1, 500), seeds)
def test_the_order_of_rows_does_not_matter(parameters, n, seed):
    X = rows_near(parameters, n, seed)
    w = np.random.default_rng(seed).exponential(size=n)
    order = np.random.default_rng(seed + 1).permutation(n)
    assert_close(sum_statistics(parameters, X[order], w[order]), sum_statistics(parameters, X, w))


@law
@given(mixtures(), st.integers(1, 300), seeds)
def test_the_order_of_components_does_not_matter(parameters, n, seed):
    X = rows_near(parameters, n, seed)
    order = np.random.default_rng(seed).permutation(parameters.n_components)
    reordered = sum_statistics(parameters.reordered(order), X)
    plain = sum_statistics(parameters, X)
    expected = SufficientStatistics(
        plain.counts[order],
        plain.residual_sums[order],
        parameters.covariance.reorder(plain.residual_products, order),
        plain.rows,
        plain.weight,
        plain.log_likelihood,
        reordered.parameters_digest,
    )
    assert_close(reordered, expected)


# Far from the origin, no digits are lost.


def on_grid(values):
    return np.round(values * 2.0**20) / 2.0**20


@law
@given(mixtures(), st.integers(30, 300), seeds)
def test_translation_by_2_to_the_30_changes_no_bit_of_a_step_but_the_means(parameters, n, seed):
    offset = 2.0**30
    near_start = MixtureParameters.from_covariances(
        parameters.covariance_type,
        parameters.weights,
        on_grid(parameters.means),
        parameters.covariances,
    )
    far_start = MixtureParameters.from_covariances(
        parameters.covariance_type,
        near_start.weights,
        near_start.means + offset,
        near_start.covariances,
    )
    X = on_grid(rows_near(parameters, n, seed))
    near, far = sum_statistics(near_start, X), sum_statistics(far_start, X + offset)
    for name in ARRAYS + NUMBERS:
        np.testing.assert_array_equal(getattr(near, name), getattr(far, name), err_msg=name)
    near_step, near_guarded, near_moved, _ = maximize(near_start, near, MixtureSpec(reg_covar=1e-9))
    far_step, far_guarded, far_moved, _ = maximize(far_start, far, MixtureSpec(reg_covar=1e-9))
    np.testing.assert_array_equal(near_step.weights, far_step.weights)
    np.testing.assert_array_equal(near_step.covariances, far_step.covariances)
    assert np.abs(far_step.means - offset - near_step.means).max() <= 2.0**-23  # half an ulp
    assert (near_guarded, near_moved) == (far_guarded, far_moved)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_whole_fit_far_away_is_the_fit_near_by(covariance_type):
    rng = np.random.default_rng(0)
    X = on_grid(rng.normal(size=(600, 2)) + rng.integers(0, 2, 600)[:, None] * 4.0)
    matrices = np.array([np.eye(2), 2.0 * np.eye(2)])
    fits = []
    for offset in (0.0, 2.0**30):
        start = MixtureParameters.from_covariances(
            covariance_type, [0.4, 0.6], np.array([[1.0, 0.0], [2.0, 3.0]]) + offset,
            covariances_of(covariance_type, matrices),
        )  # fmt: skip
        (fitted,) = fit_em(
            in_memory(X + offset), [start], MixtureSpec(reg_covar=0.0), EMOptions(1e-9, 500)
        )
        assert fitted.status is Status.CONVERGED
        fits.append(fitted)
    near, far = (fitted.parameters for fitted in fits)
    np.testing.assert_allclose(far.means - 2.0**30, near.means, atol=1e-6)
    np.testing.assert_allclose(far.covariances, near.covariances, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(far.weights, near.weights, atol=1e-6)
    assert fits[1].lower_bounds[-1] == pytest.approx(fits[0].lower_bounds[-1], abs=1e-8)


# A weight is a number of copies.


@law
@given(mixtures(most_components=3, most_features=3), st.integers(20, 200), seeds)
def test_a_row_of_weight_w_is_w_copies_of_it(parameters, n, seed):
    X = rows_near(parameters, n, seed)
    copies = np.random.default_rng(seed).integers(0, 4, n)
    repeated = np.repeat(X, copies, axis=0)
    weighted = sum_statistics(parameters, X, copies.astype(float))
    plain = sum_statistics(parameters, repeated)
    assert weighted.weight == plain.weight == len(repeated)
    assert weighted.rows == n
    as_rows = {name: getattr(weighted, name) for name in (*ARRAYS, "weight", "log_likelihood")}
    assert_close(
        SufficientStatistics(**as_rows, rows=plain.rows, parameters_digest=parameters.digest), plain
    )
    spec, options = MixtureSpec(), EMOptions(1e-4, 6)
    (by_weight,) = fit_em(in_memory(X, copies.astype(float)), [parameters], spec, options)
    (by_copies,) = fit_em(in_memory(repeated), [parameters], spec, options)
    assert by_weight.status is by_copies.status
    np.testing.assert_allclose(by_weight.lower_bounds, by_copies.lower_bounds, rtol=1e-9)
    np.testing.assert_allclose(by_weight.parameters.means, by_copies.parameters.means, atol=1e-8)


@law
@given(mixtures(), st.integers(1, 200), seeds, st.sampled_from([0.5, 3.0, 2.0**40, 2.0**-40]))
def test_the_unit_of_weights_does_not_matter(parameters, n, seed, unit):
    X = rows_near(parameters, n, seed)
    w = np.random.default_rng(seed).exponential(size=n)
    plain, scaled = sum_statistics(parameters, X, w), sum_statistics(parameters, X, w * unit)
    assert scaled.mean_log_likelihood == pytest.approx(plain.mean_log_likelihood, rel=1e-12)
    np.testing.assert_allclose(scaled.counts, plain.counts * unit, rtol=1e-12)


# The likelihood never falls.


@law
@given(mixtures(), st.integers(60, 400), seeds)
def test_the_likelihood_never_falls_without_regularisation(parameters, n, seed):
    X = rows_near(parameters, n, seed) + np.random.default_rng(seed).integers(0, 2, n)[:, None] * 3
    (fitted,) = fit_em(in_memory(X), [parameters], MixtureSpec(reg_covar=0.0), EMOptions(0.0, 25))
    bounds = np.array(fitted.lower_bounds)
    assert len(bounds) > 1
    assert np.diff(bounds).min() >= -1e-12 * np.abs(bounds).max()


# The guard: a start so far from the rows that the covariance would be nothing but rounding errors.


def groups_exactly(X, groups, covariance_type):
    """Weights, means and covariance matrices of given groups of rows, in two passes."""
    k, d = groups.max() + 1, X.shape[1]
    means, matrices, counts = np.empty((k, d)), np.empty((k, d, d)), np.bincount(groups)
    for j in range(k):
        rows = X[groups == j] - X[groups == j][0]
        means[j] = rows.mean(axis=0) + X[groups == j][0]
        matrices[j] = np.cov(rows.T, bias=True).reshape(d, d)
    if covariance_type == "tied":
        matrices[:] = np.einsum("k,kij->ij", counts / len(X), matrices)
    elif covariance_type == "diag":
        matrices *= np.eye(d)
    elif covariance_type == "spherical":
        matrices = np.eye(d) * np.trace(matrices, axis1=1, axis2=2)[:, None, None] / d
    return counts / len(X), means, matrices


@pytest.mark.parametrize("distance", [10.0, 1e3, 1e9, 1e12])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_start_at_zero_finds_data_far_away_exactly(covariance_type, distance):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0.9], [0, 0, 0.3]]) + distance
    start = MixtureParameters.from_covariances(
        covariance_type, [1.0], np.zeros((1, 3)), covariances_of(covariance_type, np.eye(3)[None])
    )
    (fitted,) = fit_em(in_memory(X), [start], MixtureSpec(reg_covar=0.0), EMOptions(1e-9, 20))
    _, means, matrices = groups_exactly(X, np.zeros(500, dtype=int), covariance_type)
    assert fitted.status is Status.CONVERGED
    # δ is exact only to the rounding of the mean itself, an ulp of the distance.
    ulp = float(np.spacing(distance))
    np.testing.assert_allclose(fitted.parameters.means, means, rtol=0, atol=2 * ulp)
    np.testing.assert_allclose(
        fitted.parameters.matrices, matrices, rtol=1e-9, atol=1e-9 + 40 * ulp**2
    )
    guarded = [bool(iteration.guarded) for iteration in fitted.history]
    assert guarded[0] == (distance > 100.0)
    assert not guarded[-1]
    assert fitted.parameters.weights.tolist() == [1.0]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_two_clusters_far_away_from_starts_at_zero(covariance_type):
    rng = np.random.default_rng(1)
    groups = np.arange(600) % 3 // 2  # two thirds and one third
    X = rng.normal(size=(600, 2)) * 0.5 + np.array([[1e9, 1e9], [1e9 + 40.0, 1e9 - 40.0]])[groups]
    start = MixtureParameters.from_covariances(
        covariance_type, [0.5, 0.5], np.array([[0.0, 1.0], [1.0, 0.0]]),
        covariances_of(covariance_type, 1e16 * np.array([np.eye(2), np.eye(2)])),
    )  # fmt: skip
    (fitted,) = fit_em(in_memory(X), [start], MixtureSpec(reg_covar=0.0), EMOptions(1e-10, 300))
    assert fitted.status is Status.CONVERGED
    assert np.isfinite(fitted.lower_bounds).all()
    assert np.diff(fitted.lower_bounds).min() >= -1e-9
    assert any(iteration.guarded for iteration in fitted.history)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_guarded_iteration_never_satisfies_tol(covariance_type):
    X = np.random.default_rng(0).normal(size=(200, 2)) + 1e9
    start = MixtureParameters.from_covariances(
        covariance_type, [1.0], np.zeros((1, 2)), covariances_of(covariance_type, np.eye(2)[None])
    )
    before = Iteration(0.0, start.weights, start.means, (), 0.0)
    candidate = Candidate(start, history=(before,))
    spec, options = MixtureSpec(reg_covar=0.0), EMOptions(np.inf, 20)
    guarded, exact = (
        state.candidates[0]
        for state in em_steps(in_memory(X), EMState((candidate,)), spec, options)
    )
    assert guarded.history[-1].guarded == (0,)
    assert guarded.status is Status.RUNNING
    np.testing.assert_array_equal(guarded.parameters.covariances, start.covariances)
    assert exact.history[-1].guarded == ()
    assert exact.status is Status.CONVERGED


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_point_mass_far_away_is_a_collapse_onto_it_and_nothing_else(covariance_type):
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(900, 2)), np.full((100, 2), 1e6)])
    start = MixtureParameters.from_covariances(
        covariance_type, [0.5, 0.5], np.array([[0.0, 0.0], [7e5, 6e5]]),
        covariances_of(covariance_type, np.array([np.eye(2), np.eye(2)])),
    )  # fmt: skip
    (fitted,) = fit_em(in_memory(X), [start], MixtureSpec(), EMOptions(1e-9, 50))
    groups = np.repeat([0, 1], [900, 100])
    weights, means, matrices = groups_exactly(X, groups, covariance_type)
    assert fitted.status is Status.CONVERGED
    np.testing.assert_allclose(fitted.parameters.weights, weights, rtol=1e-12)
    np.testing.assert_allclose(fitted.parameters.means, means, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        fitted.parameters.matrices, matrices + 1e-6 * np.eye(2), rtol=1e-6, atol=1e-12
    )


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_the_component_of_a_point_mass_without_regularisation_is_named(covariance_type):
    X = np.vstack([np.random.default_rng(0).normal(size=(900, 2)), np.full((100, 2), 1e6)])
    start = MixtureParameters.from_covariances(
        covariance_type, [0.5, 0.5], np.array([[0.0, 0.0], [7e5, 6e5]]),
        covariances_of(covariance_type, np.array([np.eye(2), np.eye(2)])),
    )  # fmt: skip
    (fitted,) = fit_em(in_memory(X), [start], MixtureSpec(reg_covar=0.0), EMOptions(1e-9, 50))
    assert fitted.status is Status.ILL_CONDITIONED
    assert "component 1" in fitted.problem
    assert "reg_covar" in fitted.problem


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_batch_ends_with_the_bits_of_each_candidate_alone(covariance_type):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 3)) + rng.integers(0, 3, size=(500, 1)) * 2.0
    starts = []
    for number in range(5):
        means = X[rng.choice(500, 4, replace=False)]
        matrices = np.array([np.eye(3) * (0.5 + number)] * 4)
        covariances = covariances_of(covariance_type, matrices)
        starts.append(
            MixtureParameters.from_covariances(
                covariance_type, np.full(4, 0.25), means, covariances
            )
        )
    # The third breaks down, and its message names the component by its index in that mixture.
    broken = MixtureParameters.from_covariances(
        covariance_type, np.full(4, 0.25), np.full((4, 3), 1e170),
        covariances_of(covariance_type, np.array([np.eye(3) * 1e-12] * 4)),
    )  # fmt: skip
    starts.insert(2, broken)
    spec, options = MixtureSpec(), EMOptions(1e-4, 30)
    together = fit_em(in_memory(X), starts, spec, options)
    assert len({candidate.n_iter for candidate in together}) > 1
    for start, candidate in zip(starts, together, strict=True):
        (alone,) = fit_em(in_memory(X), [start], spec, options)
        assert candidate.parameters.digest == alone.parameters.digest
        assert (candidate.status, candidate.problem) == (alone.status, alone.problem)
        assert candidate.lower_bounds == alone.lower_bounds


@pytest.mark.parametrize("covariance_type", TYPES)
def test_m_steps_together_have_the_bits_of_each_alone(covariance_type):
    """One of them breaks down, another has the wrong statistics, and the others go on."""
    X = np.random.default_rng(0).normal(size=(400, 9)) * [*range(1, 10)]
    spec = MixtureSpec(1, covariance_type, reg_covar=0.0)
    batch = [wide_start(X, spec, np.random.RandomState(seed)) for seed in range(4)]
    sums = [sum_statistics(parameters, X) for parameters in batch]
    sums[1] = sum_statistics(batch[1], np.repeat(batch[1].means, 5, axis=0))  # so that Σ' = 0
    sums[2] = sums[3]
    together = maximize_each(batch, sums, spec)
    assert isinstance(together[1], IllConditionedError)
    assert "other parameters" in str(together[2])
    for index in (0, 3):
        alone = maximize(batch[index], sums[index], spec)
        assert alone.parameters.digest == together[index].parameters.digest
        assert alone[1:] == together[index][1:]
        again = replace(alone.parameters)  # without the constants that were computed on the way
        constants = together[index].parameters.log_constants
        np.testing.assert_array_equal(again.log_constants, constants)


@law
@given(parameters=mixtures(), seed=seeds, weighted=st.booleans())
def test_the_gain_of_an_m_step_is_that_of_the_expected_log_likelihood(parameters, seed, weighted):
    X = rows_near(parameters, 300, seed)
    weight = np.random.default_rng(seed).uniform(0.1, 3.0, 300) if weighted else np.ones(300)
    statistics = sum_statistics(parameters, X, weight if weighted else None)
    after, guarded, _, expected_gain = maximize(parameters, statistics, MixtureSpec(reg_covar=0.0))
    assume(not guarded)
    shares = assign(parameters, X, responsibilities=True).responsibilities * weight[:, None]

    def expected(mixture):
        whitened = np.linalg.cholesky(np.linalg.inv(mixture.matrices)).mT
        residuals = np.einsum("kij,nkj->nki", whitened, X[:, None] - mixture.means)
        joint = mixture.log_constants - 0.5 * np.square(residuals).sum(axis=2)  # (n, k)
        return (shares * joint).sum() / weight.sum()

    gain = expected(after) - expected(parameters)
    assert expected_gain == pytest.approx(gain, abs=1e-9)
    assert gain >= -1e-12
