"""The statistics of float32 rows with diagonal covariances, in single precision.

Tiles go in pairs: 128 rows are only eight vectors of singles, and to add up their lanes for each
component and feature would take a third of the time.
"""

from __future__ import annotations

import numpy as np

from gmm_dask.mixture.kernels.compile import exact, inlined, kernel
from gmm_dask.mixture.kernels.densities import add_counts, joint_densities
from gmm_dask.mixture.kernels.tiles import ROWS, fill, prefer_wide_vectors
from gmm_dask.mixture.single_precision.densities import is_near, normalise_tile
from gmm_dask.mixture.single_precision.narrowing import narrow_axes, total_likelihood
from gmm_dask.mixture.single_precision.tiles import (
    SingleWalk,
    begin_walk,
    clear_tile,
    hopeless,
    load_tile,
)


# Not reassociated: x·v + (a − ν·v) would be as inexact as x is large.
@exact
def distances(tile, narrowed, squares):  # type: ignore[no-untyped-def]
    """Write |y|² = Σ ((x − ν) v + a)² of each component and row of a tile, (k, ROWS)."""
    prefer_wide_vectors()
    means, factors, shifts = narrowed.means, narrowed.factors, narrowed.shifts
    k, d = means.shape
    blocks = d // 4 * 4
    for c in range(k):
        fill(squares[c], np.float32(0.0), 0)
    for j in range(0, blocks, 4):
        x = tile[j * ROWS : (j + 4) * ROWS]
        for c in range(k):
            q = squares[c]
            m0, m1, m2, m3 = means[c, j], means[c, j + 1], means[c, j + 2], means[c, j + 3]
            v0, v1, v2, v3 = factors[c, j], factors[c, j + 1], factors[c, j + 2], factors[c, j + 3]
            a0, a1, a2, a3 = shifts[c, j], shifts[c, j + 1], shifts[c, j + 2], shifts[c, j + 3]
            for i in range(ROWS):
                y0 = (x[i] - m0) * v0 + a0
                y1 = (x[i + ROWS] - m1) * v1 + a1
                y2 = (x[i + 2 * ROWS] - m2) * v2 + a2
                y3 = (x[i + 3 * ROWS] - m3) * v3 + a3
                q[i] += (y0 * y0 + y1 * y1) + (y2 * y2 + y3 * y3)
    for j in range(blocks, d):
        x = tile[j * ROWS : (j + 1) * ROWS]
        for c in range(k):
            q = squares[c]
            mean, v, a = means[c, j], factors[c, j], shifts[c, j]
            for i in range(ROWS):
                y = (x[i] - mean) * v + a
                q[i] += y * y


@inlined
def log_joint(walk, narrowed):  # type: ignore[no-untyped-def]
    """Write log π p and |y|² of a tile."""
    constants, half = narrowed.constants, np.float32(0.5)
    distances(walk.tile, narrowed, walk.squares)
    for c in range(constants.size):
        joint_densities(walk.log_joint[c], constants[c], half, walk.squares[c], walk.top, c == 0)


@inlined
def _add_moments(tiles, means, responsibilities, F, S):  # type: ignore[no-untyped-def]
    """Add Σ r (x − ν) of a pair of tiles to F and Σ r (x − ν)² to S, (k, d)."""
    prefer_wide_vectors()
    k, d = means.shape
    blocks = d // 4 * 4
    for j in range(0, blocks, 4):
        x, z = tiles[j * ROWS : (j + 4) * ROWS], tiles[(d + j) * ROWS : (d + j + 4) * ROWS]
        for c in range(k):
            r, q = responsibilities[c], responsibilities[k + c]
            m0, m1, m2, m3 = means[c, j], means[c, j + 1], means[c, j + 2], means[c, j + 3]
            f0 = f1 = f2 = f3 = s0 = s1 = s2 = s3 = np.float32(0.0)
            for i in range(ROWS):
                x0, z0 = x[i] - m0, z[i] - m0
                x1, z1 = x[i + ROWS] - m1, z[i + ROWS] - m1
                x2, z2 = x[i + 2 * ROWS] - m2, z[i + 2 * ROWS] - m2
                x3, z3 = x[i + 3 * ROWS] - m3, z[i + 3 * ROWS] - m3
                p0, q0 = r[i] * x0, q[i] * z0
                p1, q1 = r[i] * x1, q[i] * z1
                p2, q2 = r[i] * x2, q[i] * z2
                p3, q3 = r[i] * x3, q[i] * z3
                f0 += p0 + q0
                f1 += p1 + q1
                f2 += p2 + q2
                f3 += p3 + q3
                s0 += p0 * x0 + q0 * z0
                s1 += p1 * x1 + q1 * z1
                s2 += p2 * x2 + q2 * z2
                s3 += p3 * x3 + q3 * z3
            F[c, j] += f0
            F[c, j + 1] += f1
            F[c, j + 2] += f2
            F[c, j + 3] += f3
            S[c, j] += s0
            S[c, j + 1] += s1
            S[c, j + 2] += s2
            S[c, j + 3] += s3
    for j in range(blocks, d):
        x, z = tiles[j * ROWS : (j + 1) * ROWS], tiles[(d + j) * ROWS : (d + j + 1) * ROWS]
        for c in range(k):
            r, q = responsibilities[c], responsibilities[k + c]
            mean = means[c, j]
            f = s = np.float32(0.0)
            for i in range(ROWS):
                x0, z0 = x[i] - mean, z[i] - mean
                p0, q0 = r[i] * x0, q[i] * z0
                f += p0 + q0
                s += p0 * x0 + q0 * z0
            F[c, j] += f
            S[c, j] += s


