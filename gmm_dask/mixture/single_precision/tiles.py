"""Tiles of float32 rows, on which the passes in single precision work: buffers and loading."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gmm_dask.mixture.kernels.addresses import doubles, singles
from gmm_dask.mixture.kernels.compile import exact, inlined
from gmm_dask.mixture.kernels.tiles import (
    ROWS,
    aligned_rows_of_singles,
    aligned_singles,
    fill,
    prefer_wide_vectors,
)

# Weights of other sizes, times a responsibility, would leave the range of normal numbers.
_LEAST_WEIGHT, _MOST_WEIGHT = 2.0**-40, 2.0**40
# A quarter of the tiles is little to do twice. Of more, the other tiles are not even tried.
_TRIED = 64


class SingleWalk(NamedTuple):
    """The buffers of a pass in single precision; see `gmm_dask.mixture.kernels.tiles.Walk`.

    Attributes
    ----------
    tile, weights, log_joint, squares, top, scratch
        As there; log π p is less the largest constant.
    """

    tile: Any
    weights: Any
    log_joint: Any
    squares: Any
    top: Any
    scratch: Any


@inlined
def begin_walk(k, d):  # type: ignore[no-untyped-def]
    """Allocate the buffers of a pass."""
    return SingleWalk(
        aligned_singles(d * ROWS),
        aligned_singles(ROWS),
        aligned_rows_of_singles(k, ROWS),
        aligned_rows_of_singles(k, ROWS),
        aligned_singles(ROWS),
        aligned_singles(ROWS),
    )


@inlined
def _load_rows(tile, source, start, rows):  # type: ignore[no-untyped-def]
    """Copy float32 rows into a tile, feature-major."""
    prefer_wide_vectors()
    for j in range(tile.size // ROWS):
        feature = tile[j * ROWS : (j + 1) * ROWS]
        column = source.address + start * source.row_stride + j * source.column_stride
        if source.row_stride == 4:
            contiguous = singles(column)
            for i in range(rows):
                feature[i] = contiguous[i]
        else:
            for i in range(rows):
                feature[i] = singles(column + i * source.row_stride)[0]
        fill(feature, feature[0], rows)


@exact
def _load_weights(weights, source, start, rows):  # type: ignore[no-untyped-def]
    """Read the sample weights of a tile; return whether float32 can hold them."""
    zero, inside = np.float32(0.0), True
    if source.address == 0:
        fill(weights, np.float32(1.0), 0)
    else:
        for i in range(rows):
            weight = doubles(source.address + (start + i) * source.stride)[0]
            inside = inside and (weight == 0.0 or _LEAST_WEIGHT <= weight <= _MOST_WEIGHT)
            weights[i] = weight
    fill(weights, zero, rows)
    return inside


@inlined
def load_tile(walk, source, sample_weight, start):  # type: ignore[no-untyped-def]
    """Load the tile that begins at row start; return whether float32 can hold its weights."""
    rows = min(ROWS, source.n - start)
    _load_rows(walk.tile, source, start, rows)
    return _load_weights(walk.weights, sample_weight, start, rows)


@inlined
def hopeless(left_out, start):  # type: ignore[no-untyped-def]
    """Whether so many of the tiles before row start were left out that no more need be tried."""
    tiles = start // ROWS
    return tiles >= _TRIED and 4 * left_out > tiles
