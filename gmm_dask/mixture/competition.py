"""The competition between the runs of a search: how they begin, continue, improve and end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.acceleration import fit_accelerated
from gmm_dask.mixture.criteria import health, rank
from gmm_dask.mixture.em import Candidate, EMState
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.moves import MoveEffort, improve_by_moves
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.race import Race, race_for
from gmm_dask.mixture.rounds.fit import fit_runs
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.starts import StartKind
from gmm_dask.mixture.threads import WORTH_THREADS, single_threaded

#: A finalist that trails the best by this many nats per row cannot win: no winner of 210 searches
#: trailed by more than 0.024. One that trails by less than SAME is the same mixture.
HOPELESS = 0.03
SAME = 1e-6
#: Runs that came to rest, so that an iteration gains less than 1e-4, are taken for the same mixture
#: if their likelihoods differ by less than this, nats per row.
REPEATED = 1e-4


@dataclass(frozen=True, eq=False)
class Run:
    """A start, and what became of it.

    Attributes
    ----------
    kind
        How the start was made.
    candidate
        What came of it so far.
    first
        The start itself: parameters before any iteration.
    """

    kind: StartKind
    candidate: Candidate
    first: MixtureParameters

    @classmethod
    def begin(cls, kind: StartKind, first: MixtureParameters) -> Run:
        """Begin a run before its first iteration."""
        return cls(kind, Candidate(first), first)


def pool_of(threads: int) -> AbstractContextManager[ThreadPoolExecutor | None]:
    """Open a pool of that many threads; none for one, which would only be waited for."""
    return ThreadPoolExecutor(threads) if threads > 1 else nullcontext()


def thin_out(
    runs: list[Run], keep: int, is_sound: Callable[[Run], bool] = lambda run: True
) -> list[Run]:
    """Keep the best ``keep`` of runs that are sorted, the best sound one of each kind among them.

    One with defects that is the best of its kind would hardly win, and its narrow components are
    not for float32.
    """
    best_of = {run.kind: run for run in reversed(runs) if is_sound(run)}
    others = (run for run in runs if best_of.get(run.kind) is not run)
    chosen = [*best_of.values(), *others][:keep]
    return [run for run in runs if run in chosen]


def drop_repeats(runs: list[Run], keep: int) -> list[Run]:
    """Drop runs that rest at the same mixture as a better one; at least ``keep`` of them stay.

    The runs are sorted, best first, and came to rest on the same rows.
    """
    distinct = runs[:1]
    repeats: list[Run] = []
    for run in runs[1:]:
        behind = distinct[-1].candidate.log_likelihood - run.candidate.log_likelihood
        (repeats if abs(behind) < REPEATED else distinct).append(run)
    return [*distinct, *repeats[: max(keep - len(distinct), 0)]]


def _part_hopeless(runs: list[Run], keep: int) -> tuple[list[Run], list[Run]]:
    """Part the best ``keep`` and what could still win from the other runs; these are sorted."""
    chosen, hopeless = runs[:keep], list[Run]()
    for run in runs[keep:]:
        behind = runs[0].candidate.log_likelihood - run.candidate.log_likelihood
        (chosen if abs(behind) > SAME and behind < HOPELESS else hopeless).append(run)
    return chosen, hopeless


class Competition:
    """The common resources of the runs that compete, and the counts of what they did.

    Parameters
    ----------
    pool, threads
        The pool of threads and how many of them to use; without one, the calling thread.
    variances
        Of the features, (d,).
    spec
        The mixture wanted.
    advanced
        Called with the number of runs done.

    Attributes
    ----------
    done, failed
        Runs that ended, and runs that broke down.
    iterations
        EM iterations of all runs together.
    problem
        The message of the first breakdown.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor | None,
        threads: int,
        variances: FloatArray,
        spec: MixtureSpec,
        advanced: Callable[[int], None],
    ) -> None:
        self.pool = pool
        self.threads = threads
        self.variances = variances
        self.spec = spec
        self.advanced = advanced
        self.done = self.failed = self.iterations = 0
        self.problem = ""

    def begin(
        self,
        make: Callable[[int, StartKind], MixtureParameters],
        kinds: Sequence[StartKind],
        multiplications: int = 0,
    ) -> list[Run]:
        """Make starts; those that cannot be made are counted as failed and left out.

        Parameters
        ----------
        make
            Makes the start of a number and a kind.
        kinds
            Of each start.
        multiplications
            Of one start, by which they are worth threads or not.
        """

        def attempt(index: int) -> MixtureParameters | NumericalError:
            # A BLAS that runs on OpenMP has a limit for each thread.
            with single_threaded():
                try:
                    return make(index, kinds[index])
                except NumericalError as error:
                    return error

        apply = self.pool.map if self.pool and len(kinds) * multiplications > WORTH_THREADS else map
        runs = []
        for index, outcome in enumerate(apply(attempt, range(len(kinds)))):
            if isinstance(outcome, NumericalError):
                self._fail(str(outcome))
            else:
                runs.append(Run.begin(kinds[index], outcome))
        return runs

    def run(self, rows: Sample, runs: list[Run], options: EMOptions) -> list[Run]:
        """Continue every run on these rows; return those that did not break down, best first."""
        return self._conclude(self._fit(rows, runs, options))

    def finish(
        self, stages: Sequence[Sample], runs: list[Run], options: EMOptions, keep: int
    ) -> list[Run]:
        """Run the finalists to their ends on some rows after others; return those that got there.

        The best ``keep`` all run on. Another does only if it could end above the best, or if all
        that ran on end with defects. The result is sorted, best first.
        """
        finished, broken, spare = runs, list[Run](), list[Run]()
        for rows in stages:
            chosen, trailing = _part_hopeless(finished, keep)
            spare += trailing
            ended = self._fit_with_jumps(rows, chosen, options)
            broken += [run for run in ended if run.candidate.problem]
            finished = self.sort(ended)
        if spare and not any(self.is_sound(run) for run in finished):
            finished = [*finished, *self._fit_with_jumps(stages[-1], spare, options)]
        finished = [*finished, *broken]
        self.done += len(runs) - len(finished)
        return self._conclude(finished)

    def _fit_with_jumps(self, rows: Sample, runs: list[Run], options: EMOptions) -> list[Run]:
        starts = [run.candidate.parameters for run in runs]
        expectation = self._expectation(rows)
        candidates = fit_accelerated(expectation, starts, self.spec, options, self.variances)
        return self._update(runs, candidates)

    def is_sound(self, run: Run) -> bool:
        """Whether a run has not broken down, and its components have no defects."""
        candidate = run.candidate
        if candidate.problem:
            return False
        parameters, counts = candidate.parameters, candidate.row_counts
        return not health(parameters, counts, self.variances, self.spec.reg_covar).defects

    def _conclude(self, runs: list[Run]) -> list[Run]:
        """Count and report runs that are done; drop those that broke down, and sort the others."""
        for run in runs:
            if run.candidate.problem:
                self._fail(run.candidate.problem)
        self.done += len(runs)
        self.advanced(self.done)
        return self.sort(runs)

    def skip(self, runs: int) -> None:
        """Report runs as done that need not begin."""
        self.done += runs
        self.advanced(self.done)

    def race(self, rows: Sample, runs: list[Run], options: EMOptions, race: Race) -> list[Run]:
        """Continue runs on these rows, but give up those that cannot win the race.

        Returns those that did not break down, best first.
        """
        return self._conclude(self._fit(rows, runs, options, race.give_up, race.patience))

    def settle(self, rows: Sample, runs: list[Run], moves: MoveEffort, keep: int) -> list[Run]:
        """Run EM until little changes, 30 iterations at most; then improve the best ones by moves.

        A run that breaks down here stays as it was before. With the patience of ``moves``, runs
        that cannot come in among the best ``keep`` are given up, and of those that came to rest at
        the same mixture one remains. The result is sorted, best first.
        """
        compare = race_for(moves.patience, self.variances, self.spec.reg_covar, keep)
        patience = moves.patience or 0
        resting = self._fit(rows, runs, EMOptions(1e-4, 30), compare, patience)
        ranked = self.sort(
            [
                before if after.candidate.problem else after
                for before, after in zip(runs, resting, strict=True)
            ]
        )
        if moves.patience is not None:
            ranked = drop_repeats(ranked, keep)
        expectation = self._expectation(rows)
        moved = []
        for run in ranked[: moves.runs]:
            better, iterations = improve_by_moves(
                expectation, run.candidate, self.spec, self.variances, moves
            )
            self.iterations += iterations
            moved.append(replace(run, candidate=better))
        return [*self.sort(moved), *ranked[moves.runs :]]

    def _fit(
        self,
        rows: Sample,
        runs: list[Run],
        options: EMOptions,
        compare: Callable[[EMState], EMState] | None = None,
        patience: int = 0,
    ) -> list[Run]:
        """Run EM for all runs beside each other; ``compare`` and ``patience`` as in `fit_runs`."""
        starts = [run.candidate.parameters for run in runs]
        expectation = self._expectation(rows)
        candidates = fit_runs(expectation, starts, self.spec, options, compare, patience)
        return self._update(runs, candidates)

    def _update(self, runs: list[Run], candidates: Sequence[Candidate]) -> list[Run]:
        """Return the runs with their new candidates; count the iterations of these."""
        self.iterations += sum(candidate.n_iter for candidate in candidates)
        return [
            replace(run, candidate=candidate)
            for run, candidate in zip(runs, candidates, strict=True)
        ]

    def _expectation(self, rows: Sample) -> ExpectationOn:
        return ExpectationOn(rows.X, rows.sample_weight, self.pool, self.threads, rows.labelling)

    def sort(self, runs: list[Run]) -> list[Run]:
        """Return the runs that did not break down, best first."""
        order = rank(tuple(run.candidate for run in runs), self.variances, self.spec.reg_covar)
        return [runs[i] for i in order if np.isfinite(runs[i].candidate.log_likelihood)]

    def _fail(self, problem: str) -> None:
        self.failed += 1
        self.problem = self.problem or problem
