"""Two ways to cut the rows of a component in two: across its longest axis, and core from halo.

Of a component there are some thousand rows at the most, so that a few calls of numpy on them take
longer than what is computed.
"""

from __future__ import annotations

import numpy as np

from gmm_dask.mixture.kernels.climb import DIAG, FULL, TIED, factorize
from gmm_dask.mixture.kernels.compile import allocating, inlined, kernel
from gmm_dask.mixture.kernels.densities import dot
from gmm_dask.mixture.kernels.tiles import ROWS, fill, prefer_wide_vectors

#: Iterations for the longest axis. Where two axes are equally long, either will do.
_TURNS = 100


@inlined
def _fill_tiles(X, share, tiles, weights, centre):  # type: ignore[no-untyped-def]
    """Lay rows less their mean in tiles, and weights of mean 1."""
    prefer_wide_vectors()
    d, r = X.shape
    total = 0.0
    for i in range(r):
        total += share[i]
    scale = r / total
    for i in range(r):
        weights[i // ROWS, i % ROWS] = share[i] * scale
    for j in range(d):
        mean = 0.0
        for i in range(r):
            mean += share[i] * X[j, i]
        mean /= total
        centre[j] = mean
        for t in range(tiles.shape[0]):
            first = t * ROWS
            for i in range(min(ROWS, r - first)):
                tiles[t, j * ROWS + i] = X[j, first + i] - mean


@allocating
@inlined
def _write_matrix(form, tiles, weights, r, reg_covar, matrix):  # type: ignore[no-untyped-def]
    """Write the covariance of the rows as a full matrix, whatever its form."""
    prefer_wide_vectors()
    d = matrix.shape[0]
    weighted = np.empty(ROWS)
    fill(matrix.reshape(d * d), 0.0, 0)
    for t in range(tiles.shape[0]):
        for i in range(d):
            x = tiles[t, i * ROWS : (i + 1) * ROWS]
            for row in range(ROWS):
                weighted[row] = weights[t, row] * x[row]
            for j in range(i + 1 if form in (FULL, TIED) else 0):
                matrix[i, j] += dot(weighted, tiles[t, j * ROWS : (j + 1) * ROWS]) / r
            if form not in (FULL, TIED):
                matrix[i, i] += dot(weighted, x) / r
    trace = 0.0
    for i in range(d):
        trace += matrix[i, i]
        for j in range(i):
            matrix[j, i] = matrix[i, j]
    for i in range(d):
        if form not in (FULL, TIED, DIAG):
            matrix[i, i] = trace / d
        matrix[i, i] += reg_covar


@allocating
@inlined
def _longest_axis(matrix, axis):  # type: ignore[no-untyped-def]
    """Write the eigenvector of the largest eigenvalue of a covariance, by powers of it."""
    d = matrix.shape[0]
    longest = 0
    for j in range(d):
        if matrix[j, j] >= matrix[longest, longest]:
            longest = j
    turned = np.empty(d)
    for j in range(d):
        axis[j] = 1.0 if j == longest else 0.0
    for _ in range(_TURNS):
        square, change = 0.0, 0.0
        for i in range(d):
            total = 0.0
            for j in range(d):
                total += matrix[i, j] * axis[j]
            turned[i] = total
            square += total * total
        scale = 1.0 / np.sqrt(square)
        for i in range(d):
            change += (turned[i] * scale - axis[i]) * (turned[i] * scale - axis[i])
            axis[i] = turned[i] * scale
        if change < 1e-20:
            break


@inlined
def _factorize_diagonal(matrix, U):  # type: ignore[no-untyped-def]
    """Write U = L⁻ᵀ of a diagonal matrix; return Σ log Lⱼⱼ, NaN if there is no factor."""
    log_determinant = 0.0
    for j in range(matrix.shape[0]):
        if not 0.0 < matrix[j, j] < np.inf:  # nor NaN
            return np.nan
        deviation = np.sqrt(matrix[j, j])
        log_determinant += np.log(deviation)
        U[j, j] = 1.0 / deviation
    return log_determinant


@allocating
@inlined
def _measure(form, tile, axis, U, along, squares):  # type: ignore[no-untyped-def]
    """Write the place of each row of a tile along the axis, and its squared distance."""
    prefer_wide_vectors()
    whitened = np.empty(ROWS)
    fill(along, 0.0, 0)
    fill(squares, 0.0, 0)
    for j in range(axis.size):
        fill(whitened, 0.0, 0)
        for m in range(0 if form in (FULL, TIED) else j, j + 1):
            x, u = tile[m * ROWS : (m + 1) * ROWS], U[m, j]
            for i in range(ROWS):
                whitened[i] += u * x[i]
        x, a = tile[j * ROWS : (j + 1) * ROWS], axis[j]
        for i in range(ROWS):
            squares[i] += whitened[i] * whitened[i]
            along[i] += a * x[i]


@kernel("cuts of components")
def cut(form, X, share, reg_covar, tiles, weights, halves, centre, matrix):  # type: ignore[no-untyped-def]
    """Cut the rows of a component in two ways; return log|L| of its covariance.

    It is NaN, and nothing is cut, if that has no factor.

    Parameters
    ----------
    form
        As for `gmm_dask.mixture.kernels.climb.climb`.
    X, share
        The rows, feature-major, (d, r), and the share of the component in each, (r,), above 0.
    tiles, weights
        Filled with the rows less their mean, (t, d · ROWS), and with their shares, scaled to a mean
        of 1, (t, ROWS); zeros before.
    halves
        Filled with the shares of both halves after each cut, (2, t, 2, ROWS); zeros before.
    centre, matrix
        Filled with mean (d,) and covariance of the rows, a full matrix of this form, (d, d).
    """
    d, r = X.shape
    _fill_tiles(X, share, tiles, weights, centre)
    _write_matrix(form, tiles, weights, r, reg_covar, matrix)
    lower, U = np.zeros((d, d)), np.zeros((d, d))
    if form in (FULL, TIED):
        log_determinant = factorize(matrix, lower, U)
    else:
        log_determinant = _factorize_diagonal(matrix, U)
    if not -np.inf < log_determinant < np.inf:
        return np.nan
    axis = np.empty(d)
    _longest_axis(matrix, axis)
    along, squares = np.empty(tiles.shape[0] * ROWS), np.empty(tiles.shape[0] * ROWS)
    for t in range(tiles.shape[0]):
        rows = slice(t * ROWS, (t + 1) * ROWS)
        _measure(form, tiles[t], axis, U, along[rows], squares[rows])
    middle = np.median(squares[:r])
    for i in range(r):
        t, row = i // ROWS, i % ROWS
        halves[0, t, 0 if along[i] > 0.0 else 1, row] = weights[t, row]
        halves[1, t, 0 if squares[i] < middle else 1, row] = weights[t, row]
    return log_determinant
