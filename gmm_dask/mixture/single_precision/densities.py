"""Responsibilities of a tile in single precision: exp, log and log-sum-exp."""

from __future__ import annotations

import numpy as np

from gmm_dask.mixture.kernels.addresses import doubles
from gmm_dask.mixture.kernels.compile import exact, inlined
from gmm_dask.mixture.kernels.tiles import (
    ROWS,
    bits_of_single,
    fill,
    prefer_wide_vectors,
    single_of,
)
from gmm_dask.mixture.single_precision.narrowing import FARTHEST

_f = np.float32  # in kernels, a number without a type is a double
# Responsibilities below e^−40 ≈ 4e-18 would lead to denormal numbers, and matter to no sum.
_LOWEST = _f(-40.0)
_LOG_2_E, _SHIFT = _f(1.44269504), _f(1.5 * 2.0**23)
_LOG_2_HIGH, _LOG_2_LOW = _f(0.693359375), _f(-2.12194440e-4)
# (e^t − 1 − t)/t² for |t| ≤ log √2: Chebyshev's interpolation, error 1e-8.
_E2, _E3, _E4 = _f(0.5), _f(0.16666576062275132), _f(0.04166655345865237)
_E5, _E6 = _f(0.00836333308218196), _f(0.0013926375995713747)
_ZERO, _ONE, _TWO = _f(0.0), _f(1.0), _f(2.0)
_L3, _L5, _L7, _L9 = _f(2.0 / 3.0), _f(2.0 / 5.0), _f(2.0 / 7.0), _f(2.0 / 9.0)


@exact
def _exp(x):  # type: ignore[no-untyped-def]
    """Exp of x ≤ 0 with a relative error below 1.5·2⁻²⁴; 0 where x < −40.

    The method is that of doubles (`gmm_dask.mixture.kernels.densities`).
    """
    shifted = x * _LOG_2_E + _SHIFT
    n = shifted - _SHIFT
    t = x - n * _LOG_2_HIGH
    t = t - n * _LOG_2_LOW
    p = _E6
    p = p * t + _E5
    p = p * t + _E4
    p = p * t + _E3
    p = p * t + _E2
    p = p * t + _ONE
    p = p * t + _ONE
    e = single_of(bits_of_single(p) + (bits_of_single(shifted) << 23))
    return _ZERO if x < _LOWEST else e


@exact
def _log(x):  # type: ignore[no-untyped-def]
    """Log of a normal x ≥ 1, accurate to about two units in the last place; NaN stays NaN."""
    bits = bits_of_single(x)
    n = (bits - 0x3F3504F3) >> 23  # bits of √½
    s = single_of(bits - (n << 23)) - _ONE
    s = s / (_TWO + s)
    z = s * s
    p = _L9
    p = p * z + _L7
    p = p * z + _L5
    p = p * z + _L3
    m = _f(n)
    tail = m * _LOG_2_LOW + s * z * p
    return m * _LOG_2_HIGH + (_TWO * s + tail) + (x - x)


@exact
def is_near(top):  # type: ignore[no-untyped-def]
    """Whether every row of a tile has a component that is near enough for float32."""
    prefer_wide_vectors()
    lowest = _f(-FARTHEST)
    outside = 0
    for i in range(ROWS):
        outside += 0 if top[i] >= lowest else 1  # NaN is not near
    return outside == 0


@exact
def _normalise(log_joint, weights, top, total):  # type: ignore[no-untyped-def]
    """Turn log π p of a tile into responsibilities times weights, and top into log p(x)."""
    prefer_wide_vectors()
    k = log_joint.shape[0]
    fill(total, _ZERO, 0)
    for c in range(k):
        joint = log_joint[c]
        for i in range(ROWS):
            e = _exp(joint[i] - top[i])
            joint[i] = e
            total[i] += e
    for i in range(ROWS):
        top[i] += _log(total[i])
        total[i] = weights[i] / total[i]
    for c in range(k):
        joint = log_joint[c]
        for i in range(ROWS):
            joint[i] *= total[i]


@inlined
def _sums(top, sample_weight, start, rows):  # type: ignore[no-untyped-def]
    """Return Σ w log p(x) and Σ w of a tile, added as doubles.

    Weights that float32 rounds alike would move the likelihood by up to 2⁻²⁵ of itself.
    """
    prefer_wide_vectors()
    log_likelihood, weight = 0.0, 0.0
    if sample_weight.address == 0:
        for i in range(rows):
            log_likelihood += np.float64(top[i])
        return log_likelihood, float(rows)
    for i in range(rows):
        w = doubles(sample_weight.address + (start + i) * sample_weight.stride)[0]
        log_likelihood += w * np.float64(top[i])
        weight += w
    return log_likelihood, weight


@inlined
def normalise_tile(walk, source, sample_weight, start):  # type: ignore[no-untyped-def]
    """Turn log π p into responsibilities times weights; return Σ w log p(x) and Σ w.

    Both log π p and log p(x) are less the largest constant. The tile begins at row start.
    """
    _normalise(walk.log_joint, walk.weights, walk.top, walk.scratch)
    return _sums(walk.top, sample_weight, start, min(ROWS, source.n - start))
