"""Passes over rows under full covariances: to statistics, and to predictions."""

from __future__ import annotations

import numpy as np

from gmm_dask.mixture.kernels.compile import kernel
from gmm_dask.mixture.kernels.densities import assign_tile, dot, joint_densities, normalise, sum_of
from gmm_dask.mixture.kernels.tiles import (
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
from gmm_dask.mixture.kernels.whitening import add_products, mirror, whiten


@kernel("statistics kernel of the full covariance")
def statistics(  # type: ignore[no-untyped-def]
    source, sample_weight, constants, means, factors, counts, residual_sums, residual_products
):
    """Add N, F and S of the rows; return the log-likelihood."""
    wide()
    k, d = means.shape
    tile = aligned(d * ROWS)
    residuals = aligned(d * ROWS)
    whitened = aligned_rows(k, d * ROWS)
    log_joint = aligned_rows(k, ROWS)
    squares = aligned(ROWS)
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
        for c in range(k):
            whiten(tile, means[c], factors[c], residuals, whitened[c], squares)
            joint_densities(log_joint[c], constants[c], 0.5, squares, top, c == 0)
        normalise(log_joint, weights, top, squares)
        log_likelihood += dot(weights, top)
        for c in range(k):
            count = sum_of(log_joint[c])
            if count != 0.0:
                counts[c] += count
                add_products(
                    whitened[c], log_joint[c], residuals, residual_sums[c], residual_products[c]
                )
    for c in range(k):
        mirror(residual_products[c])
    return log_likelihood


@kernel("prediction kernel of the full covariance")
def assign(  # type: ignore[no-untyped-def]
    source, constants, means, factors, labels, densities, responsibilities
):
    """Write labels, log-densities and responsibilities; return whether all rows are finite."""
    wide()
    k, d = means.shape
    tile = aligned(d * ROWS)
    residuals = aligned(d * ROWS)
    whitened = aligned(d * ROWS)
    log_joint = aligned_rows(k, ROWS)
    squares = aligned(ROWS)
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
        for c in range(k):
            whiten(tile, means[c], factors[c], residuals, whitened, squares)
            joint_densities(log_joint[c], constants[c], 0.5, squares, top, c == 0)
        assign_tile(log_joint, ones, top, squares, start, rows, labels, densities, responsibilities)
    return finite
