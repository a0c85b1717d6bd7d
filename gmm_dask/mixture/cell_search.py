"""The search for the start of one cell of a selection, with the help of its neighbours.

A single fit searches with many fresh starts. In a selection the mixtures of neighbouring cells are
good starts too, so that fewer fresh ones do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice

from gmm_dask.errors import NumericalError
from gmm_dask.mixture.competition import Competition, Run, pool_of
from gmm_dask.mixture.effort import PATIENCE, SearchEffort, effort_for, final_rows_of
from gmm_dask.mixture.em import Candidate
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.neighbours import converted, with_a_merge, with_a_split
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.race import Race
from gmm_dask.mixture.search import SearchSummary
from gmm_dask.mixture.spec import Cell, EMOptions, MixtureSpec
from gmm_dask.mixture.starts import SharedSample, StartKind, Starts
from gmm_dask.mixture.threads import single_threaded

#: Mixtures that are tried of all splits of a neighbour, and of all merges.
TRIES = 2
#: Iterations on few rows by which neighbours' starts are judged, at the most.
TRIAL_ITERATIONS = 16
#: A rival takes a place only if it is ahead by this, nats per row: a tenth of the default ``tol``.
AHEAD = 1e-4
#: Rivals that run to rest, at the most, if no more mixtures are wanted.
FINALISTS = 2


def cell_effort(m: int, d: int, spec: MixtureSpec, keep: int) -> SearchEffort:
    """Choose the effort of the fresh starts for one cell: about half of a single fit's.

    And what cannot win is given up on the way. Of 196 cells of seven sets, 2 ended below a single
    fit by more than the default ``tol``; of single fits with another seed, 19 did
    (benchmarks/RESULTS.md).
    """
    full = effort_for(m, d, spec, keep)
    least = max(3, keep)
    remaining = (max(5, least), max(4, least), least)[-len(full.rounds) :]
    rounds = tuple(
        replace(round_, keep=kept) for round_, kept in zip(full.rounds, remaining, strict=True)
    )
    moves = replace(full.moves, runs=min(full.moves.runs, 2), patience=PATIENCE)
    starts = min(max(9, keep), full.starts)
    return replace(full, starts=starts, rounds=rounds, moves=moves, rival_iterations=8)


def label_starts(shared: SharedSample, spec: MixtureSpec, effort: SearchEffort) -> None:
    """Make the labels of the fresh starts of one number of components, for all covariance types."""
    starts = Starts(shared, effort.rounds[0].rows, spec)
    for number, kind in enumerate(starts.kinds(effort.starts)):
        if kind in (StartKind.KMEANS, StartKind.SEEDS):
            # What is singular here fails each cell's start, which counts it.
            with suppress(NumericalError):
                starts.labels(number, kind)


def challengers(
    shared: SharedSample,
    spec: MixtureSpec,
    best: Mapping[Cell, MixtureParameters],
    *,
    grow: bool,
) -> Iterator[MixtureParameters]:
    """Yield starts for a cell that are made from the best mixtures of its neighbours.

    Parameters
    ----------
    spec
        The mixture wanted.
    best
        The best mixture of each cell so far.
    grow
        Whether components of k − 1 are split. Else those of k + 1 are merged, and mixtures of the
        other covariance types converted.
    """
    k, kind = spec.n_components, spec.covariance_type
    if grow:
        if (smaller := best.get(Cell(k - 1, kind))) is not None:
            rows = shared.draft(_trial_rows(shared, k))
            expectation = ExpectationOn(rows.X, rows.sample_weight)
            yield from islice(with_a_split(expectation, smaller, spec), TRIES)
        return
    if (larger := best.get(Cell(k + 1, kind))) is not None:
        yield from islice(with_a_merge(larger), TRIES)
    for cell, parameters in best.items():
        if cell.n_components == k and cell.covariance_type != kind:
            with suppress(NumericalError):
                yield converted(parameters, kind)


def challenge(
    shared: SharedSample,
    spec: MixtureSpec,
    holders: Sequence[MixtureParameters],
    rivals: Sequence[MixtureParameters],
    summary: SearchSummary,
    *,
    keep: int,
    threads: int,
) -> tuple[tuple[MixtureParameters, ...], SearchSummary]:
    """Let starts from neighbours compete with the holders of a cell; keep the best.

    All race on few rows: a few iterations, until it is clear who cannot take a place. Rivals that
    are ahead of a holder there run to rest on the rows of finalists, and so do the holders.

    Parameters
    ----------
    holders
        The best starts of the cell so far; there may be none.
    rivals
        Starts from neighbours.
    summary
        Of the search so far.
    keep
        Mixtures wanted.

    Returns
    -------
    best
        At most ``keep``, best first; the holders themselves where no rival is better.
    summary
        Of the search with this.
    """
    began = time.perf_counter()
    few = shared.draft(_trial_rows(shared, spec.n_components))
    *fewer, most = final_rows_of(len(shared.sample.X))
    firsts = summary.firsts or holders
    defending = [
        Run(StartKind.METHOD, Candidate(parameters), first)
        for parameters, first in zip(holders, firsts, strict=True)
    ]
    attacking = [Run.begin(StartKind.NEIGHBOUR, parameters) for parameters in rivals]
    with single_threaded(), pool_of(threads) as pool:
        competition = Competition(pool, threads, shared.variances, spec, lambda done: None)
        race = Race(shared.variances, spec.reg_covar, keep, margin=AHEAD)
        options = EMOptions(0.0, TRIAL_ITERATIONS)
        ranked = competition.race(few, [*defending, *attacking], options, race)
        ahead = _ahead(ranked, len(defending))[: max(FINALISTS, keep)]
        best: list[Run] = []
        if ahead:
            options = EMOptions(1e-4, 200)
            if fewer:  # holders have been at rest on many rows
                ahead = competition.finish([*map(shared.draft, fewer)], ahead, options, len(ahead))
            finalists = [*defending, *ahead]
            best = competition.finish([shared.head(most)], finalists, options, len(finalists))[
                :keep
            ]
    changed = any(run.kind is StartKind.NEIGHBOUR for run in best)
    summary = replace(
        summary,
        starts=summary.starts + len(rivals),
        failed=summary.failed + competition.failed,
        iterations=summary.iterations + competition.iterations,
        seconds=summary.seconds + time.perf_counter() - began,
    )
    if not changed:
        return tuple(holders), summary
    log_likelihoods = tuple(run.candidate.log_likelihood for run in best)
    parameters = tuple(run.candidate.parameters for run in best)
    firsts = tuple(run.first for run in best)
    return parameters, replace(summary, log_likelihoods=log_likelihoods, firsts=firsts)


def _ahead(ranked: Sequence[Run], defending: int) -> list[Run]:
    """Return the rivals that rank clearly before the last holder; all if a holder broke down."""
    rivals = [run for run in ranked if run.kind is StartKind.NEIGHBOUR]
    places = [place for place, run in enumerate(ranked) if run.kind is not StartKind.NEIGHBOUR]
    if not len(places) == defending > 0:
        return rivals
    last = ranked[places[-1]].candidate.log_likelihood
    before = [run for run in ranked[: places[-1]] if run.kind is StartKind.NEIGHBOUR]
    return [run for run in before if abs(run.candidate.log_likelihood - last) > AHEAD]


def _trial_rows(shared: SharedSample, k: int) -> int:
    return 2 * max(4_096, 10 * k * shared.sample.X.shape[1])
