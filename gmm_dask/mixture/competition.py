"""The runs of a search that compete: how they begin, go on, are moved and come to rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.acceleration import fit_accelerated
from gmm_dask.mixture.criteria import health, rank
from gmm_dask.mixture.em import Candidate, fit_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.moves import moved
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.starts import Sample, StartKind
from gmm_dask.mixture.threads import WORTH_THREADS, single_threaded

#: Nats per row by which a finalist may trail, and closer than which it is the same mixture: of
#: 210 searches none was won by one that trailed by more than 0.024.
HOPELESS = 0.03
SAME = 1e-6


@dataclass(frozen=True, eq=False)
class Run:
    """A run and the kind of its start."""

    kind: StartKind
    candidate: Candidate


def thinned(runs: list[Run], keep: int) -> list[Run]:
    """The best ``keep`` of runs in order, the best of each kind among them."""
    first = {run.kind: run for run in reversed(runs)}
    chosen = [*first.values(), *(run for run in runs if first[run.kind] is not run)][:keep]
    return [run for run in runs if run in chosen]


class Competition:
    """The runs that compete, on a pool of threads, and how it goes for them."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
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
        """Make starts; one that cannot be made is counted and left out."""

        def attempt(index: int) -> MixtureParameters | NumericalError:
            # BLAS that runs on OpenMP has a limit in each thread.
            with single_threaded():
                try:
                    return make(index, kinds[index])
                except NumericalError as error:
                    return error

        each = self.pool.map if multiplications > WORTH_THREADS else map
        made = []
        for index, outcome in enumerate(each(attempt, range(len(kinds)))):
            if isinstance(outcome, NumericalError):
                self._fail(str(outcome))
            else:
                made.append(Run(kinds[index], Candidate(outcome)))
        return made

    def run(self, rows: Sample, runs: list[Run], options: EMOptions) -> list[Run]:
        """Go on with every run on these rows; those that survive, best first."""
        return self._finished(self._climb(rows, runs, options))

    def finish(self, rows: Sample, runs: list[Run], options: EMOptions, keep: int) -> list[Run]:
        """Bring runs to rest on these rows; those that survive, best first.

        All of the best ``keep``. Another only if it could end above the best, or if none of them
        ends sound.
        """
        chosen = runs[:keep]
        spare: list[Run] = []
        for one in runs[keep:]:
            behind = runs[0].candidate.log_likelihood - one.candidate.log_likelihood
            (chosen if abs(behind) > SAME and behind < HOPELESS else spare).append(one)
        finished = self._jumped(rows, chosen, options)
        if spare and not any(self._sound(one.candidate) for one in finished):
            finished += self._jumped(rows, spare, options)
        self.done += len(runs) - len(finished)
        return self._finished(finished)

    def _jumped(self, rows: Sample, runs: list[Run], options: EMOptions) -> list[Run]:
        starts = [one.candidate.parameters for one in runs]
        expectation = self._expectation(rows)
        return self._counted(
            runs, fit_accelerated(expectation, starts, self.spec, options, self.variances)
        )

    def _sound(self, one: Candidate) -> bool:
        if one.problem:
            return False
        return not health(one.parameters, one.counts, self.variances, self.spec.reg_covar).defects

    def _finished(self, finished: list[Run]) -> list[Run]:
        for one in finished:
            if one.candidate.problem:
                self._fail(one.candidate.problem)
        self.done += len(finished)
        self.advanced(self.done)
        return self.ranked(finished)

    def rested(self, rows: Sample, runs: list[Run]) -> list[Run]:
        """Bring every run to rest on these rows; move the best on from there where that helps."""
        resting = self._climb(rows, runs, EMOptions(1e-4, 30))
        ranked = self.ranked(
            [
                before if after.candidate.problem else after
                for before, after in zip(runs, resting, strict=True)
            ]
        )
        if not ranked:
            return []
        first, *others = ranked
        # To move them all took a third of the search and gained nothing (benchmarks/RESULTS.md).
        expectation = self._expectation(rows)
        better, iterations = moved(expectation, first.candidate, self.spec, self.variances)
        self.iterations += iterations
        return [Run(first.kind, better), *others]

    def _climb(self, rows: Sample, runs: list[Run], options: EMOptions) -> list[Run]:
        """EM of all runs together: small M-steps cost little more for many than for one."""
        starts = [one.candidate.parameters for one in runs]
        return self._counted(runs, fit_em(self._expectation(rows), starts, self.spec, options))

    def _counted(self, runs: list[Run], candidates: Sequence[Candidate]) -> list[Run]:
        self.iterations += sum(one.n_iter for one in candidates)
        return [Run(one.kind, c) for one, c in zip(runs, candidates, strict=True)]

    def _expectation(self, rows: Sample) -> ExpectationOn:
        return ExpectationOn(rows.X, rows.sample_weight, self.pool, self.threads)

    def ranked(self, runs: list[Run]) -> list[Run]:
        """Best first, without those that broke down."""
        order = rank(tuple(run.candidate for run in runs), self.variances, self.spec.reg_covar)
        return [runs[i] for i in order if np.isfinite(runs[i].candidate.log_likelihood)]

    def _fail(self, problem: str) -> None:
        self.failed += 1
        self.problem = self.problem or problem
