"""Cholesky factors and their inverses, for many small matrices in one call.

An M-step consists of little else. numpy inverts a triangular matrix as if it were full, which takes
several times as long; and where one matrix of a stack has no factor, it raises an exception instead
of factorizing the others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.kernels.addresses import writable
from gmm_dask.mixture.kernels.compile import inlined, kernel


def cholesky(matrices: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Compute the lower triangular L with L Lᵀ = A of each of (m, d, d) symmetric matrices.

    Returns
    -------
    lower
        (m, d, d); without meaning where A has no factor.
    definite
        (m,) False where A is not positive definite, or not finite.
    """
    lower = np.zeros(matrices.shape)
    definite = np.ones(len(matrices), dtype=np.bool_)
    _cholesky(writable(matrices), lower, definite)
    return lower, definite


def inverse_of_lower(lower: FloatArray) -> FloatArray:
    """Invert each of (m, d, d) lower triangular matrices without zeros on their diagonals."""
    inverse = np.zeros(lower.shape)
    _invert(writable(lower), inverse)
    return inverse


@inlined
def factorize_matrix(A, L):  # type: ignore[no-untyped-def]
    """Write the lower triangle of the Cholesky factor; return whether there is a factor."""
    d = A.shape[0]
    for i in range(d):
        for j in range(i):
            rest = A[i, j]
            for l in range(j):  # noqa: E741
                rest -= L[i, l] * L[j, l]
            L[i, j] = rest / L[j, j]
        rest = A[i, i]
        for l in range(i):  # noqa: E741
            rest -= L[i, l] * L[i, l]
        if not 0.0 < rest < np.inf:  # nor NaN
            return False
        L[i, i] = np.sqrt(rest)
    return True


@inlined
def invert_matrix(L, X):  # type: ignore[no-untyped-def]
    """Write the lower triangle of the inverse of a lower triangular matrix."""
    d = L.shape[0]
    for i in range(d):
        for j in range(i):
            X[i, j] = 0.0
        for l in range(i):  # noqa: E741
            factor = L[i, l]
            for j in range(l + 1):
                X[i, j] -= factor * X[l, j]
        scale = 1.0 / L[i, i]
        for j in range(i):
            X[i, j] *= scale
        X[i, i] = scale


@kernel("Cholesky factors")
def _cholesky(matrices, lower, definite):  # type: ignore[no-untyped-def]
    for c in range(matrices.shape[0]):
        definite[c] = factorize_matrix(matrices[c], lower[c])


@kernel("inverses of triangular factors")
def _invert(lower, inverse):  # type: ignore[no-untyped-def]
    for c in range(lower.shape[0]):
        invert_matrix(lower[c], inverse[c])
