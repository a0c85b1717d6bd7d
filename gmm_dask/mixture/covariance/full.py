"""Full covariances: each component has its own matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.mixture.covariance.base import CovarianceType, FloatArray, RowsArray
from gmm_dask.mixture.covariance.compile import KernelFunction, inlined, kernel
from gmm_dask.mixture.covariance.matrices import (
    EMPTY,
    add_to_diagonals,
    cancelled_matrices,
    upper_factors,
    upper_factors_of_precisions,
)
from gmm_dask.mixture.covariance.tile import ROWS, load_tile, load_weights, normalise, store_tile


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
        inverse = np.linalg.inv(precisions_cholesky)
        return np.matmul(inverse.mT, inverse)

    def precisions(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Σ⁻¹ = U Uᵀ."""
        return np.matmul(precisions_cholesky, precisions_cholesky.mT)

    def log_determinants(self, precisions_cholesky: FloatArray, k: int, d: int) -> FloatArray:
        """Σ log of the diagonals of U, (k,)."""
        return np.log(np.diagonal(precisions_cholesky, axis1=1, axis2=2)).sum(axis=1)

    def matrices(self, covariances: FloatArray, k: int, d: int) -> FloatArray:
        """Return the covariances themselves, (k, d, d)."""
        return covariances

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
            residuals = X - means[c]  # (n, d)
            covariances[c] = (responsibilities[:, c] * residuals.T) @ residuals / counts[c]
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
        lower = np.linalg.inv(precisions_cholesky).mT  # L, (k, d, d)
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


@inlined
def _whiten(tile, constants, means, factors, whitened, log_joint, rows):  # type: ignore[no-untyped-def]
    k, d = means.shape
    for c in range(k):
        for i in range(rows):
            log_joint[c, i] = constants[c]
        for j in range(d):
            for i in range(rows):
                whitened[c, j, i] = 0.0
            for m in range(j + 1):
                for i in range(rows):
                    whitened[c, j, i] += factors[c, m, j] * (tile[m, i] - means[c, m])
            for i in range(rows):
                log_joint[c, i] -= 0.5 * whitened[c, j, i] * whitened[c, j, i]


@inlined
def _add(whitened, responsibilities, rows, counts, residual_sums, residual_products):  # type: ignore[no-untyped-def]
    k, d = residual_sums.shape
    for c in range(k):
        count = 0.0
        for i in range(rows):
            count += responsibilities[c, i]
        counts[c] += count
        for j in range(d):
            total = 0.0
            for i in range(rows):
                total += responsibilities[c, i] * whitened[c, j, i]
            residual_sums[c, j] += total
            for m in range(j + 1):
                product = 0.0
                for i in range(rows):
                    product += responsibilities[c, i] * whitened[c, j, i] * whitened[c, m, i]
                residual_products[c, j, m] += product
                if m != j:
                    residual_products[c, m, j] += product


@kernel
def _statistics(  # type: ignore[no-untyped-def]
    address,
    row_stride,
    column_stride,
    single,
    n,
    weight_address,
    weight_stride,
    constants,
    means,
    factors,
    counts,
    residual_sums,
    residual_products,
):
    k, d = means.shape
    tile = np.empty((d, ROWS))
    weights = np.empty(ROWS)
    whitened = np.empty((k, d, ROWS))
    responsibilities = np.empty((k, ROWS))
    log_densities = np.empty(ROWS)
    log_likelihood = 0.0
    for start in range(0, n, ROWS):
        rows = min(ROWS, n - start)
        load_tile(tile, address + start * row_stride, row_stride, column_stride, single, rows)
        if weight_address == 0:
            weights[:] = 1.0
        else:
            load_weights(weights, weight_address + start * weight_stride, weight_stride, rows)
        _whiten(tile, constants, means, factors, whitened, responsibilities, rows)
        normalise(responsibilities, log_densities, rows)
        total = 0.0
        for i in range(rows):
            total += weights[i] * log_densities[i]
        log_likelihood += total
        for c in range(k):
            for i in range(rows):
                responsibilities[c, i] *= weights[i]
        _add(whitened, responsibilities, rows, counts, residual_sums, residual_products)
    return log_likelihood


@kernel
def _assign(  # type: ignore[no-untyped-def]
    address,
    row_stride,
    column_stride,
    single,
    n,
    constants,
    means,
    factors,
    labels_address,
    labels_stride,
    densities_address,
    densities_stride,
    responsibilities_address,
    responsibilities_row_stride,
    responsibilities_column_stride,
    responsibilities_single,
    responsibilities_rows,
):
    k, d = means.shape
    tile = np.empty((d, ROWS))
    whitened = np.empty((k, d, ROWS))
    responsibilities = np.empty((k, ROWS))
    log_densities = np.empty(ROWS)
    for start in range(0, n, ROWS):
        rows = min(ROWS, n - start)
        load_tile(tile, address + start * row_stride, row_stride, column_stride, single, rows)
        _whiten(tile, constants, means, factors, whitened, responsibilities, rows)
        normalise(responsibilities, log_densities, rows)
        store_tile(
            responsibilities,
            log_densities,
            labels_address + start * labels_stride,
            labels_stride,
            densities_address + start * densities_stride,
            densities_stride,
            responsibilities_address + start * responsibilities_row_stride,
            responsibilities_row_stride,
            responsibilities_column_stride,
            responsibilities_rows > 0,
            rows,
        )
