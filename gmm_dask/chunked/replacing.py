"""Where lost components of a fit are placed again: on the sample before the polish, and in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import chain

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.chunked.fit_records import FitOptions
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.errors import NumericalError
from gmm_dask.events import Stage
from gmm_dask.mixture.criteria import health
from gmm_dask.mixture.em import EMState, em_steps, start_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.initialization import seeded, wide_start
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.replacing import (
    FindLowest,
    LowestBatch,
    LowestRows,
    Replacement,
    count_replacements,
    find_lowest,
)
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.search import search, worth_searching
from gmm_dask.mixture.spec import EMOptions, MixtureSpec

#: Most iterations on the sample, where the search has left a component lost.
MOST_ITERATIONS = 200
#: Wide starts that are tried on the sample where the start itself cannot be mended.
WIDE_STARTS = 4


def scan_lowest(rows: Rows, batch: tuple[MixtureParameters, ...]) -> LowestBatch:
    """Find the rows of lowest density of a chunk in each mixture."""
    numbers = rows.first + (
        np.arange(rows.source_rows) if rows.used is None else rows.used.nonzero()[0]
    )
    return LowestBatch(
        tuple(
            find_lowest(parameters, rows.values, rows.sample_weight, numbers)
            for parameters in batch
        )
    )


def lowest_finder(scanner: Scanner, survey: Survey) -> FindLowest:
    """Return the function that finds rows of lowest density: by a scan, or on the sample in memory.

    On the sample, where it holds all complete rows.
    """
    if survey.in_memory:
        return lowest_finder_on(survey.sample)
    return lambda batch: (
        scanner.reduce(scan_lowest, tuple(batch), Stage.POLISH, survey.nulls_left).lowest
    )


def lowest_finder_on(sample: Sample) -> FindLowest:
    """Return the function that finds rows of lowest density in a sample."""
    numbers = np.arange(len(sample.X))

    def find(batch: Sequence[MixtureParameters]) -> list[LowestRows]:
        return [
            find_lowest(parameters, sample.X, sample.sample_weight, numbers) for parameters in batch
        ]

    return find


def mend_starts(
    starts: Sequence[MixtureParameters],
    fresh: Sequence[bool],
    survey: Survey,
    options: FitOptions,
    threads: int,
    *,
    searched: bool,
) -> tuple[tuple[MixtureParameters, ...], int]:
    """Run EM on the sample from starts with lost components, which are placed again.

    Where that helps, the polish hardly needs to. Where it does not, other starts are tried the same
    way until one ends without lost components: first what a search finds on the rows that do not
    hold a frequent value, then wide starts.

    Parameters
    ----------
    fresh
        For each start, whether it may be changed.
    options
        Of the fit: ``reg_covar`` and the seed count.
    searched
        Whether EM has run from the fresh starts; else it runs from each, to see what becomes of it.

    Returns
    -------
    starts
        Each as it was, unless another with fewer lost components was found.
    replaced
        How often a component was placed again.
    """
    doubtful = [
        free and (not searched or bool(is_lost(start, survey, options.spec).any()))
        for start, free in zip(starts, fresh, strict=True)
    ]
    if not any(doubtful):
        return tuple(starts), 0
    with ThreadPoolExecutor(threads) as pool:
        mender = _Mender(survey, options, ExpectationOn(*_rows(survey), pool, threads))
        mended = [
            mender.mend(start, searched) if doubt else start
            for start, doubt in zip(starts, doubtful, strict=True)
        ]
    return tuple(mended), mender.replaced


def _rows(survey: Survey) -> tuple[RowsArray, FloatArray | None]:
    return survey.sample.X, survey.sample.sample_weight


class _Mender:
    """Mends starts on the sample, and counts how often it placed a component again."""

    def __init__(self, survey: Survey, options: FitOptions, expectation: ExpectationOn) -> None:
        self.replaced = 0
        self._survey = survey
        self._options = options
        self._em = EMOptions(options.em.tol, MOST_ITERATIONS, "replace")
        self._expectation = expectation
        self._find = lowest_finder_on(survey.sample)
        self._replacement = Replacement.over(
            survey.sample, MOST_ITERATIONS, options.spec.reg_covar, survey.variances
        )

    def mend(self, start: MixtureParameters, searched: bool) -> MixtureParameters:
        """Return the start, or a mixture with fewer lost components."""
        fewest, best = self._count_lost(start) if searched else start.n_components + 1, start
        spec = replace(
            self._options.spec,
            n_components=start.n_components,
            covariance_type=start.covariance_type,
        )
        for first in chain([start], self._other_starts(spec)):
            last = self._climb(first, spec)
            lost = self._count_lost(last)
            if lost < fewest:
                fewest, best = lost, last
            if fewest == 0:
                break
        return best

    def _other_starts(self, spec: MixtureSpec) -> Iterator[MixtureParameters]:
        options, rows = self._options, self._without_frequent_values()
        if worth_searching(len(rows.X), rows.X.shape[1], spec):
            with suppress(NumericalError):
                threads = self._expectation.threads
                seed = options.random_state
                (start,), _ = search(
                    rows, spec, options.em, random_state=seed, keep=1, threads=threads
                )
                yield start
        for attempt in range(1, 1 + WIDE_STARTS):
            random_state = seeded((options.random_state + attempt) % 2**32)
            with suppress(NumericalError):
                filled = self._survey.sample.filled(spec)
                yield wide_start(self._expectation.X, spec, random_state, filled)

    def _without_frequent_values(self) -> Sample:
        """Return the rows of the sample that hold none of its frequent values."""
        sample = self._survey.sample
        rare = np.ones(len(sample.X), dtype=bool)
        for feature, value, _ in self._survey.frequent_values:
            rare &= sample.X[:, feature] != value
        weight = sample.sample_weight
        X = sample.X.T.compress(rare, axis=1).T  # (m, d), feature-major
        return Sample(X, None if weight is None else weight[rare])

    def _climb(self, start: MixtureParameters, spec: MixtureSpec) -> MixtureParameters:
        state = start_em([start], self._em)
        for latest in em_steps(self._expectation, state, spec, self._em, self._replace):
            state = latest
        self.replaced += int(count_replacements(state.candidates[0]).sum())
        return state.candidates[0].parameters

    def _replace(self, em: EMState) -> EMState:
        return self._replacement(em, self._find)

    def _count_lost(self, parameters: MixtureParameters) -> int:
        return int(is_lost(parameters, self._survey, self._options.spec).sum())


def is_lost(
    parameters: MixtureParameters, survey: Survey, spec: MixtureSpec
) -> npt.NDArray[np.bool_]:
    """Tell which components have collapsed or starved, by the parameters alone, (k,)."""
    counts = parameters.weights * survey.rows
    judged = health(parameters, counts, survey.variances, spec.reg_covar)
    return judged.collapsed | judged.starved
