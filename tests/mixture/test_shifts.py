"""Shifts of components: the sums against loops, the errors and false alarms by simulation."""

import numpy as np
import pytest
from scipy.stats import binom

from gmm_dask.errors import NumericalError
from gmm_dask.mixture.deviations import deviations_of, sum_deviations
from gmm_dask.mixture.em import em_steps, start_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import find_patterns
from gmm_dask.mixture.shifts import (
    FALSE_ALARMS,
    LEAST_ROWS,
    chances_of_more,
    count_chances,
    exchange_chance,
    measure_noise,
    measure_shifts,
)
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.statistics import sum_statistics

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[0.0, 0.0], [2.0, 1.0], [-2.0, 3.0]])  # they overlap
COVARIANCES = {
    "full": np.array([[[1, 0.5], [0.5, 2]], [[0.5, 0], [0, 0.5]], [[2, -0.3], [-0.3, 1]]]),
    "tied": np.array([[1, 0.5], [0.5, 2]]),
    "diag": np.array([[1, 2], [0.5, 0.5], [2, 1]]),
    "spherical": np.array([1, 0.5, 2]),
}
SHAPES = {"full": (3, 2), "diag": (3, 2), "tied": (1, 2), "spherical": (3, 1)}


def mixture_of(kind):
    return MixtureParameters.from_covariances(kind, WEIGHTS, MEANS, COVARIANCES[kind])


def draw(rng, parameters, n, shift=0.0, tails=None):
    """Rows of a mixture; ``shift`` moves the first feature of component 1 by so many σ."""
    k, d = parameters.means.shape
    labels = rng.choice(k, size=n, p=parameters.weights)
    noise = rng.normal(size=(n, d))
    if tails is not None:  # Student's t, with variance 1
        noise *= np.sqrt((tails - 2) / rng.chisquare(tails, size=(n, 1)))
    factors = np.linalg.cholesky(parameters.matrices)
    rows = parameters.means[labels] + np.einsum("nij,nj->ni", factors[labels], noise)
    rows[labels == 1, 0] += shift * np.sqrt(parameters.matrices[1, 0, 0])
    return rows


def fit(rows, start, iterations=30):
    options = EMOptions(0.0, iterations)
    state = start_em([start], options)
    *_, last = em_steps(ExpectationOn(rows, None), state, MixtureSpec(), options)
    return last.candidates[0].parameters


def by_loops(parameters, rows, weights):
    """Σ w r, Σ w r t and Σ w r t² of each component and feature, row by row."""
    k, d = parameters.means.shape
    held, sums, squares = np.zeros((3, k, d))
    for x, weight in zip(rows, weights, strict=True):
        seen = ~np.isnan(x)
        if not seen.any():
            continue
        logs = np.empty(k)
        for c in range(k):
            part = parameters.matrices[c][np.ix_(seen, seen)]
            y = (x - parameters.means[c])[seen]
            logs[c] = np.log(parameters.weights[c]) - 0.5 * (
                y @ np.linalg.solve(part, y) + np.log(np.linalg.det(2 * np.pi * part))
            )
        shares = weight * np.exp(logs - np.logaddexp.reduce(logs))
        for c in range(k):
            t = ((x - parameters.means[c]) / np.sqrt(np.diag(parameters.matrices[c])))[seen]
            held[c, seen] += shares[c]
            sums[c, seen] += shares[c] * t
            squares[c, seen] += shares[c] * t * t
    return held, sums, squares


@pytest.mark.parametrize("kind", COVARIANCES)
def test_sums_are_those_of_loops_also_of_rows_with_holes(kind):
    rng = np.random.default_rng(0)
    parameters = mixture_of(kind)
    rows, weights = draw(rng, parameters, 120), rng.uniform(0.5, 2.0, 120)
    rows[::5, 0], rows[::7, 1] = np.nan, np.nan
    held, sums, squares = by_loops(parameters, rows, weights)
    found = sum_deviations(parameters, rows, weights, find_patterns(rows))
    pooled = squares.sum(axis=0, keepdims=True) if kind == "tied" else squares
    pooled = pooled.sum(axis=1, keepdims=True) if kind == "spherical" else pooled
    assert found.squares.shape == SHAPES[kind]
    np.testing.assert_allclose(found.held, held, rtol=1e-12)
    np.testing.assert_allclose(found.sums, sums, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.squares, pooled, rtol=1e-12)
    used = ~np.isnan(rows).all(axis=1)
    assert found.weight == pytest.approx(weights[used].sum())
    assert found.squared_weight == pytest.approx((weights[used] ** 2).sum())


