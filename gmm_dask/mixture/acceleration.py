"""EM that jumps ahead: the same top in fewer iterations, for the search.

SQUAREM (Varadhan and Roland, 2008, scheme S3). Of three points in a row of EM, the differences
r = θ₁ − θ₀ and v = (θ₂ − θ₁) − r tell where the row leads: θ' = θ₀ − 2αr + α²v, α = −|r|/|v|. A
jump that lands lower than where it began is taken back. The polish does not jump: its iterations
are scikit-learn's.
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
    Maximized,
    Status,
    advanced,
    maximize_each,
    start_em,
)
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.statistics import SufficientStatistics

#: The longest jump, and the shortest that is worth its factorization, in steps of EM.
_LONGEST, _LEAST = 32.0, 1.5


@dataclass(frozen=True, eq=False)
class _Path:
    """A candidate on its way, and what its next jump is made of.

    Attributes
    ----------
    candidate
        Its parameters are those of the next E-step: after a jump, where it landed.
    trail
        Parameters of the latest plain iterations before those, oldest first.
    refuge
        After a jump: where EM itself would have gone.
    """

    candidate: Candidate
    trail: tuple[MixtureParameters, ...] = ()
    refuge: MixtureParameters | None = None


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
        Of the features, (d,): the units in which a jump is measured.
    """
    paths = [_Path(candidate) for candidate in start_em(parameters, options).candidates]
    while running := [i for i, one in enumerate(paths) if one.candidate.status is Status.RUNNING]:
        batch = [paths[index].candidate.parameters for index in running]
        sums = expectation(batch)
        outcomes = maximize_each(batch, sums, spec)
        for index, statistics, outcome in zip(running, sums, outcomes, strict=True):
            paths[index] = _next(paths[index], statistics, outcome, options, variances)
    return tuple(path.candidate for path in paths)


def _next(
    path: _Path,
    statistics: SufficientStatistics,
    outcome: Maximized | NumericalError,
    options: EMOptions,
    variances: FloatArray,
) -> _Path:
    """One iteration further, and ahead from there if the row of points says where to."""
    before, trail = path.candidate, path.trail
    if path.refuge is not None:
        lower = not statistics.mean_log_likelihood >= before.log_likelihood
        if lower or isinstance(outcome, NumericalError):
            return _Path(_returned(before, path.refuge, options), trail[-1:])
        # How much was gained by a jump says nothing of how near the top is.
        options, trail = replace(options, tol=0.0), ()
    after = advanced(before, statistics, outcome, options)
    # Where `reg_covar` makes the likelihood fall, it cannot judge a jump.
    falling = path.refuge is None and after.log_likelihood < before.log_likelihood
    if after.status is not Status.RUNNING or falling:
        return _Path(after)
    trail = (*trail, before.parameters)
    if len(trail) < 2:
        return _Path(after, trail)
    ahead = _jump((*trail, after.parameters), variances)
    if ahead is None:
        return _Path(after, trail[-1:])
    return _Path(replace(after, parameters=ahead), trail, after.parameters)


def _returned(candidate: Candidate, refuge: MixtureParameters, options: EMOptions) -> Candidate:
    """Back from a jump that landed lower; the iteration counts all the same."""
    history = (*candidate.history, candidate.history[-1])
    status = Status.RUNNING if len(history) < options.max_iter else Status.MAX_ITER
    return replace(candidate, parameters=refuge, history=history, status=status)


def _jump(row: Sequence[MixtureParameters], variances: FloatArray) -> MixtureParameters | None:
    """Where three points of EM in a row lead; None if not beyond the third."""
    x0, x1, x2 = (_coordinates(one, variances) for one in row)
    r = x1 - x0
    bend = np.linalg.norm((x2 - x1) - r)
    alpha = -min(float(np.linalg.norm(r) / bend), _LONGEST) if bend > 0 else -1.0
    while alpha < -_LEAST:
        with suppress(NumericalError):
            return _at(row, alpha)
        alpha = (alpha - 1.0) / 2.0  # at −1 it is the third point
    return None


def _coordinates(parameters: MixtureParameters, variances: FloatArray) -> FloatArray:
    """Weights, means and covariances in deviations of the features, one vector."""
    scale = deviations(variances)  # (d,)
    means = parameters.means / scale
    covariances = parameters.covariance.scaled(parameters.covariances, scale)
    return np.concatenate([parameters.weights, means.ravel(), covariances.ravel()])


def _at(row: Sequence[MixtureParameters], alpha: float) -> MixtureParameters:
    """θ₀ − 2αr + α²v; raises `NumericalError` where that is no mixture."""
    first, second, third = row

    def ahead(a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
        r = b - a
        along: FloatArray = a - 2.0 * alpha * r + alpha * alpha * ((c - b) - r)
        return along

    weights = ahead(first.weights, second.weights, third.weights)
    if weights.min() <= 0.0:
        raise NumericalError("a weight is not positive")
    return MixtureParameters.from_covariances(
        third.covariance_type,
        weights / weights.sum(),
        ahead(first.means, second.means, third.means),
        ahead(first.covariances, second.covariances, third.covariances),
    )
