"""Incremental refits against the textbook, night by night, and what they do with a new cluster."""

import numpy as np
import pytest

from gmm_dask.errors import NumericalError
from gmm_dask.mixture.em import Status, fit_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.incremental import MOST_SCANS
from gmm_dask.mixture.incremental import refit as refit_units
from gmm_dask.mixture.maximization import maximize
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import find_patterns
from gmm_dask.mixture.placing import cheapest_merge
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.spec import COVARIANCE_NAMES, EMOptions, MixtureSpec
from gmm_dask.mixture.statistics import sum_statistics
from gmm_dask.mixture.units import UnitStatistics, carry
from tests.mixture import textbook_incremental as textbook

NEVER = -1e300  # a gain that is never too small: all scans are made


def statistics_of(parameters, parts):
    """An E-step of each part, rows and weights; one unit a part."""
    sums = [sum_statistics(parameters, X, w, find_patterns(X)) for X, w in parts]
    return UnitStatistics.of(parameters, sums)


def expectation_on(parts):
    return lambda batch: [statistics_of(parameters, parts) for parameters in batch]


def refit(kept, parameters, expectation, *rest):
    return refit_units(kept, parameters, expectation([parameters])[0], expectation, *rest)


def mixture_of(kind, means, variance=1.0):
    k, d = np.shape(means)
    covariances = np.broadcast_to(
        variance * (np.eye(d) if kind in ("full", "tied") else 1.0),
        {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}[kind],
    )
    return MixtureParameters.from_covariances(kind, np.full(k, 1 / k), means, covariances.copy())


