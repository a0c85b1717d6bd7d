"""The last scan of a polish evaluates the result: what was foreseen decides about scans alone."""

from dataclasses import replace

import numpy as np
import pytest

from gmm_dask.chunked import foreseen, polish
from gmm_dask.chunked.evaluation import evaluate
from gmm_dask.chunked.fit import fit
from gmm_dask.chunked.fit_records import FitOptions
from gmm_dask.chunked.rows import MemoryChunks
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.mixture.em import (
    Candidate,
    Ending,
    Status,
    advance,
    em_steps,
    fit_em,
    may_converge,
    start_em,
)
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.initialization import initial_parameters, seeded
from gmm_dask.mixture.iterations import Iteration, promised_gain
from gmm_dask.mixture.maximization import maximize
from gmm_dask.mixture.spec import COVARIANCE_NAMES, EMOptions, MixtureSpec
from gmm_dask.mixture.statistics import sum_statistics
from tests.steps.test_fit_state import bits

#: The sample is smaller than the data, so the polish scans the chunks.
OPTIONS = FitOptions(MixtureSpec(3), EMOptions(1e-4, 60), search_rows=1_500)


def clouds(n=6_000, apart=1.0):
    """Rows of three Gaussians that overlap."""
    random = np.random.default_rng(4)
    centres = apart * np.array([[0.0, 0.0], [3.0, 1.0], [0.0, 4.0]])
    return np.asfortranarray(centres[random.integers(3, size=n)] + random.normal(size=(n, 2)))


def fitted(options=OPTIONS, **keywords):
    """A fit, the densities of its result, and the scans of both."""
    scanner = Scanner(MemoryChunks(clouds(), None, 2_000, ("x", "y")), Threads(2))
    result = fit(scanner, options, **keywords)
    (densities,) = evaluate(scanner, [result.parameters], result.survey, known=result.evaluated)
    return result, densities, scanner.scans


@pytest.fixture
def of_one_scan(small_groups):
    """The densities of all rows in a mixture, by a scan that does nothing else."""

    def evaluated(parameters):
        scanner = Scanner(MemoryChunks(clouds(), None, 2_000, ("x", "y")), Threads(1))
        return evaluate(scanner, [parameters])[0]

    return evaluated


def test_a_searched_fit_is_its_last_e_step_and_evaluated_in_its_scan(of_one_scan):
    result, densities, scans = fitted()
    best = result.best
    assert (best.status, best.measured) == (Status.CONVERGED, True)
    assert scans == 1 + len(best.history) == 2 + best.n_iter
    assert best.history[-1].weights.tolist() == result.parameters.weights.tolist()
    assert best.log_likelihood == pytest.approx(densities.mean_log_likelihood, rel=1e-13)
    assert abs(best.history[-1].log_likelihood - best.history[-2].log_likelihood) < 1e-4
    assert bits(densities) == bits(of_one_scan(result.parameters))
    assert list(result.replay) == list(range(best.n_iter + 1))


@pytest.mark.parametrize("tol", [1e-3, 1e-4, 1e-5])
def test_a_foretold_end_comes_once_all_that_is_left_promises_less_than_tol(tol):
    X, spec = clouds(3_000, apart=1.6), MixtureSpec(3)
    first = initial_parameters(X[:300], None, spec, seeded(0), None)
    (sampled,) = fit_em(ExpectationOn(X[:1_500], None), [first], spec, EMOptions(1e-6, 200))

    def run(ending, tol, iterations):
        options = EMOptions(tol, iterations)
        first = start_em([sampled.parameters], options, endings=[ending])
        *_, last = em_steps(ExpectationOn(X, None), first, spec, options)
        return last.candidates[0]

    foretold, measured = run(Ending.FORETOLD, tol, 60), run(Ending.MEASURED, tol, 60)
    assert foretold.measured
    assert foretold.lower_bounds == measured.lower_bounds[:-1]
    assert promised_gain(foretold.history) < tol <= promised_gain(foretold.history[:-1])
    rest = run(Ending.MEASURED, 0.0, 400).log_likelihood - foretold.log_likelihood
    assert 0.0 < rest < tol


@pytest.mark.parametrize(("expected", "status"), [(1e-5, "converged"), (7e-4, "running")])
def test_an_end_is_foretold_only_where_m_steps_agree_with_likelihoods(expected, status):
    """The first gain is the step from the sample to all rows. Its ratio to the next misleads."""
    X, options = clouds(500), EMOptions(1e-3, 60)
    parameters = initial_parameters(X, None, OPTIONS.spec, seeded(0), None)
    statistics = sum_statistics(parameters, X)
    here = statistics.mean_log_likelihood
    steps = [
        Iteration(here - below, parameters.weights, parameters.means, (), 0.1, gain)
        for below, gain in ((0.0515, 0.03), (0.0015, 8e-4))
    ]
    candidate = Candidate(parameters, history=tuple(steps), ending=Ending.FORETOLD)
    outcome = maximize(parameters, statistics, OPTIONS.spec)._replace(expected=expected)
    after = advance(candidate, statistics, outcome, options)
    assert promised_gain(after.history) < 1e-4
    assert after.status == status


@pytest.mark.parametrize(("tol", "rounded"), [(1e-4, True), (9e-5, False)])
def test_only_scans_that_cannot_find_an_end_are_rounded(small_groups, tol, rounded):
    """They lead to better parameters; what is said of the result is exact."""
    X = clouds()
    scanner = Scanner(MemoryChunks(X, None, 2_000, ("x", "y")), Threads(2))
    result = fit(scanner, replace(OPTIONS, em=EMOptions(tol, 300)))
    exact = sum_statistics(result.initial, X).mean_log_likelihood
    first = result.best.history[0].log_likelihood
    assert first == pytest.approx(exact, rel=1e-6 if rounded else 1e-13)
    assert rounded == (first != pytest.approx(exact, rel=1e-12))
    last = sum_statistics(result.parameters, X).mean_log_likelihood
    assert result.best.log_likelihood == pytest.approx(last, rel=1e-13)


