"""The M-step: parameters that maximize the expected log-likelihood, given the statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from typing import NamedTuple

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import MixtureSpec
from gmm_dask.mixture.statistics import SufficientStatistics
from gmm_dask.mixture.units import UnitTotals

#: Added to every count, as in scikit-learn, so that an empty component causes no division by 0.
COUNT_FLOOR = 10 * float(np.finfo(np.float64).eps)
#: A mean sample weight below which `COUNT_FLOOR` would be felt: statistics are then scaled up.
TINY_WEIGHT = 1e-3
#: Up to this size of a mixture's covariances, the overhead of numpy calls outweighs the work.
_SMALL = 2_048

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
    gains = expected_gains(batch, mixtures, sums, spec.reg_covar)
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
    reg_covar: float,
) -> list[float]:
    """Return by how much M-steps raised the expected log-likelihood, nats per unit of weight.

    Infinity where there is no weight, as in the first M-step of a cluster without rows.
    Under the old parameters the squares of the whitened residuals sum up to the trace of S; under
    the new ones to d per row, less what ``reg_covar`` adds to Σ', which is reg_covar · tr Σ'⁻¹.
    """
    counts = _stack([statistics.counts for statistics in sums])  # (b, k)
    constants = _stack([parameters.log_constants for parameters in after])
    constants = constants - _stack([parameters.log_constants for parameters in before])
    gains = (counts * np.where(counts > 0.0, constants, 0.0)).sum(axis=1)  # (b,)
    squares = before[0].covariance.sum_squares(
        _stack([statistics.residual_products for statistics in sums])
    )
    weights = np.array([statistics.weight for statistics in sums])
    floors = before[0].covariance.sum_precisions(
        _stack([parameters.precisions_cholesky for parameters in after]),
        counts,
        before[0].n_features,
    )
    totals = gains + 0.5 * (squares + reg_covar * floors)
    per_weight = np.divide(totals, weights, out=np.full_like(totals, np.inf), where=weights > 0.0)
    expected: list[float] = (per_weight - 0.5 * before[0].n_features).tolist()
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