def test_sums_merge_and_come_from_the_statistics_of_an_e_step():
    rng = np.random.default_rng(1)
    parameters = mixture_of("full")
    rows = draw(rng, parameters, 200)
    whole = sum_deviations(parameters, rows)
    merged = sum_deviations(parameters, rows[:50]) + sum_deviations(parameters, rows[50:])
    of_statistics = deviations_of(parameters, sum_statistics(parameters, rows), 200.0)
    for other in (merged, of_statistics):
        for name in ("counts", "held", "sums", "squares"):
            np.testing.assert_allclose(getattr(other, name), getattr(whole, name), rtol=1e-12)
    assert merged.effective_rows == of_statistics.effective_rows == 200.0
    other = mixture_of("diag")
    with pytest.raises(NumericalError, match="cannot be added"):
        _ = whole + sum_deviations(other, rows)
    with pytest.raises(NumericalError, match="other parameters"):
        deviations_of(parameters, sum_statistics(other, rows), 200.0)


@pytest.mark.parametrize("kind", COVARIANCES)
def test_the_rows_of_a_fit_show_no_shift_whatever_they_are_like(kind):
    rows = np.random.default_rng(2).standard_t(4, size=(1000, 2)) * [1.0, 0.01]  # not Gaussian
    start = MixtureParameters.from_covariances(
        kind, WEIGHTS, 0.3 * MEANS * [1.0, 0.01], COVARIANCES[kind] * 0.01
    )
    fitted = fit(rows, start, 400)
    shifts = measure_shifts(fitted, sum_deviations(fitted, rows), 1000.0, MixtureSpec.reg_covar)
    np.testing.assert_allclose(shifts.means.values, 0.0, atol=5e-3)
    np.testing.assert_allclose(shifts.spreads.values, 1.0, atol=5e-3)
    np.testing.assert_allclose(shifts.shares.values, 0.0, atol=5e-3)


def alarms(shifts, level):
    """Whether anything is less probable than chance allows."""
    each = level / shifts.n_tests
    return any(
        (kind.chances < each).any() for kind in (shifts.means, shifts.spreads, shifts.shares)
    )


@pytest.mark.parametrize("n", [50, 400])
def test_false_alarms_are_rarer_than_stated_and_errors_are_bounds(n):
    level, seeds = 0.02, 150
    alarmed, distances = 0, []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        # The parameters are uncertain too: they are fitted to 1,500 rows.
        truth = mixture_of("full")
        fitted = fit(draw(rng, truth, 1500), truth, 8)
        shifts = measure_shifts(fitted, sum_deviations(fitted, draw(rng, truth, n)), 1500.0)
        alarmed += alarms(shifts, level)
        distances.append(shifts.means.values / shifts.means.errors)
    assert alarmed <= level * seeds
    scatter = np.std(distances, axis=0)
    assert (scatter < 1.12).all()  # bounds
    assert (scatter > 0.6).all()  # which are not idle


def test_heavy_tails_raise_no_alarm_once_the_fit_has_seen_them():
    level, seeds, plain, aware = 0.02, 200, 0, 0
    parameters = MixtureParameters.from_covariances(
        "full", [0.5, 0.5], [[0.0, 0.0], [9.0, 9.0]], np.stack([np.eye(2)] * 2)
    )
    trained = draw(np.random.default_rng(0), parameters, 8000, tails=5)
    noise = measure_noise(parameters, trained)
    assert noise.shape == (2, 2)
    assert (noise > 1.7).all()
    for seed in range(seeds):
        sums = sum_deviations(
            parameters, draw(np.random.default_rng(seed + 1), parameters, 500, tails=5)
        )
        plain += alarms(measure_shifts(parameters, sums, 1e6), level)
        aware += alarms(measure_shifts(parameters, sums, 1e6, noise=noise), level)
    assert plain > 3 * level * seeds  # as if they were Gaussian
    assert aware <= 2 * level * seeds


