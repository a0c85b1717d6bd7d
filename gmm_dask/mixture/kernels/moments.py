"""Range, mean and squares of every column in one pass: what a survey asks of rows."""

from __future__ import annotations

import numpy as np

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.kernels.addresses import native_rows, rows_at
from gmm_dask.mixture.kernels.compile import inlined, kernel
from gmm_dask.mixture.kernels.tiles import ROWS, aligned, load_tile, wide


def column_moments(X: RowsArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Mean, Σ (x − mean)², minimum and maximum of each column, (d,) each.

    Parameters
    ----------
    X
        (n, d) float32 or float64, any order and strides; summed in float64. Where a column
        holds NaN or infinity, its mean is not finite and the rest says nothing.
    """
    d = X.shape[1]
    moments = np.zeros(d), np.zeros(d), np.full(d, np.inf), np.full(d, -np.inf)
    X = native_rows(X)  # bound to a name: the kernel is given its address only
    if len(X):
        _column_moments(rows_at(X), *moments)
    return moments


@kernel("survey kernel")
def _column_moments(source, mean, squares, minimum, maximum):  # type: ignore[no-untyped-def]
    wide()
    d = mean.size
    tile = aligned(d * ROWS)
    origin = aligned(d)
    # Per column and place in a tile: Σ x, Σ x², least and most. No order of additions to keep and
    # a constant distance between the four, so the loop below becomes vector instructions.
    lanes = aligned(d * 4 * ROWS)
    for j in range(d):
        for i in range(ROWS):
            lanes[j * 4 * ROWS + i] = 0.0
            lanes[j * 4 * ROWS + ROWS + i] = 0.0
            lanes[j * 4 * ROWS + 2 * ROWS + i] = np.inf
            lanes[j * 4 * ROWS + 3 * ROWS + i] = -np.inf
    for start in range(0, source.n, ROWS):
        rows = min(ROWS, source.n - start)
        load_tile(tile, source, start, rows)
        if start == 0:
            # The first tile alone adds ROWS·(mean − origin)² to the squares, so their correction
            # by n·(mean − origin)² costs at most log₁₀(n / ROWS) digits, whatever the rows.
            for j in range(d):
                for i in range(rows):
                    mean[j] += tile[j * ROWS + i]
                origin[j] = mean[j] / rows
        for j in range(d):
            _add(
                tile[j * ROWS : (j + 1) * ROWS],
                lanes[j * 4 * ROWS : (j + 1) * 4 * ROWS],
                origin[j],
                rows,
            )
    for j in range(d):
        own = lanes[j * 4 * ROWS : (j + 1) * 4 * ROWS]
        total, square = 0.0, 0.0
        for i in range(ROWS):
            total += own[i]
            square += own[ROWS + i]
            minimum[j] = min(minimum[j], own[2 * ROWS + i])
            maximum[j] = max(maximum[j], own[3 * ROWS + i])
        mean[j] = origin[j] + total / source.n
        squares[j] = max(square - total * total / source.n, 0.0)


@inlined
def _add(feature, lanes, origin, rows):  # type: ignore[no-untyped-def]
    wide()
    for i in range(rows):
        x = feature[i]
        y = x - origin
        lanes[i] += y
        lanes[ROWS + i] += y * y
        low, high = lanes[2 * ROWS + i], lanes[3 * ROWS + i]
        lanes[2 * ROWS + i] = x if x < low else low
        lanes[3 * ROWS + i] = x if x > high else high
