"""Expectation maximization as pure functions from one immutable state to the next.

The loop calls a function ``expectation(parameters) -> statistics`` and does not know where the rows
are. For rows in memory, the function runs a kernel on an array; for chunks, it is a scan that
serves every candidate at once. A checkpoint is a saved `EMState`; a fit resumes when `em_steps` is
called with it.

The candidates of a state may differ in covariance type and number of components: each goes by its
own parameters. Of the specification, EM itself needs what the M-step adds: ``reg_covar``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from math import sqrt

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.errors import IllConditionedError, NumericalError
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.statistics import SufficientStatistics
from gmm_dask.mixture.units import UnitTotals

Expectation = Callable[[Sequence[MixtureParameters]], Sequence[SufficientStatistics]]

#: Added to every count, as in scikit-learn, so that an empty component causes no division by 0.
COUNT_FLOOR = 10 * float(np.finfo(np.float64).eps)
#: A mean sample weight below which `COUNT_FLOOR` would be felt: statistics are then scaled up.
TINY_WEIGHT = 1e-3
#: Up to this size of a mixture's covariances, the overhead of numpy calls outweighs the work.
_SMALL = 2_048


class Status(StrEnum):
    """Whether a candidate still runs, and if not, why.

    ``BEATEN``: in a selection, it can no longer end as the best (`gmm_dask.mixture.selection`).
    """

    RUNNING = "running"
    CONVERGED = "converged"
    MAX_ITER = "max_iter"
    BEATEN = "beaten"
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
        Components whose covariance was kept because its update would have lost its digits.
    moved
        The longest move of a mean in the M-step, in standard deviations of its component.
    expected
        What the M-step gained of the expected log-likelihood, nats per unit of weight.
    replaced
        Components that were placed again after the M-step; the next iteration cannot converge.
    """

    log_likelihood: float
    weights: FloatArray
    means: FloatArray
    guarded: tuple[int, ...]
    moved: float
    expected: float = np.inf
    replaced: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mixture on its way through EM: parameters, status and history.

    Attributes
    ----------
    parameters
        After the latest M-step.
    status
        Anything but ``RUNNING`` and ``BEATEN`` is final.
    history
        One entry per iteration.
    counts
        N of the latest E-step, (k,); None before the first.
    rows, weight
        Rows of the latest E-step and the sum of their weights.
    problem, broken
        For ``ILL_CONDITIONED``: the message of the error; and the component whose new covariance
        was not positive definite, None after another error.
    before
        Mean log-likelihood with which the first iteration is compared: that of the last iteration
        of an earlier fit, which goes on here.
    """

    parameters: MixtureParameters
    status: Status = Status.RUNNING
    history: tuple[Iteration, ...] = ()
    counts: FloatArray | None = None
    rows: int = 0
    weight: float = 0.0
    problem: str = ""
    broken: int | None = None
    before: float = -np.inf

    @property
    def row_counts(self) -> FloatArray | None:
        """N in rows, (k,): the counts for weights of mean 1."""
        if self.counts is None or not self.weight > 0.0:
            return self.counts
        return self.counts * (self.rows / self.weight)

    @property
    def n_iter(self) -> int:
        """The number of iterations done."""
        return len(self.history)

    @property
    def lower_bounds(self) -> tuple[float, ...]:
        """Mean log-likelihood before each M-step."""
        return tuple(iteration.log_likelihood for iteration in self.history)

    @property
    def log_likelihood(self) -> float:
        """The latest lower bound; −inf before the first iteration and after a breakdown."""
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


#: What an M-step is taken from.
Sums = SufficientStatistics | UnitTotals
#: What `maximize` returns.
Maximized = tuple[MixtureParameters, tuple[int, ...], float]


def maximize(parameters: MixtureParameters, statistics: Sums, spec: MixtureSpec) -> Maximized:
    """Take an M-step: maximize the expected log-likelihood, given the statistics.

    They may be of one E-step, or the sum of units that were read at different times.

    Returns
    -------
    parameters
        π' = Ñ/ΣÑ, μ' = μ + L δ, and Σ' from the update of the covariance type.
    guarded
        Components whose Σ was kept (see `CovarianceType.update`).
    moved
        ``max_k |δ_k|``, the longest move of a mean, in standard deviations.

    Raises
    ------
    NumericalError
        The statistics are not finite, or belong to other parameters.
    IllConditionedError
        A new covariance is not positive definite.
    """
    return _maximize_together([parameters], [statistics], spec)[0]


def _maximize_together(
    batch: Sequence[MixtureParameters], sums: Sequence[Sums], spec: MixtureSpec
) -> list[Maximized]:
    """Take the M-steps of mixtures of the same form as if all components were in one mixture.

    The bits are the same, and small M-steps are faster, since calls of numpy take most of their
    time. A batch of several is allowed only where components share no covariance.
    """
    for parameters, statistics in zip(batch, sums, strict=True):
        _check(parameters, statistics)
    sums = [_scale_tiny_weights(statistics) for statistics in sums]
    covariance, k = batch[0].covariance, batch[0].n_components
    counts = _join([statistics.counts for statistics in sums]) + COUNT_FLOOR  # (c·k,)
    residual_sums = _join([statistics.residual_sums for statistics in sums])
    residual_means = residual_sums / counts[:, None]  # (c·k, d)
    covariances, shifts, guarded = covariance.update(
        _join([parameters.covariances for parameters in batch]),
        _join([parameters.precisions_cholesky for parameters in batch]),
        counts,
        residual_means,
        _join([statistics.residual_products for statistics in sums]),
        spec,
    )
    factors = covariance.precisions_cholesky(covariances)
    distances = np.einsum("kd,kd->k", residual_means, residual_means)  # (c·k,), squared
    maximized = []
    for index, parameters in enumerate(batch):
        components = slice(index * k, (index + 1) * k) if len(batch) > 1 else ...
        weights = counts[components]  # (k,)
        updated = MixtureParameters(
            parameters.covariance_type,
            weights / weights.sum(),
            parameters.means + shifts[components],
            covariances[components],
            factors[components],
        )
        kept = tuple(np.flatnonzero(guarded[components]).tolist())
        maximized.append((updated, kept, sqrt(distances[components].max())))
    return maximized


def _scale_tiny_weights(statistics: Sums) -> Sums:
    """Return statistics for weights of mean 1 if the given weights are tiny."""
    mean = statistics.weight / statistics.rows if statistics.rows else 1.0
    if not 0.0 < mean < TINY_WEIGHT:
        return statistics
    return replace(
        statistics,
        counts=statistics.counts / mean,
        residual_sums=statistics.residual_sums / mean,
        residual_products=statistics.residual_products / mean,
    )


def _join(arrays: Sequence[FloatArray]) -> FloatArray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _check(parameters: MixtureParameters, statistics: Sums) -> None:
    """Refuse statistics that belong to other parameters or are not finite."""
    if statistics.parameters_digest != parameters.digest:
        raise NumericalError("these statistics belong to other parameters")
    if not statistics.finite:
        raise NumericalError(
            "the statistics overflowed: some values are more than about 1e150 standard deviations "
            "from the means; look at the minima and maxima of the columns, and rescale the "
            "columns or drop such rows"
        )


def maximize_each(
    batch: Sequence[MixtureParameters], sums: Sequence[SufficientStatistics], spec: MixtureSpec
) -> list[Maximized | NumericalError]:
    """Take the M-steps of a batch; where one breaks down, its error is returned in its place."""
    forms = {(parameters.covariance_type, parameters.means.shape) for parameters in batch}
    small = batch[0].covariance.by_component and batch[0].covariances.size <= _SMALL
    if len(batch) > 1 and len(forms) == 1 and small:
        with suppress(NumericalError):  # which one broke down is found out below
            return [*_maximize_together(batch, sums, spec)]
    outcomes: list[Maximized | NumericalError] = []
    for parameters, statistics in zip(batch, sums, strict=True):
        try:
            outcomes.append(maximize(parameters, statistics, spec))
        except NumericalError as error:
            outcomes.append(error)
    return outcomes


def advance(
    candidate: Candidate,
    statistics: SufficientStatistics,
    outcome: Maximized | NumericalError,
    options: EMOptions,
) -> Candidate:
    """Return the candidate after an M-step, with its history and its status."""
    if isinstance(outcome, NumericalError):
        broken = outcome.component if isinstance(outcome, IllConditionedError) else None
        status = Status.ILL_CONDITIONED
        return replace(candidate, status=status, problem=str(outcome), broken=broken)
    parameters, guarded, moved = outcome
    mean_log_likelihood = statistics.mean_log_likelihood
    before, replaced = candidate.before, False
    if candidate.history:
        before = candidate.history[-1].log_likelihood
        replaced = bool(candidate.history[-1].replaced)
    iteration = Iteration(
        mean_log_likelihood,
        candidate.parameters.weights,
        candidate.parameters.means,
        guarded,
        moved,
        expected_gain(candidate.parameters, parameters, statistics),
    )
    history = (*candidate.history, iteration)
    status = Status.RUNNING
    if not (guarded or replaced) and abs(mean_log_likelihood - before) < options.tol:
        status = Status.CONVERGED
    elif len(history) >= options.max_iter:
        status = Status.MAX_ITER
    return Candidate(
        parameters, status, history, statistics.counts, statistics.rows, statistics.weight
    )


def expected_gain(
    before: MixtureParameters, after: MixtureParameters, statistics: SufficientStatistics
) -> float:
    """Return by how much an M-step raised the expected log-likelihood, nats per unit of weight.

    Under the new parameters the squares of the whitened residuals sum up to d per row, but for
    ``reg_covar``; under the old ones, to the trace of S.
    """
    occupied = statistics.counts > 0.0
    constants = after.log_constants[occupied] - before.log_constants[occupied]
    squares = before.covariance.sum_squares(statistics.residual_products)
    gain = statistics.counts[occupied] @ constants + 0.5 * squares
    return float(gain / statistics.weight - 0.5 * before.n_features)


def start_em(
    parameters: Sequence[MixtureParameters], options: EMOptions, before: float = -np.inf
) -> EMState:
    """Return the state before the first iteration.

    ``before`` is the mean log-likelihood with which that one is compared.
    """
    status = Status.RUNNING if options.max_iter > 0 else Status.MAX_ITER
    return EMState(tuple(Candidate(start, status, before=before) for start in parameters))


def em_steps(
    expectation: Expectation,
    state: EMState,
    spec: MixtureSpec,
    options: EMOptions,
    compare: Callable[[EMState], EMState] = lambda state: state,
) -> Iterator[EMState]:
    """Yield the state after each iteration, until no candidate runs any more.

    Each iteration calls ``expectation`` once, with the parameters of the running candidates: one
    scan of the rows, whatever the number of candidates.

    Parameters
    ----------
    spec
        Its ``reg_covar`` is added by the M-step.
    compare
        Called with the state after each iteration; may stop candidates by comparing them.
    """
    while state.running:
        running = state.running
        batch = [state.candidates[index].parameters for index in running]
        sums = expectation(batch)
        outcomes = maximize_each(batch, sums, spec)
        candidates = list(state.candidates)
        for index, statistics, outcome in zip(running, sums, outcomes, strict=True):
            candidates[index] = advance(candidates[index], statistics, outcome, options)
        state = compare(EMState(tuple(candidates), state.iteration + 1))
        yield state


def fit_em(
    expectation: Expectation,
    parameters: Sequence[MixtureParameters],
    spec: MixtureSpec,
    options: EMOptions,
    compare: Callable[[EMState], EMState] = lambda state: state,
) -> tuple[Candidate, ...]:
    """Run every candidate to its end, at the cost of one scan for each iteration of the slowest.

    ``compare`` is as for `em_steps`.
    """
    state = start_em(parameters, options)
    for latest in em_steps(expectation, state, spec, options, compare):
        state = latest
    return state.candidates