def draw_part(random, n, hard):
    """Rows of two clusters, one of them correlated; where it is hard, with weights and holes."""
    X = random.normal(size=(n, 2))
    X[: n // 3] = X[: n // 3] @ [[1.0, 0.8], [0.0, 0.6]] + [2.5, 1.0]
    if not hard:
        return X, np.ones(n)
    X[::4, 0] = np.nan
    X[1::5, 1] = np.nan
    return X[~np.isnan(X).all(axis=1)], random.uniform(0.2, 2.0, (~np.isnan(X).all(axis=1)).sum())


@pytest.mark.parametrize("hard", [False, True], ids=["plain", "weights, holes, half-life"])
@pytest.mark.parametrize("kind", COVARIANCE_NAMES)
def test_ten_nights_equal_incremental_em_of_a_textbook(kind, hard):
    random = np.random.default_rng(3)
    spec = MixtureSpec(2, kind, 1e-6)
    parameters = mixture_of(kind, [[0.0, 0.3], [2.0, 1.0]])
    decay = 0.9 if hard else 1.0
    names, kept, rows = [], UnitStatistics.of(parameters, []), {}
    for night in range(10):
        # Night 0 reads three units; later ones replace one, forget one, and read one or two more.
        read = [f"{night}{letter}" for letter in ("abc" if night == 0 else "ab"[: 1 + night % 2])]
        if night > 2:
            read.append(names[0])
        gone = {*read, *([names[1]] if night > 2 and night % 2 else [])}
        kept = kept.take([i for i, name in enumerate(names) if name not in gone])
        names = [name for name in names if name not in gone]
        kept = kept.scaled(np.full(len(kept), decay))
        parts = [draw_part(random, 9, hard) for _ in read]
        result = refit(kept, parameters, expectation_on(parts), spec, NEVER)

        mixture = (parameters.weights, parameters.means, parameters.matrices)
        old = [rows[name].forgotten(decay) for name in names]
        new = [textbook.read_unit(X, w, mixture) for X, w in parts]
        bounds = [textbook.bound_of([*old, *new], mixture)]
        for _ in range(MOST_SCANS - 1):
            mixture = textbook.maximize_units([*old, *new], kind, 1e-6)
            new = [textbook.read_unit(X, w, mixture) for X, w in parts]
            bounds.append(textbook.bound_of([*old, *new], mixture))

        parameters, kept = result.parameters, result.units
        assert result.status is Status.MAX_ITER
        assert result.scans == MOST_SCANS
        np.testing.assert_allclose(parameters.weights, mixture[0], rtol=1e-9)
        np.testing.assert_allclose(parameters.means, mixture[1], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(parameters.matrices, mixture[2], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose([result.before, *result.bounds], bounds, rtol=1e-9)
        exact = sum(float(unit.sample_weight @ unit.log_densities) for unit in new)
        assert np.isclose(result.read.total().bound(parameters), exact, rtol=1e-9)
        names = [*names, *read]
        rows = dict(zip(names, [*old, *new], strict=True))


def three_clusters(random, n, new):
    """Rows of three clusters, and of a fourth that the mixture may not know."""
    X = np.array([[0.0, 0.0], [5.0, 1.0], [2.0, 6.0]])[random.integers(3, size=n)]
    X = X + random.normal(size=(n, 2))
    X[:new] = [-4.0, 5.0] + 0.5 * random.normal(size=(new, 2))
    return np.asfortranarray(X)


@pytest.mark.parametrize("kind", COVARIANCE_NAMES)
def test_a_cluster_that_first_appears_on_night_7_is_a_component_by_night_9(kind):
    random = np.random.default_rng(0)
    parts = [three_clusters(random, 500, 0) for _ in range(10)]
    # Two of the four components share a cluster.
    start = mixture_of(kind, [[0.0, 0.0], [5.0, 1.0], [1.0, 6.0], [3.0, 6.0]])
    spec, options = MixtureSpec(4, kind), EMOptions(1e-4, 50)
    parameters = fit_em(ExpectationOn(np.vstack(parts), None), [start], spec, options)[0].parameters
    kept, placed, companies = statistics_of(parameters, [(X, None) for X in parts]), {}, set()
    for night in range(1, 10):
        X = three_clusters(random, 500, 100 if night >= 7 else 0)
        parts.append(X)

        def expectation(batch, part=(X, None), night=night):
            companies.add((night, len(batch)))
            return expectation_on([part])(batch)

        result = refit(kept, parameters, expectation, spec, 1e-3, Sample(X, None))
        if result.placed:
            placed[night] = result.placed
            # The others are the components that they were.
            others = [c for c in range(4) if c not in result.placed]
            moved = np.linalg.norm((result.parameters.means - parameters.means)[others], axis=1)
            assert sorted(moved)[1] < 0.5  # all but the one that stands for two
        parameters, kept = result.parameters, result.units
        exact = sum_statistics(parameters, np.vstack(parts)).mean_log_likelihood
        assert result.bound <= exact
    assert list(placed) == [7]
    assert {night for night, company in companies if company == 2} == {7}
    new = placed[7][0]
    np.testing.assert_allclose(parameters.means[new], [-4.0, 5.0], atol=0.15)
    assert np.isclose(parameters.weights[new] * sum(map(len, parts)), 300, rtol=0.05)
    # As good as EM over all rows that goes on from there.
    (full,) = fit_em(ExpectationOn(np.vstack(parts), None), [parameters], spec, options)
    assert full.log_likelihood - exact < 1e-3


def test_a_component_without_rows_costs_nothing_and_is_the_one_that_is_placed():
    random = np.random.default_rng(1)
    start = mixture_of("full", [[0.0, 0.0], [5.0, 1.0], [2.0, 6.0], [300.0, 0.0]])
    X = three_clusters(random, 2_000, 0)
    units = statistics_of(start, [(X, None)])
    parameters, *_ = maximize(start, units.total(), MixtureSpec(4, "full"))
    cost, slack, pair = cheapest_merge(parameters)
    assert max(cost, slack) < 1e-9
    assert pair[1] == 3
    new = three_clusters(random, 200, 40)
    result = refit(
        carry(units, start, parameters),
        parameters,
        expectation_on([(new, None)]),
        MixtureSpec(4, "full"),
        1e-3,
        Sample(new, None),
    )
    assert result.placed == (3,)
    assert result.health.defects == 0
    assert result.bounds[-1] > result.before


@pytest.mark.parametrize(("distance", "wins"), [(8.0, True), (6.0, False)])
def test_a_rival_is_not_refused_for_what_the_bound_of_its_merge_leaves_unsaid(distance, wins):
    random = np.random.default_rng(0)
    # Two components around one point: to merge them costs little, to bound it seven times as much.
    start = MixtureParameters.from_covariances(
        "spherical",
        [0.4, 0.4, 0.2],
        [[0.0, 0.0], [0.0, 0.0], [9.0, 0.0]],
        np.array([1.0, 2.0, 1.0]),
    )
    X = random.normal(size=(5_200, 2))
    X[:2_000] *= np.sqrt(2.0)
    X[4_000:5_000] += [9.0, 0.0]
    kept, new = statistics_of(start, [(X[:5_000], None)]), X[5_000:]
    new[:20] = [0.0, distance] + 0.5 * random.normal(size=(20, 2))
    spec, step = MixtureSpec(3, "spherical"), expectation_on([(new, None)])
    alone = refit(kept, start, step, spec, 1e-3)
    result = refit(kept, start, step, spec, 1e-3, Sample(new, None))
    assert bool(result.placed) == wins
    assert result.before < result.bound
    if wins:
        assert result.bound < alone.bound
        likelihoods = [sum_statistics(r.parameters, X).log_likelihood for r in (alone, result)]
        assert likelihoods[0] < likelihoods[1]
    else:  # better too, but the bound would fall
        assert result.bounds == alone.bounds


def test_without_new_rows_the_mixture_is_that_of_what_is_left():
    random = np.random.default_rng(2)
    start = mixture_of("full", [[0.0, 0.0], [5.0, 1.0], [2.0, 6.0]])
    parts = [(three_clusters(random, 200, 0), None) for _ in range(3)]
    units = statistics_of(start, parts)
    spec = MixtureSpec(3, "full")
    result = refit(units.take([0, 2]), start, expectation_on([]), spec, 1e-3)
    expected, *_ = maximize(start, statistics_of(start, [parts[0], parts[2]]).total(), spec)
    np.testing.assert_allclose(result.parameters.means, expected.means, rtol=1e-12)
    assert len(result.read) == len(result.first) == 0
    assert result.units.rows.tolist() == [200, 200]
    with pytest.raises(NumericalError, match="no unit has any weight"):
        refit(units.take([]), start, expectation_on([]), spec, 1e-3)


def test_an_m_step_that_breaks_down_leaves_the_model_in_use_with_units_that_belong_to_it():
    start = mixture_of("full", [[0.0, 0.0], [5.0, 1.0]])
    row = [(np.zeros((1, 2)), None)]  # on a mean: the component would have no width
    result = refit(
        statistics_of(start, row), start, expectation_on(row), MixtureSpec(2, "full", 0.0), 1e-3
    )
    assert result.status is Status.ILL_CONDITIONED
    assert "not positive definite" in result.problem
    assert result.parameters is start
    assert result.bounds == ()
    assert result.bound == result.before == result.units.total().mean_bound(start)
    assert result.scans == 1


def test_the_refit_stops_where_a_step_gains_little_for_the_rows_that_are_read():
    random = np.random.default_rng(4)
    start = mixture_of("diag", [[0.0, 0.0], [5.0, 1.0], [2.0, 6.0]])
    kept = statistics_of(start, [(three_clusters(random, 20_000, 0), None)])
    new = [(three_clusters(random, 200, 0) + 0.3, None)]
    spec = MixtureSpec(3, "diag")
    results = {tol: refit(kept, start, expectation_on(new), spec, tol) for tol in (NEVER, 1e-2, 10)}
    gains = np.diff([results[NEVER].before, *results[NEVER].bounds]) * 20_200 / 200
    for tol, result in results.items():
        small = np.flatnonzero(gains <= tol)
        steps = small[0] + 1 if len(small) else MOST_SCANS - 1
        assert len(result.bounds) == steps
        assert result.status is (Status.CONVERGED if len(small) else Status.MAX_ITER)
    assert results[10].scans == 2  # one M-step at least
