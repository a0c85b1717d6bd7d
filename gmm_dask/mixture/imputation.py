"""Conditional means of missing features, and what a start needs of rows with holes.

k-means and other starts need a value in every place. They get the conditional means under one
Gaussian that is fitted to the rows by EM; the first M-step then takes conditional covariances into
account as well, so that no variance comes out too small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gmm_dask.arrays import FloatArray, IndexArray, RowsArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.em import fit_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.maximization import COUNT_FLOOR, maximize
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import Pattern, each_pattern, find_patterns
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.statistics import sum_statistics
from gmm_dask.mixture.transforms import Transforms

#: EM of the single Gaussian: with half of the values missing, some 20 iterations are enough.
POOLED = EMOptions(1e-3, 30)
#: Values of the residuals that are computed at once, one for each row, component and feature.
_SLICE_VALUES = 1 << 21


def impute(parameters: MixtureParameters, X: RowsArray) -> RowsArray:
    """Return a copy of rows X (n, d) with their holes filled: E[x_m | x_o], under the mixture.

    That is Σ r_k (μ_m + Σ_mo Σ_oo⁻¹ (x_o − μ_o)), with the covariances of component k and the
    responsibilities r of the observed features. A row without any value gets the mean of the
    mixture. What is observed stays as it is, and so does the type of the values.
    """
    filled = X.copy()
    step = max(1, _SLICE_VALUES // parameters.means.size)
    for pattern in find_patterns(X):
        for start in range(0, 0 if pattern.complete else len(pattern.rows), step):
            part = pattern.part(start, start + step)
            rows = X[part.rows]
            shares = assign(parameters, rows, responsibilities=True).responsibilities  # (m, k)
            assert shares is not None
            for alike in each_pattern(rows, find_patterns(rows)):
                missing = np.setdiff1d(np.arange(X.shape[1]), alike.observed)
                means = _conditional_means(parameters, alike, missing, rows, shares[alike.rows])
                filled[np.ix_(part.rows[alike.rows], missing)] = means
    return filled


def fill_holes(
    parameters: MixtureParameters,
    X: RowsArray,
    transforms: Transforms | None = None,
    transformed: RowsArray | None = None,
) -> RowsArray:
    """Return a copy of rows X (n, d) in natural units with their holes filled.

    A hole is filled as `impute` does it in model units, and the value is then brought back.

    Parameters
    ----------
    transforms
        Of the mixture.
    transformed
        X after the transforms; None: without any.
    """
    if transforms is None or transformed is None:
        return impute(parameters, X)
    natural = transforms.inverse(impute(parameters, transformed)).astype(X.dtype)
    filled = X.copy()
    np.copyto(filled, natural, where=np.isnan(X))
    return filled


def _conditional_means(
    parameters: MixtureParameters,
    pattern: Pattern,
    missing: IndexArray,
    X: RowsArray,
    shares: FloatArray,
) -> FloatArray:
    """Compute E[x_m | x_o] for the rows of a pattern of X, (r, m).

    Where x_m is at its conditional mean, y = Uᵀ(x − μ) is shortest: least squares, which lose fewer
    digits than a division by Σ_oo.

    Parameters
    ----------
    missing
        Indices of the missing features, (m,).
    shares
        Responsibilities of the components for these rows, (r, k).
    """
    o, means = pattern.observed, parameters.means
    if not len(o):
        return np.broadcast_to(parameters.weights @ means[:, missing], (len(shares), len(missing)))
    if parameters.covariance.factor_form in ("diag", "spherical"):
        return shares @ means[:, missing]
    factors = parameters.precisions_cholesky.reshape(-1, *means.shape[1:], means.shape[1])
    residuals = pattern.take(X) - means[:, None, o]  # (k, r, o)
    Q, R = np.linalg.qr(factors[:, missing].mT)  # (k, d, m) and (k, m, m), or (1, …)
    shortest = -np.linalg.solve(R, (residuals @ factors[:, o] @ Q).mT)  # (k, m, r)
    conditional = means[:, missing, None] + shortest
    expected: FloatArray = np.einsum("rk,kmr->rm", shares, conditional)
    return expected


@dataclass(frozen=True, eq=False)
class Filled:
    """What starts need of rows with holes.

    Attributes
    ----------
    pooled
        One Gaussian with a full covariance, which says what the missing values may be.
    values
        The rows with the conditional means under it in their holes, (n, d).
    """

    pooled: MixtureParameters
    values: RowsArray

    @classmethod
    def of(cls, X: RowsArray, pooled: MixtureParameters) -> Filled:
        """Fill the holes of rows X by a Gaussian."""
        return cls(pooled, impute(pooled, X))


def fit_pooled(
    X: RowsArray, sample_weight: FloatArray | None, spec: MixtureSpec
) -> MixtureParameters:
    """Fit one Gaussian with a full covariance to rows with holes, by EM.

    It begins with the means and variances of what each feature has.

    Raises
    ------
    NumericalError
        The covariance is singular.
    """
    means, variances = observed_moments(X, sample_weight)
    # A constant feature has no variance, and needs one until EM has seen the others.
    variances = np.where(variances > 0.0, variances, 1.0)
    start = MixtureParameters.from_covariances(
        "full", np.ones(1), means[None], np.diag(variances)[None]
    )
    expectation = ExpectationOn(X, sample_weight)
    (candidate,) = fit_em(expectation, [start], _single(spec), POOLED)
    if candidate.problem:
        raise NumericalError(candidate.problem)
    return candidate.parameters


def observed_moments(
    X: RowsArray, sample_weight: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Compute mean and variance of what each feature of rows with holes has, (d,) each."""
    means, variances = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for feature, column in enumerate(X.T):
        observed = ~np.isnan(column)
        if observed.any():
            values = column[observed].astype(np.float64)
            weights = None if sample_weight is None else sample_weight[observed]
            if weights is not None and not weights.any():
                weights = None
            # Near the rows first, so that no digits are lost far from zero.
            means[feature] = np.average(values - values[0], weights=weights) + values[0]
            variances[feature] = np.average(np.square(values - means[feature]), weights=weights)
    return means, variances


def first_maximization(
    X: RowsArray, responsibilities: FloatArray, pooled: MixtureParameters, spec: MixtureSpec
) -> tuple[FloatArray, FloatArray]:
    """Take the first M-step for rows with holes, from responsibilities times sample weights.

    What is missing has its expected value and its covariance under the pooled Gaussian, given the
    rest of the row.

    Parameters
    ----------
    responsibilities
        (n, k).

    Returns
    -------
    means, covariances
        μ, (k, d), and Σ of the shape of the covariance type.

    Raises
    ------
    NumericalError
        A covariance is singular.
    """
    patterns = find_patterns(X)
    mixtures = [
        maximize(pooled, sum_statistics(pooled, X, share, patterns), _single(spec))[0]
        for share in responsibilities.T
    ]
    matrices = np.concatenate([mixture.covariances for mixture in mixtures])  # (k, d, d)
    covariances = COVARIANCE_TYPES[spec.covariance_type].from_matrices(
        matrices, responsibilities.sum(axis=0) + COUNT_FLOOR
    )
    return np.concatenate([mixture.means for mixture in mixtures]), covariances


def _single(spec: MixtureSpec) -> MixtureSpec:
    return MixtureSpec(1, "full", spec.reg_covar)
