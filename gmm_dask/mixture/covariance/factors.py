"""Cholesky factors and their inverses, for many matrices in one call.

An M-step consists of little else. numpy inverts a triangular matrix as if it were full, which takes
several times as long; and where one matrix of a stack has no factor, it raises an exception instead
of factorizing the others. Small matrices have loops of our own; large ones go to LAPACK, which
works in blocks that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.kernels.addresses import writable
from gmm_dask.mixture.kernels.blas import factorize, invert_lower, transform_by_lower
from gmm_dask.mixture.kernels.compile import inlined, kernel
from gmm_dask.mixture.threads import available_cores, single_threaded

Result = TypeVar("Result")

#: Features of a large matrix. From here on LAPACK is faster; smaller ones keep their bits.
LARGE = 128


def each_large(work: Callable[[slice], Result], m: int, d: int) -> list[Result]:
    """Call a function with slices that make up m matrices: one by one and on threads if large.

    Their bits are the same: each matrix is computed by itself.
    """
    if m <= 1 or d < LARGE:
        return [work(slice(None))]

    def alone(c: int) -> Result:
        with single_threaded():
            return work(slice(c, c + 1))

    with ThreadPoolExecutor(min(m, available_cores())) as pool:
        return list(pool.map(alone, range(m)))


def cholesky(matrices: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Compute the lower triangular L with L Lᵀ = A of each of (m, d, d) symmetric matrices.

    Returns
    -------
    lower
        (m, d, d); without meaning where A has no factor.
    definite
        (m,) False where A is not positive definite, or not finite.
    """
    definite = np.ones(len(matrices), dtype=np.bool_)
    if matrices.shape[1] >= LARGE:
        lower = np.array(matrices, dtype=np.float64, order="C")
        with single_threaded():
            _cholesky_of_large(lower, definite)
        return lower, definite
    lower = np.zeros(matrices.shape)
    _cholesky(writable(matrices), lower, definite)
    return lower, definite


def inverse_of_lower(lower: FloatArray) -> FloatArray:
    """Invert each of (m, d, d) lower triangular matrices without zeros on their diagonals."""
    if lower.shape[1] >= LARGE:
        inverse = np.array(lower, dtype=np.float64, order="C")
        with single_threaded():
            _invert_large(inverse)
        return inverse
    inverse = np.zeros(lower.shape)
    _invert(writable(lower), inverse)
    return inverse


def transform_each(lower: FloatArray, matrices: FloatArray) -> FloatArray:
    """Compute L A Lᵀ of each of (m, d, d) symmetric matrices, symmetric to the last bit."""
    if lower.shape[1] >= LARGE:
        transformed = np.array(matrices, dtype=np.float64, order="C")
        with single_threaded():
            _transform_large(writable(lower), transformed)
        return transformed
    transformed = np.matmul(np.matmul(lower, matrices), lower.mT)
    return 0.5 * (transformed + transformed.mT)


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


@kernel("Cholesky factors of large matrices")
def _cholesky_of_large(lower, definite):  # type: ignore[no-untyped-def]
    m, d, _ = lower.shape
    for c in range(m):
        L = lower[c]
        definite[c] = factorize(L.ctypes.data, d)
        for i in range(d):
            definite[c] &= 0.0 < L[i, i] < np.inf
            for j in range(i + 1, d):
                L[i, j] = 0.0


@kernel("inverses of large triangular factors")
def _invert_large(inverse):  # type: ignore[no-untyped-def]
    m, d, _ = inverse.shape
    for c in range(m):
        invert_lower(inverse[c].ctypes.data, d)


@kernel("M-step of large matrices")
def _transform_large(lower, matrices):  # type: ignore[no-untyped-def]
    m, d, _ = matrices.shape
    for c in range(m):
        A = matrices[c]
        transform_by_lower(A.ctypes.data, lower[c].ctypes.data, d)
        for i in range(d):
            for j in range(i):
                A[i, j] = A[j, i] = 0.5 * (A[i, j] + A[j, i])
