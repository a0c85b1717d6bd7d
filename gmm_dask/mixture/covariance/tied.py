"""Tied covariance: one matrix for all components."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, IndexArray, RowsArray
from gmm_dask.mixture.covariance.covariance_type import CovarianceType, select_rows
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
        """Sum the logarithms of the diagonal of U, the same for each component, (…, k)."""
        diagonals = np.diagonal(precisions_cholesky, axis1=-2, axis2=-1)  # (…, d)
        return np.repeat(np.log(diagonals).sum(axis=-1)[..., None], k, axis=-1)

    def matrices(self, covariances: FloatArray, k: int, d: int) -> FloatArray:
        """Repeat the covariance k times, (k, d, d)."""
        return np.broadcast_to(covariances, (k, d, d)).copy()

    def from_matrices(self, matrices: FloatArray, weights: FloatArray) -> FloatArray:
        """Pool the matrices by the weights of their components, (d, d)."""
        pooled: FloatArray = np.einsum("k,kij->ij", weights / weights.sum(), matrices)
        return pooled

    def sum_squares(self, residual_products: FloatArray) -> FloatArray:
        """Compute the trace of S of each mixture, (b,)."""
        return np.einsum("bii->b", residual_products)

    def sum_precisions(
        self, precisions_cholesky: FloatArray, counts: FloatArray, d: int
    ) -> FloatArray:
        """Compute tr Σ⁻¹ times all counts of each mixture, (b,)."""
        traces = np.einsum("bij,bij->b", precisions_cholesky, precisions_cholesky)
        return np.asarray(traces * counts.sum(axis=1))

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
            roots = np.sqrt(shares)[:, None] * (rows - means[c])  # (m, d)
            covariance[0] += roots.T @ roots
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
    ) -> Update:
        """Compute Σ' = L [(S − Σ Ñ δδᵀ) / Σ Ñ] Lᵀ + reg_covar; Σ is kept if that cancels."""
        k, d = residual_means.shape[1:]
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
        totals = counts.sum(axis=1)  # (b,)
        squares = (counts[..., None] * residual_means).mT @ residual_means  # Σ Ñ δδᵀ, (b, d, d)
        updated, factors, lower, guarded, definite = update_matrices(
            covariances,
            precisions_cholesky,
            (residual_products - squares) / totals[:, None, None],
            np.diagonal(squares, axis1=1, axis2=2) / totals[:, None],
            totals <= EMPTY_COUNT * k,
            spec.reg_covar,
        )
        shifts = residual_means @ lower.mT
        return Update(updated, factors, shifts, np.repeat(guarded[:, None], k, axis=1), definite)


@kernel("M-step of the tied covariance")
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
        total = 0.0
        for c in range(k):
            total += counts[m, c]
        for i in range(d):
            for j in range(i + 1):
                square = 0.0
                for c in range(k):
                    square += counts[m, c] * residual_means[m, c, i] * residual_means[m, c, j]
                V[i, j] = (residual_products[m, i, j] - square) / total
                V[j, i] = V[i, j]
                squares[i] = square / total  # at last that of j = i
        covariance, U, keep = covariances[m], factors[m], total <= EMPTY_COUNT * k
        lost = update_matrix(covariance, U, keep, reg_covar, scratch)
        for c in range(k):
            guarded[m, c] = lost
            shift_mean(lower, residual_means[m, c], shifts[m, c])
        definite[m] = write_factor(covariance, U, scratch)
