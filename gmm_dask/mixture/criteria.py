"""Criteria for fitted mixtures: AIC, BIC, ICL, collapsed and starved components, ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.covariance import CovarianceType
from gmm_dask.mixture.em import Candidate
from gmm_dask.mixture.parameters import MixtureParameters

#: A component whose variance is below this share of the data's variance has collapsed.
COLLAPSE_SHARE = 1e-8


def n_parameters(parameters: MixtureParameters) -> int:
    """Count the free parameters: covariances, means, and k − 1 weights."""
    k, d = parameters.means.shape
    return parameters.covariance.n_parameters(k, d) + k * d + k - 1


def aic(parameters: MixtureParameters, log_likelihood: float) -> float:
    """Return Akaike's criterion, −2·log-likelihood + 2·p; lower is better.

    ``log_likelihood`` is the sum over all rows, nats.
    """
    return -2.0 * log_likelihood + 2.0 * n_parameters(parameters)


def bic(parameters: MixtureParameters, log_likelihood: float, weight: float) -> float:
    """Return Schwarz's criterion, −2·log-likelihood + p·log n; lower is better.

    ``log_likelihood`` is the sum over all rows, nats; ``weight`` is n, the number of rows or the
    sum of their weights.
    """
    return -2.0 * log_likelihood + n_parameters(parameters) * float(np.log(weight))


def icl(
    parameters: MixtureParameters, log_likelihood: float, weight: float, uncertainty: float
) -> float:
    """Return the integrated completed likelihood as a criterion; lower is better.

    BIC + 2·uncertainty: BIC of the rows together with their most probable components (Biernacki,
    Celeux and Govaert, 2000). It is −ICL of R's mclust, whose criteria grow with the likelihood.

    Parameters
    ----------
    log_likelihood, weight
        As for `bic`.
    uncertainty
        −Σ w log r of the most probable component of each row, nats.
    """
    return bic(parameters, log_likelihood, weight) + 2.0 * uncertainty


@dataclass(frozen=True, eq=False)
class Health:
    """The components of a mixture that are no use: collapsed or starved.

    Attributes
    ----------
    collapsed
        (k,) True where a covariance has shrunk onto repeated values or onto ``reg_covar``.
    starved
        (k,) True where N is below the rows that keep the likelihood bounded
        (`CovarianceType.least_rows`).
    """

    collapsed: npt.NDArray[np.bool_]
    starved: npt.NDArray[np.bool_]

    @property
    def defects(self) -> int:
        """The number of components that are collapsed or starved."""
        return int(np.count_nonzero(self.collapsed | self.starved))


def health(
    parameters: MixtureParameters,
    counts: FloatArray | None,
    variances: FloatArray,
    reg_covar: float,
) -> Health:
    """Judge each component by its covariance and its count.

    Parameters
    ----------
    counts
        N of the latest E-step, (k,); None before the first.
    variances
        Of the features over all rows, (d,).
    """
    k, d = parameters.means.shape
    collapsed = find_collapsed(
        parameters.covariance, parameters.covariances, k, variances, reg_covar
    )
    return Health(collapsed, _find_starved(parameters.covariance, counts, k, d))


def _find_starved(
    covariance: CovarianceType, counts: FloatArray | None, k: int, d: int
) -> npt.NDArray[np.bool_]:
    return np.zeros(k, dtype=bool) if counts is None else counts < covariance.least_rows(d)


def find_collapsed(
    covariance: CovarianceType,
    covariances: FloatArray,
    k: int,
    variances: FloatArray,
    reg_covar: float,
) -> npt.NDArray[np.bool_]:
    """Find the components of one or many mixtures whose covariance has collapsed.

    Parameters
    ----------
    covariances
        Of the type's shape for k components; other axes may come before.
    variances
        Of the features over all rows, (d,).

    Returns
    -------
    collapsed
        (…, k).
    """
    collapsed = covariance.find_narrow(covariances, deviations(variances), k, COLLAPSE_SHARE)
    # reg_covar is part of every variance. Within one per cent of it, no other part is left.
    natural = np.ones(len(variances))
    return collapsed | covariance.find_narrow(covariances, natural, k, 1.01 * reg_covar)


def deviations(variances: FloatArray) -> FloatArray:
    """Return the standard deviations of features, (d,), 1 for a constant feature."""
    return np.sqrt(np.where(variances > 0, variances, 1.0))


def rank(candidates: tuple[Candidate, ...], variances: FloatArray, reg_covar: float) -> list[int]:
    """Return the indices of candidates, best first: fewest defects, then highest log-likelihood.

    The likelihood alone would reward collapse: it grows without bound as a component shrinks
    onto a repeated value.
    """
    if len(candidates) == 1:
        return [0]

    defects = iter(_count_defects([*filter(_is_finite, candidates)], variances, reg_covar))
    keys = [
        (next(defects), -candidate.log_likelihood) if _is_finite(candidate) else (np.inf, np.inf)
        for candidate in candidates
    ]
    return sorted(range(len(candidates)), key=lambda index: (keys[index], index))


def _is_finite(candidate: Candidate) -> bool:
    return bool(np.isfinite(candidate.log_likelihood))


def _count_defects(
    candidates: Sequence[Candidate], variances: FloatArray, reg_covar: float
) -> list[int]:
    """Count the defects of each candidate; those of the same form are judged together."""
    mixtures = [candidate.parameters for candidate in candidates]
    forms = {(mixture.covariance_type, mixture.means.shape) for mixture in mixtures}
    if len(forms) != 1:
        return [
            health(candidate.parameters, candidate.row_counts, variances, reg_covar).defects
            for candidate in candidates
        ]
    covariance, (k, d) = mixtures[0].covariance, mixtures[0].means.shape
    stacked = np.stack([mixture.covariances for mixture in mixtures])
    collapsed = find_collapsed(covariance, stacked, k, variances, reg_covar)  # (b, k)
    return [
        Health(of_candidate, _find_starved(covariance, candidate.row_counts, k, d)).defects
        for of_candidate, candidate in zip(collapsed, candidates, strict=True)
    ]
