"""Passes over rows with full covariances: statistics and predictions."""

from __future__ import annotations

from gmm_dask.mixture.kernels.addresses import NO_VECTOR
from gmm_dask.mixture.kernels.compile import inlined, kernel
from gmm_dask.mixture.kernels.densities import (
    assign_tile,
    joint_densities,
    normalise_tile,
    sum_of,
)
from gmm_dask.mixture.kernels.tiles import ROWS, aligned, aligned_rows, prefer_wide_vectors
from gmm_dask.mixture.kernels.walk import begin_walk, next_tile
from gmm_dask.mixture.kernels.whitening import add_products, mirror, whiten


@inlined
def _log_joint(walk, constants, means, factors, residuals, whitened):  # type: ignore[no-untyped-def]
    """Write log π p of a tile.

    ``whitened`` receives y of each component, or of the last one only where it has one row.
    """
    for c in range(means.shape[0]):
        y = whitened[min(c, whitened.shape[0] - 1)]
        whiten(walk.tile, means[c], factors[c], residuals, y, walk.scratch)
        joint_densities(walk.log_joint[c], constants[c], 0.5, walk.scratch, walk.top, c == 0)


@inlined
def add_sums(  # type: ignore[no-untyped-def]
    log_joint, whitened, weighted, counts, residual_sums, residual_products
):
    """Add N, F and S of a tile, whose responsibilities are (k, ROWS); ``weighted`` is scratch."""
    for c in range(counts.size):
        count = sum_of(log_joint[c])
        if count != 0.0:
            counts[c] += count
            F, S = residual_sums[c], residual_products[c]
            add_products(whitened[c], log_joint[c], weighted, F, S)


@kernel("statistics kernel of the full covariance")
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
    residuals, whitened = aligned(d * ROWS), aligned_rows(k, d * ROWS)
    log_likelihood = 0.0
    for start in range(0, source.n, ROWS):
        next_tile(walk, source, sample_weight, start)
        _log_joint(walk, constants, means, factors, residuals, whitened)
        rows = min(ROWS, source.n - start)
        log_likelihood += normalise_tile(walk, start, rows, answers)
        add_sums(walk.log_joint, whitened, residuals, counts, residual_sums, residual_products)
    for c in range(k):
        mirror(residual_products[c])
    return log_likelihood


@kernel("prediction kernel of the full covariance")
def assign(  # type: ignore[no-untyped-def]
    source, constants, means, factors, labels, densities, certainties, responsibilities
):
    """Write the predictions of all rows; return whether all values are finite."""
    prefer_wide_vectors()
    d = means.shape[1]
    walk = begin_walk(means, factors)
    residuals, whitened = aligned(d * ROWS), aligned_rows(1, d * ROWS)
    finite = True
    for start in range(0, source.n, ROWS):
        finite = next_tile(walk, source, NO_VECTOR, start) and finite
        _log_joint(walk, constants, means, factors, residuals, whitened)
        rows = min(ROWS, source.n - start)
        assign_tile(walk, start, rows, labels, densities, certainties, responsibilities)
    return finite
