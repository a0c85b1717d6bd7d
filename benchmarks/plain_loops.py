"""Whitening and sums of products as plain loops, as the compiler vectorizes them by itself.

What `gmm_dask.mixture.kernels.whitening` does with vector instructions written by hand. A test
holds the two to each other, and ``python benchmarks/kernel.py --plain`` says what the hand gains.
"""

from gmm_dask.mixture.kernels.compile import inlined
from gmm_dask.mixture.kernels.tiles import ROWS, prefer_wide_vectors


@inlined
def whiten(tile, mean, U, residuals, whitened, squares):  # type: ignore[no-untyped-def]
    """Write y = Uᵀ(x − μ) of a tile, and |y|² (ROWS,)."""
    prefer_wide_vectors()
    d = mean.shape[0]
    for i in range(ROWS):
        squares[i] = 0.0
    for j in range(d):
        for i in range(ROWS):
            residuals[j * ROWS + i] = tile[j * ROWS + i] - mean[j]
            whitened[j * ROWS + i] = 0.0
        for m in range(j + 1):
            u = U[m, j]
            for i in range(ROWS):
                whitened[j * ROWS + i] += u * residuals[m * ROWS + i]
        for i in range(ROWS):
            squares[i] += whitened[j * ROWS + i] * whitened[j * ROWS + i]


@inlined
def add_products(whitened, responsibilities, weighted, F, S):  # type: ignore[no-untyped-def]
    """Add Σ r y to F (d,), Σ r y yᵀ to the lower triangle of S (d, d)."""
    prefer_wide_vectors()
    d = F.shape[0]
    for j in range(d):
        total = 0.0
        for i in range(ROWS):
            weighted[j * ROWS + i] = responsibilities[i] * whitened[j * ROWS + i]
            total += weighted[j * ROWS + i]
        F[j] += total
        for m in range(j + 1):
            product = 0.0
            for i in range(ROWS):
                product += weighted[j * ROWS + i] * whitened[m * ROWS + i]
            S[j, m] += product
