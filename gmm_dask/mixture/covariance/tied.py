"""Tied covariance: one matrix for all components."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, IndexArray, RowsArray
from gmm_dask.mixture.covariance.covariance_type import CovarianceType, select_rows
from gmm_dask.mixture.covariance.factors import transform_each
from gmm_dask.mixture.covariance.matrices import (
    EMPTY_COUNT,
    add_to_diagonals,
    cancelled_matrices,
    lift_matrices,
    lower_factors,
    marginal_factors,
    narrow_matrices,
    upper_factors,
    upper_factors_of_precisions,
)
from gmm_dask.mixture.spec import MixtureSpec


class Tied(CovarianceType):
    """All components share one covariance matrix; all arrays are (d, d)."""

    name = "tied"
    factor_form = "tied"
    by_component = False

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        """Return the shape of covariance, factor and S: (d, d)."""
        return (d, d)

    def n_parameters(self, k: int, d: int) -> int:
        """Count the entries of one symmetric matrix."""
        return d * (d + 1) // 2

    def least_rows(self, d: int) -> int:
        """None: the covariance is held up by the rows of all components."""
        return 0

    def precisions_cholesky(self, covariances: FloatArray) -> FloatArray:
        """Compute U, (d, d); raises `IllConditionedError`."""
        return upper_factors(covariances[None])[0]

    def precisions_cholesky_of_precisions(self, precisions: FloatArray) -> FloatArray:
        """Compute U of the given precision; raises `ConfigError`."""
        return upper_factors_of_precisions(precisions[None])[0]

    def covariances(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Compute Σ = U⁻ᵀ U⁻¹."""
        lower = lower_factors(precisions_cholesky[None])[0]
        return lower @ lower.T

    def precisions(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Compute Σ⁻¹ = U Uᵀ."""
        return precisions_cholesky @ precisions_cholesky.T

    def log_determinants(self, precisions_cholesky: FloatArray, k: int, d: int) -> FloatArray:
        """Sum the logarithms of the diagonal of U, the same for each component, (k,)."""
        return np.full(k, np.log(np.diagonal(precisions_cholesky)).sum())

    def matrices(self, covariances: FloatArray, k: int, d: int) -> FloatArray:
        """Repeat the covariance k times, (k, d, d)."""
        return np.broadcast_to(covariances, (k, d, d)).copy()

    def from_matrices(self, matrices: FloatArray, weights: FloatArray) -> FloatArray:
        """Pool the matrices by the weights of their components, (d, d)."""
        pooled: FloatArray = np.einsum("k,kij->ij", weights / weights.sum(), matrices)
        return pooled

    def sum_squares(self, residual_products: FloatArray) -> float:
        """Compute the trace of S."""
        return float(np.trace(residual_products))

    def scaled(self, covariances: FloatArray, scale: FloatArray) -> FloatArray:
        """Compute Σᵢⱼ / sᵢsⱼ."""
        return covariances / (scale[:, None] * scale)

    def marginal(
        self,
        covariances: FloatArray,
        precisions_cholesky: FloatArray,
        observed: IndexArray,
        d: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Take rows and columns of the matrix; A is (d, o)."""
        factors, axes = marginal_factors(precisions_cholesky[None], observed)
        return np.ascontiguousarray(covariances[np.ix_(observed, observed)]), factors[0], axes[0]

    def lift(
        self,
        counts: FloatArray,
        residual_sums: FloatArray,
        residual_products: FloatArray,
        axes: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Compute A F_o of each component, and A S_o Aᵀ + ΣN (I − A Aᵀ), pooled."""
        total = counts.sum(keepdims=True)  # (1,)
        pooled = lift_matrices(total, residual_products[None], axes[None])[0]
        return residual_sums @ axes.T, pooled

    def carry(
        self,
        counts: FloatArray,
        residual_sums: FloatArray,
        residual_products: FloatArray,
        factors: tuple[FloatArray, FloatArray],
        apart: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Compute F', and S' with the cross products of all components, pooled."""
        A = factors[1].T @ lower_factors(factors[0][None])[0]  # (d, d)
        c = apart @ factors[1]  # (k, d)
        turned = residual_sums @ A.T  # A F, (u, k, d)
        sums = turned + counts[..., None] * c
        products = np.matmul(np.matmul(A, residual_products), A.T)
        products += np.matmul(sums.mT, c)
        products += np.matmul(c.T, turned)
        return sums, 0.5 * (products + products.mT)

    def find_narrow(
        self, covariances: FloatArray, scale: FloatArray, k: int, least: float
    ) -> npt.NDArray[np.bool_]:
        """Compare the smallest eigenvalue of Σᵢⱼ / sᵢsⱼ, the same for each component, (…, k)."""
        narrow = narrow_matrices(self.scaled(covariances, scale), least)  # (…)
        return np.repeat(narrow[..., None], k, axis=-1)

    def estimate(
        self,
        X: RowsArray,
        responsibilities: FloatArray,
        counts: FloatArray,
        means: FloatArray,
        spec: MixtureSpec,
    ) -> FloatArray:
        """Compute the covariance about the means of the components, pooled, (d, d)."""
        k, d = means.shape
        covariance = np.zeros((1, d, d))
        for c in range(k):
            rows, shares = select_rows(X, responsibilities[:, c])
            residuals = rows - means[c]  # (m, d)
            covariance[0] += (shares * residuals.T) @ residuals
        covariance /= counts.sum()
        add_to_diagonals(covariance, spec.reg_covar)
        return covariance[0]

    def update(
        self,
        covariances: FloatArray,
        precisions_cholesky: FloatArray,
        counts: FloatArray,
        residual_means: FloatArray,
        residual_products: FloatArray,
        spec: MixtureSpec,
    ) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
        """Compute Σ' = L [(S − Σ Ñ δδᵀ) / Σ Ñ] Lᵀ + reg_covar; Σ is kept if that cancels."""
        lower = lower_factors(precisions_cholesky[None])[0]  # L, (d, d)
        total = counts.sum()
        squares = (counts[:, None] * residual_means).T @ residual_means  # Σ Ñ δδᵀ, (d, d)
        spread = (residual_products - squares) / total
        guarded = cancelled_matrices(
            spread[None],
            np.diagonal(squares)[None] / total,
            precisions_cholesky[None],
            spec.reg_covar,
        )[0]
        updated = covariances
        if not guarded and total > EMPTY_COUNT * len(counts):
            updated = transform_each(lower[None], spread[None])[0]
            add_to_diagonals(updated[None], spec.reg_covar)
        return updated, residual_means @ lower.T, np.full(len(counts), guarded)
