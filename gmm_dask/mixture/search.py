"""The search for a good start: many short EM runs on a sample, the best few run on.

Once a pass over all rows is fast, a poor start is what costs: it needs more passes and ends
lower. So starts of different kinds compete on few rows, in the data's own units; the better ones
go on with more rows, and only the best sees them all. Every start is seeded by its own number:
the outcome does not depend on how many threads tried them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.acceleration import fit_accelerated
from gmm_dask.mixture.criteria import deviations, health, rank
from gmm_dask.mixture.em import Candidate, fit_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.initialization import (
    initial_parameters,
    kmeans_labels,
    labelled_start,
    nearest_seed_labels,
    seeded,
    wide_start,
)
from gmm_dask.mixture.moves import moved
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.threads import WORTH_THREADS, single_threaded

#: Up to so many rows one start is run as scikit-learn would: more would cost more than its fit.
PLAIN_ROWS = 2_000
FINAL_ROWS = 50_000
#: Nats per row by which a finalist may trail, and closer than which it is the same mixture: of
#: 210 searches none was won by one that trailed by more than 0.024.
HOPELESS = 0.03
SAME = 1e-6


class StartKind(StrEnum):
    """How a start of the search is made."""

    METHOD = "by the method asked for"
    KMEANS = "k-means on standardised features"
    SEEDS = "nearest of the seeds of k-means++"
    WIDE = "random rows with wide covariances"


#: Kinds of starts that take turns where the caller asks for k-means.
TURNS = (StartKind.KMEANS, StartKind.SEEDS, StartKind.WIDE)


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows in memory to search on.

    Attributes
    ----------
    X
        (m, d) float32 or float64, best feature-major.
    sample_weight
        (m,) or None.
    """

    X: RowsArray
    sample_weight: FloatArray | None

    def head(self, rows: int, random_state: np.random.RandomState) -> Sample:
        """Draw ``rows`` of them at random, or all if there are no more."""
        m = self.X.shape[0]
        if rows >= m:
            return self
        chosen = np.sort(random_state.choice(m, size=rows, replace=False))
        X = np.ascontiguousarray(self.X.T[:, chosen]).T  # (rows, d), feature-major
        return Sample(X, None if self.sample_weight is None else self.sample_weight[chosen])


@dataclass(frozen=True)
class Round:
    """Every run that is left gets some iterations on some rows, and the best ``keep`` go on.

    The best of each kind of start is among them: a slow climb that ends higher is overtaken at
    first by a quick one that does not.
    """

    rows: int
    iterations: int
    keep: int


@dataclass(frozen=True)
class SearchEffort:
    """How much the search tries.

    Attributes
    ----------
    starts
        EM runs that begin.
    rounds
        How they are thinned out.
    finalists
        Runs that go on after the rounds.
    final_rows, final_tol, final_iterations
        Their rows, tolerance (nats per row) and iterations at the most.
    """

    starts: int
    rounds: tuple[Round, ...]
    finalists: int
    final_rows: int
    final_tol: float
    final_iterations: int

    @property
    def runs(self) -> int:
        """EM runs of all rounds together, the last included."""
        return self.starts + sum(one.keep for one in self.rounds[:-1]) + self.finalists


def worth_searching(m: int, k: int) -> bool:
    """Whether m rows and k components leave anything to find: one Gaussian has one optimum."""
    return m > PLAIN_ROWS and k > 1


def effort_for(m: int, k: int, d: int, keep: int) -> SearchEffort:
    """Effort for a sample of m rows, k components, d features and ``keep`` mixtures wanted.

    Fewer rows than about ten per mean and feature let components of a short run collapse.
    """
    rows = max(4_096, 10 * k * d)
    starts, left = max(16, keep), max(len(TURNS), keep)
    rounds = (Round(min(rows, m), 8, max(6, left)), Round(min(2 * rows, m), 8, left))
    return SearchEffort(starts, rounds, max(2, keep), min(FINAL_ROWS, m), 1e-4, 200)


@dataclass(frozen=True)
class SearchRecord:
    """What the search did: it has its own record beside the polish's.

    Attributes
    ----------
    rows
        Rows in the sample.
    starts
        Short runs, and how many of them broke down.
    failed
        Starts whose covariances became singular.
    log_likelihoods
        Mean log-likelihood of the finalists, nats per row, best first.
    iterations
        EM iterations of all runs together.
    seconds
        Wall time.
    """

    rows: int
    starts: int
    failed: int
    log_likelihoods: tuple[float, ...]
    iterations: int
    seconds: float


