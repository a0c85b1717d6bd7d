"""Tiles in float32, on which the passes in single precision work: buffers and loading."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gmm_dask.mixture.kernels.addresses import doubles, singles
from gmm_dask.mixture.kernels.compile import allocating, exact, inlined
from gmm_dask.mixture.kernels.tiles import (
    BAND,
    ROWS,
    aligned_rows_of_singles,
    aligned_singles,
    fill,
    prefer_wide_vectors,
    sum_of_magnitudes,
    takes_whole_rows,
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


@allocating
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
    """Copy rows into a tile, feature-major; return whether those at hand are finite.

    Of rows that do not lie in one piece this is not told; their densities will.
    """
    prefer_wide_vectors()
    magnitude = 0.0
    if takes_whole_rows(source, tile.size // ROWS):
        magnitude = _load_whole_rows(tile, source, start, rows)
    else:
        _load_columns(tile, source, start, rows)
    for j in range(tile.size // ROWS):
        feature = tile[j * ROWS : (j + 1) * ROWS]
        fill(feature, feature[0], rows)
    return magnitude < np.inf


@inlined
def _load_whole_rows(tile, source, start, rows):  # type: ignore[no-untyped-def]
    """Load rows of which each lies in one piece; return Σ|x|.

    The sum is taken first, as in `gmm_dask.mixture.kernels.tiles`.
    """
    prefer_wide_vectors()
    d, step, target = tile.size // ROWS, source.row_stride, tile.ctypes.data
    magnitude = 0.0
    whole = rows // BAND * BAND
    for i in range(0, whole, BAND):
        row = source.address + (start + i) * step
        for a in range(BAND):
            magnitude += sum_of_magnitudes(row + a * step, source.itemsize, d)
        if source.itemsize == 4:
            _turn_singles(target + 4 * i, row, step, d)
        else:
            _turn_doubles(target + 4 * i, row, step, d)
    for i in range(whole, rows):
        row = source.address + (start + i) * step
        magnitude += sum_of_magnitudes(row, source.itemsize, d)
        for j in range(d):
            tile[j * ROWS + i] = singles(row)[j] if source.itemsize == 4 else doubles(row)[j]
    return magnitude


@inlined
def _turn_singles(target, row, step, d):  # type: ignore[no-untyped-def]
    """Copy a band of rows, the first of which is at an address, to places of a tile."""
    prefer_wide_vectors()
    for j in range(d):
        feature = singles(target + j * (4 * ROWS))
        for a in range(BAND):
            feature[a] = singles(row + a * step)[j]


@inlined
def _turn_doubles(target, row, step, d):  # type: ignore[no-untyped-def]
    """Copy a band of float64 rows to places of a tile."""
    prefer_wide_vectors()
    for j in range(d):
        feature = singles(target + j * (4 * ROWS))
        for a in range(BAND):
            feature[a] = doubles(row + a * step)[j]


@inlined
def _load_columns(tile, source, start, rows):  # type: ignore[no-untyped-def]
    """Load rows feature by feature."""
    prefer_wide_vectors()
    for j in range(tile.size // ROWS):
        feature = tile[j * ROWS : (j + 1) * ROWS]
        column = source.address + start * source.row_stride + j * source.column_stride
        narrow, wide = singles(column), doubles(column)
        if source.itemsize == 4 and source.row_stride == 4:
            for i in range(rows):
                feature[i] = narrow[i]
        elif source.itemsize == 4:
            for i in range(rows):
                feature[i] = singles(column + i * source.row_stride)[0]
        elif source.row_stride == 8:
            for i in range(rows):
                feature[i] = wide[i]
        else:
            for i in range(rows):
                feature[i] = doubles(column + i * source.row_stride)[0]


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
    """Load the tile that begins at row start; return whether float32 may do for it.

    That is where it can hold the weights, and no value is known that is not finite.
    """
    rows = min(ROWS, source.n - start)
    finite = _load_rows(walk.tile, source, start, rows)
    return _load_weights(walk.weights, sample_weight, start, rows) and finite


@inlined
def clear_tile(walk):  # type: ignore[no-untyped-def]
    """Make a tile one of rows without a share in any component, which adds nothing to sums."""
    fill(walk.tile, np.float32(0.0), 0)
    for c in range(walk.log_joint.shape[0]):
        fill(walk.log_joint[c], np.float32(0.0), 0)


@inlined
def hopeless(left_out, start):  # type: ignore[no-untyped-def]
    """Whether so many of the tiles before row start were left out that no more need be tried."""
    tiles = start // ROWS
    return tiles >= _TRIED and 4 * left_out > tiles
