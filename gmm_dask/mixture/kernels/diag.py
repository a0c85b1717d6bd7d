"""Passes over rows with diagonal covariances: statistics and predictions."""

from __future__ import annotations

from gmm_dask.mixture.kernels.addresses import NO_VECTOR
from gmm_dask.mixture.kernels.compile import inlined, kernel
from gmm_dask.mixture.kernels.densities import (
    add_counts,
    assign_tile,
    joint_densities,
    normalise_tile,
)
from gmm_dask.mixture.kernels.tiles import ROWS, fill, prefer_wide_vectors
from gmm_dask.mixture.kernels.walk import begin_walk, next_tile


@inlined
def _distances(tile, means, factors, squares):  # type: ignore[no-untyped-def]
    """Write |y|² = Σ ((x − μ)/σ)² of each component and row of a tile, (k, ROWS)."""
    prefer_wide_vectors()
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
def add_moments(tile, means, responsibilities, F, S):  # type: ignore[no-untyped-def]
    """Add Σ r (x − μ) to F and Σ r (x − μ)² to S, (k, d).

    Computing x − μ a second time is cheaper than storing it.
    """
    prefer_wide_vectors()
    zero = tile.dtype.type(0)
    k, d = means.shape
    blocks = d // 4 * 4
    for j in range(0, blocks, 4):
        x = tile[j * ROWS : (j + 4) * ROWS]
        for c in range(k):
            r = responsibilities[c]
            m0, m1, m2, m3 = means[c, j], means[c, j + 1], means[c, j + 2], means[c, j + 3]
            f0 = f1 = f2 = f3 = s0 = s1 = s2 = s3 = zero
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
            f = s = zero
            for i in range(ROWS):
                residual = x[i] - mu
                p = r[i] * residual
                f += p
                s += p * residual
            F[c, j] += f
            S[c, j] += s


@inlined
def _log_joint(walk, constants, means, factors):  # type: ignore[no-untyped-def]
    """Write log π p of a tile."""
    _distances(walk.tile, means, factors, walk.squares)
    for c in range(means.shape[0]):
        joint_densities(walk.log_joint[c], constants[c], 0.5, walk.squares[c], walk.top, c == 0)


@kernel("statistics kernel of the diag covariance")
def statistics(  # type: ignore[no-untyped-def]
    source,
    sample_weight,
    constants,
    means,
    factors,
    counts,
    residual_sums,
    residual_products,
    answers,
):
    """Add N, F and S of the rows to the given arrays; return the log-likelihood.

    Also write the answers that are wanted, with the same bits as `assign`.
    """
    prefer_wide_vectors()
    k, d = means.shape
    walk = begin_walk(means, factors)
    log_likelihood = 0.0
    for start in range(0, source.n, ROWS):
        next_tile(walk, source, sample_weight, start)
        _log_joint(walk, constants, means, factors)
        rows = min(ROWS, source.n - start)
        log_likelihood += normalise_tile(walk, start, rows, answers)
        add_counts(walk.log_joint, counts)
        add_moments(walk.tile, means, walk.log_joint, residual_sums, residual_products)
    for c in range(k):
        for j in range(d):
            residual_sums[c, j] *= factors[c, j]
            residual_products[c, j] *= factors[c, j] * factors[c, j]
    return log_likelihood


@kernel("prediction kernel of the diag covariance")
def assign(  # type: ignore[no-untyped-def]
    source, constants, means, factors, labels, densities, certainties, responsibilities
):
    """Write the predictions of all rows; return whether all values are finite."""
    prefer_wide_vectors()
    walk = begin_walk(means, factors)
    finite = True
    for start in range(0, source.n, ROWS):
        finite = next_tile(walk, source, NO_VECTOR, start) and finite
        _log_joint(walk, constants, means, factors)
        rows = min(ROWS, source.n - start)
        assign_tile(walk, start, rows, labels, densities, certainties, responsibilities)
    return finite
