"""Expectation maximization as pure functions from one immutable state to the next.

The loop takes a function ``expectation(parameters) -> statistics`` and knows nothing of where
the rows are: in memory it is the kernel on an array, over chunks it is a scan that serves every
candidate at once. A checkpoint is a saved `EMState`; to resume is to call `em_steps` with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from math import isfinite, sqrt

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.statistics import SufficientStatistics

Expectation = Callable[[Sequence[MixtureParameters]], Sequence[SufficientStatistics]]

#: Added to every count, as scikit-learn does, so that an empty component divides by no zero.
COUNT_FLOOR = 10 * float(np.finfo(np.float64).eps)
#: Numbers in the covariances of a mixture up to which numpy's calls take longer than its work.
_SMALL = 2_048


class Status(StrEnum):
    """Where a candidate stands."""

    RUNNING = "running"
    CONVERGED = "converged"
    MAX_ITER = "max_iter"
    ILL_CONDITIONED = "ill_conditioned"


@dataclass(frozen=True, eq=False)
class Iteration:
    """One iteration of one candidate.

    Attributes
    ----------
    log_likelihood
        Mean, nats per unit of weight, under the parameters *before* the M-step.
    weights, means
        The parameters before the M-step: (k,) and (k, d).
    guarded
        Components whose covariance was kept because its update would have cancelled.
    moved
        The farthest that a mean moved in the M-step, in standard deviations of its component.
    """

    log_likelihood: float
    weights: FloatArray
    means: FloatArray
    guarded: tuple[int, ...]
    moved: float


@dataclass(frozen=True, eq=False)
class Candidate:
    """One mixture on its way: its parameters now, how it came here, and whether it is done.

    Attributes
    ----------
    parameters
        After the latest M-step.
    status
        Anything but ``RUNNING`` is final.
    history
        One entry per iteration.
    counts
        N of the latest E-step, (k,); None before the first.
    rows, weight
        Rows of the latest E-step and the sum of their weights.
    problem
        For ``ILL_CONDITIONED``: what broke, in words.
    """

    parameters: MixtureParameters
    status: Status = Status.RUNNING
    history: tuple[Iteration, ...] = ()
    counts: FloatArray | None = None
    rows: int = 0
    weight: float = 0.0
    problem: str = ""

    @property
    def n_iter(self) -> int:
        """Iterations done."""
        return len(self.history)

    @property
    def lower_bounds(self) -> tuple[float, ...]:
        """Mean log-likelihood before each M-step."""
        return tuple(iteration.log_likelihood for iteration in self.history)

    @property
    def log_likelihood(self) -> float:
        """The latest lower bound, −inf before the first iteration or after a breakdown."""
        if not self.history or self.status is Status.ILL_CONDITIONED:
            return -np.inf
        return self.history[-1].log_likelihood


@dataclass(frozen=True)
class EMState:
    """A batch of candidates after ``iteration`` scans."""

    candidates: tuple[Candidate, ...]
    iteration: int = 0

    @cached_property
    def running(self) -> tuple[int, ...]:
        """Indices of the candidates that need another scan."""
        return tuple(
            index
            for index, candidate in enumerate(self.candidates)
            if candidate.status is Status.RUNNING
        )


Maximized = tuple[MixtureParameters, tuple[int, ...], float]


def maximize(
    parameters: MixtureParameters, statistics: SufficientStatistics, spec: MixtureSpec
) -> Maximized:
    """M-step: the parameters that maximize the expected log-likelihood of the statistics.

    Returns
    -------
    parameters
        π' = Ñ/ΣÑ, μ' = μ + L δ, and Σ' of the covariance type's update.
    guarded
        Components whose Σ was kept (see `CovarianceType.update`).
    moved
        max_k |δ_k|, in standard deviations.

    Raises
    ------
    NumericalError
        The statistics are not finite.
    IllConditionedError
        A new covariance is not positive definite.
    """
    return _maximize_together([parameters], [statistics], spec)[0]


def _maximize_together(
    batch: Sequence[MixtureParameters], sums: Sequence[SufficientStatistics], spec: MixtureSpec
) -> list[Maximized]:
    """M-steps of mixtures of one form at once, as if they were one mixture of all components.

    For the bits it makes no difference; for time it does, numpy's calls being most of a small
    M-step. Several only where components share no covariance.
    """
    for one, statistics in zip(batch, sums, strict=True):
        _check(one, statistics)
    covariance, k = batch[0].covariance, batch[0].n_components
    counts = _join([one.counts for one in sums]) + COUNT_FLOOR  # (c·k,)
    residual_means = _join([one.residual_sums for one in sums]) / counts[:, None]  # (c·k, d)
    covariances, shifts, guarded = covariance.update(
        _join([one.covariances for one in batch]),
        _join([one.precisions_cholesky for one in batch]),
        counts,
        residual_means,
        _join([one.residual_products for one in sums]),
        spec,
    )
    factors = covariance.precisions_cholesky(covariances)
    distances = np.einsum("kd,kd->k", residual_means, residual_means)  # (c·k,), squared
    maximized = []
    for index, one in enumerate(batch):
        own = slice(index * k, (index + 1) * k) if len(batch) > 1 else ...
        weights = counts[own]  # (k,)
        updated = MixtureParameters(
            one.covariance_type,
            weights / weights.sum(),
            one.means + shifts[own],
            covariances[own],
            factors[own],
        )
        kept = tuple(np.flatnonzero(guarded[own]).tolist())
        maximized.append((updated, kept, sqrt(distances[own].max())))
    return maximized


def _join(arrays: Sequence[FloatArray]) -> FloatArray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _check(parameters: MixtureParameters, statistics: SufficientStatistics) -> None:
    """Refuse statistics of other parameters, or such as are not finite."""
    if statistics.parameters_digest != parameters.digest:
        raise NumericalError("these statistics were taken under other parameters")
    products = statistics.residual_products
    if not (isfinite(statistics.log_likelihood) and np.isfinite(products).all()):
        raise NumericalError(
            "the statistics overflowed; some values lie too far out (beyond about 1e150 standard "
            "deviations): look at the columns' minima and maxima and rescale or drop such rows"
        )


def maximize_each(
    batch: Sequence[MixtureParameters], sums: Sequence[SufficientStatistics], spec: MixtureSpec
) -> list[Maximized | NumericalError]:
    """M-steps of a batch; one that breaks down does not touch the others."""
    forms = {(one.covariance_type, one.means.shape) for one in batch}
    small = batch[0].covariance.by_component and batch[0].covariances.size <= _SMALL
    if len(batch) > 1 and len(forms) == 1 and small:
        with suppress(NumericalError):  # of one of them: which?
            return [*_maximize_together(batch, sums, spec)]
    outcomes: list[Maximized | NumericalError] = []
    for one, statistics in zip(batch, sums, strict=True):
        try:
            outcomes.append(maximize(one, statistics, spec))
        except NumericalError as error:
            outcomes.append(error)
    return outcomes


def advanced(
    candidate: Candidate,
    statistics: SufficientStatistics,
    outcome: Maximized | NumericalError,
    options: EMOptions,
) -> Candidate:
    """A candidate after its M-step, and whether that was its last."""
    if isinstance(outcome, NumericalError):
        return replace(candidate, status=Status.ILL_CONDITIONED, problem=str(outcome))
    parameters, guarded, moved = outcome
    mean_log_likelihood = statistics.mean_log_likelihood
    before = candidate.history[-1].log_likelihood if candidate.history else -np.inf
    iteration = Iteration(
        mean_log_likelihood,
        candidate.parameters.weights,
        candidate.parameters.means,
        guarded,
        moved,
    )
    history = (*candidate.history, iteration)
    status = Status.RUNNING
    if not guarded and abs(mean_log_likelihood - before) < options.tol:
        status = Status.CONVERGED
    elif len(history) >= options.max_iter:
        status = Status.MAX_ITER
    return Candidate(
        parameters, status, history, statistics.counts, statistics.rows, statistics.weight
    )


def start_em(parameters: Sequence[MixtureParameters], options: EMOptions) -> EMState:
    """The state before the first iteration."""
    status = Status.RUNNING if options.max_iter > 0 else Status.MAX_ITER
    return EMState(tuple(Candidate(candidate, status) for candidate in parameters))


def em_steps(
    expectation: Expectation, state: EMState, spec: MixtureSpec, options: EMOptions
) -> Iterator[EMState]:
    """Yield the state after each iteration until no candidate runs any more.

    Each iteration costs one call of ``expectation`` with the parameters of the running
    candidates only: one scan of the rows, however many candidates there are.
    """
    while state.running:
        running = state.running
        batch = [state.candidates[index].parameters for index in running]
        sums = expectation(batch)
        outcomes = maximize_each(batch, sums, spec)
        candidates = list(state.candidates)
        for index, statistics, outcome in zip(running, sums, outcomes, strict=True):
            candidates[index] = advanced(candidates[index], statistics, outcome, options)
        state = EMState(tuple(candidates), state.iteration + 1)
        yield state


def fit_em(
    expectation: Expectation,
    parameters: Sequence[MixtureParameters],
    spec: MixtureSpec,
    options: EMOptions,
) -> tuple[Candidate, ...]:
    """Run every candidate to its end; costs as many scans as the slowest needs iterations."""
    state = start_em(parameters, options)
    for latest in em_steps(expectation, state, spec, options):
        state = latest
    return state.candidates
