"""Range, mean and sum of squares of every column in one pass, for the survey."""

from __future__ import annotations

import numpy as np

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.kernels.addresses import native_rows, rows_at
from gmm_dask.mixture.kernels.compile import inlined, kernel
from gmm_dask.mixture.kernels.tiles import ROWS, aligned, load_tile, prefer_wide_vectors


def column_moments(X: RowsArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Compute the mean, Σ (x − mean)², minimum and maximum of each column.

    Parameters
    ----------
    X
        (n, d) float32 or float64, any order and strides; summed in float64.

    Returns
    -------
    mean, squares, minimum, maximum
        (d,) each. Where a column holds NaN or infinity, its mean is not finite and its other
        moments have no meaning.
    """
    d = X.shape[1]
    moments = np.zeros(d), np.zeros(d), np.full(d, np.inf), np.full(d, -np.inf)
    X = native_rows(X)  # must stay alive: the kernel gets only its address
    if len(X):
        _column_moments(rows_at(X), *moments)
    return moments


@kernel("survey kernel")
def _column_moments(source, mean, squares, minimum, maximum):  # type: ignore[no-untyped-def]
    prefer_wide_vectors()
    d = mean.size
    tile = aligned(d * ROWS)
    origin = aligned(d)
    # For each column and each of the ROWS places in a tile: Σ x, Σ x², minimum and maximum. The
    # places are independent and the four lie at constant distances, so that the loop in `_add`
    # becomes vector instructions.
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
            # The origin is the mean of the first tile. So this tile alone contributes at least
            # ROWS·(mean − origin)² to Σ (x − mean)², and subtracting n·(mean − origin)² from
            # Σ (x − origin)² loses at most log₁₀(n / ROWS) digits, whatever the rows.
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
        column = lanes[j * 4 * ROWS : (j + 1) * 4 * ROWS]
        total, square = 0.0, 0.0
        for i in range(ROWS):
            total += column[i]
            square += column[ROWS + i]
            minimum[j] = min(minimum[j], column[2 * ROWS + i])
            maximum[j] = max(maximum[j], column[3 * ROWS + i])
        mean[j] = origin[j] + total / source.n
        squares[j] = max(square - total * total / source.n, 0.0)


@inlined
def _add(feature, lanes, origin, rows):  # type: ignore[no-untyped-def]
    prefer_wide_vectors()
    for i in range(rows):
        x = feature[i]
        y = x - origin
        lanes[i] += y
        lanes[ROWS + i] += y * y
        low, high = lanes[2 * ROWS + i], lanes[3 * ROWS + i]
        lanes[2 * ROWS + i] = x if x < low else low
        lanes[3 * ROWS + i] = x if x > high else high
