"""A fit: survey, search, polish. The one way there is, for arrays and for files.

The survey looks at all rows once and draws a sample; the search finds a start on the sample;
the polish runs EM over all rows, every candidate in the same scans. Where the sample holds all
rows, the polish stays in memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from gmm_dask.chunked.conclusion import conclude
from gmm_dask.chunked.fit_records import FitOptions, FitResult, FitState
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.survey import survey
from gmm_dask.chunked.threads import available_cores
from gmm_dask.errors import TooFewRowsError
from gmm_dask.events import (
    IterationFinished,
    Notify,
    Stage,
    StageAdvanced,
    StageFinished,
    StageStarted,
)
from gmm_dask.mixture.em import EMState, Expectation, em_steps, start_em
from gmm_dask.mixture.expectation import PIECE_ROWS, ExpectationOn
from gmm_dask.mixture.initialization import (
    check_start,
    given_start,
    initial_parameters,
    seeded,
)
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.search import SearchSummary, effort_for, search, worth_searching
from gmm_dask.mixture.starts import Sample
from gmm_dask.mixture.statistics import StatisticsBatch, sum_statistics
from gmm_dask.mixture.threads import single_threaded

logger = logging.getLogger("gmm_dask")

#: Rows of the sample when nothing is searched: for the pictures and the warnings.
LOOK_ROWS = 20_000
LEAST_SEARCH_ROWS = 65_536


def fit(
    scanner: Scanner,
    options: FitOptions,
    *,
    start: Sequence[MixtureParameters] = (),
    search_too: bool = False,
    resume: FitState | None = None,
    save: Callable[[FitState], None] = lambda state: None,
) -> FitResult:
    """Fit a mixture to all rows of a scanner.

    Scans: one for the survey (two where most rows hold nulls), then one for each iteration of
    the polish; none for the polish if the sample holds all rows.

    Parameters
    ----------
    start
        Parameters to polish as they are, in the caller's order; nothing is searched then,
        unless ``search_too``.
    resume
        Where an interrupted fit of the same rows and options stood.
    save
        Called after the survey, the search and every iteration.

    Raises
    ------
    TooFewRowsError
        Fewer complete rows than components.
    NonFiniteError
        Nulls where the policy refuses them, or infinities.
    NumericalError
        Every candidate broke down.
    InputChangedError
        The input is not what it was in the survey.
    """
    with single_threaded():
        state = resume or _survey(scanner, options, bool(start) and not search_too)
        if resume is None:
            save(state)
        else:
            logger.info("resuming after %d scans", resume.scans)
            scanner.resume(resume.scans, resume.fingerprints)
        if not state.starts:
            state = _starts(scanner, state, options, tuple(start), search_too)
            save(state)
        state = _polish(scanner, state, options, save)
    return conclude(scanner, state, options)


def _survey(scanner: Scanner, options: FitOptions, looking: bool) -> FitState:
    k, d = options.spec.n_components, len(scanner.chunks.columns)
    check_start(options.spec, d)
    wanted = options.search_rows
    if wanted == "auto" or wanted is None:
        wanted = max(LEAST_SEARCH_ROWS, 50 * k * d)
    if looking or options.spec.start.complete:
        wanted = LOOK_ROWS
    found = survey(scanner, max(wanted, k), options.random_state, options.nulls)
    if found.rows < k:
        raise TooFewRowsError(
            f"Expected n_samples >= n_components but got n_components = {k}, "
            f"n_samples = {found.rows}; fit fewer components or give more rows"
        )
    return FitState(found, scanner.fingerprints, scans=scanner.scans)


def _starts(
    scanner: Scanner,
    state: FitState,
    options: FitOptions,
    start: tuple[MixtureParameters, ...],
    search_too: bool,
) -> FitState:
    record = None
    found: tuple[MixtureParameters, ...] = ()
    if options.spec.start.complete:
        start = (*start, given_start(options.spec))
    elif not start or search_too:
        k = options.spec.n_components
        sample = _positive(state.survey.sample, k)
        if options.search_rows is None or not worth_searching(sample.X.shape[0], k):
            found = _plain_starts(sample, options)
        else:
            found, record = _search(scanner.notify, sample, options, state.survey.in_memory)
    fresh = (True,) * len(found) + (False,) * len(start)
    return replace(state, starts=(*found, *start), fresh=fresh, search=record, scans=scanner.scans)


def _positive(sample: Sample, k: int) -> Sample:
    """Rows that count: a start may not be placed on a row of weight 0."""
    if sample.sample_weight is None or (sample.sample_weight > 0).all():
        return sample
    counted = np.flatnonzero(sample.sample_weight > 0)
    if len(counted) < k:
        raise TooFewRowsError(
            f"only {len(counted)} of {len(sample.sample_weight):,} sampled rows have a weight "
            f"above 0, for n_components = {k}; fit fewer components, or leave rows of weight 0 out"
        )
    return Sample(sample.X.T[:, counted].T, sample.sample_weight[counted])


def _plain_starts(sample: Sample, options: FitOptions) -> tuple[MixtureParameters, ...]:
    random_state = seeded(options.random_state)
    return tuple(
        initial_parameters(sample.X, sample.sample_weight, options.spec, random_state)
        for _ in range(options.n_init)
    )


def _search(
    notify: Notify, sample: Sample, options: FitOptions, whole: bool
) -> tuple[tuple[MixtureParameters, ...], SearchSummary]:
    m, d = sample.X.shape
    runs = effort_for(m, options.spec.n_components, d, options.n_init).runs + whole
    notify(StageStarted(Stage.SEARCH, runs, "runs", f"on {m:,} rows"))
    found, record = search(
        sample,
        options.spec,
        options.em,
        random_state=options.random_state,
        keep=options.n_init,
        threads=available_cores(),
        whole=whole,
        advanced=lambda done: notify(StageAdvanced(Stage.SEARCH, done)),
    )
    best = record.log_likelihoods[0]
    notify(
        StageFinished(
            Stage.SEARCH,
            record.seconds,
            f"{record.starts} starts on {record.rows:,} rows, best log-likelihood {best:.5f}",
        )
    )
    return found, record


def sum_batch(rows: Rows, parameters: tuple[MixtureParameters, ...]) -> StatisticsBatch:
    """The statistics of every candidate over one chunk, taken while it is in memory."""
    return StatisticsBatch(
        tuple(sum_statistics(one, rows.values, rows.sample_weight) for one in parameters)
    )


def _polish(
    scanner: Scanner, state: FitState, options: FitOptions, save: Callable[[FitState], None]
) -> FitState:
    first = state.em or start_em(state.starts, options.em)
    state = replace(state, em=first)
    with ExitStack() as stack:
        expectation = _expectation(scanner, state, stack)
        began = time.perf_counter()
        for em in em_steps(expectation, first, options.spec, options.em):
            state = replace(state, em=em, scans=scanner.scans)
            save(state)
            _tell(scanner.notify, em, state.survey.rows, time.perf_counter() - began)
            began = time.perf_counter()
    return state


def _expectation(scanner: Scanner, state: FitState, stack: ExitStack) -> Expectation:
    """A scan for each E-step, or none where the sample holds all rows."""
    nulls = state.survey.nulls_left
    if not state.survey.in_memory:
        return lambda batch: scanner.reduce(sum_batch, tuple(batch), Stage.POLISH, nulls).statistics
    sample = state.survey.sample
    if sample.X.shape[0] <= PIECE_ROWS:
        return ExpectationOn(sample.X, sample.sample_weight)
    threads = available_cores()
    pool = stack.enter_context(ThreadPoolExecutor(threads))
    return ExpectationOn(sample.X, sample.sample_weight, pool, threads)


def _tell(notify: Notify, em: EMState, rows: int, seconds: float) -> None:
    best = max(em.candidates, key=lambda candidate: candidate.log_likelihood)
    bounds = best.lower_bounds
    change = bounds[-1] - bounds[-2] if len(bounds) > 1 else np.inf
    notify(
        IterationFinished(em.iteration, best.log_likelihood, change, len(em.running), rows, seconds)
    )
