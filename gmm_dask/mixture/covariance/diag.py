"""Diagonal covariances: each component has its own variance per feature."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, IndexArray, RowsArray
from gmm_dask.mixture.covariance.covariance_type import CovarianceType, select_rows
from gmm_dask.mixture.covariance.matrices import (
    EMPTY_COUNT,
    Update,
    cancelled,
    inverse_deviations,
    roots_of_precisions,
    run_update,
)
from gmm_dask.mixture.kernels.compile import kernel
from gmm_dask.mixture.spec import MixtureSpec


class Diag(CovarianceType):
    """Each component has its own variance per feature; all arrays are (k, d)."""

    name = "diag"
    factor_form = "diag"

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        """Return the shape of covariances, factors and S: (k, d)."""
        return (k, d)

    def n_parameters(self, k: int, d: int) -> int:
        """Count the variances: k·d."""
        return k * d

    def least_rows(self, d: int) -> int:
        """Two: a single row has no spread."""
        return 2

    def precisions_cholesky(self, covariances: FloatArray) -> FloatArray:
        """Compute 1/σ, (k, d); raises `IllConditionedError`."""
        return inverse_deviations(covariances)

    def precisions_cholesky_of_precisions(self, precisions: FloatArray) -> FloatArray:
        """Compute 1/σ of given 1/σ², (k, d); raises `ConfigError`."""
        return roots_of_precisions(precisions)

    def covariances(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Compute σ², (k, d)."""
        return 1.0 / np.square(precisions_cholesky)

    def precisions(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Compute 1/σ², (k, d)."""
        return np.square(precisions_cholesky)

    def log_determinants(self, precisions_cholesky: FloatArray, k: int, d: int) -> FloatArray:
        """Compute Σ log 1/σ, (…, k)."""
        return np.log(precisions_cholesky).sum(axis=-1)

    def matrices(self, covariances: FloatArray, k: int, d: int) -> FloatArray:
        """Return matrices with the variances on their diagonals, (k, d, d)."""
        return covariances[:, :, None] * np.eye(d)

    def from_matrices(self, matrices: FloatArray, weights: FloatArray) -> FloatArray:
        """Take the diagonals of the matrices, (k, d)."""
        return np.diagonal(matrices, axis1=1, axis2=2).copy()

    def scaled(self, covariances: FloatArray, scale: FloatArray) -> FloatArray:
        """Compute σ² / s²."""
        return covariances / np.square(scale)

    def marginal(
        self,
        covariances: FloatArray,
        precisions_cholesky: FloatArray,
        observed: IndexArray,
        d: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Take columns of the variances; A, (d, o), puts residuals where their features are."""
        axes = np.eye(covariances.shape[1])[:, observed]
        return covariances[:, observed], precisions_cholesky[:, observed], axes

    def lift(
        self,
        counts: FloatArray,
        residual_sums: FloatArray,
        residual_products: FloatArray,
        axes: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Put F_o and S_o where their features are; of the others, Σ r y is 0 and Σ r y² is N."""
        rest = counts[:, None] * (1.0 - axes.sum(axis=1))  # (k, d)
        return residual_sums @ axes.T, residual_products @ axes.T + rest

    def carry(
        self,
        counts: FloatArray,
        residual_sums: FloatArray,
        residual_products: FloatArray,
        factors: tuple[FloatArray, FloatArray],
        apart: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Compute F' = a F + N c and Σ r y'² = a² S + (a F + F') c, feature by feature."""
        a, c = factors[1] / factors[0], factors[1] * apart  # (k, d)
        turned = a * residual_sums
        sums = turned + counts[..., None] * c
        return sums, np.square(a) * residual_products + (turned + sums) * c

    def find_narrow(
        self, covariances: FloatArray, scale: FloatArray, k: int, least: float
    ) -> npt.NDArray[np.bool_]:
        """Compare the smallest σ² / s² of each component, (…, k)."""
        narrow: npt.NDArray[np.bool_] = self.scaled(covariances, scale).min(axis=-1) <= least
        return narrow

    def estimate(
        self,
        X: RowsArray,
        responsibilities: FloatArray,
        counts: FloatArray,
        means: FloatArray,
        spec: MixtureSpec,
    ) -> FloatArray:
        """Compute the weighted variances of the rows about each mean, (k, d)."""
        variances = np.empty(means.shape)
        for c in range(len(means)):
            rows, shares = select_rows(X, responsibilities[:, c])
            variances[c] = shares @ np.square(rows - means[c]) / counts[c]
        return variances + spec.reg_covar

    def update(
        self,
        covariances: FloatArray,
        precisions_cholesky: FloatArray,
        counts: FloatArray,
        residual_means: FloatArray,
        residual_products: FloatArray,
        spec: MixtureSpec,
    ) -> Update:
        """Compute σ'² = σ² (S/Ñ − δ²) + reg_covar; σ² is kept where the difference cancels."""
        return run_update(
            update_covariances,
            covariances,
            precisions_cholesky,
            counts,
            residual_means,
            residual_products,
            spec.reg_covar,
        )


@kernel("M-step of the diag covariance")
def update_covariances(  # type: ignore[no-untyped-def]
    covariances,
    factors,
    shifts,
    guarded,
    definite,
    counts,
    residual_means,
    residual_products,
    reg_covar,
):
    """Take the M-step of b mixtures in place, as `Update` describes it."""
    b, k, d = residual_means.shape
    for m in range(b):
        for c in range(k):
            count, deltas, products = counts[m, c], residual_means[m, c], residual_products[m, c]
            variances, us = covariances[m, c], factors[m, c]
            for j in range(d):
                delta, u = deltas[j], us[j]
                shifts[m, c, j] = delta / u
                spread = products[j] / count - delta * delta
                guarded[m, c] |= cancelled(spread + reg_covar * (u * u), delta * delta)
            for j in range(d):
                delta, u = deltas[j], us[j]
                if not guarded[m, c] and count > EMPTY_COUNT:
                    spread = products[j] / count - delta * delta
                    variances[j] = spread / (u * u) + reg_covar
                if 0.0 < variances[j] < np.inf:  # nor NaN
                    us[j] = 1.0 / np.sqrt(variances[j])
                else:
                    definite[m] = False