def search(
    sample: Sample,
    spec: MixtureSpec,
    em: EMOptions,
    *,
    random_state: int,
    keep: int,
    threads: int,
    whole: bool = False,
    advanced: Callable[[int], None] = lambda done: None,
) -> tuple[tuple[MixtureParameters, ...], SearchRecord]:
    """Find the ``keep`` best mixtures of a sample, best first.

    With ``init_params="kmeans"`` the starts take turns between k-means on standardised features,
    seeds of k-means++, and random rows with wide covariances; the first is made as scikit-learn
    makes it, and with any other method all are of that kind.

    Parameters
    ----------
    spec
        The mixture wanted, with what the caller fixed of its start.
    em
        Of the polish.
    keep
        Mixtures wanted (``n_init``).
    threads
        Threads that share the E-steps; the outcome does not depend on their number.
    whole
        Whether the sample holds all rows. Then the start that scikit-learn would make of them is
        among the finalists and runs to ``em.tol``: the search ends no lower than scikit-learn.
    advanced
        Told how many runs are done.

    Raises
    ------
    NumericalError
        Every start broke down.
    """
    began = time.perf_counter()
    effort = effort_for(sample.X.shape[0], spec.n_components, sample.X.shape[1], keep)
    variances = np.asarray(sample.X.var(axis=0, dtype=np.float64))  # (d,)
    rows = sample.head(effort.rounds[0].rows, seeded(random_state))
    starts = _Starts(rows, variances, spec, random_state)
    with single_threaded(), ThreadPoolExecutor(threads) as pool:
        field = _Field(pool, threads, variances, spec, advanced)
        runs = field.begin(starts.make, starts.kinds(effort.starts), starts.multiplications)
        for one in effort.rounds:
            rows = sample.head(one.rows, seeded(random_state))
            options = EMOptions(0.0, one.iterations)
            runs = _thinned(field.run(rows, runs, options), one.keep)
        # Parameters that the caller fixed in part are not to be moved away from.
        runs = (field.rested(rows, runs) if spec.start.free else runs)[: effort.finalists]
        final_rows = sample.X.shape[0] if whole else effort.final_rows
        rows = sample.head(final_rows, seeded(random_state))
        options = EMOptions(effort.final_tol, effort.final_iterations)
        best = field.finish(rows, runs, options, keep)
        if whole:
            own = field.begin(lambda number, kind: starts.own(sample), [StartKind.METHOD])
            best = field.ranked([*best, *field.run(sample, own, em)])
    if not best:
        raise NumericalError(f"no start survived: {field.problem}")
    record = SearchRecord(
        rows=sample.X.shape[0],
        starts=effort.starts,
        failed=field.failed,
        log_likelihoods=tuple(run.candidate.log_likelihood for run in best),
        iterations=field.iterations,
        seconds=time.perf_counter() - began,
    )
    return tuple(run.candidate.parameters for run in best[:keep]), record


@dataclass(frozen=True, eq=False)
class _Starts:
    """First parameters by number, on the rows of the first round."""

    rows: Sample
    variances: FloatArray
    spec: MixtureSpec
    random_state: int

    @property
    def multiplications(self) -> int:
        """Of one start by k-means, which takes about twenty iterations."""
        return 20 * self.spec.n_components * self.rows.X.size

    def kinds(self, starts: int) -> list[StartKind]:
        """Kinds of so many starts: they take turns, unless another method than k-means is asked."""
        if self.spec.start.init_params != "kmeans":
            return [StartKind.METHOD] * starts
        return [TURNS[number % len(TURNS)] for number in range(starts)]

    def own(self, rows: Sample, number: int = 0) -> MixtureParameters:
        """As scikit-learn starts on these rows."""
        random_state = seeded((self.random_state + number) % 2**32)
        return initial_parameters(rows.X, rows.sample_weight, self.spec, random_state)

    def make(self, number: int, kind: StartKind) -> MixtureParameters:
        """Make start ``number``; the first is as scikit-learn makes it, whatever its kind."""
        if number == 0 or kind is StartKind.METHOD:
            return self.own(self.rows, number)
        X, weight, k = self.rows.X, self.rows.sample_weight, self.spec.n_components
        random_state = seeded((self.random_state + number) % 2**32)
        if kind is StartKind.WIDE:
            return wide_start(X, self.spec, random_state)
        label = kmeans_labels if kind is StartKind.KMEANS else nearest_seed_labels
        labels = label(_standardised(self.rows, self.variances), weight, k, random_state)
        return labelled_start(X, labels, weight, self.spec)


