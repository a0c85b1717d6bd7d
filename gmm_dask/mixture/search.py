"""The search for a good start: many short EM runs on a sample, of which the best few run on.

Once a scan of all rows is fast, poor starts cost the most: they need more scans and end lower. So
starts of different kinds compete on few rows, in the units of the data. The better ones continue
with more rows, and only the best sees all rows. Every start is seeded by its number, so that the
result does not depend on the number of threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from gmm_dask.arrays import LabelsArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.competition import Competition, Run, pool_of, thin_out
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.covariance.matrices import ill_conditioned_error
from gmm_dask.mixture.effort import SearchEffort, effort_for
from gmm_dask.mixture.engine import least_single_tol
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.scouting import follow_scouts, project, run_by_labels
from gmm_dask.mixture.small_search.climbers import SmallSample
from gmm_dask.mixture.small_search.rounds import STARTS, climb_rounds
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.starts import SharedSample, StartKind, Starts
from gmm_dask.mixture.threads import single_threaded

#: A small sample has at most this many rows, components, and multiplications in a pass; see
#: `gmm_dask.mixture.small_search`.
SMALL_ROWS, SMALL_COMPONENTS, SMALL_PASS = 2_000, 10, 1_000_000
#: A run that gains less than this in an iteration, nats per row, waits for the next round.
AT_REST = 1e-5


def worth_searching(m: int, d: int, spec: MixtureSpec) -> bool:
    """Whether a search on m rows of d features can pay.

    One Gaussian has one optimum. With hardly more rows than the components need, most of them
    starve whatever the start. And what the caller fixed leaves little to choose from few rows.
    """
    covariance, k = COVARIANCE_TYPES[spec.covariance_type], spec.n_components
    least = k * covariance.least_rows(d) if covariance.by_component else k + d
    return k > 1 and m >= 2 * least and (m > SMALL_ROWS or spec.start.free)


def is_small(m: int, d: int, k: int, incomplete: bool = False) -> bool:
    """Whether calls of numpy would take most of the time of a search on m rows.

    Never where rows are incomplete: what climbs a small sample takes complete rows only.
    """
    small = m <= SMALL_ROWS and k <= SMALL_COMPONENTS and m * k * d * d <= SMALL_PASS
    return small and not incomplete


def count_runs(
    m: int, d: int, spec: MixtureSpec, keep: int, whole: bool, incomplete: bool = False
) -> int:
    """Return the number of runs that a search reports as it advances."""
    if is_small(m, d, spec.n_components, incomplete):
        return max(STARTS, keep)
    effort = effort_for(m, d, spec, keep, whole)
    effort = replace(effort, scouted=effort.scouted and not incomplete)
    return effort.runs + (whole and not effort.scouted)


@dataclass(frozen=True)
class SearchSummary:
    """The result of a search apart from its mixtures: what it tried and what that cost.

    Attributes
    ----------
    rows
        Rows in the sample.
    starts
        Starts of the rounds.
    failed
        Runs that broke down, because a covariance became singular for example.
    log_likelihoods
        Mean log-likelihood of the finalists, nats per row, best first.
    iterations
        EM iterations of all runs together.
    seconds
        Wall time.
    firsts
        For each mixture found, the start from which it came.
    """

    rows: int
    starts: int
    failed: int
    log_likelihoods: tuple[float, ...]
    iterations: int
    seconds: float
    firsts: tuple[MixtureParameters, ...] = ()


def search(
    sample: Sample,
    spec: MixtureSpec,
    em: EMOptions,
    *,
    random_state: int,
    keep: int,
    threads: int,
    whole: bool = False,
    effort: SearchEffort | None = None,
    rivals: Sequence[MixtureParameters] = (),
    shared: SharedSample | None = None,
    advanced: Callable[[int], None] = lambda done: None,
) -> tuple[tuple[MixtureParameters, ...], SearchSummary]:
    """Find the ``keep`` best mixtures for a sample, best first.

    With ``init_params="kmeans"``, the starts take turns between k-means on standardised features,
    seeds of k-means++, and random rows with wide covariances; the first is made as by scikit-learn.
    With another method, all starts are made by that method. On a small sample, more seeds take the
    place of k-means (`gmm_dask.mixture.small_search`). With full and tied covariances of many
    features, a search on principal components finds clusters (`gmm_dask.mixture.scouting`), and EM
    begins from these and from those of k-means. In a fit with labels, starts are made from the
    labelled rows (`gmm_dask.mixture.owned_starts`).

    Parameters
    ----------
    spec
        The mixture wanted, with the parameters that the caller fixed.
    em
        Options of the polish.
    random_state
        Seed.
    keep
        Mixtures wanted (``n_init``).
    threads
        Threads that share the E-steps; the result does not depend on their number.
    whole
        Whether the sample holds all rows. Then the start that scikit-learn would make from them is
        among the finalists and runs to ``em.tol``, so that the search ends no lower than that.
        Of many features it is given up where its clusters are those of the best mixture or it
        promises too little to reach that; with covariances that are no matrices it has the first
        iterations of k-means.
    effort
        The extent of the search; by default `effort_for` chooses it.
    rivals
        Further starts, from neighbours in a selection, that compete after the rounds.
        Neither these nor ``effort`` are of use on a small sample, whose search is quick.
    shared
        The sample with what other searches have computed of it.
    advanced
        Called with the number of runs done.

    Raises
    ------
    NumericalError
        Every start broke down.
    """
    began = time.perf_counter()
    m, d = sample.X.shape
    labelled = sample.labelling is not None
    small = is_small(m, d, spec.n_components, sample.incomplete)
    if small and spec.start.free and not labelled:
        mixtures, summary = _search_small_sample(sample, spec, random_state, keep, began)
        advanced(summary.starts)
        return mixtures, summary
    effort = effort or effort_for(m, d, spec, keep, whole)
    shared = shared or SharedSample(sample, random_state)
    starts = Starts(shared, effort.rounds[0].rows, spec)
    clusterings, scouting = _scout(shared, effort, spec, em, keep, threads)
    with single_threaded(), pool_of(threads) as pool:
        competition = Competition(pool, threads, shared.variances, spec, advanced)
        neighbours = [Run.begin(StartKind.NEIGHBOUR, parameters) for parameters in rivals]
        options = EMOptions(effort.final_tol, effort.final_iterations)
        best = list[Run]()
        if clusterings:
            best = follow_scouts(
                competition,
                starts,
                clusterings,
                neighbours,
                shared.draft(effort.final_rows[-1]),
                options,
                keep,
                whole,
            )
        if not best:
            best = _compete(competition, starts, effort, neighbours, keep)
            if whole and not labelled:
                best = competition.sort([*best, *_run_by_method(competition, starts, best, em)])
    if not best:
        raise NumericalError(f"every start of the search broke down: {competition.problem}")
    summary = SearchSummary(
        rows=sample.X.shape[0],
        starts=(scouting.starts + 1 if scouting else effort.starts) + len(rivals),
        failed=competition.failed + (scouting.failed if scouting else 0),
        log_likelihoods=tuple(run.candidate.log_likelihood for run in best),
        iterations=competition.iterations + (scouting.iterations if scouting else 0),
        seconds=time.perf_counter() - began,
        firsts=tuple(run.first for run in best[:keep]),
    )
    return tuple(run.candidate.parameters for run in best[:keep]), summary


def _scout(
    shared: SharedSample,
    effort: SearchEffort,
    spec: MixtureSpec,
    em: EMOptions,
    keep: int,
    threads: int,
) -> tuple[list[LabelsArray], SearchSummary | None]:
    """Cluster rows by a search on few features, where the effort says so and they are complete."""
    sample = shared.sample
    if not effort.scouted or sample.labelling is not None or sample.incomplete:
        return [], None
    few = project(shared.draft(effort.final_rows[-1]))
    seed = shared.random_state
    try:
        scouts, summary = search(few, spec, em, random_state=seed, keep=keep, threads=threads)
    except NumericalError:  # the rounds on all features go on without
        return [], None
    return [assign(scout, few.X).labels for scout in scouts], summary


def _compete(
    competition: Competition,
    starts: Starts,
    effort: SearchEffort,
    neighbours: Sequence[Run],
    keep: int,
) -> list[Run]:
    """Let starts of all kinds compete in rounds; return the finalists at rest, best first."""
    shared, spec = starts.shared, starts.spec
    runs = competition.begin(starts.make, starts.kinds(effort.starts), starts.multiplications)
    for round_ in effort.rounds:
        rows = shared.draft(round_.rows)
        options = EMOptions(AT_REST, round_.iterations)
        runs = competition.run(rows, runs, options)
        runs = thin_out(runs, round_.keep, competition.is_sound)
    if neighbours:
        options = EMOptions(AT_REST, effort.rival_iterations)
        runs = competition.sort([*runs, *competition.run(rows, [*neighbours], options)])
    # Moves would leave parameters that the caller fixed, and components to other labels.
    if spec.start.free and shared.sample.labelling is None:
        runs = competition.settle(rows, runs, effort.moves, keep)
    stages = [shared.draft(rows) for rows in effort.final_rows]
    options = EMOptions(effort.final_tol, effort.final_iterations)
    return competition.finish(stages, runs[: effort.finalists], options, keep)


def _run_by_method(
    competition: Competition, starts: Starts, best: Sequence[Run], em: EMOptions
) -> list[Run]:
    """Run the start that scikit-learn would make from the sample to the end of a polish."""
    sample = starts.shared.sample
    exact = em.tol < least_single_tol(sample.X.shape[1])
    if best and starts.labels_by_method:
        draft = sample.in_doubles() if exact else starts.shared.draft(len(sample.X))
        return run_by_labels(competition, starts, draft, best, em)
    runs = competition.begin(lambda number, kind: starts.make_by_method(sample), [StartKind.METHOD])
    return competition.run(sample.in_doubles() if exact else sample, runs, em)


def _search_small_sample(
    sample: Sample, spec: MixtureSpec, random_state: int, keep: int, began: float
) -> tuple[tuple[MixtureParameters, ...], SearchSummary]:
    small = SmallSample(sample, spec)
    climbers, failed = climb_rounds(small, random_state, keep)
    mixtures, firsts, log_likelihoods = [], [], []
    for index in np.flatnonzero(~climbers.broken).tolist():
        with suppress(NumericalError):  # the last M-step led to a singular covariance
            mixtures.append(small.parameters(climbers, index))
            firsts.append(small.first_parameters(climbers, index))
            log_likelihoods.append(float(climbers.log_likelihoods[index]))
    if not mixtures:
        component = max(int(climbers.outcomes[0, 4]), 0)
        problem = ill_conditioned_error(component, "is not positive definite")
        raise NumericalError(f"every start of the search broke down: {problem}")
    summary = SearchSummary(
        rows=len(small.rows),
        starts=max(STARTS, keep),
        failed=failed,
        log_likelihoods=tuple(log_likelihoods),
        iterations=small.iterations,
        seconds=time.perf_counter() - began,
        firsts=tuple(firsts[:keep]),
    )
    return tuple(mixtures[:keep]), summary
