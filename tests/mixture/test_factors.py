"""Cholesky factors and inverses of many small matrices."""

import numpy as np
import pytest

from gmm_dask.mixture.covariance.factors import (
    LARGE,
    cholesky,
    inverse_of_lower,
    transform_each,
)


def definite(m, d, condition=10.0):
    """Symmetric matrices with eigenvalues from 1 to the condition."""
    random = np.random.default_rng(d)
    axes = np.linalg.qr(random.normal(size=(m, d, d)))[0]
    matrices = (axes * np.geomspace(1.0, condition, d)) @ axes.mT
    return 0.5 * (matrices + matrices.mT)


@pytest.mark.parametrize("d", [1, 2, 3, 8, 17, LARGE + 3])
@pytest.mark.parametrize("condition", [1.0, 1e6, 1e12])
def test_factors_and_inverses_are_exact_to_rounding(d, condition):
    matrices = definite(5, d, condition)
    lower, positive = cholesky(matrices)
    assert positive.all()
    np.testing.assert_array_equal(np.triu(lower, 1), 0.0)
    np.testing.assert_allclose(lower @ lower.mT, matrices, rtol=0, atol=1e-14 * condition)
    inverse = inverse_of_lower(lower)
    np.testing.assert_array_equal(np.triu(inverse, 1), 0.0)
    # The bound of Higham, Accuracy and Stability of Numerical Algorithms, 14.2, entry by entry.
    rounding = d * np.finfo(float).eps * np.abs(inverse) @ np.abs(lower)
    assert (np.abs(inverse @ lower - np.eye(d)) <= 2 * rounding).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 0.0])
@pytest.mark.parametrize("d", [3, LARGE])
def test_a_matrix_without_a_factor_is_reported_and_the_others_are_factorized(d, bad):
    matrices = definite(4, d)
    expected = np.linalg.cholesky(matrices)
    matrices[2, 1, 1] = bad
    lower, positive = cholesky(matrices)
    assert positive.tolist() == [True, True, False, True]
    np.testing.assert_allclose(lower[positive], expected[positive], atol=1e-14)


def test_the_layout_of_the_matrices_does_not_matter():
    matrices = definite(3, 4)
    expected = cholesky(matrices)[0]
    frozen = matrices.copy()
    frozen.flags.writeable = False
    for laid_out in (np.asfortranarray(matrices), matrices.mT, frozen, matrices[::-1][::-1]):
        np.testing.assert_array_equal(cholesky(laid_out)[0], expected)
        np.testing.assert_array_equal(
            inverse_of_lower(cholesky(laid_out)[0]), inverse_of_lower(expected)
        )


@pytest.mark.parametrize("d", [5, LARGE + 1])
def test_transformed_matrices_are_symmetric_to_the_last_bit(d):
    matrices = definite(2, d)
    lower = cholesky(definite(2, d)[::-1])[0]
    transformed = transform_each(lower, matrices)
    np.testing.assert_array_equal(transformed, transformed.mT)
    np.testing.assert_allclose(transformed, lower @ matrices @ lower.mT, rtol=0, atol=1e-11)


def test_an_empty_stack_has_no_factors():
    lower, positive = cholesky(np.empty((0, 3, 3)))
    assert lower.shape == (0, 3, 3)
    assert positive.shape == (0,)
