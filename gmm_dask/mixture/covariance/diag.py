"""Diagonal covariances: each component has its own variance per feature."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.mixture.covariance.base import (
    CovarianceType,
    FloatArray,
    RowsArray,
    belonging,
)
from gmm_dask.mixture.covariance.compile import KernelFunction, inlined, kernel
from gmm_dask.mixture.covariance.densities import (
    assign_tile,
    dot,
    joint_densities,
    normalise,
    sum_of,
)
from gmm_dask.mixture.covariance.matrices import (
    EMPTY,
    cancelled,
    inverse_deviations,
    roots_of_precisions,
    updated_by,
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

    def scaled(self, covariances: FloatArray, scale: FloatArray) -> FloatArray:
        """σ² / s²."""
        return covariances / np.square(scale)

    def least_variances(self, covariances: FloatArray, scale: FloatArray, k: int) -> FloatArray:
        """The least σ² / s², (k,)."""
        return self.scaled(covariances, scale).min(axis=1)

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
            rows, shares = belonging(X, responsibilities[:, c])
            variances[c] = shares @ np.square(rows - means[c]) / counts[c]
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
        return updated_by(
            _update,
            covariances,
            precisions_cholesky,
            counts,
            residual_means,
            residual_products,
            reg_covar,
        )

    @property
    def statistics_kernel(self) -> KernelFunction:
        """The compiled pass to statistics."""
        return _statistics

    @property
    def assign_kernel(self) -> KernelFunction:
        """The compiled pass for prediction."""
        return _assign


@inlined
def _distances(tile, means, factors, squares):  # type: ignore[no-untyped-def]
    """Write |y|² = Σ ((x − μ)/σ)² of the rows of a tile for each component, (k, ROWS)."""
    wide()
    k, d = means.shape
    blocks = d // 4 * 4
    for c in range(k):
        fill(squares[c], 0.0, 0)
    for j in range(0, blocks, 4):
        x = tile[j * ROWS : (j + 4) * ROWS]
        for c in range(k):
            q = squares[c]
            m0, m1, m2, m3 = means[c, j], means[c, j + 1], means[c, j + 2], means[c, j + 3]
            u0, u1, u2, u3 = factors[c, j], factors[c, j + 1], factors[c, j + 2], factors[c, j + 3]
            for i in range(ROWS):
                y0 = (x[i] - m0) * u0
                y1 = (x[i + ROWS] - m1) * u1
                y2 = (x[i + 2 * ROWS] - m2) * u2
                y3 = (x[i + 3 * ROWS] - m3) * u3
                q[i] += (y0 * y0 + y1 * y1) + (y2 * y2 + y3 * y3)
    for j in range(blocks, d):
        x = tile[j * ROWS : (j + 1) * ROWS]
        for c in range(k):
            q = squares[c]
            mu = means[c, j]
            u = factors[c, j]
            for i in range(ROWS):
                y = (x[i] - mu) * u
                q[i] += y * y


@inlined
def _add(tile, means, responsibilities, F, S):  # type: ignore[no-untyped-def]
    """Add Σ r (x − μ) to F and Σ r (x − μ)² to S, (k, d): cheaper made again than kept."""
    wide()
    k, d = means.shape
    blocks = d // 4 * 4
    for j in range(0, blocks, 4):
        x = tile[j * ROWS : (j + 4) * ROWS]
        for c in range(k):
            r = responsibilities[c]
            m0, m1, m2, m3 = means[c, j], means[c, j + 1], means[c, j + 2], means[c, j + 3]
            f0 = f1 = f2 = f3 = s0 = s1 = s2 = s3 = 0.0
            for i in range(ROWS):
                x0 = x[i] - m0
                x1 = x[i + ROWS] - m1
                x2 = x[i + 2 * ROWS] - m2
                x3 = x[i + 3 * ROWS] - m3
                p0 = r[i] * x0
                p1 = r[i] * x1
                p2 = r[i] * x2
                p3 = r[i] * x3
                f0 += p0
                f1 += p1
                f2 += p2
                f3 += p3
                s0 += p0 * x0
                s1 += p1 * x1
                s2 += p2 * x2
                s3 += p3 * x3
            F[c, j] += f0
            F[c, j + 1] += f1
            F[c, j + 2] += f2
            F[c, j + 3] += f3
            S[c, j] += s0
            S[c, j + 1] += s1
            S[c, j + 2] += s2
            S[c, j + 3] += s3
    for j in range(blocks, d):
        x = tile[j * ROWS : (j + 1) * ROWS]
        for c in range(k):
            r = responsibilities[c]
            mu = means[c, j]
            f = s = 0.0
            for i in range(ROWS):
                residual = x[i] - mu
                p = r[i] * residual
                f += p
                s += p * residual
            F[c, j] += f
            S[c, j] += s


@kernel("M-step of the diag covariance")
def _update(  # type: ignore[no-untyped-def]
    covariances, factors, counts, residual_means, residual_products, reg_covar, shifts, guarded
):
    k, d = residual_means.shape
    for c in range(k):
        for j in range(d):
            delta, u = residual_means[c, j], factors[c, j]
            shifts[c, j] = delta / u
            spread = residual_products[c, j] / counts[c] - delta * delta
            guarded[c] |= cancelled(spread + reg_covar * (u * u), delta * delta)
        if guarded[c] or counts[c] <= EMPTY:
            continue
        for j in range(d):
            delta, u = residual_means[c, j], factors[c, j]
            spread = residual_products[c, j] / counts[c] - delta * delta
            covariances[c, j] = spread / (u * u) + reg_covar


@kernel("statistics kernel of the diag covariance")
def _statistics(  # type: ignore[no-untyped-def]
    source, sample_weight, constants, means, factors, counts, residual_sums, residual_products
):
    wide()
    k, d = means.shape
    tile = aligned(d * ROWS)
    log_joint = aligned_rows(k, ROWS)
    squares = aligned_rows(k, ROWS)
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
        _distances(tile, means, factors, squares)
        for c in range(k):
            joint_densities(log_joint[c], constants[c], 0.5, squares[c], top, c == 0)
        normalise(log_joint, weights, top, squares[0])
        log_likelihood += dot(weights, top)
        for c in range(k):
            counts[c] += sum_of(log_joint[c])
        _add(tile, means, log_joint, residual_sums, residual_products)
    for c in range(k):
        for j in range(d):
            residual_sums[c, j] *= factors[c, j]
            residual_products[c, j] *= factors[c, j] * factors[c, j]
    return log_likelihood


@kernel("prediction kernel of the diag covariance")
def _assign(  # type: ignore[no-untyped-def]
    source, constants, means, factors, labels, densities, responsibilities
):
    wide()
    k, d = means.shape
    tile = aligned(d * ROWS)
    log_joint = aligned_rows(k, ROWS)
    squares = aligned_rows(k, ROWS)
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
        _distances(tile, means, factors, squares)
        for c in range(k):
            joint_densities(log_joint[c], constants[c], 0.5, squares[c], top, c == 0)
        assign_tile(
            log_joint, ones, top, squares[0], start, rows, labels, densities, responsibilities
        )
    return finite
