"""Starts from neighbouring mixtures: splits, merges, other covariance types."""

import numpy as np
import pytest
from hypothesis import given

from gmm_dask.mixture.cell_search import challenge, challengers
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.initialization import initial_parameters
from gmm_dask.mixture.neighbours import converted, with_a_merge, with_a_split
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.search import SearchSummary
from gmm_dask.mixture.spec import Cell, MixtureSpec, make_cells
from gmm_dask.mixture.starts import SharedSample
from gmm_dask.mixture.statistics import sum_statistics
from tests.mixture.test_covariance import TYPES, property_test, random_mixture, seeds, sizes

NOTHING = SearchSummary(0, 0, 0, (), 0, 0.0)


@pytest.mark.parametrize("covariance_type", TYPES)
@property_test
@given(size=sizes, seed=seeds)
def test_a_covariance_type_is_the_nearest_to_its_own_matrices(covariance_type, size, seed):
    mixture = random_mixture(covariance_type, *size, np.random.default_rng(seed))
    covariance = COVARIANCE_TYPES[covariance_type]
    returned = covariance.from_matrices(mixture.matrices, mixture.weights)
    np.testing.assert_allclose(returned, mixture.covariances, rtol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_no_covariance_of_the_type_is_nearer_in_likelihood(covariance_type):
    """The expected log-likelihood under Gaussians of the full matrices falls in every direction."""
    random = np.random.default_rng(0)
    full = random_mixture("full", 3, 4, random)
    covariance = COVARIANCE_TYPES[covariance_type]
    nearest = covariance.from_matrices(full.matrices, full.weights)

    def expected(covariances):
        matrices = covariance.matrices(covariances, 3, 4)
        traces = np.trace(np.linalg.solve(matrices, full.matrices), axis1=1, axis2=2)
        return -full.weights @ (np.linalg.slogdet(matrices)[1] + traces)

    best = expected(nearest)
    for _ in range(20):
        change = 1.0 + 0.02 * random.normal(size=nearest.shape)
        nudged = nearest * change
        if covariance_type in ("full", "tied"):
            nudged = 0.5 * (nudged + nudged.mT)
        assert expected(nudged) < best


@pytest.mark.parametrize("target", TYPES)
@pytest.mark.parametrize("source", TYPES)
def test_a_converted_mixture_keeps_weights_and_means(source, target):
    mixture = random_mixture(source, 3, 2, np.random.default_rng(1))
    other = converted(mixture, target)
    assert other.covariance_type == target
    np.testing.assert_array_equal(other.weights, mixture.weights)
    np.testing.assert_array_equal(other.means, mixture.means)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_merge_keeps_the_moments_of_the_whole(covariance_type):
    mixture = random_mixture(covariance_type, 4, 3, np.random.default_rng(2))
    merges = [*with_a_merge(mixture)]
    assert len(merges) == 6
    for merged in merges:
        assert merged.n_components == 3
        assert merged.weights.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(merged.weights @ merged.means, mixture.weights @ mixture.means)
        if covariance_type == "full":
            np.testing.assert_allclose(second_moment(merged), second_moment(mixture))


def second_moment(mixture):
    squares = mixture.means[:, :, None] * mixture.means[:, None, :]
    return np.einsum("k,kij->ij", mixture.weights, mixture.matrices + squares)


def test_the_first_merge_is_that_of_the_two_that_are_alike():
    means = np.array([[0.0, 0.0], [9.0, 0.0], [0.2, 0.0]]) + 1e6
    mixture = MixtureParameters.from_covariances("spherical", np.full(3, 1 / 3), means, np.ones(3))
    merged = next(with_a_merge(mixture))
    np.testing.assert_allclose(merged.means - 1e6, [[9.0, 0.0], [0.1, 0.0]], atol=1e-9)
    np.testing.assert_allclose(merged.weights, [1 / 3, 2 / 3])


def clouds(*centres, rows=400):
    random = np.random.default_rng(3)
    points = [np.array([centre, 0.0]) + random.normal(size=(rows, 2)) for centre in centres]
    return np.asfortranarray(random.permutation(np.concatenate(points)))


def log_likelihood(parameters, X):
    return sum_statistics(parameters, X).mean_log_likelihood


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_first_split_is_that_of_the_component_of_two_clouds(covariance_type):
    X = clouds(0.0, 8.0, 40.0)
    spec = MixtureSpec(2, covariance_type)
    two = initial_parameters(X, None, spec, np.random.RandomState(0))
    three = next(with_a_split(ExpectationOn(X, None), two, MixtureSpec(3, covariance_type)))
    assert three.n_components == 3
    assert three.weights.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(np.sort(three.means[:, 0]), [0.0, 8.0, 40.0], atol=0.6)
    np.testing.assert_allclose(three.weights, 1 / 3, atol=0.01)


def test_a_component_that_cannot_be_split_is_left_out():
    X = clouds(0.0, rows=5)
    one = initial_parameters(X, None, MixtureSpec(1), np.random.RandomState(0))
    assert [*with_a_split(ExpectationOn(X, None), one, MixtureSpec(2))] == []


def test_rivals_come_from_the_neighbours_that_there_are():
    X = clouds(0.0, 8.0, 40.0)
    shared, random = SharedSample(Sample(X, None), 0), np.random.RandomState(0)
    cells = make_cells([1, 2, 3], ["full", "tied"])
    best = {cell: initial_parameters(X, None, MixtureSpec(*cell), random) for cell in cells}

    def rivals(k, kind, grow):
        starts = challengers(shared, MixtureSpec(k, kind), best, grow=grow)
        return [(rival.n_components, rival.covariance_type) for rival in starts]

    assert rivals(3, "full", True) == [(3, "full")] * 2  # two splits
    assert rivals(2, "full", True) == [(2, "full")]  # of one component
    assert rivals(2, "full", False) == [(2, "full")] * 3  # two merges, and the tied one
    assert rivals(2, "tied", False) == [(2, "tied")] * 3
    assert rivals(3, "tied", False) == [(3, "tied")]  # the full one
    assert rivals(5, "full", True) == rivals(5, "full", False) == []
    del best[Cell(1, "full")]
    assert rivals(2, "full", True) == []


def test_a_better_rival_takes_the_place_and_a_worse_one_does_not():
    X = clouds(0.0, 8.0, 40.0)
    shared, spec = SharedSample(Sample(X, None), 0), MixtureSpec(3, "diag")
    good = converted(next(with_a_split(ExpectationOn(X, None), *two_and(spec, X))), "diag")
    means = np.array([[0.0, 0.0], [40.0, 0.0], [40.1, 0.0]])
    bad = MixtureParameters.from_covariances(
        "diag", np.array([0.6, 0.2, 0.2]), means, np.array([[20.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    )
    keywords = {"keep": 1, "threads": 2}
    (kept,), summary = challenge(shared, spec, [bad], [good], NOTHING, **keywords)
    assert log_likelihood(kept, X) > log_likelihood(bad, X) + 0.1
    assert summary.starts == 1
    assert summary.iterations > 0
    assert summary.log_likelihoods == (pytest.approx(log_likelihood(kept, X), abs=1e-3),)
    (kept,), summary = challenge(shared, spec, [good], [bad], NOTHING, **keywords)
    assert kept is good
    assert summary.log_likelihoods == ()


def two_and(spec, X):
    start = initial_parameters(X, None, MixtureSpec(2, "diag"), np.random.RandomState(0))
    return start, spec


def test_a_rival_can_save_a_cell_whose_starts_all_broke_down():
    X = clouds(0.0, 8.0)
    spec = MixtureSpec(2, "full")
    rival = initial_parameters(X, None, spec, np.random.RandomState(0))
    shared = SharedSample(Sample(X, None), 0)
    best, _ = challenge(shared, spec, [], [rival], NOTHING, keep=1, threads=1)
    assert len(best) == 1


def test_if_no_rival_survives_the_holders_stay():
    X = np.column_stack([clouds(0.0, 8.0), np.zeros(800)])
    spec = MixtureSpec(2, "full", reg_covar=0.0)
    means = np.array([[0.0, 0.0, 0.0], [8.0, 0.0, 0.0]])
    breaks = MixtureParameters.from_covariances(
        "full", np.full(2, 0.5), means, np.stack([np.eye(3)] * 2)
    )
    keywords = {"keep": 1, "threads": 1}
    shared = SharedSample(Sample(X, None), 0)
    best, summary = challenge(shared, spec, [breaks], [breaks], NOTHING, **keywords)
    assert best == (breaks,)
    assert summary.failed == 2


def test_the_cells_are_every_pair_once():
    assert make_cells([3, 1, 3], ["diag", "full", "diag"]) == (
        (1, "diag"),
        (1, "full"),
        (3, "diag"),
        (3, "full"),
    )
