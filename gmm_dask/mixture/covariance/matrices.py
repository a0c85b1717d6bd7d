"""Functions that covariance types share: factors, their errors, and the guard of the M-step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, IndexArray
from gmm_dask.errors import ConfigError, IllConditionedError
from gmm_dask.mixture.covariance.factors import (
    cholesky,
    each_large,
    inverse_of_lower,
    transform_each,
)
from gmm_dask.mixture.kernels.addresses import writable
from gmm_dask.mixture.kernels.compile import KernelFunction, exact

_EPS = float(np.finfo(np.float64).eps)

# A component whose Ñ = N + 10·eps is at most this has no rows, and keeps its Σ.
EMPTY_COUNT = 20.0 * _EPS


# Σ' and its factors, L, and where Σ was kept and where Σ' is definite; see `update_matrices`.
_Updated = tuple[FloatArray, FloatArray, FloatArray, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]


class Update(NamedTuple):
    """The M-step of the covariances of b mixtures of k components.

    Attributes
    ----------
    covariances, precisions_cholesky
        Σ' and its factors, (b, …).
    shifts
        L δ, (b, k, d): the change of the means.
    guarded
        (b, k) True where S/Ñ − δδᵀ cancelled, so that Σ was kept (DESIGN, "Guard").
    definite
        (b,) Whether all Σ' of a mixture are finite and positive definite; else its factors are
        without meaning.
    """

    covariances: FloatArray
    precisions_cholesky: FloatArray
    shifts: FloatArray
    guarded: npt.NDArray[np.bool_]
    definite: npt.NDArray[np.bool_]


@exact
def cancelled(spread, squares):  # type: ignore[no-untyped-def]
    """Whether the subtraction of δ² cost V = S/Ñ − δ² more than about 1e-10 of itself."""
    return 64.0 * _EPS * squares > 1e-10 * spread


def run_update(
    kernel: KernelFunction,
    covariances: FloatArray,
    precisions_cholesky: FloatArray,
    counts: FloatArray,
    residual_means: FloatArray,
    residual_products: FloatArray,
    reg_covar: float,
) -> Update:
    """Run a compiled M-step on copies of the covariances and of their factors."""
    update = Update(
        covariances.copy(),
        precisions_cholesky.copy(),
        np.empty(residual_means.shape),
        np.zeros(counts.shape, dtype=np.bool_),
        np.ones(len(counts), dtype=np.bool_),
    )
    kernel(
        *update,
        writable(counts),
        writable(residual_means),
        writable(residual_products),
        float(reg_covar),
    )
    return update


def cancelled_matrices(
    spread: FloatArray, squares: FloatArray, precisions_cholesky: FloatArray, reg_covar: float
) -> npt.NDArray[np.bool_]:
    """Tell which matrices V = S/Ñ − δδᵀ lost too many digits to the subtraction of δδᵀ, (k,).

    The relative error of an entry is about 64·eps·δᵢδⱼ/√(VᵢᵢVⱼⱼ) ≤ t. In the direction of the
    smallest eigenvalue λ of V, scaled to a unit diagonal, the error is t/λ, which must stay below
    1e-10. Where V is singular although δ is negligible, the data are the cause, not a cancellation.

    Parameters
    ----------
    spread
        V, (k, d, d).
    squares
        The diagonal of what was subtracted, (k, d).
    precisions_cholesky
        U, (k, d, d): L (V + reg_covar·UᵀU) Lᵀ becomes the covariance.
    """
    V, U = spread, precisions_cholesky
    # Of V + reg_covar·UᵀU the diagonal is soon computed; all of it seldom matters.
    floors = reg_covar * np.einsum("kij,kij->kj", U, U)  # (k, d)
    variances = np.diagonal(V, axis1=1, axis2=2) + floors
    subtracted = np.where(squares > 1e-20, squares, 0.0)
    with np.errstate(over="ignore"):  # where the subtraction left nothing
        ratio = np.max(subtracted / np.maximum(variances, 1e-300), axis=1)  # (k,)
        threshold = 64e10 * _EPS * ratio
    lost = threshold >= 1.0
    # Below 64·eps, the subtraction costs less than the rounding of S.
    suspects = (threshold > 64.0 * _EPS) & ~lost & np.all(variances > 0.0, axis=1)
    if suspects.any():
        # Definite only if λ > threshold, as if V were scaled to a unit diagonal.
        shifts = -threshold[:, None] * variances
        lost[suspects] = _is_indefinite(V[suspects], shifts[suspects])
        if reg_covar > 0.0 and lost[suspects].any():
            # UᵀU is semidefinite: only what is indefinite without it need be looked at with it.
            (doubtful,) = np.nonzero(suspects & lost)
            floor = reg_covar * np.matmul(U[doubtful].mT, U[doubtful])
            lost[doubtful] = _is_indefinite(V[doubtful] + floor, shifts[doubtful])
    return lost


def _is_indefinite(matrices: FloatArray, shifts: float | FloatArray) -> npt.NDArray[np.bool_]:
    """Tell which matrices have no Cholesky factor once their diagonals, in place, are shifted."""
    add_to_diagonals(matrices, shifts)
    return ~cholesky(matrices)[1]


def update_matrices(
    covariances: FloatArray,
    precisions_cholesky: FloatArray,
    spread: FloatArray,
    squares: FloatArray,
    keep: npt.NDArray[np.bool_],
    reg_covar: float,
) -> _Updated:
    """Compute Σ' = L V Lᵀ + reg_covar of m matrices by calls of numpy; of large ones on threads.

    Parameters
    ----------
    covariances, precisions_cholesky
        Σ and U, (m, d, d).
    spread, squares
        V, (m, d, d), and the diagonal of what was subtracted for it, (m, d).
    keep
        (m,) Where Σ stays, as it does where V has cancelled.

    Returns
    -------
    covariances, precisions_cholesky
        Σ' and its factors.
    lower
        L, (m, d, d).
    guarded, definite
        (m,) each; see `Update`.
    """

    def update(part: slice) -> _Updated:
        return _update_stack(
            covariances[part],
            precisions_cholesky[part],
            spread[part],
            squares[part],
            keep[part],
            reg_covar,
        )

    columns = zip(*each_large(update, *squares.shape), strict=True)
    updated, factors, lower, guarded, definite = (np.concatenate(parts) for parts in columns)
    return updated, factors, lower, guarded, definite


def _update_stack(
    covariances: FloatArray,
    precisions_cholesky: FloatArray,
    spread: FloatArray,
    squares: FloatArray,
    keep: npt.NDArray[np.bool_],
    reg_covar: float,
) -> _Updated:
    lower = lower_factors(precisions_cholesky)
    guarded = cancelled_matrices(spread, squares, precisions_cholesky, reg_covar)
    updated = transform_each(lower, spread)
    add_to_diagonals(updated, reg_covar)
    keep = keep | guarded
    updated[keep] = covariances[keep]
    new_lower, definite = cholesky(updated)
    new_lower[~definite] = np.eye(updated.shape[1])  # without meaning, but it has an inverse
    factors = np.ascontiguousarray(inverse_of_lower(new_lower).mT)
    return updated, factors, lower, guarded, definite


def add_to_diagonals(matrices: FloatArray, value: float | FloatArray) -> None:
    """Add a value, or (m, d) of them, to the diagonals of (m, d, d) matrices, in place."""
    d = matrices.shape[1]
    matrices.reshape(len(matrices), d * d)[:, :: d + 1] += value


def ill_conditioned_error(component: int, defect: str) -> IllConditionedError:
    """Make the error for a covariance that cannot be inverted."""
    error = IllConditionedError(
        f"the covariance of component {component} {defect}: too few distinct rows belong to it, or "
        "features depend on each other; try fewer components, a larger reg_covar, or another scale"
    )
    error.component = component
    return error


def upper_factors(covariances: FloatArray) -> FloatArray:
    """Compute U with Σ⁻¹ = U Uᵀ of each of (m, d, d) covariances.

    Raises
    ------
    IllConditionedError
        A covariance is not finite or not positive definite; the message names its component.
    """
    finite = np.isfinite(covariances).all(axis=(1, 2))
    if not finite.all():
        raise ill_conditioned_error(int(np.argmin(finite)), "is not finite")
    m, d = covariances.shape[:2]
    factors = np.empty(covariances.shape)

    def factorize(part: slice) -> npt.NDArray[np.bool_]:
        lower, definite = cholesky(covariances[part])
        if definite.all():
            factors[part] = inverse_of_lower(lower).mT
        return definite

    definite = np.concatenate(each_large(factorize, m, d))
    if not definite.all():
        raise ill_conditioned_error(int(np.argmin(definite)), "is not positive definite")
    return factors


def lower_factors(precisions_cholesky: FloatArray) -> FloatArray:
    """Compute L = U⁻ᵀ, so that Σ = L Lᵀ, of each of (m, d, d) factors U."""
    return inverse_of_lower(precisions_cholesky.mT)


def marginal_factors(
    precisions_cholesky: FloatArray, observed: IndexArray
) -> tuple[FloatArray, FloatArray]:
    """Compute U of the marginals of (m, d, d) factors U, and the axes A of their residuals.

    With L = U⁻ᵀ, the rows L[o] are those of the observed features, and Σ_oo = L[o] L[o]ᵀ. From
    L[o]ᵀ = Q R follows L_oo = Rᵀ, and A = Uᵀ Σ[:,o] L_oo⁻ᵀ = L[o]ᵀ R⁻¹ = Q. A factorization of
    Σ_oo could fail by rounding; this one cannot, since |R_jj| is at least the diagonal of L.

    Parameters
    ----------
    observed
        (o,), ascending.

    Returns
    -------
    factors, axes
        (m, o, o) and (m, d, o).
    """
    lower = lower_factors(precisions_cholesky)[:, observed]  # L[o], (m, o, d)
    axes, upper = np.linalg.qr(lower.mT)  # (m, d, o), (m, o, o)
    signs = np.copysign(1.0, np.diagonal(upper, axis1=1, axis2=2))  # (m, o)
    factors = inverse_of_lower((signs[:, :, None] * upper).mT).mT
    return np.ascontiguousarray(factors), axes * signs[:, None, :]


def lift_matrices(counts: FloatArray, products: FloatArray, axes: FloatArray) -> FloatArray:
    """Compute A S_o Aᵀ + N (I − A Aᵀ) of each of (m, o, o) products, (m, d, d).

    Parameters
    ----------
    counts
        N, (m,).
    axes
        A, (m, d, o).
    """
    lifted = np.matmul(np.matmul(axes, products), axes.mT)
    rest = np.eye(axes.shape[1]) - np.matmul(axes, axes.mT)
    lifted += counts[:, None, None] * rest
    return lifted


def narrow_matrices(matrices: FloatArray, least: float) -> npt.NDArray[np.bool_]:
    """Tell which of (…, d, d) symmetric matrices have an eigenvalue of at most ``least``, (…)."""
    d = matrices.shape[-1]
    stack = matrices.reshape(-1, d, d)

    def is_narrow(part: slice) -> npt.NDArray[np.bool_]:
        # A − least·I is definite if all eigenvalues are above it.
        return _is_indefinite(np.array(stack[part]), -least)

    return np.concatenate(each_large(is_narrow, len(stack), d)).reshape(matrices.shape[:-2])


def upper_factors_of_precisions(precisions: FloatArray) -> FloatArray:
    """Compute U with P = U Uᵀ of each of (m, d, d) given precisions.

    Raises
    ------
    ConfigError
        A precision is not finite, not symmetric or not positive definite.
    """
    for c, precision in enumerate(precisions):
        if not np.isfinite(precision).all():
            raise ConfigError(f"precisions_init of component {c} is not finite")
        if np.abs(precision - precision.T).max() > 1e-8 * np.abs(precision).max():
            raise ConfigError(f"precisions_init of component {c} is not symmetric")
    lower, definite = cholesky(precisions[:, ::-1, ::-1])
    if not definite.all():
        raise ConfigError(
            f"precisions_init of component {int(np.argmin(definite))} is not positive definite"
        )
    return np.ascontiguousarray(lower[:, ::-1, ::-1])


def inverse_deviations(variances: FloatArray) -> FloatArray:
    """Compute 1/σ of variances (k, …).

    Raises
    ------
    IllConditionedError
        A variance is not finite or not positive; the message names its component.
    """
    if not (variances.min() > 0.0 and variances.max() < np.inf):
        rows = variances.reshape(len(variances), -1)
        usable = (np.isfinite(rows) & (rows > 0.0)).all(axis=1)
        component = int(np.argmin(usable))
        finite = np.isfinite(rows[component]).all()
        smallest = rows[component].min()
        defect = f"has a variance of {smallest:g}" if finite else "is not finite"
        raise ill_conditioned_error(component, defect)
    return 1.0 / np.sqrt(variances)


def roots_of_precisions(precisions: FloatArray) -> FloatArray:
    """Compute 1/σ of given 1/σ² (k, …).

    Raises
    ------
    ConfigError
        A precision is not finite or not positive.
    """
    rows = precisions.reshape(len(precisions), -1)
    usable = (np.isfinite(rows) & (rows > 0.0)).all(axis=1)
    if not usable.all():
        raise ConfigError(
            f"precisions_init of component {int(np.argmin(usable))} is not finite and positive"
        )
    return np.sqrt(precisions)
