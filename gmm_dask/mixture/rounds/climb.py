"""Iterations of EM on a few thousand float32 rows in one compiled call, one kernel for each form.

They are those of `gmm_dask.mixture.em`: the same pass over the rows, the same M-step of the
covariances. `tests/mixture/test_rounds.py` holds the two to each other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gmm_dask.mixture.covariance import diag as diag_step
from gmm_dask.mixture.covariance import full as full_step
from gmm_dask.mixture.covariance import spherical as spherical_step
from gmm_dask.mixture.covariance import tied as tied_step
from gmm_dask.mixture.kernels.compile import inlined, kernel
from gmm_dask.mixture.kernels.tiles import fill
from gmm_dask.mixture.single_precision import diag, full, spherical, tied

#: How a climb ends: the likelihood changed by less than ``tol``, there was no room for another
#: iteration, or the next one is not for float32 or breaks down.
CONVERGED, STOPPED, LEFT = range(3)

_COUNT_FLOOR = 10 * float(np.finfo(np.float64).eps)
_LOG_2_PI = float(np.log(2.0 * np.pi))


class Spread(NamedTuple):
    """Σ and U, (1, …), and the same memory flat."""

    covariances: Any
    factors: Any
    flat_covariances: Any
    flat_factors: Any


class Point(NamedTuple):
    """The parameters of a mixture, changed in place.

    Attributes
    ----------
    weights, means, constants
        π (k,), μ (k, d), and log π + log|U| − d/2 · log 2π, (k,).
    covariances, factors, flat_covariances, flat_factors
        As in `Spread`.
    """

    weights: Any
    means: Any
    constants: Any
    covariances: Any
    factors: Any
    flat_covariances: Any
    flat_factors: Any


class Sums(NamedTuple):
    """What an iteration sums up and makes of it.

    Attributes
    ----------
    N, F, S, flat
        (k,), (k, d), (1, …), and S flat.
    counts, deltas, shifts, guarded, definite
        Ñ (1, k), δ (1, k, d), and the rest of an `Update` of one mixture.
    left_out
        As in a pass in single precision.
    """

    N: Any
    F: Any
    S: Any
    flat: Any
    counts: Any
    deltas: Any
    shifts: Any
    guarded: Any
    definite: Any
    left_out: Any


class Steps(NamedTuple):
    """What is recorded of each of i iterations (`gmm_dask.mixture.em.Iteration`).

    Attributes
    ----------
    log_likelihoods, moved, expected
        (i,).
    weights, means
        (i, k), (i, k, d).
    guarded
        (i, k).
    counts
        N of the last one, (k,).
    """

    log_likelihoods: Any
    moved: Any
    expected: Any
    weights: Any
    means: Any
    guarded: Any
    counts: Any


class Limits(NamedTuple):
    """What ends a climb, and constants of its M-steps.

    Attributes
    ----------
    before
        Mean log-likelihood with which the first iteration is compared.
    tol, reg_covar
        As in `EMOptions` and `MixtureSpec`.
    weight
        The sum of the sample weights.
    scale
        What tiny weights are multiplied by; else 1.
    """

    before: float
    tol: float
    reg_covar: float
    weight: float
    scale: float


@inlined
def _matrix_determinant(U):  # type: ignore[no-untyped-def]
    """Return log|U| of a triangular matrix."""
    total = 0.0
    for j in range(U.shape[0]):
        total += np.log(U[j, j])
    return total


@inlined
def _trace(S):  # type: ignore[no-untyped-def]
    total = 0.0
    for j in range(S.shape[0]):
        total += S[j, j]
    return total


@inlined
def _full_determinant(factors, c, d):  # type: ignore[no-untyped-def]
    return _matrix_determinant(factors[0, c])


@inlined
def _full_squares(S):  # type: ignore[no-untyped-def]
    total = 0.0
    for c in range(S.shape[1]):
        total += _trace(S[0, c])
    return total


@inlined
def _tied_determinant(factors, c, d):  # type: ignore[no-untyped-def]
    return _matrix_determinant(factors[0])


@inlined
def _tied_squares(S):  # type: ignore[no-untyped-def]
    return _trace(S[0])


@inlined
def _diag_determinant(factors, c, d):  # type: ignore[no-untyped-def]
    total = 0.0
    for j in range(d):
        total += np.log(factors[0, c, j])
    return total


@inlined
def _spherical_determinant(factors, c, d):  # type: ignore[no-untyped-def]
    return d * np.log(factors[0, c])


@inlined
def _total(values):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


@inlined
def _all_squares(S):  # type: ignore[no-untyped-def]
    return _total(S.reshape(-1))


@inlined
def _copy(values, target):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        target[i] = values[i]


@inlined
def _divide_sums(sums, scale):  # type: ignore[no-untyped-def]
    """Write Ñ and δ, and scale S; return the largest |δ|²."""
    longest = 0.0
    for c in range(sums.N.size):
        count, length = scale * sums.N[c] + _COUNT_FLOOR, 0.0
        sums.counts[0, c] = count
        for j in range(sums.F.shape[1]):
            delta = scale * sums.F[c, j] / count
            sums.deltas[0, c, j] = delta
            length += delta * delta
        longest = max(longest, length)
    for i in range(sums.flat.size):
        sums.flat[i] *= scale
    return longest


@inlined
def _begin(sums, point, ahead):  # type: ignore[no-untyped-def]
    """Set the sums to 0, and the covariances ahead to those of the point."""
    fill(sums.N, 0.0, 0)
    for c in range(sums.F.shape[0]):
        fill(sums.F[c], 0.0, 0)
        sums.guarded[0, c] = False
    fill(sums.flat, 0.0, 0)
    _copy(point.flat_covariances, ahead.flat_covariances)
    _copy(point.flat_factors, ahead.flat_factors)
    sums.definite[0] = True


@inlined
def _record(point, sums, steps, i):  # type: ignore[no-untyped-def]
    """Record the parameters before an M-step, N, and the guarded ones; tell whether there are."""
    k, d = point.means.shape
    guarded = False
    for c in range(k):
        steps.weights[i, c] = point.weights[c]
        for j in range(d):
            steps.means[i, c, j] = point.means[c, j]
        steps.guarded[i, c] = sums.guarded[0, c]
        steps.counts[c] = sums.N[c]
        guarded = guarded or sums.guarded[0, c]
    return guarded


@inlined
def _move(point, ahead, sums, determinant):  # type: ignore[no-untyped-def]
    """Take the parameters of the M-step; return Σ N times what the constants gained."""
    k, d = point.means.shape
    _copy(ahead.flat_covariances, point.flat_covariances)
    _copy(ahead.flat_factors, point.flat_factors)
    total, gain = _total(sums.counts[0]), 0.0
    for c in range(k):
        point.weights[c] = sums.counts[0, c] / total
        for j in range(d):
            point.means[c, j] += sums.shifts[0, c, j]
        constant = np.log(point.weights[c]) + determinant(point.factors, c, d)
        constant -= 0.5 * d * _LOG_2_PI
        if sums.N[c] > 0.0:
            gain += sums.N[c] * (constant - point.constants[c])
        point.constants[c] = constant
    return gain


@inlined
def _climb(  # type: ignore[no-untyped-def]
    expect, update, determinant, sum_squares, rows, sample_weight, point, ahead, sums, steps, limits
):
    """Take iterations; return how many, and how they end. ``steps`` has room for so many."""
    d = point.means.shape[1]
    before = limits.before
    for i in range(steps.moved.size):
        _begin(sums, point, ahead)
        log_likelihood, left = expect(
            rows,
            sample_weight,
            point.constants,
            point.means,
            point.factors[0],
            point.covariances[0],
            sums.N,
            sums.F,
            sums.S[0],
            sums.left_out,
        )
        mean, squares = log_likelihood / limits.weight, sum_squares(sums.S)
        if left != 0 or not (-np.inf < mean < np.inf and -np.inf < _total(sums.flat) < np.inf):
            return i, LEFT
        longest = _divide_sums(sums, limits.scale)
        update(
            ahead.covariances,
            ahead.factors,
            sums.shifts,
            sums.guarded,
            sums.definite,
            sums.counts,
            sums.deltas,
            sums.S,
            limits.reg_covar,
        )
        if not sums.definite[0]:
            return i, LEFT
        guarded = _record(point, sums, steps, i)
        gain = _move(point, ahead, sums, determinant)
        steps.log_likelihoods[i] = mean
        steps.moved[i] = np.sqrt(longest)
        steps.expected[i] = (gain + 0.5 * squares) / limits.weight - 0.5 * d
        if not guarded and abs(mean - before) < limits.tol:
            return i + 1, CONVERGED
        before = mean
    return steps.moved.size, STOPPED


_expect_full, _update_full = full.statistics.part, full_step.update_covariances.part
_expect_tied, _update_tied = tied.statistics.part, tied_step.update_covariances.part
_expect_diag, _update_diag = diag.statistics.part, diag_step.update_covariances.part
_expect_spherical, _update_spherical = (
    spherical.statistics.part,
    spherical_step.update_covariances.part,
)


@kernel("EM of the full covariance")
def climb_full(rows, sample_weight, point, ahead, sums, steps, limits):  # type: ignore[no-untyped-def]
    """Take iterations from a `Point`, recorded in `Steps`; return how many, and how they end.

    ``ahead`` and ``sums`` are scratch.
    """
    return _climb(
        _expect_full,
        _update_full,
        _full_determinant,
        _full_squares,
        rows,
        sample_weight,
        point,
        ahead,
        sums,
        steps,
        limits,
    )


@kernel("EM of the tied covariance")
def climb_tied(rows, sample_weight, point, ahead, sums, steps, limits):  # type: ignore[no-untyped-def]
    """As `climb_full`."""
    return _climb(
        _expect_tied,
        _update_tied,
        _tied_determinant,
        _tied_squares,
        rows,
        sample_weight,
        point,
        ahead,
        sums,
        steps,
        limits,
    )


@kernel("EM of the diag covariance")
def climb_diag(rows, sample_weight, point, ahead, sums, steps, limits):  # type: ignore[no-untyped-def]
    """As `climb_full`."""
    return _climb(
        _expect_diag,
        _update_diag,
        _diag_determinant,
        _all_squares,
        rows,
        sample_weight,
        point,
        ahead,
        sums,
        steps,
        limits,
    )


@kernel("EM of the spherical covariance")
def climb_spherical(rows, sample_weight, point, ahead, sums, steps, limits):  # type: ignore[no-untyped-def]
    """As `climb_full`."""
    return _climb(
        _expect_spherical,
        _update_spherical,
        _spherical_determinant,
        _all_squares,
        rows,
        sample_weight,
        point,
        ahead,
        sums,
        steps,
        limits,
    )
