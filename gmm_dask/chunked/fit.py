"""A fit: survey, search, polish. The one way there is, for arrays and for files.

The survey looks at all rows once and draws a sample; the search finds a start on the sample;
the polish runs EM over all rows, every candidate in the same scans. Where the sample holds all
rows, the polish stays in memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from gmm_dask.chunked.rows import MemoryChunks, Rows
from gmm_dask.chunked.scan import Scanner, group_rows
from gmm_dask.chunked.survey import Survey, frequent_values, survey
from gmm_dask.chunked.threads import Threads, available_cores
from gmm_dask.errors import NumericalError, TooFewRowsError
from gmm_dask.events import IterationFinished, Notify, StageAdvanced, StageFinished, StageStarted
from gmm_dask.mixture.covariance.base import FloatArray
from gmm_dask.mixture.criteria import Health, health, rank
from gmm_dask.mixture.em import Candidate, EMOptions, EMState, em_steps, start_em
from gmm_dask.mixture.initialization import (
    GivenParameters,
    check_given,
    given_start,
    initial_parameters,
)
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.search import Sample, SearchRecord, effort_for, search
from gmm_dask.mixture.statistics import StatisticsBatch, SufficientStatistics, sum_statistics
from gmm_dask.mixture.threads import single_threaded

logger = logging.getLogger("gmm_dask")

#: Rows of the sample when nothing is searched: for the pictures and the warnings.
LOOK_ROWS = 20_000
LEAST_SEARCH_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class FitOptions:
    """What to fit and how.

    Attributes
    ----------
    n_components, covariance_type
        The mixture.
    em
        Tolerance, iterations at the most, and the floor under the covariances.
    n_init
        Candidates that are polished on all rows; they share every scan.
    init_params
        A key of `INITIALIZATIONS`.
    random_state
        Seed of the sample and of every start.
    search_rows
        Rows sampled for the search, ``"auto"`` for max(65,536, 50·k·d); None: no search, the
        starts are polished as they are.
    nulls
        ``"error"`` or ``"drop"``.
    given
        What the caller fixed of the first parameters.
    """

    n_components: int = 1
    covariance_type: str = "full"
    em: EMOptions = field(default_factory=EMOptions)
    n_init: int = 1
    init_params: str = "kmeans"
    random_state: int = 0
    search_rows: int | Literal["auto"] | None = "auto"
    nulls: str = "error"
    given: GivenParameters = field(default_factory=GivenParameters)


@dataclass(frozen=True, eq=False)
class FitState:
    """All that a fit has found so far: what a checkpoint holds, and where it resumes.

    Attributes
    ----------
    survey
        Of all rows.
    fingerprints
        Of the values of the first scan; None where they cannot change.
    starts
        First parameters of the polish; empty until the search is over.
    fresh
        For each start, whether its components have no order yet that must be kept.
    search
        What the search did, if there was one.
    em
        The polish; None before it.
    scans
        So far.
    """

    survey: Survey
    fingerprints: tuple[int, ...] | None
    starts: tuple[MixtureParameters, ...] = ()
    fresh: tuple[bool, ...] = ()
    search: SearchRecord | None = None
    em: EMState | None = None
    scans: int = 0


@dataclass(frozen=True, eq=False)
class FitResult:
    """A fitted mixture and how it came about.

    Attributes
    ----------
    best
        The candidate that won: its parameters, status and history. A fresh fit's components are
        in order of weight, the heaviest first, then of mean.
    initial
        Where its polish began, in the same order.
    candidates
        All that were polished, as they ended.
    survey
        Of all rows.
    search
        What the search did, or None.
    health
        Which components collapsed or starved.
    scans
        Readings of all rows so far.
    in_memory
        Whether the polish ran on rows held in memory, so that it read nothing.
    warnings
        Sentences that a person should read.
    start
        Parameters that the caller wanted polished.
    """

    best: Candidate
    initial: MixtureParameters
    candidates: tuple[Candidate, ...]
    survey: Survey
    search: SearchRecord | None
    health: Health
    scans: int
    in_memory: bool
    warnings: tuple[str, ...]
    start: tuple[MixtureParameters, ...] = ()

    @property
    def parameters(self) -> MixtureParameters:
        """Of the winner."""
        return self.best.parameters


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

    Scans: one for the survey, then one for each iteration of the polish; none for the polish if
    the sample holds all rows.

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
        Nulls under ``"error"``, or infinities.
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
            scanner.scans = resume.scans
            scanner.fingerprints = resume.fingerprints
            scanner.drop = resume.survey.dropped > 0
        if not state.starts:
            state = _starts(scanner, state, options, tuple(start), search_too)
            save(state)
        state, in_memory = _polish(scanner, state, options, save)
    result = _result(scanner, state, options, in_memory)
    return replace(result, start=tuple(start))


def _survey(scanner: Scanner, options: FitOptions, looking: bool) -> FitState:
    k, d = options.n_components, len(scanner.chunks.columns)
    check_given(options.given, options.covariance_type, k, d)
    wanted = options.search_rows
    if wanted == "auto" or wanted is None:
        wanted = max(LEAST_SEARCH_ROWS, 50 * k * d)
    if looking or options.given.complete:
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
    if options.given.complete:
        start = (*start, given_start(options.given, options.covariance_type))
    elif not start or search_too:
        sample = _positive(state.survey.sample)
        if options.search_rows is None:
            found = _plain_starts(sample, options)
        else:
            found, record = _search(scanner.notify, sample, options)
    fresh = (True,) * len(found) + (False,) * len(start)
    return replace(state, starts=(*found, *start), fresh=fresh, search=record, scans=scanner.scans)


def _positive(sample: Sample) -> Sample:
    """Rows that count: a start may not be placed on a row of weight 0."""
    if sample.sample_weight is None or (sample.sample_weight > 0).all():
        return sample
    counted = np.flatnonzero(sample.sample_weight > 0)
    return Sample(sample.X.T[:, counted].T, sample.sample_weight[counted])


def _plain_starts(sample: Sample, options: FitOptions) -> tuple[MixtureParameters, ...]:
    random_state = np.random.RandomState(options.random_state)
    return tuple(
        initial_parameters(
            sample.X,
            sample.sample_weight,
            options.n_components,
            options.covariance_type,
            options.init_params,
            options.em.reg_covar,
            random_state,
            options.given,
        )
        for _ in range(options.n_init)
    )


def _search(
    notify: Notify, sample: Sample, options: FitOptions
) -> tuple[tuple[MixtureParameters, ...], SearchRecord]:
    effort = effort_for(sample.X.shape[0], options.n_components)
    runs = max(effort.starts, options.n_init) + max(effort.finalists, options.n_init)
    notify(StageStarted("search", runs, "runs", f"on {sample.X.shape[0]:,} rows"))
    found, record = search(
        sample,
        options.n_components,
        options.covariance_type,
        init_params=options.init_params,
        reg_covar=options.em.reg_covar,
        random_state=options.random_state,
        given=options.given,
        keep=options.n_init,
        threads=available_cores(),
        advanced=lambda done: notify(StageAdvanced("search", done)),
    )
    best = record.log_likelihoods[0]
    notify(
        StageFinished(
            "search",
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
) -> tuple[FitState, bool]:
    found = state.survey
    in_memory = len(found.draw.numbers) == found.rows
    rows = memory_scanner(found) if in_memory else scanner

    def expectation(parameters: Sequence[MixtureParameters]) -> Sequence[SufficientStatistics]:
        return rows.reduce(sum_batch, tuple(parameters), "polish").statistics

    first = state.em or start_em(state.starts, options.em)
    state = replace(state, em=first)
    began = time.perf_counter()
    for em in em_steps(expectation, first, options.em):
        state = replace(state, em=em, scans=scanner.scans)
        save(state)
        _tell(scanner.notify, em, found.rows, time.perf_counter() - began)
        began = time.perf_counter()
    if in_memory:
        rows.close()
    return state, in_memory


def memory_scanner(found: Survey) -> Scanner:
    """Scan the sample instead of the input: for a survey whose sample holds all rows."""
    sample = found.sample
    chunks = MemoryChunks(
        sample.X,
        sample.sample_weight,
        group_rows(found.rows),
        tuple(f"x{number}" for number in range(sample.X.shape[1])),
    )
    return Scanner(chunks, Threads())


def _tell(notify: Notify, em: EMState, rows: int, seconds: float) -> None:
    best = max(em.candidates, key=lambda candidate: candidate.log_likelihood)
    bounds = best.lower_bounds
    change = bounds[-1] - bounds[-2] if len(bounds) > 1 else np.inf
    notify(
        IterationFinished(em.iteration, best.log_likelihood, change, len(em.running), rows, seconds)
    )


def _result(scanner: Scanner, state: FitState, options: FitOptions, in_memory: bool) -> FitResult:
    em = state.em
    assert em is not None
    variances = state.survey.variances
    order = rank(em.candidates, variances, options.em.reg_covar)
    best, initial = em.candidates[order[0]], state.starts[order[0]]
    if best.problem:
        raise NumericalError(f"every start broke down: {best.problem}")
    if state.fresh[order[0]]:
        places = component_order(best.parameters)
        initial = initial.reordered(places)
        best = replace(
            best,
            parameters=best.parameters.reordered(places),
            counts=None if best.counts is None else best.counts[places],
            history=tuple(
                replace(one, weights=one.weights[places], means=one.means[places])
                for one in best.history
            ),
        )
    judged = health(best.parameters, best.counts, variances, options.em.reg_covar)
    return FitResult(
        best,
        initial,
        em.candidates,
        state.survey,
        state.search,
        judged,
        scanner.scans,
        in_memory,
        tuple(_warnings(scanner, state.survey, best, judged, options)),
    )


def component_order(parameters: MixtureParameters) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Heaviest first; equal weights by their means."""
    return np.lexsort((*parameters.means.T[::-1], -parameters.weights))


