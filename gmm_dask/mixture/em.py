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
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from math import sqrt
from typing import NamedTuple

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
        After the latest M-step; before it, once it has converged and `ends_measured`.
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
    ends_measured
        Whether convergence leaves it with the parameters whose likelihood has shown it; else, as
        in scikit-learn, with those of one M-step more.
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
    ends_measured: bool = False

    @property
    def row_counts(self) -> FloatArray | None:
        """N in rows, (k,): the counts for weights of mean 1."""
        if self.counts is None or not self.weight > 0.0:
            return self.counts
        return self.counts * (self.rows / self.weight)

    @property
    def measured(self) -> bool:
        """Whether the latest E-step was under the parameters: no M-step was taken after it."""
        return self.ends_measured and self.status is Status.CONVERGED

    @property
    def n_iter(self) -> int:
        """The number of M-steps that the parameters come from."""
        return len(self.history) - self.measured

    @property
    def last_step(self) -> Iteration | None:
        """The iteration with the last of these M-steps; None before the first."""
        return self.history[self.n_iter - 1] if self.n_iter else None

    @property
    def lower_bounds(self) -> tuple[float, ...]:
        """Mean log-likelihood of each E-step."""
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


#: What an M-step is taken from: an E-step, or units that were read at different times.
Sums = SufficientStatistics | UnitTotals


class Maximized(NamedTuple):
    """What an M-step leads to.

    Attributes
    ----------
    parameters
        π' = Ñ/ΣÑ, μ' = μ + L δ, and Σ' from the update of the covariance type.
    guarded
        Components whose Σ was kept (see `CovarianceType.update`).
    moved
        ``max_k |δ_k|``, the longest move of a mean, in standard deviations.
    expected
        By how much the expected log-likelihood rose, nats per unit of weight.
    """

    parameters: MixtureParameters
    guarded: tuple[int, ...]
    moved: float
    expected: float


def maximize(parameters: MixtureParameters, statistics: Sums, spec: MixtureSpec) -> Maximized:
    """Take an M-step: maximize the expected log-likelihood, given the statistics.

    Raises
    ------
    NumericalError
        The statistics are not finite, or belong to other parameters.
    IllConditionedError
        A new covariance is not positive definite.
    """
    (outcome,) = maximize_each([parameters], [statistics], spec)
    if isinstance(outcome, NumericalError):
        raise outcome
    return outcome


def maximize_each(
    batch: Sequence[MixtureParameters], sums: Sequence[Sums], spec: MixtureSpec
) -> list[Maximized | NumericalError]:
    """Take the M-steps of a batch; where one breaks down, its error is returned in its place.

    Those of small mixtures of the same form are taken together, with the same bits: calls of numpy
    take most of their time.
    """
    forms = {(parameters.covariance_type, parameters.means.shape) for parameters in batch}
    if len(batch) > 1 and (len(forms) > 1 or batch[0].covariances.size > _SMALL):
        pairs = zip(batch, sums, strict=True)
        return [maximize_each([pair[0]], [pair[1]], spec)[0] for pair in pairs]
    defects = [_defect(*pair) for pair in zip(batch, sums, strict=True)]
    usable = [index for index, defect in enumerate(defects) if defect is None]
    if len(usable) == len(batch):
        return _maximize_together(batch, sums, spec)
    outcomes = iter(
        _maximize_together([batch[i] for i in usable], [sums[i] for i in usable], spec)
        if usable
        else ()
    )
    return [next(outcomes) if defect is None else defect for defect in defects]


def _maximize_together(
    batch: Sequence[MixtureParameters], sums: Sequence[Sums], spec: MixtureSpec
) -> list[Maximized | NumericalError]:
    """Take the M-steps of mixtures of the same form."""
    scaled = [_scale_tiny_weights(statistics) for statistics in sums]
    covariance_type, covariance = batch[0].covariance_type, batch[0].covariance
    counts = _stack([statistics.counts for statistics in scaled]) + COUNT_FLOOR  # (b, k)
    residual_sums = _stack([statistics.residual_sums for statistics in scaled])
    residual_means = residual_sums / counts[:, :, None]  # (b, k, d)
    update = covariance.update(
        _stack([parameters.covariances for parameters in batch]),
        _stack([parameters.precisions_cholesky for parameters in batch]),
        counts,
        residual_means,
        _stack([statistics.residual_products for statistics in scaled]),
        spec,
    )
    mixtures = MixtureParameters.each_of(
        covariance_type,
        counts / counts.sum(axis=1, keepdims=True),
        _stack([parameters.means for parameters in batch]) + update.shifts,
        update.covariances,
        update.precisions_cholesky,
    )
    squares = np.einsum("bkd,bkd->bk", residual_means, residual_means).max(axis=1)
    gains = expected_gains(batch, mixtures, sums)
    outcomes: list[Maximized | NumericalError] = []
    for index, mixture in enumerate(mixtures):
        if not update.definite[index]:
            outcomes.append(_singular(mixture))
            continue
        guarded = tuple(update.guarded[index].nonzero()[0].tolist())
        outcomes.append(Maximized(mixture, guarded, sqrt(squares[index]), gains[index]))
    return outcomes


