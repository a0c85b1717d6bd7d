"""Diagonal covariances: each component has its own variance per feature."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.mixture.covariance.base import CovarianceType, FloatArray, RowsArray
from gmm_dask.mixture.covariance.compile import KernelFunction, inlined, kernel
from gmm_dask.mixture.covariance.matrices import (
    EMPTY,
    cancelled,
    inverse_deviations,
    roots_of_precisions,
)
from gmm_dask.mixture.covariance.tile import ROWS, load_tile, load_weights, normalise, store_tile


class Diag(CovarianceType):
    """Each component has its own variance per feature; all arrays are (k, d)."""

    name = "diag"

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        """Shape of covariances, factors and S: (k, d)."""
        return (k, d)

    def n_parameters(self, k: int, d: int) -> int:
        """k·d variances."""
        return k * d

    def precisions_cholesky(self, covariances: FloatArray) -> FloatArray:
        """1/σ, (k, d); raises `IllConditionedError`."""
        return inverse_deviations(covariances)

    def precisions_cholesky_of_precisions(self, precisions: FloatArray) -> FloatArray:
        """1/σ of given 1/σ², (k, d); raises `ConfigError`."""
        return roots_of_precisions(precisions)

    def covariances(self, precisions_cholesky: FloatArray) -> FloatArray:
        """σ², (k, d)."""
        return 1.0 / np.square(precisions_cholesky)

    def precisions(self, precisions_cholesky: FloatArray) -> FloatArray:
        """1/σ², (k, d)."""
        return np.square(precisions_cholesky)

    def log_determinants(self, precisions_cholesky: FloatArray, k: int, d: int) -> FloatArray:
        """Σ log 1/σ, (k,)."""
        return np.log(precisions_cholesky).sum(axis=1)

    def matrices(self, covariances: FloatArray, k: int, d: int) -> FloatArray:
        """Return the variances on diagonals, (k, d, d)."""
        return covariances[:, :, None] * np.eye(d)

    def estimate(
        self,
        X: RowsArray,
        responsibilities: FloatArray,
        counts: FloatArray,
        means: FloatArray,
        reg_covar: float,
    ) -> FloatArray:
        """Weighted variances of the rows about each mean, (k, d)."""
        variances = np.empty(means.shape)
        for c in range(len(means)):
            variances[c] = responsibilities[:, c] @ np.square(X - means[c]) / counts[c]
        return variances + reg_covar

    def update(
        self,
        covariances: FloatArray,
        precisions_cholesky: FloatArray,
        counts: FloatArray,
        residual_means: FloatArray,
        residual_products: FloatArray,
        reg_covar: float,
    ) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
        """σ'² = σ² (S/Ñ − δ²) + reg_covar; σ² is kept where that cancels."""
        squares = np.square(residual_means)
        spread = residual_products / counts[:, None] - squares  # (k, d)
        floor = reg_covar * np.square(precisions_cholesky)
        guarded = cancelled(spread + floor, squares).any(axis=1)
        updated = spread / np.square(precisions_cholesky) + reg_covar
        keep = guarded | (counts <= EMPTY)
        updated[keep] = covariances[keep]
        return updated, residual_means / precisions_cholesky, guarded

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
                whitened[c, j, i] = factors[c, j] * (tile[j, i] - means[c, j])
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
            product = 0.0
            for i in range(rows):
                product += responsibilities[c, i] * whitened[c, j, i] * whitened[c, j, i]
            residual_products[c, j] += product


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
