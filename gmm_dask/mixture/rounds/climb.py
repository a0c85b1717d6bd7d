"""Iterations of EM on a few thousand float32 rows in one compiled call.

They are those of `gmm_dask.mixture.em`: the same pass over the rows, the same M-step of the
covariances, which it calls by their addresses. `tests/mixture/test_rounds.py` holds the two to
each other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gmm_dask.mixture.kernels.calls import returning
from gmm_dask.mixture.kernels.compile import inlined, kernel
from gmm_dask.mixture.kernels.tiles import fill

#: How a climb ends: the likelihood changed by less than ``tol``, there was no room for another
#: iteration, or the next one is not for float32 or breaks down.
CONVERGED, STOPPED, LEFT = range(3)

_COUNT_FLOOR = 10 * float(np.finfo(np.float64).eps)
_LOG_2_PI = float(np.log(2.0 * np.pi))

_expect = returning("expect", lambda types: types.Tuple((types.float64, types.int64)))
_update = returning("update", lambda types: types.none)


class Calls(NamedTuple):
    """Where the pass and the M-step are, and of which form the mixture is.

    Attributes
    ----------
    expect
        `Kernel.address` of a pass in single precision.
    update
        That of the M-step of the covariances.
    axes
        How many axes U has: 3 as (k, d, d), 2 as (d, d) or (k, d), 1 as (k,).
    matrices
        Whether U is made of matrices.
    """

    expect: int
    update: int
    axes: int
    matrices: bool


class Spread(NamedTuple):
    """Σ and U, flat."""

    covariances: Any
    factors: Any


class Point(NamedTuple):
    """The parameters of a mixture, changed in place.

    Attributes
    ----------
    weights, means, constants
        π (k,), μ (k, d), and log π + log|U| − d/2 · log 2π, (k,).
    covariances, factors
        As in `Spread`.
    """

    weights: Any
    means: Any
    constants: Any
    covariances: Any
    factors: Any


class Sums(NamedTuple):
    """What an iteration sums up and makes of it.

    Attributes
    ----------
    N, F, S
        (k,), (k, d), and S flat.
    counts, deltas, shifts, guarded, definite
        Ñ (1, k), δ (1, k, d), and the rest of an `Update` of one mixture.
    left_out
        As in a pass in single precision.
    """

    N: Any
    F: Any
    S: Any
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
def _log_determinant(calls, factors, c, d):  # type: ignore[no-untyped-def]
    """Return log|U| of component c."""
    if calls.axes == 1:
        return d * np.log(factors[c])
    first, step = c * d, 1
    if calls.matrices:
        first, step = 0 if calls.axes == 2 else c * d * d, d + 1
    total = 0.0
    for j in range(d):
        total += np.log(factors[first + j * step])
    return total


@inlined
def _sum_squares(calls, S, d):  # type: ignore[no-untyped-def]
    """Return the sum of the traces of S."""
    if not calls.matrices:
        return _total(S)
    total = 0.0
    for first in range(0, S.size, d * d):
        for j in range(d):
            total += S[first + j * (d + 1)]
    return total


@inlined
def _sum_precisions(calls, factors, N, d):  # type: ignore[no-untyped-def]
    """Return the sum of N tr Σ⁻¹ over the components."""
    k = N.size
    shared = calls.matrices and calls.axes == 2
    size = factors.size if shared else factors.size // k
    total, square = 0.0, 0.0
    for c in range(k):
        if c == 0 or not shared:
            first, square = c * size, 0.0
            for i in range(first, first + size):
                square += factors[i] * factors[i]
        total += N[c] * square
    return d * total if calls.axes == 1 else total


@inlined
def _total(values):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


@inlined
def _copy(values, target):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        target[i] = values[i]


@inlined
def _sum_rows(calls, rows, sample_weight, point, sums):  # type: ignore[no-untyped-def]
    """Take the pass; return what it does."""
    d = point.means.shape[1]
    first = rows, sample_weight, point.constants, point.means
    N, F, S, left_out = sums.N, sums.F, sums.S, sums.left_out
    if calls.axes == 3:
        shape = S.size // (d * d), d, d
        U, spread = point.factors.reshape(shape), point.covariances.reshape(shape)
        return _expect(calls.expect, (*first, U, spread, N, F, S.reshape(shape), left_out))
    if calls.axes == 2:
        size = S.size // d, d
        U, spread = point.factors.reshape(size), point.covariances.reshape(size)
        return _expect(calls.expect, (*first, U, spread, N, F, S.reshape(size), left_out))
    return _expect(calls.expect, (*first, point.factors, point.covariances, N, F, S, left_out))


@inlined
def _step_ahead(calls, ahead, sums, d, reg_covar):  # type: ignore[no-untyped-def]
    """Take the M-step of the covariances; return whether all of them are definite."""
    k = sums.N.size
    outcome = sums.shifts, sums.guarded, sums.definite, sums.counts, sums.deltas
    covariances, factors, S = ahead.covariances, ahead.factors, sums.S
    # NaN stays where the step has failed.
    sums.shifts[0, 0, 0] = np.nan
    if calls.axes == 3:
        shape = 1, S.size // (d * d), d, d
        spread = covariances.reshape(shape), factors.reshape(shape)
        _update(calls.update, (*spread, *outcome, S.reshape(shape), reg_covar))
    elif calls.axes == 2:
        size = 1, S.size // d, d
        spread = covariances.reshape(size), factors.reshape(size)
        _update(calls.update, (*spread, *outcome, S.reshape(size), reg_covar))
    else:
        spread = covariances.reshape((1, k)), factors.reshape((1, k))
        _update(calls.update, (*spread, *outcome, S.reshape((1, k)), reg_covar))
    return sums.definite[0] and sums.shifts[0, 0, 0] == sums.shifts[0, 0, 0]


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
    for i in range(sums.S.size):
        sums.S[i] *= scale
    return longest


@inlined
def _begin(sums, point, ahead):  # type: ignore[no-untyped-def]
    """Set the sums to 0, and the covariances ahead to those of the point."""
    fill(sums.N, 0.0, 0)
    for c in range(sums.F.shape[0]):
        fill(sums.F[c], 0.0, 0)
        sums.guarded[0, c] = False
    fill(sums.S, 0.0, 0)
    _copy(point.covariances, ahead.covariances)
    _copy(point.factors, ahead.factors)
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
def _move(calls, point, ahead, sums):  # type: ignore[no-untyped-def]
    """Take the parameters of the M-step; return Σ N times what the constants gained."""
    k, d = point.means.shape
    _copy(ahead.covariances, point.covariances)
    _copy(ahead.factors, point.factors)
    total, gain = _total(sums.counts[0]), 0.0
    for c in range(k):
        point.weights[c] = sums.counts[0, c] / total
        for j in range(d):
            point.means[c, j] += sums.shifts[0, c, j]
        constant = np.log(point.weights[c]) + _log_determinant(calls, point.factors, c, d)
        constant -= 0.5 * d * _LOG_2_PI
        if sums.N[c] > 0.0:
            gain += sums.N[c] * (constant - point.constants[c])
        point.constants[c] = constant
    return gain


@kernel("EM of runs of a search")
def climb(calls, rows, sample_weight, point, ahead, sums, steps, limits):  # type: ignore[no-untyped-def]
    """Take iterations from a `Point`; return how many, and how they end.

    They are recorded in ``steps``, which has room for so many. ``ahead`` and ``sums`` are scratch.
    """
    d = point.means.shape[1]
    before = limits.before
    for i in range(steps.moved.size):
        _begin(sums, point, ahead)
        log_likelihood, left = _sum_rows(calls, rows, sample_weight, point, sums)
        mean, squares = log_likelihood / limits.weight, _sum_squares(calls, sums.S, d)
        # There are no counts where the pass has failed.
        usable = left == 0 and _total(sums.N) > 0.0 and -np.inf < mean < np.inf
        if not (usable and -np.inf < _total(sums.S) < np.inf):
            return i, LEFT
        longest = _divide_sums(sums, limits.scale)
        if not _step_ahead(calls, ahead, sums, d, limits.reg_covar):
            return i, LEFT
        guarded = _record(point, sums, steps, i)
        gain = _move(calls, point, ahead, sums)
        steps.log_likelihoods[i] = mean
        steps.moved[i] = np.sqrt(longest)
        squares += limits.reg_covar * _sum_precisions(calls, point.factors, sums.N, d)
        steps.expected[i] = (gain + 0.5 * squares) / limits.weight - 0.5 * d
        if not guarded and abs(mean - before) < limits.tol:
            return i + 1, CONVERGED
        before = mean
    return steps.moved.size, STOPPED