@inlined
def _half(walk, half, k, d):  # type: ignore[no-untyped-def]
    """Return the buffers of a tile of a pair."""
    return SingleWalk(
        walk.tile[half * d * ROWS : (half + 1) * d * ROWS],
        walk.weights,
        walk.log_joint[half * k : (half + 1) * k],
        walk.squares[:k],
        walk.top,
        walk.scratch,
    )


@exact
def _whiten_sums(narrowed, means, factors, counts, F, S):  # type: ignore[no-untyped-def]
    """Turn Σ r (x − ν) into Σ r y and Σ r (x − ν)² into Σ r y²."""
    k, d = means.shape
    for c in range(k):
        for j in range(d):
            rest = narrowed.means[c, j] - means[c, j]
            S[c, j] = (S[c, j] + rest * (2.0 * F[c, j] + rest * counts[c])) * factors[c, j] ** 2
            F[c, j] = (F[c, j] + rest * counts[c]) * factors[c, j]


@inlined
def _expect_half(  # type: ignore[no-untyped-def]
    pair, half, narrowed, source, sample_weight, start, counts, left_out, m
):
    """Take the E-step of one tile of a pair, which begins at row start.

    Returns its log-likelihood and weight, and how many tiles are left out by then.
    """
    k, d = narrowed.means.shape
    walk = _half(pair, half, k, d)
    inside = start < source.n
    near = inside and not hopeless(m, start)
    near = near and load_tile(walk, source, sample_weight, start)
    if near:
        log_joint(walk, narrowed)
        near = is_near(walk.top)
    if not near:
        clear_tile(walk)
        if inside:
            left_out[m] = start
            m += 1
        return 0.0, 0.0, m
    of_tile, weight = normalise_tile(walk, source, sample_weight, start)
    add_counts(walk.log_joint, counts)
    return of_tile, weight, m


@kernel("statistics kernel of the diag covariance in single precision")
def statistics(  # type: ignore[no-untyped-def]
    source,
    sample_weight,
    constants,
    means,
    factors,
    covariances,
    counts,
    residual_sums,
    residual_products,
    left_out,
):
    """Add N, F and S of the rows; see `gmm_dask.mixture.single_precision.full.statistics`."""
    prefer_wide_vectors()
    k, d = means.shape
    narrowed = narrow_axes(constants, means, factors, covariances)
    if not narrowed.safe:
        return 0.0, -1
    pair = begin_walk(2 * k, 2 * d)
    log_likelihood, weight, m = 0.0, 0.0, 0
    tiles = 2 * ((source.n + 2 * ROWS - 1) // (2 * ROWS))
    for t in range(tiles):
        of_tile, weight_of_tile, m = _expect_half(
            pair, t % 2, narrowed, source, sample_weight, t * ROWS, counts, left_out, m
        )
        log_likelihood += of_tile
        weight += weight_of_tile
        if t % 2 == 1:
            _add_moments(
                pair.tile, narrowed.means, pair.log_joint, residual_sums, residual_products
            )
    _whiten_sums(narrowed, means, factors, counts, residual_sums, residual_products)
    return total_likelihood(narrowed, log_likelihood, weight, counts), m
