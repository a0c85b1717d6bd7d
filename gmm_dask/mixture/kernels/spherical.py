"""Passes over rows under spherical covariances: to statistics, and to predictions."""

from __future__ import annotations

import numpy as np

from gmm_dask.mixture.kernels.compile import kernel
from gmm_dask.mixture.kernels.densities import assign_tile, dot, joint_densities, normalise, sum_of
from gmm_dask.mixture.kernels.distances import add_residuals, distances
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


@kernel("statistics kernel of the spherical covariance")
def statistics(  # type: ignore[no-untyped-def]
    source, sample_weight, constants, means, factors, counts, residual_sums, residual_products
):
    """Add N, F and S of the rows; return the log-likelihood."""
    wide()
    k, d = means.shape
    tile = aligned(d * ROWS)
    log_joint = aligned_rows(k, ROWS)
    squares = aligned_rows(k, ROWS)
    room = aligned(ROWS)
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
        distances(tile, means, squares)
        for c in range(k):
            joint_densities(
                log_joint[c], constants[c], 0.5 * factors[c] * factors[c], squares[c], top, c == 0
            )
        normalise(log_joint, weights, top, room)
        log_likelihood += dot(weights, top)
        for c in range(k):
            counts[c] += sum_of(log_joint[c])
            residual_products[c] += dot(log_joint[c], squares[c])
        add_residuals(tile, means, log_joint, residual_sums)
    for c in range(k):
        for j in range(d):
            residual_sums[c, j] *= factors[c]
        residual_products[c] *= factors[c] * factors[c]
    return log_likelihood


@kernel("prediction kernel of the spherical covariance")
def assign(  # type: ignore[no-untyped-def]
    source, constants, means, factors, labels, densities, responsibilities
):
    """Write labels, log-densities and responsibilities; return whether all rows are finite."""
    wide()
    k, d = means.shape
    tile = aligned(d * ROWS)
    log_joint = aligned_rows(k, ROWS)
    squares = aligned_rows(k, ROWS)
    room = aligned(ROWS)
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
        distances(tile, means, squares)
        for c in range(k):
            joint_densities(
                log_joint[c], constants[c], 0.5 * factors[c] * factors[c], squares[c], top, c == 0
            )
        assign_tile(log_joint, ones, top, room, start, rows, labels, densities, responsibilities)
    return finite
