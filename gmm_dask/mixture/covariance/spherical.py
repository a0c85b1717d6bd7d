"""Spherical covariances: each component has one variance for all its features."""

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


class Spherical(CovarianceType):
    """Each component has one variance for all its features; all arrays are (k,)."""

    name = "spherical"
    factor_form = "spherical"

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        """Return the shape of covariances, factors and S: (k,)."""
        return (k,)

    def n_parameters(self, k: int, d: int) -> int:
        """Count the variances: k."""
        return k

    def least_rows(self, d: int) -> int:
        """Two: a single row has no spread."""
        return 2

    def precisions_cholesky(self, covariances: FloatArray) -> FloatArray:
        """Compute 1/σ, (k,); raises `IllConditionedError`."""
        return inverse_deviations(covariances)

    def precisions_cholesky_of_precisions(self, precisions: FloatArray) -> FloatArray:
        """Compute 1/σ of given 1/σ², (k,); raises `ConfigError`."""
        return roots_of_precisions(precisions)

    def covariances(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Compute σ², (k,)."""
        return 1.0 / np.square(precisions_cholesky)

    def precisions(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Compute 1/σ², (k,)."""
        return np.square(precisions_cholesky)

    def log_determinants(self, precisions_cholesky: FloatArray, k: int, d: int) -> FloatArray:
        """Compute d · log 1/σ, (…, k)."""
        return d * np.log(precisions_cholesky)

    def matrices(self, covariances: FloatArray, k: int, d: int) -> FloatArray:
        """Return matrices with one variance all along the diagonal, (k, d, d)."""
        return covariances[:, None, None] * np.eye(d)

    def from_matrices(self, matrices: FloatArray, weights: FloatArray) -> FloatArray:
        """Average the diagonal of each matrix, (k,)."""
        return np.trace(matrices, axis1=1, axis2=2) / matrices.shape[-1]

    def sum_precisions(
        self, precisions_cholesky: FloatArray, counts: FloatArray, d: int
    ) -> FloatArray:
        """Sum N d / σ² of each mixture, (b,)."""
        return d * super().sum_precisions(precisions_cholesky, counts, d)

    def scaled(self, covariances: FloatArray, scale: FloatArray) -> FloatArray:
        """Compute σ² / s², averaged over features."""
        return covariances * np.mean(1.0 / np.square(scale))

    def marginal(
        self,
        covariances: FloatArray,
        precisions_cholesky: FloatArray,
        observed: IndexArray,
        d: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the variances themselves; A, (d, o), puts residuals where their features are."""
        axes = np.eye(d)[:, observed]
        return covariances, precisions_cholesky, axes

    def lift(
        self,
        counts: FloatArray,
        residual_sums: FloatArray,
        residual_products: FloatArray,
        axes: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Put F_o where its features are; each of the others adds N to Σ r |y|²."""
        d, o = axes.shape
        return residual_sums @ axes.T, residual_products + (d - o) * counts

    def carry(
        self,
        counts: FloatArray,
        residual_sums: FloatArray,
        residual_products: FloatArray,
        factors: tuple[FloatArray, FloatArray],
        apart: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Compute F' = a F + N c and Σ r |y'|² = a² S + (a F + F')·c."""
        a = factors[1] / factors[0]  # (k,)
        c = factors[1][:, None] * apart  # (k, d)
        turned = a[:, None] * residual_sums
        sums = turned + counts[..., None] * c
        return sums, np.square(a) * residual_products + ((turned + sums) * c).sum(axis=-1)

    def find_narrow(
        self, covariances: FloatArray, scale: FloatArray, k: int, least: float
    ) -> npt.NDArray[np.bool_]:
        """Compare σ² / s² for the largest s, (…, k)."""
        narrow: npt.NDArray[np.bool_] = covariances / np.square(scale.max()) <= least
        return narrow

    def estimate(
        self,
        X: RowsArray,
        responsibilities: FloatArray,
        counts: FloatArray,
        means: FloatArray,
        spec: MixtureSpec,
    ) -> FloatArray:
        """Compute the weighted variance about each mean, averaged over features, (k,)."""
        variances = np.empty(len(means))
        for c in range(len(means)):
            rows, shares = select_rows(X, responsibilities[:, c])
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
    ) -> Update:
        """Compute σ'² = σ² (S/Ñ − |δ|²)/d + reg_covar; σ² is kept where the difference cancels."""
        return run_update(
            update_covariances,
            covariances,
            precisions_cholesky,
            counts,
            residual_means,
            residual_products,
            spec.reg_covar,
        )


@kernel("M-step of the spherical covariance")
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
            u, deltas = factors[m, c], residual_means[m, c]
            squares = 0.0
            for j in range(d):
                shifts[m, c, j] = deltas[j] / u
                squares += deltas[j] * deltas[j]
            squares /= d
            spread = residual_products[m, c] / (counts[m, c] * d) - squares
            guarded[m, c] = cancelled(spread + reg_covar * (u * u), squares)
            if not guarded[m, c] and counts[m, c] > EMPTY_COUNT:
                covariances[m, c] = spread / (u * u) + reg_covar
            if 0.0 < covariances[m, c] < np.inf:  # nor NaN
                factors[m, c] = 1.0 / np.sqrt(covariances[m, c])
            else:
                definite[m] = False