def _warnings(
    scanner: Scanner, found: Survey, best: Candidate, judged: Health, options: FitOptions
) -> list[str]:
    columns = scanner.chunks.columns
    sentences = []
    variances: FloatArray = found.variances
    reg_covar = options.em.reg_covar
    for column, variance in zip(columns, variances, strict=True):
        if variance > 0 and reg_covar > 1e-3 * variance:
            sentences.append(
                f"reg_covar {reg_covar:g} is {reg_covar / variance:.2g} times the variance of "
                f"column {column!r} and flattens it; try {variance * 1e-6:.1g}"
            )
    for column, value, share in frequent_values(found.sample, columns):
        sentences.append(
            f"{share:.1%} of the rows have {column} = {value:g}; a component can collapse on it"
        )
    for name, which in (("collapsed", judged.collapsed), ("starved", judged.starved)):
        if which.any():
            numbers = ", ".join(str(number) for number in np.flatnonzero(which))
            sentences.append(
                f"component {numbers} {name}; try fewer components"
                + (" or a larger reg_covar" if name == "collapsed" else "")
            )
    guarded = best.history[-1].guarded if best.history else ()
    if guarded:
        sentences.append(
            f"the covariance of component {', '.join(map(str, guarded))} was still kept in the "
            "last iteration; run more iterations"
        )
    return sentences
