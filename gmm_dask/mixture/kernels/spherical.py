"""Passes over rows with spherical covariances: statistics and predictions."""

from __future__ import annotations

from gmm_dask.mixture.kernels.addresses import NO_VECTOR
from gmm_dask.mixture.kernels.compile import inlined, kernel
from gmm_dask.mixture.kernels.densities import (
    assign_tile,
    dot,
    joint_densities,
    normalise_tile,
    sum_of,
)
from gmm_dask.mixture.kernels.distances import add_residuals, distances
from gmm_dask.mixture.kernels.tiles import ROWS, prefer_wide_vectors
from gmm_dask.mixture.kernels.walk import begin_walk, next_tile


@inlined
def _log_joint(walk, constants, means, factors):  # type: ignore[no-untyped-def]
    """Write log π p of a tile."""
    distances(walk.tile, means, walk.squares)
    for c in range(means.shape[0]):
        half = 0.5 * factors[c] * factors[c]
        joint_densities(walk.log_joint[c], constants[c], half, walk.squares[c], walk.top, c == 0)


@inlined
def add_sums(walk, counts, residual_products):  # type: ignore[no-untyped-def]
    """Add N and S of a tile."""
    for c in range(counts.size):
        counts[c] += sum_of(walk.log_joint[c])
        residual_products[c] += dot(walk.log_joint[c], walk.squares[c])


@kernel("statistics kernel of the spherical covariance")
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
        add_sums(walk, counts, residual_products)
        add_residuals(walk.tile, means, walk.log_joint, residual_sums)
    for c in range(k):
        for j in range(d):
            residual_sums[c, j] *= factors[c]
        residual_products[c] *= factors[c] * factors[c]
    return log_likelihood


@kernel("prediction kernel of the spherical covariance")
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
