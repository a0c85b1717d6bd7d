"""The statistics of float32 rows with spherical covariances, in single precision."""

from __future__ import annotations

from math import sqrt

from gmm_dask.mixture.kernels.compile import exact, kernel
from gmm_dask.mixture.kernels.distances import add_residuals
from gmm_dask.mixture.kernels.spherical import add_sums
from gmm_dask.mixture.kernels.tiles import ROWS, prefer_wide_vectors
from gmm_dask.mixture.single_precision.densities import is_near, normalise_tile
from gmm_dask.mixture.single_precision.diag import log_joint
from gmm_dask.mixture.single_precision.narrowing import (
    FARTHEST,
    narrow_axes,
    repeat_features,
    total_likelihood,
)
from gmm_dask.mixture.single_precision.tiles import begin_walk, hopeless, load_tile

#: Up to this |y| of a feature, |y|² does not overflow: it is multiplied by responsibilities of 0.
_MOST_WHITENED = 2.0**56


@exact
def _keeps_squares(means, factors, covariances):  # type: ignore[no-untyped-def]
    """Whether |y|² of each component is finite for every row that is near some component."""
    magnitude, scale, factor = 0.0, 0.0, 0.0
    for c in range(factors.size):
        scale, factor = max(scale, sqrt(covariances[c])), max(factor, factors[c])
        for j in range(means.shape[1]):
            magnitude = max(magnitude, abs(means[c, j]))
    reach = 2.0 * magnitude + sqrt(2.0 * FARTHEST) * scale
    return reach * factor <= _MOST_WHITENED


@exact
def _whiten_sums(narrowed, means, factors, counts, F):  # type: ignore[no-untyped-def]
    """Turn Σ r (x − ν) into Σ r y."""
    k, d = means.shape
    for c in range(k):
        for j in range(d):
            F[c, j] = (F[c, j] + (narrowed.means[c, j] - means[c, j]) * counts[c]) * factors[c]


@kernel("statistics kernel of the spherical covariance in single precision")
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
    narrowed = narrow_axes(
        constants, means, repeat_features(factors, d), repeat_features(covariances, d)
    )
    if not (narrowed.safe and _keeps_squares(means, factors, covariances)):
        return 0.0, -1
    walk = begin_walk(k, d)
    log_likelihood, weight, m = 0.0, 0.0, 0
    for start in range(0, source.n, ROWS):
        near = not hopeless(m, start) and load_tile(walk, source, sample_weight, start)
        if near:
            log_joint(walk, narrowed)
            near = is_near(walk.top)
        if not near:
            left_out[m] = start
            m += 1
            continue
        of_tile, weight_of_tile = normalise_tile(walk, source, sample_weight, start)
        log_likelihood += of_tile
        weight += weight_of_tile
        add_sums(walk, counts, residual_products)
        add_residuals(walk.tile, narrowed.means, walk.log_joint, residual_sums)
    _whiten_sums(narrowed, means, factors, counts, residual_sums)
    return total_likelihood(narrowed, log_likelihood, weight, counts), m