@pytest.mark.parametrize("kind", COVARIANCES)
def test_noise_is_a_multiple_of_gaussian_rows(kind):
    parameters = mixture_of(kind)
    rows = draw(np.random.default_rng(3), parameters, 20_000)
    weights = np.random.default_rng(4).uniform(0.0, 2.0, len(rows))
    for noise in (measure_noise(parameters, rows), measure_noise(parameters, rows, weights)):
        assert noise.shape == SHAPES[kind]
        assert (noise >= 1.0).all()
        assert (noise < 1.2).all()
    assert (measure_noise(parameters, rows[:0]) == 1.0).all()


def test_a_shift_is_found_where_it_is_and_as_large_as_it_is():
    parameters = mixture_of("full")
    found, values = 0, []
    for seed in range(60):
        rows = draw(np.random.default_rng(seed), parameters, 1000, shift=0.6)
        shifts = measure_shifts(parameters, sum_deviations(parameters, rows), 1e6)
        chances = shifts.means.chances
        assert chances.argmin() == 2 * 1 + 0  # component 1, feature 0
        found += chances[1, 0] < FALSE_ALARMS / shifts.n_tests
        values.append(shifts.means.values[1, 0])
    assert found == 60
    # Overlap takes a part of it: rows that lie elsewhere belong a little less to the component.
    assert 0.4 < np.mean(values) < 0.6


def test_spreads_and_shares_are_measured_too():
    parameters = mixture_of("full")
    rng = np.random.default_rng(7)
    changed = MixtureParameters.from_covariances(
        "full", [0.3, 0.3, 0.4], MEANS, COVARIANCES["full"] * np.array([1, 1, 4])[:, None, None]
    )
    sums = sum_deviations(parameters, draw(rng, changed, 4000))
    shifts = measure_shifts(parameters, sums, 1e6)
    # Overlap takes a part of it.
    np.testing.assert_allclose(shifts.spreads.values[2], 1.75, atol=0.2)
    assert shifts.spreads.chances[2].max() < 1e-12
    assert shifts.shares.values.sum() == pytest.approx(0.0, abs=1e-12)
    assert shifts.shares.chances[0] < 1e-12
    weighted = sum_deviations(parameters, draw(rng, parameters, 300), np.full(300, 7.0))
    assert weighted.effective_rows == pytest.approx(300.0)
    few = measure_shifts(parameters, sum_deviations(parameters, rows_far(8)), 1e6)
    assert (few.means.chances == 1.0).all()  # fewer than LEAST_ROWS of any component
    assert LEAST_ROWS > 8


def rows_far(n):
    return np.full((n, 2), 30.0)


def test_a_variance_that_is_only_what_was_added_is_not_compared():
    parameters = MixtureParameters.from_covariances("diag", [1.0], [[0.0, 0.0]], [[1e-6, 1.0]])
    rows = np.random.default_rng(0).normal(size=(500, 2)) * [0.0, 1.0]
    shifts = measure_shifts(parameters, sum_deviations(parameters, rows), 1e6, reg_covar=1e-6)
    assert np.isnan(shifts.spreads.values[0, 0])
    assert shifts.spreads.chances[0, 0] == 1.0
    assert shifts.spreads.values[0, 1] == pytest.approx(1.0, abs=0.1)


def test_chances_of_counts_are_binomial_and_never_too_small():
    # Given the sum, the later count is binomial.
    assert chances_of_more(7, 100.0, 10, 400.0) == pytest.approx(binom.sf(6, 17, 0.2))
    assert chances_of_more(0, 100.0, 10, 400.0) == 1.0
    both = count_chances(np.array([7.0, 0.0]), 100.0, np.array([10.0, 60.0]), 400.0)
    assert both[0] == pytest.approx(2 * binom.sf(6, 17, 0.2))
    assert both[1] == pytest.approx(2 * binom.cdf(0, 60, 0.2))
    assert exchange_chance(0.0, 8, 50.0, 1e9) == 1.0
    assert exchange_chance(0.35, 8, 50.0, 1e9) > FALSE_ALARMS
    assert exchange_chance(0.35, 8, 500.0, 1e9) < 1e-30
