"""The kernel of the survey against numpy: orders, dtypes, incomplete tiles, cancellation."""

import numpy as np
import pytest

from gmm_dask.mixture.kernels.moments import column_moments
from gmm_dask.mixture.kernels.tiles import ROWS


@pytest.mark.parametrize("n", [1, 2, ROWS - 1, ROWS, ROWS + 1, 5 * ROWS + 3])
@pytest.mark.parametrize("dtype", ["<f8", "<f4", ">f8", "f2"])
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_moments_are_numpys(n, dtype, order):
    X = np.random.default_rng(n).normal(size=(2 * n, 6)) * 3.0 + 2.0
    X = X.astype(dtype)[::2, ::2] if order == "strided" else X[:n, :3].astype(dtype, order=order)
    mean, squares, minimum, maximum = column_moments(X)
    exact = X.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(squares, n * exact.var(axis=0), rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(minimum, exact.min(axis=0))
    np.testing.assert_array_equal(maximum, exact.max(axis=0))


def test_no_rows_have_an_empty_range():
    mean, squares, minimum, maximum = column_moments(np.empty((0, 2)))
    assert (mean == 0).all()
    assert (squares == 0).all()
    assert (minimum == np.inf).all()
    assert (maximum == -np.inf).all()


@pytest.mark.parametrize("first", [1e9, -1e12, 0.0])
def test_a_first_tile_far_from_the_rest_costs_few_digits(first):
    X = np.random.default_rng(0).normal(size=(100_000, 1)) + 5.0
    X[:ROWS] += first
    mean, squares, _, _ = column_moments(X)
    assert mean[0] == pytest.approx(X.mean(), rel=1e-12)
    assert squares[0] == pytest.approx(len(X) * X.var(), rel=1e-10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 70, 999])
def test_a_mean_is_not_finite_where_a_value_is_not(bad, row):
    X = np.ones((1000, 2))
    X[row, 1] = bad
    mean, _, _, _ = column_moments(X)
    assert mean[0] == 1.0
    assert not np.isfinite(mean[1])
