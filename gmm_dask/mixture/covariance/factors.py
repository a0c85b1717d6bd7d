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
from gmm_dask.mixture.kernels.compile import kernel


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


@kernel("Cholesky factors")
def _cholesky(matrices, lower, definite):  # type: ignore[no-untyped-def]
    m, d, _ = matrices.shape
    for c in range(m):
        A = matrices[c]
        L = lower[c]
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
                definite[c] = False
                break
            L[i, i] = np.sqrt(rest)


@kernel("inverses of triangular factors")
def _invert(lower, inverse):  # type: ignore[no-untyped-def]
    m, d, _ = lower.shape
    for c in range(m):
        L = lower[c]
        X = inverse[c]
        for i in range(d):
            for l in range(i):  # noqa: E741
                factor = L[i, l]
                for j in range(l + 1):
                    X[i, j] -= factor * X[l, j]
            scale = 1.0 / L[i, i]
            for j in range(i):
                X[i, j] *= scale
            X[i, i] = scale
