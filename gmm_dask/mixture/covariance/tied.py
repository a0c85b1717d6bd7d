"""Tied covariance: one matrix for all components."""

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


class Tied(CovarianceType):
    """All components share one covariance matrix; all arrays are (d, d)."""

    name = "tied"

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        """Shape of covariance, factor and S: (d, d)."""
        return (d, d)

    def n_parameters(self, k: int, d: int) -> int:
        """One symmetric matrix."""
        return d * (d + 1) // 2

    def precisions_cholesky(self, covariances: FloatArray) -> FloatArray:
        """U, (d, d); raises `IllConditionedError`."""
        return upper_factors(covariances[None])[0]

    def precisions_cholesky_of_precisions(self, precisions: FloatArray) -> FloatArray:
        """U of the given precision; raises `ConfigError`."""
        return upper_factors_of_precisions(precisions[None])[0]

    def covariances(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Σ = U⁻ᵀ U⁻¹."""
        inverse = np.linalg.inv(precisions_cholesky)
        return inverse.T @ inverse

    def precisions(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Σ⁻¹ = U Uᵀ."""
        return precisions_cholesky @ precisions_cholesky.T

    def log_determinants(self, precisions_cholesky: FloatArray, k: int, d: int) -> FloatArray:
        """Σ log of the diagonal of U, the same for each component, (k,)."""
        return np.full(k, np.log(np.diagonal(precisions_cholesky)).sum())

    def matrices(self, covariances: FloatArray, k: int, d: int) -> FloatArray:
        """Return the covariance k times, (k, d, d)."""
        return np.broadcast_to(covariances, (k, d, d)).copy()

    def reorder(self, values: FloatArray, order: npt.NDArray[np.intp]) -> FloatArray:
        """Return the values: they do not depend on the component."""
        return values

    def estimate(
        self,
        X: RowsArray,
        responsibilities: FloatArray,
        counts: FloatArray,
        means: FloatArray,
        reg_covar: float,
    ) -> FloatArray:
        """Covariance of the rows about the means of their components, pooled, (d, d)."""
        k, d = means.shape
        covariance = np.zeros((1, d, d))
        for c in range(k):
            residuals = X - means[c]  # (n, d)
            covariance[0] += (responsibilities[:, c] * residuals.T) @ residuals
        covariance /= counts.sum()
        add_to_diagonals(covariance, reg_covar)
        return covariance[0]

    def update(
        self,
        covariances: FloatArray,
        precisions_cholesky: FloatArray,
        counts: FloatArray,
        residual_means: FloatArray,
        residual_products: FloatArray,
        reg_covar: float,
    ) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
        """Σ' = L [(S − Σ Ñ δδᵀ) / Σ Ñ] Lᵀ + reg_covar; Σ is kept where that cancels."""
        lower = np.linalg.inv(precisions_cholesky).T  # L, (d, d)
        total = counts.sum()
        squares = (counts[:, None] * residual_means).T @ residual_means  # Σ Ñ δδᵀ, (d, d)
        spread = (residual_products - squares) / total
        guarded = cancelled_matrices(
            spread[None], np.diagonal(squares)[None] / total, precisions_cholesky[None], reg_covar
        )[0]
        updated = covariances
        if not guarded and total > EMPTY * len(counts):
            updated = lower @ spread @ lower.T
            updated = 0.5 * (updated + updated.T)
            add_to_diagonals(updated[None], reg_covar)
        return updated, residual_means @ lower.T, np.full(len(counts), guarded)

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
                    whitened[c, j, i] += factors[m, j] * (tile[m, i] - means[c, m])
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
                residual_products[j, m] += product
                if m != j:
                    residual_products[m, j] += product


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
