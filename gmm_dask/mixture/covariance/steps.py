"""The M-step of one covariance matrix, compiled: a search takes thousands of small ones.

Full and tied covariances share it. As calls of numpy, the step of a few small matrices takes
several times as long, and holds the interpreter's lock meanwhile. Large matrices are left to numpy,
whose products are faster (`COMPILED_FEATURES`).
"""

from __future__ import annotations

import numpy as np

from gmm_dask.mixture.covariance.factors import factorize_matrix, invert_matrix
from gmm_dask.mixture.kernels.compile import allocating, inlined

#: The most features for which the compiled step is faster.
COMPILED_FEATURES = 48

_EPS = float(np.finfo(np.float64).eps)


@inlined
def _with_floor(V, U, reg_covar, i, j):  # type: ignore[no-untyped-def]
    """Return entry (i, j) of V + reg_covar·UᵀU, j ≤ i."""
    total = 0.0
    for m in range(j + 1):
        total += U[m, i] * U[m, j]
    return V[i, j] + reg_covar * total


@inlined
def _cancelled(V, squares, U, reg_covar, shifted, lower):  # type: ignore[no-untyped-def]
    """Tell whether V has lost too many digits, as `cancelled_matrices` does; two are scratch."""
    d = squares.size
    ratio, positive = 0.0, True
    for j in range(d):
        variance = _with_floor(V, U, reg_covar, j, j)
        shifted[j, j] = variance
        positive = positive and variance > 0.0
        if squares[j] > 1e-20:
            ratio = max(ratio, squares[j] / max(variance, 1e-300))
    threshold = 64e10 * _EPS * ratio
    if threshold >= 1.0:
        return True
    if threshold <= 64.0 * _EPS or not positive:
        return False
    for i in range(d):
        for j in range(i):
            shifted[i, j] = _with_floor(V, U, reg_covar, i, j)
        shifted[i, i] -= threshold * shifted[i, i]
    return not factorize_matrix(shifted, lower)


@inlined
def _spread_out(V, lower, product, reg_covar, covariance):  # type: ignore[no-untyped-def]
    """Write L V Lᵀ + reg_covar; ``product`` is scratch for L V."""
    d = covariance.shape[0]
    for i in range(d):
        for j in range(d):
            product[i, j] = 0.0
        for m in range(i + 1):
            factor = lower[i, m]
            for j in range(d):
                product[i, j] += factor * V[m, j]
        for j in range(i + 1):
            total = 0.0
            for m in range(j + 1):
                total += product[i, m] * lower[j, m]
            covariance[i, j] = total
            covariance[j, i] = total
        covariance[i, i] += reg_covar


@allocating
@inlined
def scratch_for(d):  # type: ignore[no-untyped-def]
    """Allocate what `update_matrix` needs: V, the subtracted squares, L, and two more matrices."""
    return np.empty((d, d)), np.empty(d), np.zeros((d, d)), np.empty((d, d)), np.empty((d, d))


@inlined
def update_matrix(covariance, U, keep, reg_covar, scratch):  # type: ignore[no-untyped-def]
    """Write Σ' = L V Lᵀ + reg_covar in place of Σ, and L; return whether V has cancelled.

    Parameters
    ----------
    covariance, U
        Σ, which stays if V has cancelled, and the factor of its precision.
    keep
        Whether Σ stays in any case.
    scratch
        From `scratch_for`, with V and with the diagonal of what was subtracted from it.
    """
    V, squares, lower, first, second = scratch
    lost = _cancelled(V, squares, U, reg_covar, first, second)
    invert_matrix(U.T, lower)
    if not (lost or keep):
        _spread_out(V, lower, first, reg_covar, covariance)
    return lost


@inlined
def shift_mean(lower, delta, shift):  # type: ignore[no-untyped-def]
    """Write L δ."""
    for i in range(delta.size):
        total = 0.0
        for j in range(i + 1):
            total += lower[i, j] * delta[j]
        shift[i] = total


@inlined
def write_factor(covariance, U, scratch):  # type: ignore[no-untyped-def]
    """Write U of a covariance; return whether that is positive definite."""
    _, _, _, lower, inverse = scratch
    if not factorize_matrix(covariance, lower):
        return False
    invert_matrix(lower, inverse)
    d = U.shape[0]
    for i in range(d):
        for j in range(i + 1):
            U[j, i] = inverse[i, j]
    return True