def _singular(mixture: MixtureParameters) -> NumericalError:
    """Return the error of a mixture with a covariance that has no factor."""
    try:
        mixture.covariance.precisions_cholesky(mixture.covariances)
    except NumericalError as error:
        return error
    return NumericalError("a covariance is positive definite only by rounding")


def expected_gains(
    before: Sequence[MixtureParameters],
    after: Sequence[MixtureParameters],
    sums: Sequence[Sums],
) -> list[float]:
    """Return by how much M-steps raised the expected log-likelihood, nats per unit of weight.

    Under the new parameters the squares of the whitened residuals sum up to d per row, but for
    ``reg_covar``; under the old ones, to the trace of S.
    """
    counts = _stack([statistics.counts for statistics in sums])  # (b, k)
    constants = _stack([parameters.log_constants for parameters in after])
    constants = constants - _stack([parameters.log_constants for parameters in before])
    gains = (counts * np.where(counts > 0.0, constants, 0.0)).sum(axis=1)  # (b,)
    squares = before[0].covariance.sum_squares(
        _stack([statistics.residual_products for statistics in sums])
    )
    weights = [statistics.weight for statistics in sums]
    expected: list[float] = (
        (gains + 0.5 * squares) / weights - 0.5 * before[0].n_features
    ).tolist()
    return expected


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


def _stack(arrays: Sequence[FloatArray]) -> FloatArray:
    """Stack arrays along a new first axis; a single one is not copied."""
    return arrays[0][None] if len(arrays) == 1 else np.array(arrays)


def _defect(parameters: MixtureParameters, statistics: Sums) -> NumericalError | None:
    """Return the error of statistics that belong to other parameters or are not finite."""
    if statistics.parameters_digest != parameters.digest:
        return NumericalError("these statistics belong to other parameters")
    if statistics.finite:
        return None
    return NumericalError(
        "the statistics overflowed: some values are more than about 1e150 standard deviations "
        "from the means; look at the minima and maxima of the columns, and rescale the "
        "columns or drop such rows"
    )


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
    mean_log_likelihood = statistics.mean_log_likelihood
    before, replaced = candidate.before, False
    if candidate.history:
        before = candidate.history[-1].log_likelihood
        replaced = bool(candidate.history[-1].replaced)
    iteration = Iteration(
        mean_log_likelihood,
        candidate.parameters.weights,
        candidate.parameters.means,
        outcome.guarded,
        outcome.moved,
        outcome.expected,
    )
    history = (*candidate.history, iteration)
    status = Status.RUNNING
    if not (outcome.guarded or replaced) and abs(mean_log_likelihood - before) < options.tol:
        status = Status.CONVERGED
    elif len(history) >= options.max_iter:
        status = Status.MAX_ITER
    measured = candidate.ends_measured and status is Status.CONVERGED
    return Candidate(
        candidate.parameters if measured else outcome.parameters,
        status,
        history,
        statistics.counts,
        statistics.rows,
        statistics.weight,
        ends_measured=candidate.ends_measured,
    )


def may_converge(candidate: Candidate, options: EMOptions) -> bool:
    """Whether the next E-step may find that a candidate has converged.

    An M-step gains at least what it gains of the expected log-likelihood (Dempster and others,
    1977). So where that is `tol` or more, the change will be too.
    """
    if candidate.status is not Status.RUNNING or not candidate.history:
        return False
    latest = candidate.history[-1]
    return not latest.replaced and latest.expected < options.tol


def start_em(
    parameters: Sequence[MixtureParameters],
    options: EMOptions,
    before: float = -np.inf,
    ends_measured: Sequence[bool] = (),
) -> EMState:
    """Return the state before the first iteration.

    Parameters
    ----------
    before
        Mean log-likelihood with which that one is compared.
    ends_measured
        Of each candidate, as in `Candidate`; by default none does.
    """
    status = Status.RUNNING if options.max_iter > 0 else Status.MAX_ITER
    ends_measured = ends_measured or (False,) * len(parameters)
    return EMState(
        tuple(
            Candidate(start, status, before=before, ends_measured=ends)
            for start, ends in zip(parameters, ends_measured, strict=True)
        )
    )


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
