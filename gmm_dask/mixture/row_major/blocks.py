"""Blocks of rows, on which the passes for many features work, and the choice of what to compute.

A block holds up to 1,024 rows, each in one piece, in float64. Its log π p lie in tiles, so that the
same functions as in the other passes turn them into responsibilities.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gmm_dask.mixture.kernels.addresses import doubles, singles
from gmm_dask.mixture.kernels.compile import allocating, exact, inlined
from gmm_dask.mixture.kernels.densities import assign_tile, dot, normalise
from gmm_dask.mixture.kernels.tiles import (
    ROWS,
    aligned,
    aligned_rows,
    fill,
    largest,
    load_weights,
    prefer_wide_vectors,
)
from gmm_dask.mixture.kernels.walk import Walk

#: A component is left out for a row where its log π p is at least this far below the best, nats.
#:
#: Its responsibility is below e⁻³⁷ < 1e-16. And it is certain: squares only add up, so that after
#: some features constant − ½|y|² is above the log π p that all features give, while that of the
#: component it is compared with is known, and no more than the best.
SPAN = 37.0
#: Doubles of a cache line.
_LINE = 8


class Block(NamedTuple):
    """The buffers of a pass that walks over rows, block by block.

    Attributes
    ----------
    rows
        The current rows, (B, stride), of which the first d columns are used.
    weights
        Their sample weights, (B / ROWS, ROWS).
    log_joint
        log π p of each component, −inf where it was left out; then responsibilities times weights,
        (B / ROWS, k, ROWS).
    top
        The largest log π p of each row, then log p(x), (B / ROWS, ROWS).
    squares
        |y|² over the first features, (k, B): log π p cannot exceed what these alone would give.
    guess
        The component that these features suggest, (B,).
    least
        What the best log π p is at least, (B,).
    scratch
        Two numbers for each row of a tile, (2 · ROWS,).
    largest_mean, largest_factor
        Largest magnitudes in means and factors, by which values too far out are found.
    """

    rows: Any
    weights: Any
    log_joint: Any
    top: Any
    squares: Any
    guess: Any
    least: Any
    scratch: Any
    largest_mean: float
    largest_factor: float


@allocating
@inlined
def begin_block(means, factors, most):  # type: ignore[no-untyped-def]
    """Allocate the buffers of a pass whose blocks have that many doubles at the most."""
    k, d = means.shape
    stride = stride_of(d)
    size = 8 * ROWS
    while size > ROWS and size * max(stride, k) > most:
        size //= 2
    tiles = size // ROWS
    return Block(
        aligned_rows(size, stride),
        aligned_rows(tiles, ROWS),
        aligned(tiles * k * ROWS).reshape((tiles, k, ROWS)),
        aligned_rows(tiles, ROWS),
        aligned_rows(k, size),
        np.empty(size, np.int64),
        aligned(size),
        aligned(2 * ROWS),
        largest(means),
        largest(factors),
    )


@inlined
def stride_of(d):  # type: ignore[no-untyped-def]
    """Return the doubles from one row to the next: cache lines, in an odd number.

    Else the same feature of many rows would compete for the same place in the cache.
    """
    return ((d + 7) // 8 | 1) * 8


@inlined
def first_features(d):  # type: ignore[no-untyped-def]
    """Return how many features the first stage takes, an eighth of them."""
    return max(16, d // 64 * 8)


@exact
def load_block(block, source, sample_weight, start, size, d):  # type: ignore[no-untyped-def]
    """Load up to ``size`` rows from start on; return how many, and whether all are finite.

    Values so far out that squares of whitened residuals would overflow are clipped, as for tiles.
    """
    prefer_wide_vectors()
    X = block.rows
    target, stride = X.ctypes.data, X.shape[1]
    rows = min(size, source.n - start)
    address = source.address + start * source.row_stride
    if source.column_stride == source.itemsize:
        for i in range(rows):
            _copy_row(target + 8 * i * stride, address + i * source.row_stride, source.itemsize, d)
    else:
        for j in range(0, d, _LINE):
            _copy_columns(target, stride, j, min(j + _LINE, d), address, source, rows)
    magnitude = 0.0
    for i in range(rows):
        magnitude += _magnitude(target + 8 * i * stride, d)
    scale = max(1.0, block.largest_factor)
    if not (magnitude + d * block.largest_mean) * scale < 1e145:
        limit = 1e150 / (d * scale)
        for i in range(rows):
            for j in range(d):
                if X[i, j] > limit:
                    X[i, j] = limit
                elif X[i, j] < -limit:
                    X[i, j] = -limit
    for t in range(block.top.shape[0]):
        left = min(max(rows - t * ROWS, 0), ROWS)
        load_weights(block.weights[t], sample_weight, start + t * ROWS, left)
    return rows, magnitude < np.inf


@exact
def _copy_row(target_at, address, itemsize, d):  # type: ignore[no-untyped-def]
    prefer_wide_vectors()
    target = doubles(target_at)
    if itemsize == 4:
        narrow = singles(address)
        for j in range(d):
            target[j] = narrow[j]
    else:
        wide = doubles(address)
        for j in range(d):
            target[j] = wide[j]


@exact
def _copy_columns(target, stride, first, stop, address, source, rows):  # type: ignore[no-untyped-def]
    """Copy some features of the rows from a feature-major array, a cache line of a row at once."""
    for i in range(rows):
        place, row = address + i * source.row_stride, doubles(target + 8 * i * stride)
        if source.itemsize == 4:
            for j in range(first, stop):
                row[j] = singles(place + j * source.column_stride)[0]
        else:
            for j in range(first, stop):
                row[j] = doubles(place + j * source.column_stride)[0]


@inlined
def _magnitude(address, d):  # type: ignore[no-untyped-def]
    prefer_wide_vectors()
    row = doubles(address)
    total = 0.0
    for j in range(d):
        total += abs(row[j])
    return total


@inlined
def sum_of_squares(row, p, q):  # type: ignore[no-untyped-def]
    """Return Σ y² of the features p … q − 1 of a row."""
    prefer_wide_vectors()
    features = row[p:q]  # from 0 on: an index that may be negative makes no vector instructions
    total = 0.0
    for j in range(q - p):
        total += features[j] * features[j]
    return total


@exact
def begin_joint(block, rows):  # type: ignore[no-untyped-def]
    """Leave out every component of every row; the places behind the last row get finite values."""
    tiles, k, _ = block.log_joint.shape
    for t in range(tiles):
        left = min(max(rows - t * ROWS, 0), ROWS)
        for c in range(k):
            fill(block.log_joint[t, c], 0.0, 0)
            for i in range(left):
                block.log_joint[t, c, i] = -np.inf


@exact
def guess_component(block, c, constant, d, w, rows):  # type: ignore[no-untyped-def]
    """Look whether the squares over the first w features suggest component c.

    ``least`` holds the score of the guess: log π p if the other features were like these.
    """
    prefer_wide_vectors()
    squares = block.squares[c]
    for i in range(rows):
        score = constant - 0.5 * squares[i] * d / w
        if c == 0 or score > block.least[i]:
            block.least[i] = score
            block.guess[i] = c


@exact
def select_pairs(block, c, turn, constant, rows, pairs):  # type: ignore[no-untyped-def]
    """Select the rows of which log π p of component c is to be computed; return how many.

    In turn 0, those that are guessed to belong to it; in turn 1, of the others those for which it
    may matter. The comparison is such that rows with NaN are selected.
    """
    squares, m = block.squares[c], 0
    for i in range(rows):  # without branches, whose outcome no processor could foresee
        pairs[m] = i
        if turn == 0:
            m += 1 if block.guess[i] == c else 0
        else:
            hopeless = constant - 0.5 * squares[i] < block.least[i] - SPAN
            m += 0 if hopeless or block.guess[i] == c else 1
    return m


@exact
def take_joint(block, c, turn, constant, squares, pairs, m):  # type: ignore[no-untyped-def]
    """Write log π p of component c for the pairs that remain to the end."""
    for a in range(m):
        i = pairs[a]
        value = constant - 0.5 * squares[a]
        block.log_joint[i // ROWS, c, i % ROWS] = value
        if turn == 0 or value > block.least[i]:
            block.least[i] = value


@exact
def _find_top(log_joint, top):  # type: ignore[no-untyped-def]
    prefer_wide_vectors()
    for c in range(log_joint.shape[0]):
        joint = log_joint[c]
        for i in range(ROWS):
            highest = top[i]
            top[i] = joint[i] if c == 0 or joint[i] > highest else highest


@inlined
def normalise_block(block, rows):  # type: ignore[no-untyped-def]
    """Turn log π p into responsibilities times sample weights; return Σ w log p(x) of the block."""
    log_likelihood = 0.0
    for t in range((rows + ROWS - 1) // ROWS):
        _find_top(block.log_joint[t], block.top[t])
        normalise(block.log_joint[t], block.weights[t], block.top[t], block.scratch)
        log_likelihood += dot(block.weights[t], block.top[t])
    return log_likelihood


@inlined
def assign_block(  # type: ignore[no-untyped-def]
    block, start, rows, labels, densities, certainties, responsibilities
):
    """Write the predictions for the rows of a block to the arrays of the caller."""
    for t in range((rows + ROWS - 1) // ROWS):
        _find_top(block.log_joint[t], block.top[t])
        tile = Walk(
            block.least,
            block.weights[t],
            block.log_joint[t],
            block.log_joint[t],
            block.top[t],
            block.scratch,
            0.0,
            0.0,
        )
        first = t * ROWS
        left = min(ROWS, rows - first)
        assign_tile(tile, start + first, left, labels, densities, certainties, responsibilities)
