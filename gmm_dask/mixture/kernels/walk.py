"""A walk over rows, tile by tile: the buffers of a pass, and how they are filled."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gmm_dask.mixture.kernels.compile import allocating, inlined
from gmm_dask.mixture.kernels.tiles import (
    ROWS,
    aligned,
    aligned_rows,
    clip_far,
    largest,
    load_tile,
    load_weights,
)


class Walk(NamedTuple):
    """The buffers of a pass that walks over rows, tile by tile.

    Attributes
    ----------
    tile
        The current rows, feature-major, (d · ROWS,).
    weights
        Their sample weights, (ROWS,).
    log_joint
        log π p of each component, then responsibilities times weights, (k, ROWS).
    squares
        Squared distances to each mean, (k, ROWS).
    top
        The largest log π p of each row, then log p(x), (ROWS,).
    scratch
        Numbers of one component or one step, (2 · ROWS,).
    largest_mean, largest_factor
        Largest magnitudes in means and factors, by which `clip_far` finds values too far out.
    """

    tile: Any
    weights: Any
    log_joint: Any
    squares: Any
    top: Any
    scratch: Any
    largest_mean: float
    largest_factor: float


@allocating
@inlined
def begin_walk(means, factors):  # type: ignore[no-untyped-def]
    """Allocate the buffers of a pass."""
    k, d = means.shape
    return Walk(
        aligned(d * ROWS),
        aligned(ROWS),
        aligned_rows(k, ROWS),
        aligned_rows(k, ROWS),
        aligned(ROWS),
        aligned(2 * ROWS),
        largest(means),
        largest(factors),
    )


@inlined
def next_tile(walk, source, sample_weight, start):  # type: ignore[no-untyped-def]
    """Load the tile that begins at row start, and its weights; return whether they are finite."""
    rows = min(ROWS, source.n - start)
    magnitude = load_tile(walk.tile, source, start, rows)
    clip_far(walk.tile, magnitude, walk.largest_mean, walk.largest_factor)
    load_weights(walk.weights, sample_weight, start, rows)
    return magnitude < np.inf
