"""Distances and weighted residuals, feature by feature: no matrix is involved."""

from __future__ import annotations

from gmm_dask.mixture.covariance.compile import inlined
from gmm_dask.mixture.covariance.tile import ROWS, wide


@inlined
def distances(tile, mean, squares):  # type: ignore[no-untyped-def]
    """Write |x − μ|² of the rows of a tile."""
    wide()
    d = mean.shape[0]
    blocks = d // 4 * 4
    squares[:] = 0.0
    for j in range(0, blocks, 4):
        x = tile[j * ROWS : (j + 4) * ROWS]
        m0, m1, m2, m3 = mean[j], mean[j + 1], mean[j + 2], mean[j + 3]
        for i in range(ROWS):
            r0 = x[i] - m0
            r1 = x[i + ROWS] - m1
            r2 = x[i + 2 * ROWS] - m2
            r3 = x[i + 3 * ROWS] - m3
            squares[i] += (r0 * r0 + r1 * r1) + (r2 * r2 + r3 * r3)
    for j in range(blocks, d):
        x = tile[j * ROWS : (j + 1) * ROWS]
        mu = mean[j]
        for i in range(ROWS):
            residual = x[i] - mu
            squares[i] += residual * residual


@inlined
def add_residuals(tile, mean, responsibilities, factor, F):  # type: ignore[no-untyped-def]
    """Add factor · Σ r (x − μ) to F (d,)."""
    wide()
    d = mean.shape[0]
    blocks = d // 4 * 4
    for j in range(0, blocks, 4):
        x = tile[j * ROWS : (j + 4) * ROWS]
        m0, m1, m2, m3 = mean[j], mean[j + 1], mean[j + 2], mean[j + 3]
        f0 = f1 = f2 = f3 = 0.0
        for i in range(ROWS):
            r = responsibilities[i]
            f0 += r * (x[i] - m0)
            f1 += r * (x[i + ROWS] - m1)
            f2 += r * (x[i + 2 * ROWS] - m2)
            f3 += r * (x[i + 3 * ROWS] - m3)
        F[j] += factor * f0
        F[j + 1] += factor * f1
        F[j + 2] += factor * f2
        F[j + 3] += factor * f3
    for j in range(blocks, d):
        x = tile[j * ROWS : (j + 1) * ROWS]
        mu = mean[j]
        f = 0.0
        for i in range(ROWS):
            f += responsibilities[i] * (x[i] - mu)
        F[j] += factor * f
