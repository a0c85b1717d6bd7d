"""The search on a small sample: its compiled EM against the other one, its starts and its moves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.sets import iris, old_faithful
from gmm_dask import GaussianMixture
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.criteria import health
from gmm_dask.mixture.em import fit_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.initialization import start_from_responsibilities
from gmm_dask.mixture.kernels.climb import BROKEN, CONVERGED, STOPPED
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.search import is_small, search
from gmm_dask.mixture.small_search.climbers import SmallSample
from gmm_dask.mixture.small_search.moves import make_moves
from gmm_dask.mixture.small_search.rounds import FINALISTS, climb_rounds
from gmm_dask.mixture.small_search.seeds import climb_starts
from gmm_dask.mixture.spec import EMOptions, MixtureSpec, Start

TYPES = tuple(COVARIANCE_TYPES)
property_test = settings(max_examples=40, derandomize=True)
shapes = st.tuples(st.integers(12, 300), st.integers(1, 9), st.integers(1, 4))
seeds = st.integers(0, 2**32 - 1)


def draw(m, d, k, seed, offset=0.0):
    """Rows of k clusters, random responsibilities (m, k), and weights."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(m, d)) + 4.0 * random.integers(0, k, size=(m, 1)) + offset
    responsibilities = random.dirichlet(np.full(k, 0.3), size=m)
    return X, responsibilities, random.uniform(0.1, 3.0, size=m)


@pytest.mark.parametrize("covariance_type", TYPES)
@property_test
@given(shape=shapes, seed=seeds, iterations=st.integers(1, 12), weighted=st.booleans())
def test_a_climb_takes_the_steps_of_em(covariance_type, shape, seed, iterations, weighted):
    m, d, k = shape
    X, responsibilities, weights = draw(m, d, k, seed)
    weights = weights / weights.mean() if weighted else np.ones(m)
    spec, options = MixtureSpec(k, covariance_type, reg_covar=1e-3), EMOptions(0.0, iterations)
    start = start_from_responsibilities(X, responsibilities * weights[:, None], spec)
    (candidate,) = fit_em(ExpectationOn(X, weights), [start], spec, options)
    sample = SmallSample(Sample(X, weights if weighted else None), spec)
    shares = sample.in_tiles((responsibilities * weights[:, None]).T[None])
    climbers = sample.start_from(shares, options)
    parameters = sample.parameters(climbers, 0)
    scale = np.abs(candidate.parameters.covariances).max()
    assert climbers.log_likelihoods[0] == pytest.approx(candidate.log_likelihood, rel=1e-9)
    np.testing.assert_allclose(parameters.weights, candidate.parameters.weights, atol=1e-8)
    np.testing.assert_allclose(parameters.means, candidate.parameters.means, atol=1e-6)
    np.testing.assert_allclose(
        parameters.covariances, candidate.parameters.covariances, atol=1e-6 * scale
    )
    np.testing.assert_allclose(climbers.counts[0], candidate.counts, atol=1e-7 * m)
    assert sample.iterations == iterations


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_climb_goes_on_where_it_stopped(covariance_type):
    X, responsibilities, _ = draw(150, 3, 3, 0)
    spec = MixtureSpec(3, covariance_type)

    def climb_in_parts(*parts):
        sample = SmallSample(Sample(X, None), spec)
        climbers = sample.start_from(sample.in_tiles(responsibilities.T[None]), parts[0])
        for options in parts[1:]:
            climbers = sample.climb(climbers, options)
        return climbers

    whole = climb_in_parts(EMOptions(0.0, 9))
    parts = climb_in_parts(EMOptions(0.0, 4), EMOptions(0.0, 5))
    np.testing.assert_array_equal(whole.means, parts.means)
    np.testing.assert_array_equal(whole.covariances, parts.covariances)


