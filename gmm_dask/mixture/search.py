"""The search for a good start: many short EM runs on a sample, the best few run on.

Once a pass over all rows is fast, a poor start is what costs: it needs more passes and ends
lower. So starts of different kinds compete on few rows, in the data's own units; the better ones
go on with more rows, and only the best sees them all. Every start is seeded by its own number:
the outcome does not depend on how many threads tried them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from gmm_dask.errors import NumericalError
from gmm_dask.mixture.competition import Competition, thinned
from gmm_dask.mixture.initialization import (
    seeded,
)
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.starts import TURNS, Sample, StartKind, Starts
from gmm_dask.mixture.threads import single_threaded

#: Up to so many rows one start is run as scikit-learn would: more would cost more than its fit.
PLAIN_ROWS = 2_000
FINAL_ROWS = 50_000


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
class SearchSummary:
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
) -> tuple[tuple[MixtureParameters, ...], SearchSummary]:
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
    starts = Starts(rows, variances, spec, random_state)
    with single_threaded(), ThreadPoolExecutor(threads) as pool:
        field = Competition(pool, threads, variances, spec, advanced)
        runs = field.begin(starts.make, starts.kinds(effort.starts), starts.multiplications)
        for one in effort.rounds:
            rows = sample.head(one.rows, seeded(random_state))
            options = EMOptions(0.0, one.iterations)
            runs = thinned(field.run(rows, runs, options), one.keep)
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
    record = SearchSummary(
        rows=sample.X.shape[0],
        starts=effort.starts,
        failed=field.failed,
        log_likelihoods=tuple(run.candidate.log_likelihood for run in best),
        iterations=field.iterations,
        seconds=time.perf_counter() - began,
    )
    return tuple(run.candidate.parameters for run in best[:keep]), record
