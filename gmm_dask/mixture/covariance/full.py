"""Full covariances: each component has its own matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.mixture.covariance.base import (
    CovarianceType,
    FloatArray,
    RowsArray,
    belonging,
)
from gmm_dask.mixture.covariance.compile import KernelFunction, kernel
from gmm_dask.mixture.covariance.densities import (
    assign_tile,
    dot,
    joint_densities,
    normalise,
    sum_of,
)
from gmm_dask.mixture.covariance.matrices import (
    EMPTY,
    add_to_diagonals,
    cancelled_matrices,
    lower_factors,
    upper_factors,
    upper_factors_of_precisions,
)
from gmm_dask.mixture.covariance.tile import (
    ROWS,
    aligned,
    aligned_rows,
    clip_far,
    fill,
    largest,
    load_tile,
    load_weights,
    wide,
)
from gmm_dask.mixture.covariance.triangular import add_products, mirror, whiten


class Full(CovarianceType):
    """Each component has its own covariance matrix; all arrays are (k, d, d)."""

    name = "full"

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        """Shape of covariances, factors and S: (k, d, d)."""
        return (k, d, d)

    def n_parameters(self, k: int, d: int) -> int:
        """K symmetric matrices."""
        return k * d * (d + 1) // 2

    def precisions_cholesky(self, covariances: FloatArray) -> FloatArray:
        """U of each component; raises `IllConditionedError`."""
        return upper_factors(covariances)

    def precisions_cholesky_of_precisions(self, precisions: FloatArray) -> FloatArray:
        """U of each given precision; raises `ConfigError`."""
        return upper_factors_of_precisions(precisions)

    def covariances(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Σ = U⁻ᵀ U⁻¹."""
        lower = lower_factors(precisions_cholesky)
        return np.matmul(lower, lower.mT)

    def precisions(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Σ⁻¹ = U Uᵀ."""
        return np.matmul(precisions_cholesky, precisions_cholesky.mT)

    def log_determinants(self, precisions_cholesky: FloatArray, k: int, d: int) -> FloatArray:
        """Σ log of the diagonals of U, (k,)."""
        return np.log(np.diagonal(precisions_cholesky, axis1=1, axis2=2)).sum(axis=1)

    def matrices(self, covariances: FloatArray, k: int, d: int) -> FloatArray:
        """Return the covariances themselves, (k, d, d)."""
        return covariances

    def scaled(self, covariances: FloatArray, scale: FloatArray) -> FloatArray:
        """Σᵢⱼ / sᵢsⱼ."""
        return covariances / (scale[:, None] * scale)

    def estimate(
        self,
        X: RowsArray,
        responsibilities: FloatArray,
        counts: FloatArray,
        means: FloatArray,
        reg_covar: float,
    ) -> FloatArray:
        """Weighted covariance of the rows about each mean, (k, d, d)."""
        k, d = means.shape
        covariances = np.empty((k, d, d))
        for c in range(k):
            rows, shares = belonging(X, responsibilities[:, c])
            residuals = rows - means[c]  # (m, d)
            covariances[c] = (shares * residuals.T) @ residuals / counts[c]
        add_to_diagonals(covariances, reg_covar)
        return covariances

    def update(
        self,
        covariances: FloatArray,
        precisions_cholesky: FloatArray,
        counts: FloatArray,
        residual_means: FloatArray,
        residual_products: FloatArray,
        reg_covar: float,
    ) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
        """Σ' = L (S/Ñ − δδᵀ) Lᵀ + reg_covar; Σ is kept where that cancels."""
        lower = lower_factors(precisions_cholesky)  # L, (k, d, d)
        squares = residual_means[:, :, None] * residual_means[:, None, :]  # δδᵀ, (k, d, d)
        spread = residual_products / counts[:, None, None] - squares
        guarded = cancelled_matrices(
            spread, np.square(residual_means), precisions_cholesky, reg_covar
        )
        updated = np.matmul(np.matmul(lower, spread), lower.mT)
        updated = 0.5 * (updated + updated.mT)
        add_to_diagonals(updated, reg_covar)
        keep = guarded | (counts <= EMPTY)
        if keep.any():
            updated[keep] = covariances[keep]
        shifts = np.matmul(lower, residual_means[:, :, None])[:, :, 0]
        return updated, shifts, guarded

    @property
    def statistics_kernel(self) -> KernelFunction:
        """The compiled pass to statistics."""
        return _statistics

    @property
    def assign_kernel(self) -> KernelFunction:
        """The compiled pass for prediction."""
        return _assign


@kernel("statistics kernel of the full covariance")
def _statistics(  # type: ignore[no-untyped-def]
    source, sample_weight, constants, means, factors, counts, residual_sums, residual_products
):
    wide()
    k, d = means.shape
    tile = aligned(d * ROWS)
    residuals = aligned(d * ROWS)
    whitened = aligned_rows(k, d * ROWS)
    log_joint = aligned_rows(k, ROWS)
    squares = aligned(ROWS)
    top = aligned(ROWS)
    largest_mean = largest(means)
    largest_factor = largest(factors)
    weights = aligned(ROWS)
    log_likelihood = 0.0
    for start in range(0, source.n, ROWS):
        rows = min(ROWS, source.n - start)
        magnitude = load_tile(tile, source, start, rows)
        clip_far(tile, magnitude, largest_mean, largest_factor)
        load_weights(weights, sample_weight, start, rows)
        for c in range(k):
            whiten(tile, means[c], factors[c], residuals, whitened[c], squares)
            joint_densities(log_joint[c], constants[c], 0.5, squares, top, c == 0)
        normalise(log_joint, weights, top, squares)
        log_likelihood += dot(weights, top)
        for c in range(k):
            count = sum_of(log_joint[c])
            if count != 0.0:
                counts[c] += count
                add_products(
                    whitened[c], log_joint[c], residuals, residual_sums[c], residual_products[c]
                )
    for c in range(k):
        mirror(residual_products[c])
    return log_likelihood


@kernel("prediction kernel of the full covariance")
def _assign(  # type: ignore[no-untyped-def]
    source, constants, means, factors, labels, densities, responsibilities
):
    wide()
    k, d = means.shape
    tile = aligned(d * ROWS)
    residuals = aligned(d * ROWS)
    whitened = aligned(d * ROWS)
    log_joint = aligned_rows(k, ROWS)
    squares = aligned(ROWS)
    top = aligned(ROWS)
    largest_mean = largest(means)
    largest_factor = largest(factors)
    ones = aligned(ROWS)
    fill(ones, 1.0, 0)
    finite = True
    for start in range(0, source.n, ROWS):
        rows = min(ROWS, source.n - start)
        magnitude = load_tile(tile, source, start, rows)
        finite = finite and magnitude < np.inf
        clip_far(tile, magnitude, largest_mean, largest_factor)
        for c in range(k):
            whiten(tile, means[c], factors[c], residuals, whitened, squares)
            joint_densities(log_joint[c], constants[c], 0.5, squares, top, c == 0)
        assign_tile(log_joint, ones, top, squares, start, rows, labels, densities, responsibilities)
    return finite
