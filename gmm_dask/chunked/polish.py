"""The polish: EM over all rows, from the starts that were found, one scan an iteration."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from gmm_dask.chunked.expectation import ScannedExpectation
from gmm_dask.chunked.fit_records import FitOptions, FitState
from gmm_dask.chunked.foreseen import drop_wrong, foresee
from gmm_dask.chunked.precision import tell_precision
from gmm_dask.chunked.replacing import is_lost, lowest_finder, mend_starts
from gmm_dask.chunked.replay import add_frame
from gmm_dask.chunked.scan import Scanner
from gmm_dask.events import IterationFinished, Notify
from gmm_dask.mixture.em import EMState, Ending, em_steps, may_converge, start_em
from gmm_dask.mixture.engine import least_rounded_tol, least_single_tol
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.replacing import Replacement
from gmm_dask.mixture.threads import available_cores


def polish(
    scanner: Scanner,
    state: FitState,
    options: FitOptions,
    save: Callable[[FitState], None],
    before: float = -np.inf,
    compare: Callable[[EMState], EMState] = lambda em: em,
    *,
    evaluate_too: bool = True,
    rivals: Callable[[], Sequence[MixtureParameters]] = tuple,
) -> FitState:
    """Run EM over all rows, one scan an iteration, until no candidate runs any more.

    Parameters
    ----------
    before, evaluate_too, rivals
        As for `fit`.
    compare
        As for `em_steps`.
    """
    if state.em is None:
        state = _mended(state, options)
        tell_precision(scanner, state.starts, options.em.tol)
    slope = state.survey.log_slope
    first = state.em or start_em(state.starts, options.em, before - slope, _endings(state, options))
    state = replace(state, em=first)
    replacing = _replacing(scanner, state, options)
    with ExitStack() as stack:
        expectation = _expectation(scanner, state, options.em.tol, stack)
        scanning = expectation if isinstance(expectation, ScannedExpectation) else None
        evaluating = scanning if evaluate_too else None
        others = tuple(rivals()) if evaluating else ()
        began = time.perf_counter()
        steps = em_steps(
            expectation,
            first,
            options.spec,
            options.em,
            lambda em: replacing(compare(em)),
        )
        if scanning:
            _set_up(scanning, state, options)
        if evaluating:
            evaluating.beside = foresee(state, options, others)
        for em in steps:
            frames = add_frame(state.frames, em)
            state = replace(state, em=em, scans=scanner.scans, frames=frames)
            if scanning:
                _set_up(scanning, state, options)
            if evaluating:
                evaluating.evaluated = drop_wrong(evaluating.evaluated, state, others)
                state = replace(state, evaluated=evaluating.evaluated)
                evaluating.beside = foresee(state, options, others)
            save(state)
            seconds = time.perf_counter() - began
            _notify_iteration(scanner.notify, em, state.survey.rows, seconds, slope)
            began = time.perf_counter()
    return state


def _set_up(scanning: ScannedExpectation, state: FitState, options: FitOptions) -> None:
    """Say of each running candidate what the next scan may do with it.

    A scan that cannot find that a fit has converged only leads to better parameters: float32 does
    for it.
    """
    assert state.em is not None
    running = [state.em.candidates[index] for index in state.em.running]
    if not running:
        return
    scanning.fresh = [state.fresh[index] for index in state.em.running]
    last = state.em.iteration + 1 >= options.em.max_iter
    exact = last or options.em.tol < least_rounded_tol(running[0].parameters.n_features)
    scanning.rounded = [
        not exact
        and candidate.ending is not Ending.STEPPED
        and not may_converge(candidate, options.em)
        for candidate in running
    ]


def _endings(state: FitState, options: FitOptions) -> tuple[Ending, ...]:
    """Say of each candidate how it converges: by the fewest scans where this fit made its start.

    Given starts take scikit-learn's steps to the last one; so do fits without a search, unless it
    would cost them a scan. Cells of a selection are compared by more than ``tol`` for each row.
    """
    if options.search_rows is None:
        ending = Ending.STEPPED
    elif state.cells:
        ending = Ending.MEASURED
    elif not state.survey.in_memory:
        ending = Ending.FORETOLD
    else:
        ending = Ending.MEASURED if state.search else Ending.STEPPED
    return tuple(ending if fresh else Ending.STEPPED for fresh in state.fresh)


def _mended(state: FitState, options: FitOptions) -> FitState:
    """Place lost components of the starts again on the sample, if the options ask for it."""
    if options.em.on_collapse != "replace":
        return state
    starts, replaced = mend_starts(
        state.starts,
        state.fresh,
        state.survey,
        options,
        available_cores(),
        searched=bool(state.search or state.cells) or options.search_rows is None,
    )
    return replace(state, starts=starts, replaced_on_sample=replaced)


def _replacing(
    scanner: Scanner, state: FitState, options: FitOptions
) -> Callable[[EMState], EMState]:
    """Return what places lost components again after an iteration, if the options ask for it."""
    survey, spec = state.survey, options.spec
    if options.em.on_collapse != "replace":
        return lambda em: em
    replacement = Replacement.over(
        survey.sample, options.em.max_iter, spec.reg_covar, survey.variances
    )
    find = lowest_finder(scanner, survey)
    # What could not be mended on the sample is not tried again on all rows.
    spared = [
        fresh and bool(is_lost(start, survey, spec).any())
        for fresh, start in zip(state.fresh, state.starts, strict=True)
    ]
    return lambda em: replacement(em, find, spared)


def _expectation(
    scanner: Scanner, state: FitState, tol: float, stack: ExitStack
) -> ScannedExpectation | ExpectationOn:
    """Choose how an E-step is computed: by a scan, or on the sample where it holds all rows."""
    survey, ownership = state.survey, state.ownership
    in_doubles = tol < least_single_tol(len(scanner.chunks.columns))
    if not survey.in_memory:
        given = survey.nulls_left, ownership, state.evaluated, in_doubles
        return ScannedExpectation(scanner, *given)
    sample = survey.sample_for(ownership)
    X = sample.X.astype(np.float64) if in_doubles else sample.X
    threads = available_cores()
    pool = stack.enter_context(ThreadPoolExecutor(threads))
    return ExpectationOn(X, sample.sample_weight, pool, threads, sample.labelling)


def _notify_iteration(notify: Notify, em: EMState, rows: int, seconds: float, slope: float) -> None:
    best = max(em.candidates, key=lambda candidate: candidate.log_likelihood)
    bounds = best.lower_bounds
    change = bounds[-1] - bounds[-2] if len(bounds) > 1 else np.inf
    notify(
        IterationFinished(
            em.iteration, best.log_likelihood + slope, change, len(em.running), rows, seconds
        )
    )
