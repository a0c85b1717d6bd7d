"""EM with jumps: the same top in fewer iterations, and no step down that stays."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.sets import MixtureKind
from gmm_dask.mixture.acceleration import fit_accelerated
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.em import EMOptions, Status, fit_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.initialization import GivenParameters, wide_start
from gmm_dask.mixture.parameters import MixtureParameters

TYPES = tuple(COVARIANCE_TYPES)


@pytest.fixture(scope="module")
def X():
    return np.asfortranarray(MixtureKind(3, 4, 0.5).draw(4_000))


def start(X, covariance_type, seed=0):
    random_state = np.random.RandomState(seed)
    return wide_start(X, 4, covariance_type, 1e-6, random_state, GivenParameters())


def accelerated(X, starts, options, keep=1, expectation=None):
    expectation = expectation or ExpectationOn(X, None)
    return fit_accelerated(expectation, starts, options, X.var(axis=0), keep)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_same_top_in_fewer_iterations(X, covariance_type):
    options = EMOptions(1e-6, 2_000)
    first = start(X, covariance_type)
    (slow,) = fit_em(ExpectationOn(X, None), [first], options)
    (fast,) = accelerated(X, [first], options)
    assert slow.status is fast.status is Status.CONVERGED
    assert fast.log_likelihood > slow.log_likelihood - 1e-4
    assert fast.n_iter < 0.6 * slow.n_iter


@pytest.mark.parametrize("covariance_type", TYPES)
def test_no_iteration_that_stays_goes_down(X, covariance_type):
    (found,) = accelerated(X, [start(X, covariance_type, 3)], EMOptions(1e-7, 300, 0.0))
    assert (np.diff(found.lower_bounds) >= -1e-12).all()


def after_a_jump(X, options, log_likelihood):
    """A run in its slow part whose third E-step, the first after a jump, says what is given."""
    (begun,) = fit_em(ExpectationOn(X, None), [start(X, "full")], EMOptions(0.0, 20))
    asked, said = [], []

    def spied(batch):
        asked.append(batch[0])
        (found,) = ExpectationOn(X, None)(batch)
        if len(asked) == 3:
            found = replace(found, log_likelihood=log_likelihood(said[-1]))
        said.append(found.log_likelihood)
        return [found]

    (found,) = accelerated(X, [begun.parameters], options, expectation=spied)
    (plain,) = fit_em(ExpectationOn(X, None), [begun.parameters], EMOptions(0.0, 2))
    assert asked[2].digest != plain.parameters.digest
    return found, asked, plain


def test_a_jump_that_lands_lower_is_taken_back(X):
    """The next E-step is where EM itself would have gone."""
    found, asked, plain = after_a_jump(X, EMOptions(0.0, 4), lambda before: before - 1.0)
    assert asked[3].digest == plain.parameters.digest
    assert (found.n_iter, found.status) == (4, Status.MAX_ITER)
    assert found.lower_bounds[2] == found.lower_bounds[1] < found.lower_bounds[3]


def test_a_jump_that_gains_nothing_is_no_sign_of_rest(X):
    found, asked, _ = after_a_jump(X, EMOptions(1e-9, 4), lambda before: before)
    assert found.lower_bounds[2] == found.lower_bounds[1]
    assert len(asked) == 4


def test_a_run_that_cannot_become_the_best_is_given_up(X):
    far = np.concatenate([X, X + 40.0])
    means = np.array([[0.0, 0, 0], [40.0, 40, 40], [0.5, 0, 0], [40.0, 40, 41]])
    good = MixtureParameters.from_covariances(
        "full", np.full(4, 0.25), means, np.stack([np.cov(X.T)] * 4)
    )
    bad = MixtureParameters.from_covariances(
        "full", np.full(4, 0.25), means[[0, 2, 0, 2]] + 20.0, np.stack([400 * np.eye(3)] * 4)
    )
    options = EMOptions(1e-9, 400)
    one, given_up = accelerated(far, [good, bad], options)
    best, second, _ = accelerated(far, [good, bad, bad], options, keep=2)
    assert one.parameters.digest == best.parameters.digest
    assert given_up.status is Status.MAX_ITER
    assert given_up.n_iter < second.n_iter
    wanted = accelerated(far, [good, bad], options, keep=3)
    assert [run.n_iter for run in wanted] == [best.n_iter, second.n_iter]


def test_a_run_that_breaks_down_leaves_the_others_alone(X):
    """One of two has a component on a single far row, which has no covariance."""
    rows = np.concatenate([X, [[1e4, 1e4, 1e4]]])
    fine = start(X, "full")
    means = fine.means.copy()
    means[0] = rows[-1]
    doomed = MixtureParameters.from_covariances("full", fine.weights, means, fine.covariances)
    options = EMOptions(1e-4, 50, 0.0)
    broken, found = accelerated(rows, [doomed, fine], options, keep=2)
    (alone,) = accelerated(rows, [fine], options)
    assert broken.status is Status.ILL_CONDITIONED
    assert "component 0" in broken.problem
    assert found.parameters.digest == alone.parameters.digest


def test_no_iteration_beyond_the_last(X):
    for most in range(1, 9):
        (found,) = accelerated(X, [start(X, "full")], EMOptions(0.0, most))
        assert (found.n_iter, found.status) == (most, Status.MAX_ITER)
