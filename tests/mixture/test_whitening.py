"""The two loops in vector instructions against plain loops."""

import numpy as np
import pytest

from benchmarks import plain_loops
from gmm_dask.mixture.kernels import whitening
from gmm_dask.mixture.kernels.tiles import ROWS, aligned, aligned_singles

FEATURES = [1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 33]


def filled(rng, size, allocate=aligned):
    """Random numbers in an array that is aligned for vectors."""
    values = allocate(size)
    values[:] = rng.normal(size=size)
    return values


# Features are worked on in groups of 4: fewer, every remainder, several groups.
@pytest.mark.parametrize(("allocate", "error"), [(aligned, 1e-12), (aligned_singles, 1e-4)])
@pytest.mark.parametrize("d", FEATURES)
def test_vector_instructions_give_what_plain_loops_give(d, allocate, error):
    rng = np.random.default_rng(d)
    tile = filled(rng, d * ROWS, allocate)
    mean = rng.normal(size=d).astype(tile.dtype)
    U = np.triu(rng.normal(size=(d, d))).astype(tile.dtype)
    responsibilities = filled(rng, ROWS) ** 2
    outcomes = []
    for loops in (whitening, plain_loops):
        residuals, whitened, squares = (allocate(size) for size in (d * ROWS, d * ROWS, ROWS))
        loops.whiten(tile, mean, U, residuals, whitened, squares)
        weighted, F, S = allocate(d * ROWS), np.ones(d), np.ones((d, d))
        shares = allocate(ROWS)
        shares[:] = responsibilities
        loops.add_products(whitened, shares, weighted, F, S)
        outcomes.append((whitened, squares, F, np.tril(S)))
    for vectorized, plain in zip(*outcomes, strict=True):
        np.testing.assert_allclose(vectorized, plain, rtol=error, atol=error)


@pytest.mark.parametrize("d", FEATURES)
def test_whitening_from_a_shift_adds_it(d):
    rng = np.random.default_rng(d)
    tile, mean, shift = filled(rng, d * ROWS), rng.normal(size=d), rng.normal(size=d)
    U = np.triu(rng.normal(size=(d, d)))
    residuals, whitened, squares = aligned(d * ROWS), aligned(d * ROWS), aligned(ROWS)
    whitening.whiten_from(tile, mean, U, residuals, whitened, squares, shift)
    y = U.T @ (tile.reshape(d, ROWS) - mean[:, None]) + shift[:, None]
    np.testing.assert_allclose(whitened.reshape(d, ROWS), y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(squares, (y * y).sum(axis=0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "error"), [(np.float64, 1e-15), (np.float32, 1e-6)])
def test_rows_of_a_tile_are_summed_wherever_they_lie(dtype, error):
    numbers = np.random.default_rng(0).normal(size=ROWS + 8).astype(dtype)
    for start in range(8):
        rows = numbers[start : start + ROWS]
        size = np.abs(rows).sum(dtype=float)
        assert abs(whitening.sum_rows(rows) - rows.sum(dtype=float)) <= error * size
