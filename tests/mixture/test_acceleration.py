"""EM with jumps: the same maximum in fewer iterations, and no step down that stays."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.sets import MixtureKind
from gmm_dask.mixture.acceleration import _jump, fit_accelerated
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.em import Status, fit_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.initialization import wide_start
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec

TYPES = tuple(COVARIANCE_TYPES)


@pytest.fixture(scope="module")
def X():
    return np.asfortranarray(MixtureKind(3, 4, 0.5).draw(4_000))


def start(X, covariance_type, seed=0):
    random_state = np.random.RandomState(seed)
    return wide_start(X, MixtureSpec(4, covariance_type), random_state)


def accelerated(X, starts, spec, options, expectation=None):
    expectation = expectation or ExpectationOn(X, None)
    return fit_accelerated(expectation, starts, spec, options, X.var(axis=0))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_same_maximum_in_fewer_iterations(X, covariance_type):
    spec, options = MixtureSpec(), EMOptions(1e-6, 2_000)
    first = start(X, covariance_type)
    (slow,) = fit_em(ExpectationOn(X, None), [first], spec, options)
    (fast,) = accelerated(X, [first], spec, options)
    assert slow.status is fast.status is Status.CONVERGED
    assert fast.log_likelihood > slow.log_likelihood - 1e-4
    assert fast.n_iter < 0.6 * slow.n_iter


@pytest.mark.parametrize("covariance_type", TYPES)
def test_no_iteration_that_stays_goes_down(X, covariance_type):
    (candidate,) = accelerated(
        X, [start(X, covariance_type, 3)], MixtureSpec(reg_covar=0.0), EMOptions(1e-7, 300)
    )
    assert (np.diff(candidate.lower_bounds) >= -1e-12).all()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_units_of_the_features_do_not_matter(X, covariance_type):
    """In units that are powers of two, the bits are the same and so are the jumps."""
    units = np.array([2.0**20, 2.0**-20, 1.0]) if covariance_type != "spherical" else 2.0**20
    plain_start = start(X, covariance_type)
    spread = plain_start.covariances * {
        "full": np.multiply.outer(units, units), "tied": np.multiply.outer(units, units),
        "diag": np.square(units), "spherical": np.square(units),
    }[covariance_type]  # fmt: skip
    scaled_start = MixtureParameters.from_covariances(
        covariance_type, plain_start.weights, plain_start.means * units, spread
    )
    spec, options = MixtureSpec(reg_covar=0.0), EMOptions(0.0, 40)
    (plain,) = accelerated(X, [plain_start], spec, options)
    (scaled,) = accelerated(X * units, [scaled_start], spec, options)
    np.testing.assert_allclose(scaled.parameters.weights, plain.parameters.weights, rtol=1e-9)
    np.testing.assert_allclose(scaled.parameters.means, plain.parameters.means * units, rtol=1e-7)


def after_a_jump(X, options, changed):
    """Fit from a slow part of EM, where the third E-step, the first after a jump, is changed."""
    (begun,) = fit_em(ExpectationOn(X, None), [start(X, "full")], MixtureSpec(), EMOptions(0.0, 20))
    asked, answers = [], []

    def spied(batch):
        asked.append(batch[0])
        (statistics,) = ExpectationOn(X, None)(batch)
        if len(asked) == 3:
            statistics = changed(statistics, answers[-1])
        answers.append(statistics)
        return [statistics]

    (candidate,) = accelerated(X, [begun.parameters], MixtureSpec(), options, expectation=spied)
    (plain,) = fit_em(ExpectationOn(X, None), [begun.parameters], MixtureSpec(), EMOptions(0.0, 2))
    assert asked[2].digest != plain.parameters.digest
    return candidate, asked, plain


def lower(statistics, before):
    return replace(statistics, log_likelihood=before.log_likelihood - 1.0)


def broken(statistics, before):
    return replace(statistics, residual_products=statistics.residual_products * np.nan)


@pytest.mark.parametrize("changed", [lower, broken])
def test_a_jump_that_lands_lower_or_nowhere_is_taken_back(X, changed):
    """The next E-step is at the point that EM would have reached without the jump."""
    candidate, asked, plain = after_a_jump(X, EMOptions(0.0, 4), changed)
    assert asked[3].digest == plain.parameters.digest
    assert (candidate.n_iter, candidate.status) == (4, Status.MAX_ITER)
    bounds = candidate.lower_bounds
    assert bounds[2] == bounds[1] < bounds[3]


def test_a_jump_that_gains_nothing_is_no_sign_of_rest(X):
    def same(statistics, before):
        return replace(statistics, log_likelihood=before.log_likelihood)

    candidate, asked, _ = after_a_jump(X, EMOptions(1e-9, 4), same)
    assert candidate.lower_bounds[2] == candidate.lower_bounds[1]
    assert len(asked) == 4


def test_where_the_floor_makes_the_likelihood_fall_there_are_no_jumps(X):
    spec, options = MixtureSpec(reg_covar=0.5), EMOptions(0.0, 6)
    (first,) = fit_em(
        ExpectationOn(X, None), [start(X, "full")], MixtureSpec(reg_covar=0.0), EMOptions(1e-7, 500)
    )
    (plain,) = fit_em(ExpectationOn(X, None), [first.parameters], spec, options)
    assert (np.diff(plain.lower_bounds) < 0).all()
    (candidate,) = accelerated(X, [first.parameters], spec, options)
    assert candidate.parameters.digest == plain.parameters.digest


def test_a_jump_too_far_is_shortened_until_it_is_a_mixture(X):
    """A weight that falls by almost the same amount each step would be negative after 32."""
    first = start(X, "full")

    def weighing(weight):
        rest = (1.0 - weight) / 3
        return replace(first, weights=np.array([weight, rest, rest, rest]))

    ahead = _jump([weighing(0.1), weighing(0.09), weighing(0.0801)], X.var(axis=0))
    assert 0 < ahead.weights[0] < 0.0801
    assert ahead.weights.sum() == pytest.approx(1.0, abs=1e-15)


def test_a_run_that_breaks_down_leaves_the_others_alone(X):
    """One of two has a component on a single far row, which has no covariance."""
    rows = np.concatenate([X, [[1e4, 1e4, 1e4]]])
    fine = start(X, "full")
    means = fine.means.copy()
    means[0] = rows[-1]
    doomed = MixtureParameters.from_covariances("full", fine.weights, means, fine.covariances)
    spec, options = MixtureSpec(reg_covar=0.0), EMOptions(1e-4, 50)
    broken, sound = accelerated(rows, [doomed, fine], spec, options)
    (alone,) = accelerated(rows, [fine], spec, options)
    assert broken.status is Status.ILL_CONDITIONED
    assert "component 0" in broken.problem
    assert sound.parameters.digest == alone.parameters.digest


def test_no_iteration_beyond_the_last(X):
    for max_iter in range(1, 9):
        (candidate,) = accelerated(X, [start(X, "full")], MixtureSpec(), EMOptions(0.0, max_iter))
        assert (candidate.n_iter, candidate.status) == (max_iter, Status.MAX_ITER)
