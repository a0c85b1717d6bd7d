"""The statistics of float32 rows with full covariances, in single precision."""

from __future__ import annotations

import numpy as np

from gmm_dask.mixture.kernels.compile import inlined, kernel
from gmm_dask.mixture.kernels.densities import joint_densities
from gmm_dask.mixture.kernels.full import add_sums
from gmm_dask.mixture.kernels.tiles import (
    ROWS,
    aligned_rows_of_singles,
    aligned_singles,
    prefer_wide_vectors,
)
from gmm_dask.mixture.kernels.whitening import mirror, whiten_from
from gmm_dask.mixture.single_precision.densities import is_near, normalise_tile
from gmm_dask.mixture.single_precision.narrowing import narrow_matrices, total_likelihood
from gmm_dask.mixture.single_precision.tiles import begin_walk, hopeless, load_tile


@inlined
def _log_joint(walk, narrowed, residuals, whitened):  # type: ignore[no-untyped-def]
    """Write log π p of a tile, and y of each component."""
    constants, half = narrowed.constants, np.float32(0.5)
    for c in range(constants.size):
        mean, V, shift = narrowed.means[c], narrowed.factors[c], narrowed.shifts[c]
        whiten_from(walk.tile, mean, V, residuals, whitened[c], walk.scratch, shift)
        joint_densities(walk.log_joint[c], constants[c], half, walk.scratch, walk.top, c == 0)


@kernel("statistics kernel of the full covariance in single precision")
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
    """Add N, F and S of the rows to the given arrays, save those of the tiles left out.

    Returns the log-likelihood, and the number of tiles left out, whose first rows are written; −1
    where a pass in single precision is not safe.
    """
    prefer_wide_vectors()
    k, d = means.shape
    narrowed = narrow_matrices(constants, means, factors, covariances)
    if not narrowed.safe:
        return 0.0, -1
    walk = begin_walk(k, d)
    residuals, whitened = aligned_singles(d * ROWS), aligned_rows_of_singles(k, d * ROWS)
    log_likelihood, weight, m = 0.0, 0.0, 0
    for start in range(0, source.n, ROWS):
        near = not hopeless(m, start) and load_tile(walk, source, sample_weight, start)
        if near:
            _log_joint(walk, narrowed, residuals, whitened)
            near = is_near(walk.top)
        if not near:
            left_out[m] = start
            m += 1
            continue
        of_tile, weight_of_tile = normalise_tile(walk, source, sample_weight, start)
        log_likelihood += of_tile
        weight += weight_of_tile
        add_sums(walk.log_joint, whitened, residuals, counts, residual_sums, residual_products)
    for c in range(k):
        mirror(residual_products[c])
    return total_likelihood(narrowed, log_likelihood, weight, counts), m