@pytest.mark.parametrize("max_iter", [1, 60])
def test_no_result_comes_from_a_rounded_scan(small_groups, max_iter):
    """Of few sampled rows the first gain is large, and the next nearly nothing."""
    X, options = clouds(apart=3.0), replace(OPTIONS, search_rows=200)
    options = replace(options, em=EMOptions(1e-4, max_iter))
    scanner = Scanner(MemoryChunks(X, None, 2_000, ("x", "y")), Threads(2))
    result = fit(scanner, options)
    best = result.best
    if max_iter == 60:
        assert best.history[0].expected > 32 * 1e-4 > 64 * best.history[1].expected
        assert len(best.history) == 3
        assert result.parameters.digest in result.evaluated
    measured = best.history[-1]  # under the parameters before the last M-step
    before = result.initial if max_iter == 1 else result.parameters
    exact = sum_statistics(before, X).mean_log_likelihood
    assert measured.log_likelihood == pytest.approx(exact, rel=1e-13)


def test_only_a_searched_fit_that_scans_ends_foretold(small_groups):
    assert fitted()[0].best.ending is Ending.FORETOLD
    assert fitted(replace(OPTIONS, search_rows=None))[0].best.ending is Ending.STEPPED
    assert fitted(replace(OPTIONS, search_rows=8_000))[0].best.ending is Ending.MEASURED


@pytest.mark.parametrize("n_init", [1, 3])
def test_what_is_foreseen_decides_about_scans_alone(small_groups, monkeypatch, n_init):
    options = replace(OPTIONS, n_init=n_init)
    result, densities, scans = fitted(options)
    monkeypatch.setattr(foreseen, "may_converge", lambda candidate, options: True)
    always = fitted(options)
    assert bits(always[0].best) == bits(result.best)
    assert (bits(always[1]), always[2]) == (bits(densities), scans)
    monkeypatch.setattr(polish, "foresee", lambda *given: ())
    never = fitted(options)
    assert bits(never[0].best) == bits(result.best)
    assert (bits(never[1]), never[2]) == (bits(densities), scans + 1)
    assert bits(fitted(options, evaluate_too=False)[1:]) == bits(never[1:])


def test_a_fit_that_max_iter_stops_keeps_its_last_m_step(small_groups):
    result, densities, scans = fitted(replace(OPTIONS, em=EMOptions(1e-9, 3)))
    assert (result.best.status, result.best.measured) == (Status.MAX_ITER, False)
    assert result.best.n_iter == len(result.best.history) == 3
    assert scans == 1 + 3 + 1
    assert densities.mean_log_likelihood > result.best.log_likelihood


@pytest.mark.parametrize(("given_start", "search_rows"), [(True, 1_500), (False, None)])
def test_a_given_start_takes_scikit_learns_steps(
    small_groups, monkeypatch, given_start, search_rows
):
    for name in ("LOOK_ROWS", "LEAST_SEARCH_ROWS"):  # of the sample without a search
        monkeypatch.setattr(f"gmm_dask.chunked.fit.{name}", 1_500)
    start = initial_parameters(clouds(500), None, OPTIONS.spec, seeded(0), None)
    given = {"start": [start]} if given_start else {}
    result, _, scans = fitted(replace(OPTIONS, search_rows=search_rows), **given)
    best = result.best
    assert (best.status, best.measured) == (Status.CONVERGED, False)
    assert scans == 1 + len(best.history) + 1
    assert best.n_iter == len(best.history)
    assert best.history[-1].means.tolist() != result.parameters.means.tolist()


def test_rivals_are_evaluated_in_the_same_scan(of_one_scan):
    rival = initial_parameters(clouds(500), None, OPTIONS.spec, seeded(0), None)
    result, _, scans = fitted(rivals=lambda: [rival])
    assert scans == 1 + len(result.best.history)
    assert set(result.evaluated) == {rival.digest, result.parameters.digest}
    assert bits(result.evaluated[rival.digest]) == bits(of_one_scan(rival))


@pytest.mark.parametrize("kind", COVARIANCE_NAMES)
def test_no_change_below_tol_comes_after_an_expected_gain_of_tol(kind):
    """The likelihood rises by at least what the M-step gained of the expected one."""
    X, spec, options = clouds(800), MixtureSpec(4, kind), EMOptions(1e-9, 30)
    start = initial_parameters(X, None, spec, seeded(1), None)
    (candidate,) = fit_em(ExpectationOn(X, None), [start], spec, options)
    history = candidate.history
    changes = np.diff([iteration.log_likelihood for iteration in history])
    expected = np.array([iteration.expected for iteration in history[:-1]])
    assert len(changes) > 5
    assert np.all(changes >= expected - 1e-12)
    running = replace(candidate, status=Status.RUNNING)
    gain = running.history[-1].expected
    assert may_converge(running, EMOptions(gain * 1.01))
    assert not may_converge(running, EMOptions(gain * 0.99))


def test_an_m_step_from_a_measured_result_changes_little(small_groups):
    result, _, _ = fitted()
    step = maximize(result.parameters, sum_statistics(result.parameters, clouds()), OPTIONS.spec)
    assert 0.0 <= step.expected < OPTIONS.em.tol
