"""Passes over rows of many features with full covariances: statistics and predictions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gmm_dask.mixture.kernels.addresses import NO_VECTOR
from gmm_dask.mixture.kernels.blas import add_product, add_squares, multiply_by_upper
from gmm_dask.mixture.kernels.compile import allocating, exact, inlined, kernel
from gmm_dask.mixture.kernels.tiles import ROWS, aligned, aligned_rows, prefer_wide_vectors
from gmm_dask.mixture.kernels.whitening import mirror
from gmm_dask.mixture.row_major.blocks import (
    SPAN,
    assign_block,
    begin_block,
    begin_joint,
    first_features,
    guess_component,
    load_block,
    normalise_block,
    select_pairs,
    sum_of_squares,
    take_joint,
)

#: Doubles of a block at the most: 4 MB.
_BLOCK = 524_288
#: Doubles that keep whitened rows until their responsibilities are known: 4 MB more than a block.
_KEPT = 524_288
#: Rows are moved together where a stage leaves fewer than this of them.
_FEWER = 0.8
#: Up to this many features, the pass over tiles is faster where components overlap.
_TILES = 256


class Pairs(NamedTuple):
    """The buffers for pairs of a row and a component.

    Attributes
    ----------
    residuals
        x − μ of the pairs at hand, (B, stride).
    whitened
        y of the pairs at hand and of those that are kept, (kept + B, stride).
    numbers
        The rows of the pairs in ``whitened``, (kept + B,).
    squares
        |y|² of the pairs at hand, (B,).
    first, count
        Where the pairs of a turn and component are kept, or −1; and how many they are, (2, k).
    """

    residuals: Any
    whitened: Any
    numbers: Any
    squares: Any
    first: Any
    count: Any


@allocating
@inlined
def _begin_pairs(block, keep):  # type: ignore[no-untyped-def]
    size, stride = block.rows.shape
    k = block.squares.shape[0]
    kept = min(size + _KEPT // stride, size * k) if keep else 0
    return Pairs(
        aligned_rows(size, stride),
        aligned_rows(kept + size, stride),
        np.empty(kept + size, np.int64),
        aligned(size),
        np.empty((2, k), np.int64),
        np.empty((2, k), np.int64),
    )


@exact
def _subtract(X, numbers, m, mean, d, residuals):  # type: ignore[no-untyped-def]
    """Write x − μ of the rows with these numbers, the first d features."""
    prefer_wide_vectors()
    for a in range(m):
        x, residual = X[numbers[a]], residuals[a]
        for j in range(d):
            residual[j] = x[j] - mean[j]


@exact
def _whiten_stage(residuals, whitened, U, squares, m, p, q):  # type: ignore[no-untyped-def]
    """Write the features p … q − 1 of y = Uᵀ(x − μ), and add their squares."""
    prefer_wide_vectors()
    d, stride = U.shape[0], residuals.shape[1]
    for a in range(m):
        residual, y = residuals[a], whitened[a]
        for j in range(p, q):
            y[j] = residual[j]
    target, factor = whitened.ctypes.data + 8 * p, U.ctypes.data + 8 * p
    multiply_by_upper(target, stride, m, factor + 8 * p * d, d, q - p)
    if p > 0:
        add_product(residuals.ctypes.data, stride, factor, d, target, stride, m, p, q - p)
    for a in range(m):
        squares[a] += sum_of_squares(whitened[a], p, q)


@exact
def _drop(block, residuals, whitened, numbers, squares, m, q, constant):  # type: ignore[no-untyped-def]
    """Drop the pairs that have no chance after q features; return how many remain."""
    prefer_wide_vectors()
    d = residuals.shape[1]
    remaining = 0
    for a in range(m):
        remaining += not constant - 0.5 * squares[a] < block.least[numbers[a]] - SPAN
    if remaining >= _FEWER * m:
        return m
    b = 0
    for a in range(m):
        if not constant - 0.5 * squares[a] < block.least[numbers[a]] - SPAN:
            numbers[b], squares[b] = numbers[a], squares[a]
            for j in range(d):
                residuals[b, j] = residuals[a, j]
            for j in range(q):
                whitened[b, j] = whitened[a, j]
            b += 1
    return b


@exact
def _guess(block, pairs, constants, means, factors, rows):  # type: ignore[no-untyped-def]
    """Guess the component of each row by its first features."""
    k, d = means.shape
    w = first_features(d)
    residuals = pairs.residuals
    for i in range(rows):
        pairs.numbers[i] = i
    for c in range(k):
        _subtract(block.rows, pairs.numbers, rows, means[c], w, residuals)
        U = factors[c].ctypes.data
        multiply_by_upper(residuals.ctypes.data, residuals.shape[1], rows, U, d, w)
        for i in range(rows):
            block.squares[c, i] = sum_of_squares(residuals[i], 0, w)
        guess_component(block, c, constants[c], d, w, rows)


@exact
def _log_joint(block, pairs, constants, means, factors, rows):  # type: ignore[no-untyped-def]
    """Write log π p of all pairs that matter; keep their whitened residuals where there is room.

    Returns
    -------
    room
        Whether there was room for all.
    crowded
        Whether most pairs of a row with a component that was not guessed came through.
    """
    k, d = means.shape
    residuals, squares = pairs.residuals, pairs.squares
    room = pairs.whitened.shape[0] - block.rows.shape[0]
    used = 0
    wanted = chosen = remaining = 0
    _guess(block, pairs, constants, means, factors, rows)
    begin_joint(block, rows)
    for turn in range(2):
        for c in range(k):
            m = select_pairs(block, c, turn, constants[c], rows, pairs.numbers[room:])
            keep = used + m <= room
            first = used if keep else room
            numbers, whitened = pairs.numbers[first:], pairs.whitened[first:]
            for a in range(m):
                numbers[a] = pairs.numbers[room + a]
                squares[a] = 0.0
            _subtract(block.rows, numbers, m, means[c], d, residuals)
            # Where most pairs come through, stages cost more than they save.
            staged = turn == 1 and 2 * remaining <= chosen
            chosen += m if turn == 1 else 0
            p, q = 0, first_features(d) if staged else d
            while m > 0 and p < d:
                _whiten_stage(residuals, whitened, factors[c], squares, m, p, q)
                if q < d:
                    m = _drop(block, residuals, whitened, numbers, squares, m, q, constants[c])
                p, q = q, min(2 * q, d)
            take_joint(block, c, turn, constants[c], squares, numbers, m)
            pairs.first[turn, c] = first if keep else -1
            pairs.count[turn, c] = m
            used += m if keep else 0
            wanted += m
            remaining += m if turn == 1 else 0
    return wanted <= room, k > 1 and 2 * remaining > rows * (k - 1)


@exact
def _whiten_again(block, pairs, c, turn, mean, U, rows, room):  # type: ignore[no-untyped-def]
    """Whiten the pairs of a turn and component for which there was no room."""
    numbers, m = pairs.numbers[room:], 0
    for i in range(rows):
        if (block.guess[i] == c) == (turn == 0) and block.log_joint[i // ROWS, c, i % ROWS] != 0.0:
            numbers[m] = i
            m += 1
    _subtract(block.rows, numbers, m, mean, len(mean), pairs.residuals)
    _whiten_stage(pairs.residuals, pairs.whitened[room:], U, pairs.squares, m, 0, len(mean))
    return m


@exact
def _add_pairs(block, numbers, whitened, c, m, F, S):  # type: ignore[no-untyped-def]
    """Add Σ r y to F and Σ r y yᵀ to the lower triangle of S; return Σ r."""
    prefer_wide_vectors()
    d, stride = F.shape[0], whitened.shape[1]
    count = 0.0
    for a in range(m):
        i, y = numbers[a], whitened[a]
        r = block.log_joint[i // ROWS, c, i % ROWS]
        count += r
        root = np.sqrt(r)
        for j in range(d):
            y[j] *= root
            F[j] += root * y[j]
    add_squares(whitened.ctypes.data, stride, m, S.ctypes.data, d)
    return count


@kernel("statistics kernel of the full covariance for many features")
def statistics(  # type: ignore[no-untyped-def]
    source, sample_weight, constants, means, factors, counts, residual_sums, residual_products
):
    """Add N, F and S of the rows to the given arrays; return the log-likelihood and how many rows.

    They are fewer than all where components overlap: the others are for the pass over tiles.
    """
    prefer_wide_vectors()
    k, d = means.shape
    block = begin_block(means, factors, _BLOCK)
    pairs = _begin_pairs(block, True)
    room = pairs.whitened.shape[0] - block.rows.shape[0]
    log_likelihood = 0.0
    start, size, crowded = 0, block.rows.shape[0], False
    while start < source.n and not (crowded and d <= _TILES):
        rows, _ = load_block(block, source, sample_weight, start, size, d)
        start += rows
        enough, crowded = _log_joint(block, pairs, constants, means, factors, rows)
        if not enough and size > ROWS:
            size //= 2  # fewer rows at once leave room for all their pairs
        log_likelihood += normalise_block(block, rows)
        for c in range(k):
            for turn in range(2):
                first, m = pairs.first[turn, c], pairs.count[turn, c]
                if m > 0 and first < 0:
                    first = room
                    m = _whiten_again(block, pairs, c, turn, means[c], factors[c], rows, room)
                if m > 0:
                    numbers, whitened = pairs.numbers[first:], pairs.whitened[first:]
                    F, S = residual_sums[c], residual_products[c]
                    counts[c] += _add_pairs(block, numbers, whitened, c, m, F, S)
    for c in range(k):
        mirror(residual_products[c])
    return log_likelihood, start


@kernel("prediction kernel of the full covariance for many features")
def assign(  # type: ignore[no-untyped-def]
    source, constants, means, factors, labels, densities, certainties, responsibilities
):
    """Write the predictions of all rows; return whether all values are finite."""
    prefer_wide_vectors()
    d = means.shape[1]
    block = begin_block(means, factors, _BLOCK)
    pairs = _begin_pairs(block, False)
    finite = True
    for start in range(0, source.n, block.rows.shape[0]):
        rows, all_finite = load_block(block, source, NO_VECTOR, start, block.rows.shape[0], d)
        finite = finite and all_finite
        _log_joint(block, pairs, constants, means, factors, rows)
        assign_block(block, start, rows, labels, densities, certainties, responsibilities)
    return finite