def test_a_climb_says_how_it_ended():
    X, responsibilities, _ = draw(150, 3, 3, 0)
    X[:, 2] = 7.0
    for reg_covar, options, ending in (
        (1e-6, EMOptions(1e-3, 500), CONVERGED),
        (1e-6, EMOptions(0.0, 2), STOPPED),
        (0.0, EMOptions(1e-3, 500), BROKEN),
    ):
        for covariance_type in TYPES if ending != BROKEN else ("full", "tied", "diag"):
            sample = SmallSample(Sample(X, None), MixtureSpec(3, covariance_type, reg_covar))
            shares = sample.in_tiles(responsibilities.T[None])
            climbers = sample.start_from(shares, options)
            assert climbers.outcomes[0, 3] == ending
            assert climbers.broken[0] == (ending == BROKEN)
            assert climbers.outcomes[0, 4] == (0 if ending == BROKEN else -1)
            assert (climbers.log_likelihoods[0] == -np.inf) == (ending == BROKEN)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_component_without_rows_is_no_breakdown(covariance_type):
    X, _, _ = draw(150, 2, 1, 0)
    sample = SmallSample(Sample(X, None), MixtureSpec(2, covariance_type))
    responsibilities = np.stack([np.ones(150), np.zeros(150)])[None]
    climbers = sample.start_from(sample.in_tiles(responsibilities), EMOptions(0.0, 5))
    assert climbers.outcomes[0, 3] == STOPPED
    assert np.isfinite(climbers.covariances).all()
    assert np.isfinite(climbers.means).all()
    assert climbers.weights[0, 1] < 1e-12
    single = GaussianMixture(1, covariance_type=covariance_type).fit(X)
    assert climbers.log_likelihoods[0] == pytest.approx(single.score(X), rel=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_mixtures_are_ranked_as_in_every_search(covariance_type):
    """Some of these mixtures sit on a repeated value, some starve."""
    X, _, _ = draw(60, 2, 3, 1)
    X[:12] = 5.0
    spec = MixtureSpec(4, covariance_type)
    sample = SmallSample(Sample(X, None), spec)
    climbers, _ = climb_starts(sample, 24, EMOptions(0.0, 30), np.random.RandomState(0))
    defects = sample.count_defects(climbers)
    assert covariance_type == "tied" or len(set(defects.tolist())) > 1
    for index, judged in enumerate(defects):
        parameters = sample.parameters(climbers, index)
        counts = climbers.counts[index]
        assert judged == health(parameters, counts, X.var(axis=0), spec.reg_covar).defects
    order = sample.rank(climbers)
    keys = [(defects[index], -climbers.log_likelihoods[index]) for index in order]
    assert keys == sorted(keys)


def test_starts_of_every_kind_are_different_and_seeded():
    sample = SmallSample(Sample(iris(), None), MixtureSpec(3))
    climbers, kinds = climb_starts(sample, 12, EMOptions(0.0, 2), np.random.RandomState(0))
    again, _ = climb_starts(sample, 12, EMOptions(0.0, 2), np.random.RandomState(0))
    np.testing.assert_array_equal(climbers.means, again.means)
    assert np.bincount(kinds).tolist() == [4, 4, 4]
    assert len(np.unique(np.round(climbers.log_likelihoods, 6))) > 6


@pytest.mark.parametrize("method", ["k-means++", "random", "random_from_data"])
def test_the_method_asked_for_makes_all_starts(method):
    spec = MixtureSpec(3, start=Start(init_params=method))
    sample = SmallSample(Sample(iris(), None), spec)
    climbers, kinds = climb_starts(sample, 5, EMOptions(0.0, 1), np.random.RandomState(0))
    assert not kinds.any()
    assert len(np.unique(climbers.log_likelihoods)) > 1


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_move_keeps_the_weight_of_every_row(covariance_type):
    sample = SmallSample(
        Sample(iris(), np.random.default_rng(0).uniform(0.1, 2, 150)),
        MixtureSpec(4, covariance_type),
    )
    climbers, _ = climb_starts(sample, 3, EMOptions(0.0, 20), np.random.RandomState(0))
    moves, mixtures = make_moves(sample, climbers)
    assert mixtures.tolist() == [0] * 18 + [1] * 18 + [2] * 18
    assert len(moves) == 3 * 3 * 3 * 2  # mixtures, components given up, those cut, cuts
    assert moves.min() >= -1e-12
    sums = moves.sum(axis=2)  # (moves, t, ROWS)
    np.testing.assert_allclose(
        sums, np.broadcast_to(sample.tile_weights, sums.shape), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("covariance_type", TYPES)
def test_moves_find_the_cluster_that_every_start_missed(covariance_type):
    """Two components share one cluster while another has to cover two."""
    random = np.random.default_rng(1)
    truth = np.repeat(np.arange(3), 60)
    X = np.array([[0.0, 0.0], [30.0, 0.0], [30.0, 12.0]])[truth] + random.normal(size=(180, 2))
    wrong = np.where(truth == 0, X[:, 0] > 0, 2)
    sample = SmallSample(Sample(X, None), MixtureSpec(3, covariance_type))

    def climb_from_labels(labels):
        one_hot = (labels[None, None] == np.arange(3)[None, :, None]).astype(float)
        return sample.start_from(sample.in_tiles(one_hot), EMOptions(1e-6, 200))

    stuck, right = climb_from_labels(wrong), climb_from_labels(truth)
    assert right.log_likelihoods[0] > stuck.log_likelihoods[0] + 0.1
    moves, mixtures = make_moves(sample, stuck)
    moved = sample.climb_from(moves, EMOptions(1e-6, 200), stuck.firsts[mixtures])
    assert moved.log_likelihoods.max() == pytest.approx(right.log_likelihoods[0], abs=1e-3)


def test_the_outcome_is_the_same_wherever_the_rows_lie():
    found = [
        search(
            Sample(old_faithful() + offset, None),
            MixtureSpec(3),
            EMOptions(),
            random_state=0,
            keep=1,
            threads=1,
        )
        for offset in (0.0, 1e7)
    ]
    (near,), _ = found[0]
    (far,), _ = found[1]
    np.testing.assert_allclose(far.means - 1e7, near.means, atol=1e-4)


def test_as_many_mixtures_as_wanted_come_best_first():
    sample = SmallSample(Sample(iris(), None), MixtureSpec(3))
    for keep in (1, FINALISTS + 3):
        climbers, failed = climb_rounds(sample, 0, keep)
        assert len(climbers) >= keep
        assert failed == 0
    mixtures, summary = search(
        Sample(iris(), None), MixtureSpec(3), EMOptions(), random_state=0, keep=7, threads=1
    )
    assert len(mixtures) == 7
    assert list(summary.log_likelihoods) == sorted(summary.log_likelihoods, reverse=True)


def test_every_start_breaks_down_where_a_column_is_constant():
    X = iris().copy()
    X[:, 1] = 7.0
    with pytest.raises(
        NumericalError,
        match=r"every start .* broke down: the covariance of component \d is",
    ):
        search(
            Sample(X, None),
            MixtureSpec(3, reg_covar=0.0),
            EMOptions(),
            random_state=0,
            keep=1,
            threads=1,
        )


def test_large_samples_are_not_small():
    assert is_small(2_000, 4, 5)
    assert not is_small(2_001, 4, 5)
    assert not is_small(100, 2, 11)
    assert not is_small(1_000, 40, 3)


def test_more_inits_end_no_lower():
    reached = [
        GaussianMixture(4, random_state=3, n_init=n_init).fit(iris()).score(iris())
        for n_init in (1, 10)
    ]
    assert reached[1] >= reached[0] - 1e-9


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_mixture_knows_the_start_from_which_it_came(covariance_type):
    """EM from there, without moves, comes to a mixture of the same components or a lower one."""
    X, spec = iris(), MixtureSpec(3, covariance_type)
    (mixture,), summary = search(
        Sample(X, None), spec, EMOptions(), random_state=0, keep=1, threads=1
    )
    (first,) = summary.firsts
    assert first.covariance_type == covariance_type
    assert np.abs(first.means - mixture.means).max() > 1e-3
    again = fit_em(ExpectationOn(X, None), [first], spec, EMOptions(1e-6, 500))[0]
    assert again.lower_bounds[0] < summary.log_likelihoods[0]
    assert again.log_likelihood <= summary.log_likelihoods[0] + 1e-4
