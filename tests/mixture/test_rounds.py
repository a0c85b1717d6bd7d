"""Runs that climb in compiled calls, held to EM one iteration at a time."""

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from gmm_dask.mixture.em import Status, fit_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.initialization import labelled_start, wide_start
from gmm_dask.mixture.kernels.compile import kernel
from gmm_dask.mixture.race import Race
from gmm_dask.mixture.rounds import fit as rounds
from gmm_dask.mixture.rounds.fit import fit_runs
from gmm_dask.mixture.spec import EMOptions, MixtureSpec

TYPES = ["full", "tied", "diag", "spherical"]


@pytest.fixture(scope="module")
def X():
    """Three clusters that overlap, in float32 and feature-major."""
    random = np.random.default_rng(0)
    X = random.normal(size=(2_100, 3)) * [1.0, 2.0, 0.5] + 1.5 * random.integers(0, 3, (2_100, 1))
    return np.asfortranarray(X, np.float32)


def starts(X, spec, count=3):
    return [wide_start(X, spec, np.random.RandomState(seed)) for seed in range(count)]


def alike(candidate, other):
    """Whether two candidates took the same path, but for the last digits."""
    assert (candidate.status, candidate.problem) == (other.status, other.problem)
    assert len(candidate.history) == len(other.history)
    for step, of_other in zip(candidate.history, other.history, strict=True):
        assert step.guarded == of_other.guarded
        for name in ("log_likelihood", "moved", "expected", "weights", "means"):
            values = getattr(step, name), getattr(of_other, name)
            np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-12)
    for name in ("weights", "means", "covariances", "precisions_cholesky", "log_constants"):
        values = getattr(candidate.parameters, name), getattr(other.parameters, name)
        np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(candidate.counts, other.counts, rtol=1e-9)
    assert (candidate.rows, candidate.weight) == (other.rows, other.weight)


@pytest.mark.parametrize("weight", [None, 1.0, 1e-11])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_climbs_take_the_iterations_of_em(X, covariance_type, weight, monkeypatch):
    weights = weight and weight * np.random.default_rng(1).uniform(0.1, 2.0, len(X))
    expectation, spec = ExpectationOn(X, weights), MixtureSpec(3, covariance_type)
    options, first = EMOptions(2e-3, 25), starts(X, spec)
    expected = fit_em(expectation, first, spec, options)
    assert Status.CONVERGED in {candidate.status for candidate in expected}
    monkeypatch.setattr(rounds, "em_steps", None)  # every iteration is the kernel's
    for candidate, other in zip(fit_runs(expectation, first, spec, options), expected, strict=True):
        alike(candidate, other)


@pytest.mark.parametrize("patience", range(1, 6))
def test_a_run_converges_wherever_it_is_compared(X, patience):
    """The first iteration after a comparison is compared with the last before it."""
    expectation, spec, options = ExpectationOn(X, None), MixtureSpec(3), EMOptions(2e-3, 25)
    first, compared = starts(X, spec), []
    expected = fit_em(expectation, first, spec, options)
    candidates = fit_runs(
        expectation, first, spec, options, lambda state: compared.append(state) or state, patience
    )
    assert len(compared) > 1
    for candidate, other in zip(candidates, expected, strict=True):
        alike(candidate, other)


def test_what_is_not_for_float32_goes_on_in_float64(X):
    """A component on a few equal rows is too narrow for it."""
    X = X.copy(order="F")
    X[:5] = X[0]
    labels = np.repeat([1, 0], [5, len(X) - 5])
    spec, options = MixtureSpec(2, reg_covar=1e-12), EMOptions(1e-4, 8)
    first = [labelled_start(X, labels, None, spec), *starts(X, spec, 2)]
    expectation = ExpectationOn(X, None)
    for candidate, other in zip(
        fit_runs(expectation, first, spec, options),
        fit_em(expectation, first, spec, options),
        strict=True,
    ):
        alike(candidate, other)


def test_a_run_that_breaks_down_says_why(X):
    X = X.copy(order="F")
    X[:, 1] = 7.0
    spec, options = MixtureSpec(2, reg_covar=0.0), EMOptions(1e-4, 8)
    first = starts(X, MixtureSpec(2), 2)
    candidates = fit_runs(ExpectationOn(X, None), first, spec, options)
    expected = fit_em(ExpectationOn(X, None), first, spec, options)
    assert {candidate.status for candidate in candidates} == {Status.ILL_CONDITIONED}
    assert [candidate.problem for candidate in candidates] == [other.problem for other in expected]


def test_threads_change_no_bit_and_comparisons_come_at_intervals(X, monkeypatch):
    monkeypatch.setattr(rounds, "WORTH_THREADS", 0)
    spec, options = MixtureSpec(3), EMOptions(0.0, 18)
    race, seen = Race(X.var(axis=0), 1e-6, patience=6), []

    def compare(state):
        seen.append([len(candidate.history) for candidate in state.candidates])
        return race.give_up(state)

    with ThreadPoolExecutor(3) as pool:
        outcomes = [
            fit_runs(expectation, starts(X, spec, 5), spec, options, compare, race.patience)
            for expectation in (ExpectationOn(X, None), ExpectationOn(X, None, pool, 3))
        ]
    assert [max(lengths) for lengths in seen[: len(seen) // 2]][:3] == [6, 10, 14]
    assert Status.BEATEN in {candidate.status for candidate in outcomes[0]}
    for candidate, other in zip(*outcomes, strict=True):
        assert candidate.status == other.status
        assert candidate.parameters.digest == other.parameters.digest


@pytest.mark.parametrize("rows", ["float64", "with holes", "many"])
def test_other_rows_take_their_iterations_together(X, rows, monkeypatch):
    monkeypatch.setattr(rounds, "climb", None)
    spec = MixtureSpec(3)
    first = starts(X, spec, 2)
    if rows == "float64":
        X = X.astype(np.float64)
    elif rows == "with holes":
        X = X.copy(order="F")
        X[3, 1] = np.nan
    else:
        X = np.tile(X, (4, 1))
    candidates = fit_runs(ExpectationOn(X, None), first, spec, EMOptions(0.0, 3))
    assert [candidate.n_iter for candidate in candidates] == [3, 3]


@kernel("pass that fails")
def _failing(source, weight, constants, means, factors, covariances, N, F, S, left_out):
    if source.n > 0:
        raise MemoryError
    return 0.0, 0


def test_a_pass_that_fails_leaves_the_iteration_to_em(X, monkeypatch):
    """What fails in a kernel that is called by its address cannot be raised there."""
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    spec, options = MixtureSpec(3), EMOptions(0.0, 3)
    expected = fit_em(ExpectationOn(X, None), starts(X, spec, 1), spec, options)
    monkeypatch.setattr(rounds, "passes", SimpleNamespace(KERNELS={"full": _failing}))
    (candidate,) = fit_runs(ExpectationOn(X, None), starts(X, spec, 1), spec, options)
    assert ignored[0].exc_type is MemoryError
    alike(candidate, expected[0])
