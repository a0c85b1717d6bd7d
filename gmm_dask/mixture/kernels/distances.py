"""Squared distances and weighted residuals without a matrix, feature by feature.

The outer loop runs over features and the inner one over components, so that a tile too large for
the first-level cache is read once, not once for each component.
"""

from __future__ import annotations

from gmm_dask.mixture.kernels.compile import inlined
from gmm_dask.mixture.kernels.tiles import ROWS, fill, prefer_wide_vectors


@inlined
def distances(tile, means, squares):  # type: ignore[no-untyped-def]
    """Write |x − μ|² of each component and row of a tile, (k, ROWS)."""
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
            for i in range(ROWS):
                r0 = x[i] - m0
                r1 = x[i + ROWS] - m1
                r2 = x[i + 2 * ROWS] - m2
                r3 = x[i + 3 * ROWS] - m3
                q[i] += (r0 * r0 + r1 * r1) + (r2 * r2 + r3 * r3)
    for j in range(blocks, d):
        x = tile[j * ROWS : (j + 1) * ROWS]
        for c in range(k):
            q = squares[c]
            mu = means[c, j]
            for i in range(ROWS):
                residual = x[i] - mu
                q[i] += residual * residual


@inlined
def add_residuals(tile, means, responsibilities, F):  # type: ignore[no-untyped-def]
    """Add Σ r (x − μ) to F (k, d)."""
    prefer_wide_vectors()
    zero = tile.dtype.type(0)
    k, d = means.shape
    blocks = d // 4 * 4
    for j in range(0, blocks, 4):
        x = tile[j * ROWS : (j + 4) * ROWS]
        for c in range(k):
            r = responsibilities[c]
            m0, m1, m2, m3 = means[c, j], means[c, j + 1], means[c, j + 2], means[c, j + 3]
            f0 = f1 = f2 = f3 = zero
            for i in range(ROWS):
                f0 += r[i] * (x[i] - m0)
                f1 += r[i] * (x[i + ROWS] - m1)
                f2 += r[i] * (x[i + 2 * ROWS] - m2)
                f3 += r[i] * (x[i + 3 * ROWS] - m3)
            F[c, j] += f0
            F[c, j + 1] += f1
            F[c, j + 2] += f2
            F[c, j + 3] += f3
    for j in range(blocks, d):
        x = tile[j * ROWS : (j + 1) * ROWS]
        for c in range(k):
            r = responsibilities[c]
            mu = means[c, j]
            f = zero
            for i in range(ROWS):
                f += r[i] * (x[i] - mu)
            F[c, j] += f
