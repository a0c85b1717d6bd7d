"""The statistics of float32 rows with a tied covariance, in single precision."""

from __future__ import annotations

import numpy as np

from gmm_dask.mixture.kernels.compile import exact, inlined, kernel
from gmm_dask.mixture.kernels.densities import joint_densities
from gmm_dask.mixture.kernels.distances import add_residuals, distances
from gmm_dask.mixture.kernels.tied import NEAR, add_sums, central_mean, unshift
from gmm_dask.mixture.kernels.tiles import (
    ROWS,
    aligned_rows_of_singles,
    aligned_singles,
    largest,
    prefer_wide_vectors,
)
from gmm_dask.mixture.kernels.whitening import mirror, whiten_from
from gmm_dask.mixture.single_precision.densities import is_near, normalise_tile
from gmm_dask.mixture.single_precision.narrowing import narrow_matrices, total_likelihood
from gmm_dask.mixture.single_precision.tiles import begin_walk, hopeless, load_tile


@inlined
def _log_joint(walk, narrowed, central, steps, near, residuals, whitened):  # type: ignore[no-untyped-def]
    """Write log π p of a tile.

    Rows are whitened once if the means are near, else once for each component.
    """
    constants, half, V = narrowed.constants, np.float32(0.5), narrowed.factors[0]
    for c in range(1 if near else constants.size):
        origin = central if near else c
        mean, shift = narrowed.means[origin], narrowed.shifts[origin]
        whiten_from(walk.tile, mean, V, residuals, whitened[c], walk.squares[c], shift)
    if near:
        distances(whitened[0], steps, walk.squares)
    for c in range(constants.size):
        joint_densities(walk.log_joint[c], constants[c], half, walk.squares[c], walk.top, c == 0)


@exact
def _narrow_steps(shifts, steps):  # type: ignore[no-untyped-def]
    """Write the means as seen from the central one in float32, (k, d)."""
    k, d = shifts.shape
    for c in range(k):
        for j in range(d):
            steps[c, j] = shifts[c, j]


@exact
def _mend_sums(counts, shifts, steps, F):  # type: ignore[no-untyped-def]
    """Turn the sums of residuals from the rounded means into those from the means."""
    k, d = shifts.shape
    for c in range(k):
        for j in range(d):
            F[c, j] += counts[c] * (steps[c, j] - shifts[c, j])


@kernel("statistics kernel of the tied covariance in single precision")
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
    narrowed = narrow_matrices(
        constants, means, factors.reshape((1, d, d)), covariances.reshape((1, d, d))
    )
    if not narrowed.safe:
        return 0.0, -1
    walk = begin_walk(k, d)
    shifts, steps, totals = np.empty((k, d)), np.empty((k, d), np.float32), np.zeros(d)
    central = central_mean(means, factors, shifts)
    _narrow_steps(shifts, steps)
    near = largest(shifts) <= NEAR
    parts = 1 if near else k
    residuals, whitened = aligned_singles(d * ROWS), aligned_rows_of_singles(parts, d * ROWS)
    log_likelihood, weight, m = 0.0, 0.0, 0
    for start in range(0, source.n, ROWS):
        usable = not hopeless(m, start) and load_tile(walk, source, sample_weight, start)
        if usable:
            _log_joint(walk, narrowed, central, steps, near, residuals, whitened)
            usable = is_near(walk.top)
        if not usable:
            left_out[m] = start
            m += 1
            continue
        of_tile, weight_of_tile = normalise_tile(walk, source, sample_weight, start)
        log_likelihood += of_tile
        weight += weight_of_tile
        if near:
            add_residuals(whitened[0], steps, walk.log_joint, residual_sums)
        F = totals.reshape((1, d)) if near else residual_sums
        add_sums(walk, near, whitened, residuals, counts, F, residual_products)
    if near:
        _mend_sums(counts, shifts, steps, residual_sums)
        if not unshift(counts, residual_sums, shifts, residual_products):
            return 0.0, -1
    mirror(residual_products)
    return total_likelihood(narrowed, log_likelihood, weight, counts), m
