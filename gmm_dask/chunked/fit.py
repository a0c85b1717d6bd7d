"""A fit of any source of rows: survey, search, polish.

The survey scans all rows once and draws a sample; the search finds starts on the sample; the
polish runs EM over all rows, and every candidate shares its scans. Where the sample holds all
complete rows, the polish runs on it in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from gmm_dask.chunked.conclusion import conclude
from gmm_dask.chunked.fit_records import FitOptions, FitResult, FitState
from gmm_dask.chunked.owning import assign_labels
from gmm_dask.chunked.polish import polish
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.starting import make_starts
from gmm_dask.chunked.survey import survey_source
from gmm_dask.chunked.survey_record import LOOK_ROWS
from gmm_dask.errors import TooFewRowsError
from gmm_dask.mixture.initialization import (
    check_start,
    given_start,
)
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.threads import available_cores, single_threaded

logger = logging.getLogger("gmm_dask")

#: Least rows of the sample when ``search_rows`` is ``"auto"``.
LEAST_SEARCH_ROWS = 65_536


def fit(
    scanner: Scanner,
    options: FitOptions,
    *,
    start: Sequence[MixtureParameters] = (),
    before: float = -np.inf,
    search_too: bool = False,
    evaluate_too: bool = True,
    rivals: Callable[[], Sequence[MixtureParameters]] = tuple,
    resume: FitState | None = None,
    save: Callable[[FitState], None] = lambda state: None,
) -> FitResult:
    """Fit a mixture to all rows of a scanner's source.

    Costs one scan for the survey (two where most rows hold nulls), then one for each iteration of
    the polish; none for the polish if the sample holds all complete rows. In a searched fit the
    last of them evaluates the result too (`FitResult.evaluated`).

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
    evaluate_too
        Whether scans of the polish may evaluate mixtures; no result depends on it.
    rivals
        Called after the survey, which settles transforms: mixtures that are to be evaluated
        beside the result, and are so in the same scan.
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
        state = polish(
            scanner, state, options, save, before, evaluate_too=evaluate_too, rivals=rivals
        )
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
