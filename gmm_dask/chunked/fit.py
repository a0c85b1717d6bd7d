"""A fit of any source of rows: survey, search, polish.

The survey scans all rows once and draws a sample; the search finds starts on the sample; the
polish runs EM over all rows, and every candidate shares its scans. Where the sample holds all
complete rows, the polish runs on it in memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import numpy as np

from gmm_dask.chunked.conclusion import conclude
from gmm_dask.chunked.fit_records import FitOptions, FitResult, FitState
from gmm_dask.chunked.owning import assign_labels
from gmm_dask.chunked.replacing import is_lost, lowest_finder, mend_starts
from gmm_dask.chunked.replay import add_frame
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.starting import make_starts
from gmm_dask.chunked.survey import survey_source
from gmm_dask.chunked.threads import available_cores
from gmm_dask.errors import TooFewRowsError
from gmm_dask.events import (
    IterationFinished,
    Notify,
    Stage,
)
from gmm_dask.mixture.em import EMState, Expectation, em_steps, start_em
from gmm_dask.mixture.engine import LEAST_SINGLE_TOL
from gmm_dask.mixture.expectation import PIECE_ROWS, ExpectationOn
from gmm_dask.mixture.initialization import (
    check_start,
    given_start,
)
from gmm_dask.mixture.labels import Ownership, sum_labelled
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.replacing import Replacement
from gmm_dask.mixture.statistics import StatisticsBatch, sum_statistics
from gmm_dask.mixture.threads import single_threaded

logger = logging.getLogger("gmm_dask")

#: Rows of the sample without a search: enough for the pictures and the warnings.
LOOK_ROWS = 20_000
#: Least rows of the sample when ``search_rows`` is ``"auto"``.
LEAST_SEARCH_ROWS = 65_536


def fit(
    scanner: Scanner,
    options: FitOptions,
    *,
    start: Sequence[MixtureParameters] = (),
    before: float = -np.inf,
    search_too: bool = False,
    resume: FitState | None = None,
    save: Callable[[FitState], None] = lambda state: None,
) -> FitResult:
    """Fit a mixture to all rows of a scanner's source.

    Costs one scan for the survey (two where most rows hold nulls), then one for each iteration of
    the polish; none for the polish if the sample holds all complete rows.

    Parameters
    ----------
    start
        Parameters to polish as they are, with their components in the caller's order. No search
        is made then, unless ``search_too``.
    before
        Mean log-likelihood at which an earlier fit left ``start``, nats per unit of weight, in
        natural units: EM goes on as if it had not stopped there.
    search_too
        Whether to search as well, so that the best start of the search competes with ``start``.
    resume
        State in which a fit of the same rows with the same options was interrupted.
    save
        Receives the state after the survey, the search and every iteration.

    Raises
    ------
    TooFewRowsError
        Fewer complete rows than components.
    NonFiniteError
        A value is infinite; or a value is null or NaN and the policy refuses it.
    InputError
        The survey refuses the sample weights or the size of a value.
    NumericalError
        Every candidate broke down.
    InputChangedError
        The input is not what it was in the first scan.
    ClusterError
        The workers are gone, or a deadline has passed.
    """
    with single_threaded():
        state = begin(scanner, options, resume, save, with_search=search_too or not start)
        if not state.starts:
            state = _add_starts(scanner, state, options, tuple(start), search_too)
            save(state)
        state = polish(scanner, state, options, save, before)
    return conclude(scanner, state, options)


def begin(
    scanner: Scanner,
    options: FitOptions,
    resume: FitState | None,
    save: Callable[[FitState], None],
    *,
    with_search: bool = True,
    least_rows: int | None = None,
) -> FitState:
    """Survey the rows, or go on where a fit of the same rows was interrupted.

    Parameters
    ----------
    least_rows
        Fewer complete rows are refused; by default the number of components.
    """
    if resume is not None:
        logger.info("resuming after %d scan%s", resume.scans, "" if resume.scans == 1 else "s")
        scanner.transforms = resume.survey.transforms
        scanner.resume(resume.scans, resume.fingerprints, resume.digests)
        return resume
    state = _survey(scanner, options, with_search, least_rows or options.spec.n_components)
    save(state)
    return state


def _survey(scanner: Scanner, options: FitOptions, with_search: bool, least_rows: int) -> FitState:
    k, d = options.spec.n_components, len(scanner.chunks.columns)
    check_start(options.spec, d)
    sample_rows = options.search_rows
    if sample_rows == "auto" or sample_rows is None:
        sample_rows = max(LEAST_SEARCH_ROWS, 50 * k * d)
    if not with_search or options.spec.start.complete:
        sample_rows = LOOK_ROWS
    survey = survey_source(scanner, max(sample_rows, k), options.random_state, options.nulls)
    if survey.rows < least_rows:
        raise too_few_rows(survey.rows, least_rows)
    return FitState(survey, scanner.fingerprints, scans=scanner.scans, digests=scanner.digests)


def too_few_rows(rows: int, k: int) -> TooFewRowsError:
    """Return the error of k components for fewer rows."""
    return TooFewRowsError(
        f"Expected n_samples >= n_components but got n_components = {k}, "
        f"n_samples = {rows}; fit fewer components or give more rows"
    )


def _add_starts(
    scanner: Scanner,
    state: FitState,
    options: FitOptions,
    start: tuple[MixtureParameters, ...],
    search_too: bool,
) -> FitState:
    ownership = assign_labels(state.survey, options, start)
    summary = None
    fresh_starts: tuple[MixtureParameters, ...] = ()
    if options.spec.start.complete:
        start = (*start, given_start(options.spec))
    elif not start or search_too:
        fresh_starts, summary = make_starts(
            scanner.notify, state.survey, options, available_cores(), ownership=ownership
        )
    return replace(
        state,
        ownership=ownership,
        starts=(*fresh_starts, *start),
        fresh=(options.spec.start.free,) * len(fresh_starts) + (False,) * len(start),
        search=summary,
        scans=scanner.scans,
    )


def sum_labelled_batch(
    rows: Rows, argument: tuple[tuple[MixtureParameters, ...], Ownership], in_doubles: bool = False
) -> StatisticsBatch:
    """Sum the statistics as `sum_batch` does, of rows that have the components of their labels.

    Parameters
    ----------
    argument
        Parameters of each candidate, and the components of each label.
    in_doubles
        Whether float32 rows are computed in float64 in any case.
    """
    batch, ownership = argument
    assert rows.labels is not None
    values = rows.values.astype(np.float64) if in_doubles else rows.values
    given = values, rows.sample_weight, rows.patterns or (), rows.labels.codes, ownership
    return StatisticsBatch(tuple(sum_labelled(parameters, *given) for parameters in batch))


def sum_batch(
    rows: Rows, batch: tuple[MixtureParameters, ...], in_doubles: bool = False
) -> StatisticsBatch:
    """Sum the statistics of every candidate over one chunk.

    Parameters
    ----------
    batch
        Parameters of each candidate.
    in_doubles
        Whether float32 rows are computed in float64 in any case.
    """
    given = rows.values, rows.sample_weight, rows.patterns or (), in_doubles
    return StatisticsBatch(tuple(sum_statistics(parameters, *given) for parameters in batch))


def polish(
    scanner: Scanner,
    state: FitState,
    options: FitOptions,
    save: Callable[[FitState], None],
    before: float = -np.inf,
    compare: Callable[[EMState], EMState] = lambda em: em,
) -> FitState:
    """Run EM over all rows, one scan an iteration, until no candidate runs any more.

    Parameters
    ----------
    before
        As for `fit`.
    compare
        As for `em_steps`.
    """
    if state.em is None:
        state = _mended(state, options)
    slope = state.survey.log_slope
    first = state.em or start_em(state.starts, options.em, before - slope)
    state = replace(state, em=first)
    replacing = _replacing(scanner, state, options)
    with ExitStack() as stack:
        expectation = _expectation(scanner, state, options.em.tol, stack)
        began = time.perf_counter()
        steps = em_steps(
            expectation, first, options.spec, options.em, lambda em: replacing(compare(em))
        )
        for em in steps:
            frames = add_frame(state.frames, em)
            state = replace(state, em=em, scans=scanner.scans, frames=frames)
            save(state)
            seconds = time.perf_counter() - began
            _notify_iteration(scanner.notify, em, state.survey.rows, seconds, slope)
            began = time.perf_counter()
    return state


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


def _expectation(scanner: Scanner, state: FitState, tol: float, stack: ExitStack) -> Expectation:
    """Choose how an E-step is computed: by a scan, or on the sample where it holds all rows."""
    nulls, ownership = state.survey.nulls_left, state.ownership
    in_doubles = tol < LEAST_SINGLE_TOL
    if not state.survey.in_memory and ownership is not None:
        of_labels = partial(sum_labelled_batch, in_doubles=in_doubles)
        return lambda batch: (
            scanner.reduce(of_labels, (tuple(batch), ownership), Stage.POLISH, nulls).statistics
        )
    if not state.survey.in_memory:
        of_chunk = partial(sum_batch, in_doubles=in_doubles)
        return lambda batch: scanner.reduce(of_chunk, tuple(batch), Stage.POLISH, nulls).statistics
    sample = state.survey.sample_for(ownership)
    X = sample.X.astype(np.float64) if in_doubles else sample.X
    if X.shape[0] <= PIECE_ROWS:
        return ExpectationOn(X, sample.sample_weight, labelling=sample.labelling)
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
