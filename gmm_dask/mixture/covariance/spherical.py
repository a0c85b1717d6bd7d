"""Spherical covariances: each component has one variance for all its features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.covariance.covariance_type import CovarianceType, belonging
from gmm_dask.mixture.covariance.matrices import (
    EMPTY,
    cancelled,
    inverse_deviations,
    roots_of_precisions,
    updated_by,
)
from gmm_dask.mixture.kernels.compile import kernel
from gmm_dask.mixture.spec import MixtureSpec


class Spherical(CovarianceType):
    """Each component has one variance for all its features; all arrays are (k,)."""

    name = "spherical"
    factor_form = "spherical"

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        """Shape of covariances, factors and S: (k,)."""
        return (k,)

    def n_parameters(self, k: int, d: int) -> int:
        """K variances."""
        return k

    def precisions_cholesky(self, covariances: FloatArray) -> FloatArray:
        """1/σ, (k,); raises `IllConditionedError`."""
        return inverse_deviations(covariances)

    def precisions_cholesky_of_precisions(self, precisions: FloatArray) -> FloatArray:
        """1/σ of given 1/σ², (k,); raises `ConfigError`."""
        return roots_of_precisions(precisions)

    def covariances(self, precisions_cholesky: FloatArray) -> FloatArray:
        """σ², (k,)."""
        return 1.0 / np.square(precisions_cholesky)

    def precisions(self, precisions_cholesky: FloatArray) -> FloatArray:
        """1/σ², (k,)."""
        return np.square(precisions_cholesky)

    def log_determinants(self, precisions_cholesky: FloatArray, k: int, d: int) -> FloatArray:
        """D · log 1/σ, (k,)."""
        return d * np.log(precisions_cholesky)

    def matrices(self, covariances: FloatArray, k: int, d: int) -> FloatArray:
        """Return the variance on each diagonal, (k, d, d)."""
        return covariances[:, None, None] * np.eye(d)

    def scaled(self, covariances: FloatArray, scale: FloatArray) -> FloatArray:
        """σ² / s², averaged over features."""
        return covariances * np.mean(1.0 / np.square(scale))

    def least_variances(self, covariances: FloatArray, scale: FloatArray, k: int) -> FloatArray:
        """σ² / s² of the widest feature, (k,)."""
        return covariances / np.square(scale.max())

    def estimate(
        self,
        X: RowsArray,
        responsibilities: FloatArray,
        counts: FloatArray,
        means: FloatArray,
        spec: MixtureSpec,
    ) -> FloatArray:
        """Weighted variance of the rows about each mean, averaged over features, (k,)."""
        variances = np.empty(len(means))
        for c in range(len(means)):
            rows, shares = belonging(X, responsibilities[:, c])
            squares = np.square(rows - means[c]).mean(axis=1)  # (m,)
            variances[c] = shares @ squares / counts[c]
        return variances + spec.reg_covar

    def update(
        self,
        covariances: FloatArray,
        precisions_cholesky: FloatArray,
        counts: FloatArray,
        residual_means: FloatArray,
        residual_products: FloatArray,
        spec: MixtureSpec,
    ) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
        """σ'² = σ² (S/Ñ − |δ|²)/d + reg_covar; σ² is kept where that cancels."""
        return updated_by(
            _update,
            covariances,
            precisions_cholesky,
            counts,
            residual_means,
            residual_products,
            spec.reg_covar,
        )


@kernel("M-step of the spherical covariance")
def _update(  # type: ignore[no-untyped-def]
    covariances, factors, counts, residual_means, residual_products, reg_covar, shifts, guarded
):
    k, d = residual_means.shape
    for c in range(k):
        u = factors[c]
        squares = 0.0
        for j in range(d):
            shifts[c, j] = residual_means[c, j] / u
            squares += residual_means[c, j] * residual_means[c, j]
        squares /= d
        spread = residual_products[c] / (counts[c] * d) - squares
        guarded[c] = cancelled(spread + reg_covar * (u * u), squares)
        if not guarded[c] and counts[c] > EMPTY:
            covariances[c] = spread / (u * u) + reg_covar
