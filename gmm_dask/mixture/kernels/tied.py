"""Passes over rows with a tied covariance: statistics and predictions."""

from __future__ import annotations

import numpy as np

from gmm_dask.mixture.kernels.addresses import NO_ANSWERS, NO_VECTOR
from gmm_dask.mixture.kernels.compile import allocating, inlined, kernel
from gmm_dask.mixture.kernels.densities import (
    add_counts,
    assign_tile,
    joint_densities,
    normalise_tile,
)
from gmm_dask.mixture.kernels.distances import add_residuals, distances
from gmm_dask.mixture.kernels.tiles import (
    ROWS,
    aligned,
    aligned_rows,
    fill,
    largest,
    prefer_wide_vectors,
)
from gmm_dask.mixture.kernels.walk import begin_walk, next_tile
from gmm_dask.mixture.kernels.whitening import add_products, mirror, whiten

# The means are near if none is farther from the central one than this, in standard deviations
# along each whitened axis. Rows whitened once then serve all components.
NEAR = 16.0
# S is a difference. Where the minuend is at most this many times S, its relative error
# stays below 1e-13.
_SHIFTED = 256.0


@inlined
def write_shifts(means, U, centre, shifts):  # type: ignore[no-untyped-def]
    """Write a = Uᵀ(μ − centre), (k, d)."""
    k, d = means.shape
    for c in range(k):
        for j in range(d):
            total = 0.0
            for m in range(j + 1):
                total += U[m, j] * (means[c, m] - centre[m])
            shifts[c, j] = total


@allocating
@inlined
def central_mean(means, U, shifts):  # type: ignore[no-untyped-def]
    """Return which mean is nearest to the middle of all means; write the shifts from it.

    It is one of the means, not their average: differences to it are exact wherever the data lie.
    """
    k, d = means.shape
    write_shifts(means, U, means[0], shifts)
    middle = np.zeros(d)
    for c in range(k):
        for j in range(d):
            middle[j] += shifts[c, j] / k
    nearest = 0
    least = np.inf
    for c in range(k):
        square = 0.0
        for j in range(d):
            square += (shifts[c, j] - middle[j]) * (shifts[c, j] - middle[j])
        if square < least:
            least = square
            nearest = c
    write_shifts(means, U, means[nearest], shifts)
    return nearest


@inlined
def unshift(counts, F, shifts, S):  # type: ignore[no-untyped-def]
    """Turn Σ w z zᵀ into S = Σ r y yᵀ, where y = z − a: subtract Σ F aᵀ + a Fᵀ + N a aᵀ.

    Returns whether S kept its digits. It loses them where the rows are much closer to the means
    than the means are to each other: a single row on a mean, or a covariance about to shrink.
    """
    k, d = shifts.shape
    exact = True
    for j in range(d):
        before = S[j, j]
        for c in range(k):
            for m in range(j + 1):
                S[j, m] -= (
                    F[c, j] * shifts[c, m]
                    + shifts[c, j] * F[c, m]
                    + counts[c] * shifts[c, j] * shifts[c, m]
                )
        if before > _SHIFTED * S[j, j]:
            exact = False
    return exact


@inlined
def _log_joint(  # type: ignore[no-untyped-def]
    walk, constants, means, factors, centre, shifts, near, residuals, whitened
):
    """Write log π p of a tile.

    Rows are whitened once if the means are near, else once for each component.
    """
    # One loop with a single call of `whiten`: inlined functions are compiled once for each call.
    for c in range(1 if near else means.shape[0]):
        origin = centre if near else means[c]
        y = whitened[min(c, whitened.shape[0] - 1)]
        whiten(walk.tile, origin, factors, residuals, y, walk.squares[c])
    if near:
        distances(whitened[0], shifts, walk.squares)
    for c in range(means.shape[0]):
        joint_densities(walk.log_joint[c], constants[c], 0.5, walk.squares[c], walk.top, c == 0)


@inlined
def add_sums(  # type: ignore[no-untyped-def]
    walk, near, whitened, weighted, counts, residual_sums, residual_products
):
    """Add N, F and S of a tile; of rows that are whitened once, if the means are near, one F."""
    for c in range(residual_sums.shape[0]):
        shares = walk.weights if near else walk.log_joint[c]
        add_products(whitened[c], shares, weighted, residual_sums[c], residual_products)
    add_counts(walk.log_joint, counts)


@kernel("statistics kernel of the tied covariance")
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
    residuals = aligned(d * ROWS)
    shifts = np.empty((k, d))
    centre = means[central_mean(means, factors, shifts)]
    near = largest(shifts) <= NEAR
    # Each turn is a pass over all rows: they are whitened once about the centre if the means are
    # near, else once for each component. If the first pass loses digits, a second one follows. As a
    # function, the pass would be compiled once for each call.
    while True:
        parts = 1 if near else k
        whitened = aligned_rows(parts, d * ROWS)
        totals = np.zeros(d)
        log_likelihood = 0.0
        for start in range(0, source.n, ROWS):
            next_tile(walk, source, sample_weight, start)
            _log_joint(walk, constants, means, factors, centre, shifts, near, residuals, whitened)
            rows = min(ROWS, source.n - start)
            log_likelihood += normalise_tile(walk, start, rows, answers)
            if near:
                add_residuals(whitened[0], shifts, walk.log_joint, residual_sums)
            F = totals.reshape((1, d)) if near else residual_sums
            add_sums(walk, near, whitened, residuals, counts, F, residual_products)
        if not near or unshift(counts, residual_sums, shifts, residual_products):
            mirror(residual_products)
            return log_likelihood
        near = False
        answers = NO_ANSWERS  # `assign` takes the first turn alone
        fill(counts, 0.0, 0)
        fill(residual_sums.reshape(k * d), 0.0, 0)
        fill(residual_products.reshape(d * d), 0.0, 0)


@kernel("prediction kernel of the tied covariance")
def assign(  # type: ignore[no-untyped-def]
    source, constants, means, factors, labels, densities, certainties, responsibilities
):
    """Write the predictions of all rows; return whether all values are finite."""
    prefer_wide_vectors()
    k, d = means.shape
    walk = begin_walk(means, factors)
    residuals, whitened = aligned(d * ROWS), aligned_rows(1, d * ROWS)
    shifts = np.empty((k, d))
    centre = means[central_mean(means, factors, shifts)]
    near = largest(shifts) <= NEAR
    finite = True
    for start in range(0, source.n, ROWS):
        finite = next_tile(walk, source, NO_VECTOR, start) and finite
        _log_joint(walk, constants, means, factors, centre, shifts, near, residuals, whitened)
        rows = min(ROWS, source.n - start)
        assign_tile(walk, start, rows, labels, densities, certainties, responsibilities)
    return finite
