"""Passes over rows of many features with diagonal covariances: statistics and predictions."""

from __future__ import annotations

import numpy as np

from gmm_dask.mixture.kernels.addresses import NO_VECTOR, doubles
from gmm_dask.mixture.kernels.compile import exact, inlined, kernel
from gmm_dask.mixture.kernels.tiles import ROWS, aligned, prefer_wide_vectors
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
    take_joint,
)

#: Doubles of a block at the most, 512 KB: it stays in the second-level cache.
_BLOCK = 65_536


@inlined
def _first_features(d):  # type: ignore[no-untyped-def]
    """Return how many features the first stage takes: a third, and of many a quarter.

    It needs no lists of rows, so more of them cost little, and the guess is a better one.
    """
    return max(32, 3 * first_features(d)) if d < 256 else 2 * first_features(d)


# A row of an array would be counted as a reference, which takes longer than a stage: addresses.


@inlined
def _square(x_at, mean_at, factor_at, p, q):  # type: ignore[no-untyped-def]
    """Return Σ ((x − μ)/σ)² of the features p … q − 1."""
    prefer_wide_vectors()
    x, mean, factor = doubles(x_at + 8 * p), doubles(mean_at + 8 * p), doubles(factor_at + 8 * p)
    total = 0.0
    for j in range(q - p):
        y = (x[j] - mean[j]) * factor[j]
        total += y * y
    return total


@inlined
def _four_squares(x_at, stride, rows, mean_at, factor_at, p, q):  # type: ignore[no-untyped-def]
    """Return the same of four rows: each mean and factor is loaded once for them."""
    prefer_wide_vectors()
    x0, x1 = doubles(x_at + rows[0] * stride + 8 * p), doubles(x_at + rows[1] * stride + 8 * p)
    x2, x3 = doubles(x_at + rows[2] * stride + 8 * p), doubles(x_at + rows[3] * stride + 8 * p)
    mean, factor = doubles(mean_at + 8 * p), doubles(factor_at + 8 * p)
    s0 = s1 = s2 = s3 = 0.0
    for j in range(q - p):
        mu, u = mean[j], factor[j]
        y0 = (x0[j] - mu) * u
        y1 = (x1[j] - mu) * u
        y2 = (x2[j] - mu) * u
        y3 = (x3[j] - mu) * u
        s0 += y0 * y0
        s1 += y1 * y1
        s2 += y2 * y2
        s3 += y3 * y3
    return s0, s1, s2, s3


@exact
def _add_squares(block, mean, factor, p, q, numbers, squares, m):  # type: ignore[no-untyped-def]
    """Add Σ ((x − μ)/σ)² of the features p … q − 1 of the rows with these numbers."""
    X, stride = block.rows.ctypes.data, 8 * block.rows.shape[1]
    whole = m // 4 * 4
    for a in range(0, whole, 4):
        rows = numbers[a], numbers[a + 1], numbers[a + 2], numbers[a + 3]
        s0, s1, s2, s3 = _four_squares(X, stride, rows, mean, factor, p, q)
        squares[a] += s0
        squares[a + 1] += s1
        squares[a + 2] += s2
        squares[a + 3] += s3
    for a in range(whole, m):
        squares[a] += _square(X + numbers[a] * stride, mean, factor, p, q)


@exact
def _drop(block, constant, numbers, squares, m):  # type: ignore[no-untyped-def]
    """Drop the pairs that have no chance; return how many remain."""
    b = 0
    for a in range(m):
        i, square = numbers[a], squares[a]
        numbers[b], squares[b] = i, square
        b += 0 if constant - 0.5 * square < block.least[i] - SPAN else 1
    return b


