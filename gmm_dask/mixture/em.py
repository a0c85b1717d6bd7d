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

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.errors import IllConditionedError, NumericalError
from gmm_dask.mixture.iterations import Iteration, promised_gain
from gmm_dask.mixture.maximization import Maximized, maximize_each
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.statistics import SufficientStatistics

#: What M-steps promise is expected to shrink by this factor at the most, from one to the next.
_SHRINKS = 32.0

Expectation = Callable[[Sequence[MixtureParameters]], Sequence[SufficientStatistics]]


class Status(StrEnum):
    """Whether a candidate still runs, and if not, why.

    ``BEATEN``: in a selection, it can no longer end as the best (`gmm_dask.mixture.selection`).
    """

    RUNNING = "running"
    CONVERGED = "converged"
    MAX_ITER = "max_iter"
    BEATEN = "beaten"
    ILL_CONDITIONED = "ill_conditioned"


class Ending(StrEnum):
    """How a candidate converges, and with which parameters it ends.

    ``STEPPED``: as in scikit-learn. Once the log-likelihood changes by less than ``tol``, it ends
    with the parameters of one M-step more than those whose likelihood has shown it. ``MEASURED``:
    with the latter. ``FORETOLD``: likewise, and as soon as all further iterations together promise
    to gain less than ``tol``: an E-step earlier as a rule.
    """

    STEPPED = "stepped"
    MEASURED = "measured"
    FORETOLD = "foretold"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mixture on its way through EM: parameters, status and history.

    Attributes
    ----------
    parameters
        After the latest M-step; before it, once it is `measured`.
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
    ending
        How it converges.
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
    ending: Ending = Ending.STEPPED

    @property
    def row_counts(self) -> FloatArray | None:
        """N in rows, (k,): the counts for weights of mean 1."""
        if self.counts is None or not self.weight > 0.0:
            return self.counts
        return self.counts * (self.rows / self.weight)

    @property
    def measured(self) -> bool:
        """Whether the latest E-step was under the parameters: no M-step was taken after it."""
        return self.ending is not Ending.STEPPED and self.status is Status.CONVERGED

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


def may_converge(candidate: Candidate, options: EMOptions) -> bool:
    """Whether the next E-step may find that a candidate has converged.

    An M-step gains at least what it gains of the expected log-likelihood (Dempster and others,
    1977). So where that is ``tol`` or more, the change will be too. What the M-step after it
    promises may be less than that by any factor; beyond `_SHRINKS` it is not waited for, and an
    end that is foretold comes an E-step later.
    """
    if candidate.status is not Status.RUNNING or not candidate.history:
        return False
    latest = candidate.history[-1]
    most = options.tol * (_SHRINKS if candidate.ending is Ending.FORETOLD else 1.0)
    return not latest.replaced and latest.expected < most


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
    settled = abs(mean_log_likelihood - before) < options.tol
    if candidate.ending is Ending.FORETOLD:
        # What the last two M-steps say must agree with the likelihoods of three.
        promises = promised_gain(history), promised_gain(history[-2:])
        settled = (settled or max(promises) < options.tol) and may_converge(candidate, options)
    if settled and not (outcome.guarded or replaced):
        status = Status.CONVERGED
    elif len(history) >= options.max_iter:
        status = Status.MAX_ITER
    measured = candidate.ending is not Ending.STEPPED and status is Status.CONVERGED
    return Candidate(
        candidate.parameters if measured else outcome.parameters,
        status,
        history,
        statistics.counts,
        statistics.rows,
        statistics.weight,
        ending=candidate.ending,
    )


def start_em(
    parameters: Sequence[MixtureParameters],
    options: EMOptions,
    before: float = -np.inf,
    endings: Sequence[Ending] = (),
) -> EMState:
    """Return the state before the first iteration.

    Parameters
    ----------
    before
        Mean log-likelihood with which that one is compared.
    endings
        Of each candidate; by default that of scikit-learn.
    """
    status = Status.RUNNING if options.max_iter > 0 else Status.MAX_ITER
    endings = endings or (Ending.STEPPED,) * len(parameters)
    return EMState(
        tuple(
            Candidate(start, status, before=before, ending=ending)
            for start, ending in zip(parameters, endings, strict=True)
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
