"""EM with jumps ahead, for the search: the same maximum in fewer iterations.

The method is SQUAREM (Varadhan and Roland, 2008, scheme S3). From three successive points of EM,
the differences r = θ₁ − θ₀ and v = (θ₂ − θ₁) − r give the point to jump to: θ' = θ₀ − 2αr + α²v
with α = −|r|/|v|. A jump that lowers the likelihood is taken back. The polish does not jump: its
iterations are scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.criteria import deviations
from gmm_dask.mixture.em import (
    Candidate,
    Expectation,
    Status,
    advance,
    start_em,
)
from gmm_dask.mixture.maximization import Maximized, maximize_each
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.statistics import SufficientStatistics

#: The longest jump, and the shortest that is worth a factorization, in steps of EM.
_LONGEST, _SHORTEST = 32.0, 1.5


@dataclass(frozen=True, eq=False)
class _Path:
    """A candidate, and the points from which its next jump is computed.

    Attributes
    ----------
    candidate
        Its parameters are those of the next E-step; after a jump, the point it led to.
    trail
        The points of the latest plain iterations before it, oldest first.
    fallback
        After a jump: the parameters that EM would have reached without it.
    """

    candidate: Candidate
    trail: tuple[MixtureParameters, ...] = ()
    fallback: MixtureParameters | None = None


def fit_accelerated(
    expectation: Expectation,
    parameters: Sequence[MixtureParameters],
    spec: MixtureSpec,
    options: EMOptions,
    variances: FloatArray,
) -> tuple[Candidate, ...]:
    """Run candidates to their ends with jumps between iterations.

    Parameters
    ----------
    variances
        Of the features, (d,). A jump is measured in units of their square roots.
    """
    paths = [_Path(candidate) for candidate in start_em(parameters, options).candidates]
    while running := _running(paths):
        batch = [paths[index].candidate.parameters for index in running]
        sums = expectation(batch)
        outcomes = maximize_each(batch, sums, spec)
        for index, statistics, outcome in zip(running, sums, outcomes, strict=True):
            paths[index] = _step(paths[index], statistics, outcome, options, variances)
    return tuple(path.candidate for path in paths)


def _running(paths: Sequence[_Path]) -> list[int]:
    statuses = (path.candidate.status for path in paths)
    return [index for index, status in enumerate(statuses) if status is Status.RUNNING]


def _step(
    path: _Path,
    statistics: SufficientStatistics,
    outcome: Maximized | NumericalError,
    options: EMOptions,
    variances: FloatArray,
) -> _Path:
    """Advance a path by one iteration, and by a jump if its points lead anywhere."""
    before, trail = path.candidate, path.trail
    if path.fallback is not None:
        lower = not statistics.mean_log_likelihood >= before.log_likelihood
        if lower or isinstance(outcome, NumericalError):
            return _Path(_take_back(before, path.fallback, options), trail[-1:])
        # A small gain by a jump does not mean that the maximum is near.
        options, trail = replace(options, tol=0.0), ()
    after = advance(before, statistics, outcome, options)
    # Where reg_covar makes the likelihood fall, the likelihood cannot tell whether a jump helps.
    falling = path.fallback is None and after.log_likelihood < before.log_likelihood
    if after.status is not Status.RUNNING or falling:
        return _Path(after)
    trail = (*trail, before.parameters)
    if len(trail) < 2:
        return _Path(after, trail)
    ahead = _jump((*trail, after.parameters), variances)
    if ahead is None:
        return _Path(after, trail[-1:])
    return _Path(replace(after, parameters=ahead), trail, after.parameters)


def _take_back(candidate: Candidate, fallback: MixtureParameters, options: EMOptions) -> Candidate:
    """Take back a jump that lowered the likelihood; its iteration counts nevertheless."""
    history = (*candidate.history, candidate.history[-1])
    status = Status.RUNNING if len(history) < options.max_iter else Status.MAX_ITER
    return replace(candidate, parameters=fallback, history=history, status=status)


def _jump(points: Sequence[MixtureParameters], variances: FloatArray) -> MixtureParameters | None:
    """Return the point to which three successive points lead; None if that is near the third."""
    x0, x1, x2 = (_coordinates(point, variances) for point in points)
    r = x1 - x0
    bend = np.linalg.norm((x2 - x1) - r)
    alpha = -min(float(np.linalg.norm(r) / bend), _LONGEST) if bend > 0 else -1.0
    while alpha < -_SHORTEST:
        with suppress(NumericalError):
            return _extrapolate(points, alpha)
        alpha = (alpha - 1.0) / 2.0  # α = −1 gives the third point
    return None


def _coordinates(parameters: MixtureParameters, variances: FloatArray) -> FloatArray:
    """Join weights, means and covariances, in standard deviations of the features, in a vector."""
    scale = deviations(variances)  # (d,)
    means = parameters.means / scale
    covariances = parameters.covariance.scaled(parameters.covariances, scale)
    return np.concatenate([parameters.weights, means.ravel(), covariances.ravel()])


def _extrapolate(points: Sequence[MixtureParameters], alpha: float) -> MixtureParameters:
    """Compute θ₀ − 2αr + α²v; raises `NumericalError` where that is no mixture."""
    first, second, third = points

    def combine(a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
        r = b - a
        target: FloatArray = a - 2.0 * alpha * r + alpha * alpha * ((c - b) - r)
        return target

    weights = combine(first.weights, second.weights, third.weights)
    if weights.min() <= 0.0:
        raise NumericalError("a weight is not positive")
    return MixtureParameters.from_covariances(
        third.covariance_type,
        weights / weights.sum(),
        combine(first.means, second.means, third.means),
        combine(first.covariances, second.covariances, third.covariances),
    )