@exact
def _log_joint(block, numbers, squares, constants, means, factors, rows):  # type: ignore[no-untyped-def]
    """Write log π p of all pairs that matter; return whether components overlap.

    That is where most pairs of a row with a component that was not guessed came through.
    """
    k, d = means.shape
    w = _first_features(d)
    for c in range(k):
        for i in range(rows):
            numbers[i], squares[i] = i, 0.0
        mean, factor = means[c].ctypes.data, factors[c].ctypes.data
        _add_squares(block, mean, factor, 0, w, numbers, squares, rows)
        for i in range(rows):
            block.squares[c, i] = squares[i]
        guess_component(block, c, constants[c], d, w, rows)
    begin_joint(block, rows)
    remaining = done = most = 0
    for turn in range(2):
        for c in range(k):
            mean, factor = means[c].ctypes.data, factors[c].ctypes.data
            m = select_pairs(block, c, turn, constants[c], rows, numbers)
            for a in range(m):
                squares[a] = block.squares[c, numbers[a]]
            # Where most features are computed all the same, stages cost more than they save.
            staged = turn == 1 and 2 * done <= most
            most += m * (d - w) if staged else 0
            p, step = w, first_features(d) if staged else d
            while m > 0 and p < d:
                q = min(p + step, d)
                done += m * (q - p) if staged else 0
                _add_squares(block, mean, factor, p, q, numbers, squares, m)
                if q < d:
                    m = _drop(block, constants[c], numbers, squares, m)
                p = q
            take_joint(block, c, turn, constants[c], squares, numbers, m)
            remaining += m if turn == 1 else 0
    return k > 1 and 2 * remaining > rows * (k - 1)


@exact
def _add_row(x_at, r, mean_at, F_at, S_at, d):  # type: ignore[no-untyped-def]
    """Add r (x − μ) to F and r (x − μ)² to S, (d,)."""
    prefer_wide_vectors()
    x, mean, F, S = doubles(x_at), doubles(mean_at), doubles(F_at), doubles(S_at)
    for j in range(d):
        residual = x[j] - mean[j]
        weighted = r * residual
        F[j] += weighted
        S[j] += weighted * residual


@kernel("statistics kernel of the diag covariance for many features")
def statistics(  # type: ignore[no-untyped-def]
    source, sample_weight, constants, means, factors, counts, residual_sums, residual_products
):
    """Add N, F and S of the rows to the given arrays; return the log-likelihood and how many rows.

    They are fewer than all where components overlap: the others are for the pass over tiles.
    """
    prefer_wide_vectors()
    k, d = means.shape
    block = begin_block(means, factors, _BLOCK)
    size = block.rows.shape[0]
    numbers, squares = np.empty(size, np.int64), aligned(size)
    log_likelihood = 0.0
    start, crowded = 0, False
    while start < source.n and not crowded:
        rows, _ = load_block(block, source, sample_weight, start, size, d)
        start += rows
        crowded = _log_joint(block, numbers, squares, constants, means, factors, rows)
        log_likelihood += normalise_block(block, rows)
        for c in range(k):
            X, mean = block.rows.ctypes.data, means[c].ctypes.data
            F, S = residual_sums[c].ctypes.data, residual_products[c].ctypes.data
            for i in range(rows):
                r = block.log_joint[i // ROWS, c, i % ROWS]
                if r != 0.0:
                    counts[c] += r
                    _add_row(X + 8 * i * block.rows.shape[1], r, mean, F, S, d)
    for c in range(k):
        for j in range(d):
            residual_sums[c, j] *= factors[c, j]
            residual_products[c, j] *= factors[c, j] * factors[c, j]
    return log_likelihood, start


@kernel("prediction kernel of the diag covariance for many features")
def assign(  # type: ignore[no-untyped-def]
    source, constants, means, factors, labels, densities, certainties, responsibilities
):
    """Write the predictions of all rows; return whether all values are finite."""
    prefer_wide_vectors()
    d = means.shape[1]
    block = begin_block(means, factors, _BLOCK)
    size = block.rows.shape[0]
    numbers, squares = np.empty(size, np.int64), aligned(size)
    finite = True
    for start in range(0, source.n, size):
        rows, all_finite = load_block(block, source, NO_VECTOR, start, size, d)
        finite = finite and all_finite
        _log_joint(block, numbers, squares, constants, means, factors, rows)
        assign_block(block, start, rows, labels, densities, certainties, responsibilities)
    return finite
