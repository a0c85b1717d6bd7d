"""The search for a good start: many short EM runs on a sample, the best few run on.

Once a pass over all rows is fast, a poor start is what costs: it needs more passes and ends
lower. So starts of different kinds compete on few rows, in the data's own units, and only the
best of them sees all rows. Every start is seeded by its own number: the outcome does not depend
on how many threads tried them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from gmm_dask.errors import NumericalError
from gmm_dask.mixture.covariance.base import FloatArray, RowsArray
from gmm_dask.mixture.criteria import rank
from gmm_dask.mixture.em import Candidate, EMOptions, fit_em
from gmm_dask.mixture.initialization import (
    GivenParameters,
    initial_parameters,
    kmeans_labels,
    labelled_start,
    nearest_seed_labels,
    wide_start,
)
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import sum_statistics


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
class SearchEffort:
    """How much the search tries.

    Attributes
    ----------
    starts
        EM runs that begin.
    short_rows, short_iterations
        Rows and iterations of each short run.
    finalists
        Runs that go on, on ``final_rows`` rows to ``final_tol`` (nats per row).
    """

    starts: int
    short_rows: int
    short_iterations: int
    finalists: int
    final_rows: int
    final_tol: float
    final_iterations: int


def effort_for(m: int, k: int) -> SearchEffort:
    """Effort by the size of the sample: a small one must not cost more than its fit."""
    if k == 1:  # one Gaussian has one optimum
        return SearchEffort(1, m, 1, 1, m, 1e-4, 2)
    if m < 2_000:
        return SearchEffort(3, m, 10, 1, m, 1e-3, 100)
    return SearchEffort(24, 8_192, 15, 3, 50_000, 1e-4, 200)


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
    k: int,
    covariance_type: str,
    *,
    init_params: str,
    reg_covar: float,
    random_state: int,
    given: GivenParameters,
    keep: int,
    threads: int,
    advanced: Callable[[int], None] = lambda done: None,
) -> tuple[tuple[MixtureParameters, ...], SearchRecord]:
    """Find the ``keep`` best mixtures of a sample, best first.

    The first start is the one that scikit-learn would make of the sample with the same random
    state. With ``init_params="kmeans"`` the others take turns between k-means on standardised
    features, seeds of k-means++, and random rows with wide covariances; with any other they
    are all of that kind.

    Parameters
    ----------
    keep
        Mixtures wanted (``n_init``).
    threads
        Starts tried at the same time; the outcome does not depend on it.
    advanced
        Told how many runs are done.

    Raises
    ------
    NumericalError
        Every start broke down.
    """
    began = time.perf_counter()
    effort = effort_for(sample.X.shape[0], k)
    starts = max(effort.starts, keep)
    effort = replace(effort, starts=starts, finalists=max(effort.finalists, keep))
    short = sample.head(effort.short_rows, np.random.RandomState(random_state))
    variances = np.asarray(sample.X.var(axis=0, dtype=np.float64))  # (d,)
    scaled = _standardised(short, variances)
    done = 0

    def begin(number: int) -> Candidate | NumericalError:
        options = EMOptions(0.0, effort.short_iterations, reg_covar)
        seeded = np.random.RandomState((random_state + number) % 2**32)
        try:
            if number == 0 or init_params != "kmeans":
                parameters = initial_parameters(
                    short.X,
                    short.sample_weight,
                    k,
                    covariance_type,
                    init_params,
                    reg_covar,
                    seeded,
                    given,
                )
            elif number % 3 == 2:
                parameters = wide_start(short.X, k, covariance_type, reg_covar, seeded, given)
            else:
                label = kmeans_labels if number % 3 == 0 else nearest_seed_labels
                labels = label(scaled, short.sample_weight, k, seeded)
                parameters = labelled_start(
                    short.X, labels, short.sample_weight, k, covariance_type, reg_covar, given
                )
        except NumericalError as error:
            return error
        return _run(short, parameters, options)

    def finish(candidate: Candidate) -> Candidate:
        options = EMOptions(effort.final_tol, effort.final_iterations, reg_covar)
        rows = sample.head(effort.final_rows, np.random.RandomState(random_state))
        return _run(rows, candidate.parameters, options)

    with ThreadPoolExecutor(threads) as pool:
        began_runs: list[Candidate | NumericalError] = []
        for outcome in pool.map(begin, range(effort.starts)):
            began_runs.append(outcome)
            done += 1
            advanced(done)
        runs = tuple(run for run in began_runs if isinstance(run, Candidate))
        order = [
            index
            for index in rank(runs, variances, reg_covar)
            if np.isfinite(runs[index].log_likelihood)
        ]
        if not order:
            problems = [str(run) for run in began_runs if isinstance(run, NumericalError)]
            problems += [run.problem for run in runs]
            raise NumericalError(f"no start survived: {problems[0]}")
        finals: list[Candidate] = []
        for final in pool.map(finish, [runs[index] for index in order[: effort.finalists]]):
            finals.append(final)
            done += 1
            advanced(done)
    best = [
        finals[index]
        for index in rank(tuple(finals), variances, reg_covar)
        if np.isfinite(finals[index].log_likelihood)
    ]
    chosen = tuple(candidate.parameters for candidate in best[:keep])
    record = SearchRecord(
        rows=sample.X.shape[0],
        starts=effort.starts,
        failed=effort.starts - len(order),
        log_likelihoods=tuple(candidate.log_likelihood for candidate in best),
        iterations=sum(run.n_iter for run in (*runs, *finals)),
        seconds=time.perf_counter() - began,
    )
    return chosen, record


def _run(sample: Sample, parameters: MixtureParameters, options: EMOptions) -> Candidate:
    (candidate,) = fit_em(
        lambda batch: [sum_statistics(one, sample.X, sample.sample_weight) for one in batch],
        [parameters],
        options,
    )
    return candidate


def _standardised(sample: Sample, variances: FloatArray) -> RowsArray:
    """Rows with unit variances: only k-means, which has no covariances, needs them."""
    scale = np.sqrt(np.where(variances > 0, variances, 1.0))
    return (sample.X - sample.X.mean(axis=0, dtype=np.float64)) / scale  # (m, d)
