"""The two loops in vector instructions against plain loops."""

import numpy as np
import pytest

from benchmarks import plain_loops
from gmm_dask.mixture.kernels import whitening
from gmm_dask.mixture.kernels.tiles import ROWS, aligned


def filled(rng, size):
    """Random numbers in an array that is aligned for vectors."""
    values = aligned(size)
    values[:] = rng.normal(size=size)
    return values


# Features are worked on in groups of 4: fewer, every remainder, several groups.
@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 33])
def test_vector_instructions_give_what_plain_loops_give(d):
    rng = np.random.default_rng(d)
    tile, mean = filled(rng, d * ROWS), rng.normal(size=d)
    U = np.triu(rng.normal(size=(d, d)))
    responsibilities = filled(rng, ROWS) ** 2
    outcomes = []
    for loops in (whitening, plain_loops):
        residuals, whitened, squares = aligned(d * ROWS), aligned(d * ROWS), aligned(ROWS)
        loops.whiten(tile, mean, U, residuals, whitened, squares)
        weighted, F, S = aligned(d * ROWS), np.ones(d), np.ones((d, d))
        shares = aligned(ROWS)
        shares[:] = responsibilities
        loops.add_products(whitened, shares, weighted, F, S)
        outcomes.append((whitened, squares, F, np.tril(S)))
    for vectorized, plain in zip(*outcomes, strict=True):
        np.testing.assert_allclose(vectorized, plain, rtol=1e-12, atol=1e-12)
