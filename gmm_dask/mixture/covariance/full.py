"""Full covariances: each component has its own matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, IndexArray, RowsArray
from gmm_dask.mixture.covariance.covariance_type import CovarianceType, select_rows
from gmm_dask.mixture.covariance.factors import each_large
from gmm_dask.mixture.covariance.matrices import (
    EMPTY_COUNT,
    Update,
    add_to_diagonals,
    lift_matrices,
    lower_factors,
    marginal_factors,
    narrow_matrices,
    run_update,
    update_matrices,
    upper_factors,
    upper_factors_of_precisions,
)
from gmm_dask.mixture.covariance.steps import (
    COMPILED_FEATURES,
    scratch_for,
    shift_mean,
    update_matrix,
    write_factor,
)
from gmm_dask.mixture.kernels.compile import kernel
from gmm_dask.mixture.spec import MixtureSpec


class Full(CovarianceType):
    """Each component has its own covariance matrix; all arrays are (k, d, d)."""

    name = "full"
    factor_form = "full"

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        """Return the shape of covariances, factors and S: (k, d, d)."""
        return (k, d, d)

    def n_parameters(self, k: int, d: int) -> int:
        """Count the entries of k symmetric matrices."""
        return k * d * (d + 1) // 2

    def least_rows(self, d: int) -> int:
        """D + 1: fewer rows lie in a plane."""
        return d + 1

    def precisions_cholesky(self, covariances: FloatArray) -> FloatArray:
        """Compute U of each component; raises `IllConditionedError`."""
        return upper_factors(covariances)

    def precisions_cholesky_of_precisions(self, precisions: FloatArray) -> FloatArray:
        """Compute U of each given precision; raises `ConfigError`."""
        return upper_factors_of_precisions(precisions)

    def covariances(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Compute Σ = U⁻ᵀ U⁻¹."""
        lower = lower_factors(precisions_cholesky)
        return np.matmul(lower, lower.mT)

    def precisions(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Compute Σ⁻¹ = U Uᵀ."""
        return np.matmul(precisions_cholesky, precisions_cholesky.mT)

    def log_determinants(self, precisions_cholesky: FloatArray, k: int, d: int) -> FloatArray:
        """Sum the logarithms of the diagonals of U, (…, k)."""
        return np.log(np.diagonal(precisions_cholesky, axis1=-2, axis2=-1)).sum(axis=-1)

    def matrices(self, covariances: FloatArray, k: int, d: int) -> FloatArray:
        """Return the covariances themselves, (k, d, d)."""
        return covariances

    def from_matrices(self, matrices: FloatArray, weights: FloatArray) -> FloatArray:
        """Return the matrices themselves, (k, d, d)."""
        return matrices

    def sum_squares(self, residual_products: FloatArray) -> FloatArray:
        """Sum the traces of S of each mixture, (b,)."""
        return np.einsum("bkii->b", residual_products)

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
        """Take rows and columns of each matrix; A is (k, d, o)."""
        factors, axes = marginal_factors(precisions_cholesky, observed)
        return np.ascontiguousarray(covariances[:, observed][:, :, observed]), factors, axes

    def lift(
        self,
        counts: FloatArray,
        residual_sums: FloatArray,
        residual_products: FloatArray,
        axes: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Compute A F_o and A S_o Aᵀ + N (I − A Aᵀ) of each component."""
        sums = np.matmul(axes, residual_sums[:, :, None])[:, :, 0]
        return sums, lift_matrices(counts, residual_products, axes)

    def carry(
        self,
        counts: FloatArray,
        residual_sums: FloatArray,
        residual_products: FloatArray,
        factors: tuple[FloatArray, FloatArray],
        apart: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Compute F' and S' as they stand in `CovarianceType.carry`."""
        A = np.matmul(factors[1].mT, lower_factors(factors[0]))  # (k, d, d)
        c = np.matmul(factors[1].mT, apart[:, :, None])[:, :, 0]  # (k, d)
        turned = np.matmul(A, residual_sums[..., None])[..., 0]  # A F, (u, k, d)
        sums = turned + counts[..., None] * c
        # F' cᵀ + c (A F)ᵀ: N c cᵀ is in the first.
        cross = sums[..., :, None] * c[:, None, :]  # (u, k, d, d)
        products = np.matmul(np.matmul(A, residual_products), A.mT)
        products += cross
        products += turned[..., None, :] * c[:, :, None]
        return sums, 0.5 * (products + products.mT)

    def find_narrow(
        self, covariances: FloatArray, scale: FloatArray, k: int, least: float
    ) -> npt.NDArray[np.bool_]:
        """Compare the smallest eigenvalues of Σᵢⱼ / sᵢsⱼ, (…, k)."""
        return narrow_matrices(self.scaled(covariances, scale), least)

    def estimate(
        self,
        X: RowsArray,
        responsibilities: FloatArray,
        counts: FloatArray,
        means: FloatArray,
        spec: MixtureSpec,
    ) -> FloatArray:
        """Compute the weighted covariance of the rows about each mean, (k, d, d)."""
        k, d = means.shape
        covariances = np.empty((k, d, d))

        def estimate(part: slice) -> None:
            for c in range(*part.indices(k)):
                rows, shares = select_rows(X, responsibilities[:, c])
                roots = np.sqrt(shares)[:, None] * (rows - means[c])  # (m, d)
                covariances[c] = roots.T @ roots / counts[c]

        # Each thread holds the rows of its component: all of them, where shares are soft.
        if 2 * int(np.count_nonzero(responsibilities)) > k * len(X):
            estimate(slice(None))
        else:
            each_large(estimate, k, d)
        add_to_diagonals(covariances, spec.reg_covar)
        return covariances

    def update(
        self,
        covariances: FloatArray,
        precisions_cholesky: FloatArray,
        counts: FloatArray,
        residual_means: FloatArray,
        residual_products: FloatArray,
        spec: MixtureSpec,
    ) -> Update:
        """Compute Σ' = L (S/Ñ − δδᵀ) Lᵀ + reg_covar; Σ is kept where the difference cancels."""
        b, k, d = residual_means.shape
        if d <= COMPILED_FEATURES:
            return run_update(
                update_covariances,
                covariances,
                precisions_cholesky,
                counts,
                residual_means,
                residual_products,
                spec.reg_covar,
            )
        squares = residual_means[..., :, None] * residual_means[..., None, :]  # δδᵀ, (b, k, d, d)
        updated, factors, lower, guarded, definite = update_matrices(
            covariances.reshape(-1, d, d),
            precisions_cholesky.reshape(-1, d, d),
            (residual_products / counts[..., None, None] - squares).reshape(-1, d, d),
            np.square(residual_means).reshape(-1, d),
            counts.ravel() <= EMPTY_COUNT,
            spec.reg_covar,
        )
        lower = lower.reshape(precisions_cholesky.shape)
        return Update(
            updated.reshape(covariances.shape),
            factors.reshape(covariances.shape),
            np.matmul(lower, residual_means[..., None])[..., 0],
            guarded.reshape(b, k),
            np.asarray(definite.reshape(b, k).all(axis=1)),
        )


@kernel("M-step of the full covariance")
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
    scratch = scratch_for(d)
    V, squares, lower = scratch[:3]
    for m in range(b):
        for c in range(k):
            count, delta, S = counts[m, c], residual_means[m, c], residual_products[m, c]
            for i in range(d):
                for j in range(d):
                    V[i, j] = S[i, j] / count - delta[i] * delta[j]
                squares[i] = delta[i] * delta[i]
            covariance, U, keep = covariances[m, c], factors[m, c], count <= EMPTY_COUNT
            guarded[m, c] = update_matrix(covariance, U, keep, reg_covar, scratch)
            shift_mean(lower, delta, shifts[m, c])
            definite[m] &= write_factor(covariance, U, scratch)