@dataclass(frozen=True, eq=False)
class _Run:
    """A run and the kind of its start."""

    kind: StartKind
    candidate: Candidate


def _thinned(runs: list[_Run], keep: int) -> list[_Run]:
    """The best ``keep`` of runs in order, the best of each kind among them."""
    first = {run.kind: run for run in reversed(runs)}
    chosen = [*first.values(), *(run for run in runs if first[run.kind] is not run)][:keep]
    return [run for run in runs if run in chosen]


class _Field:
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
    ) -> list[_Run]:
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
                made.append(_Run(kinds[index], Candidate(outcome)))
        return made

    def run(self, rows: Sample, runs: list[_Run], options: EMOptions) -> list[_Run]:
        """Go on with every run on these rows; those that survive, best first."""
        return self._finished(self._climb(rows, runs, options))

    def finish(self, rows: Sample, runs: list[_Run], options: EMOptions, keep: int) -> list[_Run]:
        """Bring runs to rest on these rows; those that survive, best first.

        All of the best ``keep``. Another only if it could end above the best, or if none of them
        ends sound.
        """
        chosen = runs[:keep]
        spare: list[_Run] = []
        for one in runs[keep:]:
            behind = runs[0].candidate.log_likelihood - one.candidate.log_likelihood
            (chosen if abs(behind) > SAME and behind < HOPELESS else spare).append(one)
        finished = self._jumped(rows, chosen, options)
        if spare and not any(self._sound(one.candidate) for one in finished):
            finished += self._jumped(rows, spare, options)
        self.done += len(runs) - len(finished)
        return self._finished(finished)

    def _jumped(self, rows: Sample, runs: list[_Run], options: EMOptions) -> list[_Run]:
        starts = [one.candidate.parameters for one in runs]
        expectation = self._expectation(rows)
        return self._counted(
            runs, fit_accelerated(expectation, starts, self.spec, options, self.variances)
        )

    def _sound(self, one: Candidate) -> bool:
        if one.problem:
            return False
        return not health(one.parameters, one.counts, self.variances, self.spec.reg_covar).defects

    def _finished(self, finished: list[_Run]) -> list[_Run]:
        for one in finished:
            if one.candidate.problem:
                self._fail(one.candidate.problem)
        self.done += len(finished)
        self.advanced(self.done)
        return self.ranked(finished)

    def rested(self, rows: Sample, runs: list[_Run]) -> list[_Run]:
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
        return [_Run(first.kind, better), *others]

    def _climb(self, rows: Sample, runs: list[_Run], options: EMOptions) -> list[_Run]:
        """EM of all runs together: small M-steps cost little more for many than for one."""
        starts = [one.candidate.parameters for one in runs]
        return self._counted(runs, fit_em(self._expectation(rows), starts, self.spec, options))

    def _counted(self, runs: list[_Run], candidates: Sequence[Candidate]) -> list[_Run]:
        self.iterations += sum(one.n_iter for one in candidates)
        return [_Run(one.kind, c) for one, c in zip(runs, candidates, strict=True)]

    def _expectation(self, rows: Sample) -> ExpectationOn:
        return ExpectationOn(rows.X, rows.sample_weight, self.pool, self.threads)

    def ranked(self, runs: list[_Run]) -> list[_Run]:
        """Best first, without those that broke down."""
        order = rank(tuple(run.candidate for run in runs), self.variances, self.spec.reg_covar)
        return [runs[i] for i in order if np.isfinite(runs[i].candidate.log_likelihood)]

    def _fail(self, problem: str) -> None:
        self.failed += 1
        self.problem = self.problem or problem


def _standardised(sample: Sample, variances: FloatArray) -> RowsArray:
    """Rows with unit variances: only k-means, which has no covariances, needs them."""
    return (sample.X - sample.X.mean(axis=0, dtype=np.float64)) / deviations(variances)  # (m, d)
