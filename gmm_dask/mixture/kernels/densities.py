"""Log-densities and responsibilities from squared distances: exp, log and log-sum-exp."""

from __future__ import annotations

from gmm_dask.mixture.kernels.addresses import VectorAddress
from gmm_dask.mixture.kernels.compile import exact, inlined
from gmm_dask.mixture.kernels.tiles import (
    ROWS,
    bits_of,
    double_of,
    fill,
    prefer_wide_vectors,
    store,
    store_labels,
)


@exact
def _exp(x):  # type: ignore[no-untyped-def]
    """Exp of x ≤ 0, accurate to about one unit in the last place; 0 where x < −230.

    Values below e^−230 ≈ 1e-100 would lead to denormal numbers in the sums that follow, which slow
    them 5 to 30 times. The method: x is split into n·log 2 + t with |t| ≤ 0.35, a Taylor
    series gives e^t, and n is added to the bits of the exponent. Adding 1.5·2⁵² rounds to the
    integer n and leaves it in the lowest bits.
    """
    shifted = x * 1.4426950408889634 + 6755399441055744.0
    n = shifted - 6755399441055744.0
    t = x - n * 0.6931471803691238  # log 2 in two parts: n times the first is exact
    t = t - n * 1.9082149292705877e-10
    p = 1.0 / 6227020800.0
    p = p * t + 1.0 / 479001600.0
    p = p * t + 1.0 / 39916800.0
    p = p * t + 1.0 / 3628800.0
    p = p * t + 1.0 / 362880.0
    p = p * t + 1.0 / 40320.0
    p = p * t + 1.0 / 5040.0
    p = p * t + 1.0 / 720.0
    p = p * t + 1.0 / 120.0
    p = p * t + 1.0 / 24.0
    p = p * t + 1.0 / 6.0
    p = p * t + 0.5
    p = p * t + 1.0
    p = p * t + 1.0
    e = double_of(bits_of(p) + (bits_of(shifted) << 52))
    return 0.0 if x < -230.0 else e


@exact
def _log(x):  # type: ignore[no-untyped-def]
    """Log of a normal x ≥ 1, accurate to about one unit in the last place; NaN stays NaN.

    The method: x = 2ⁿ·m with m in [√½, √2), and log m = 2·artanh((m − 1)/(m + 1)) by its series.
    """
    bits = bits_of(x)
    n = (bits - 0x3FE6A09E667F3BCD) >> 52  # bits of √½
    s = double_of(bits - (n << 52)) - 1.0
    s = s / (2.0 + s)
    z = s * s
    p = 2.0 / 21.0
    p = p * z + 2.0 / 19.0
    p = p * z + 2.0 / 17.0
    p = p * z + 2.0 / 15.0
    p = p * z + 2.0 / 13.0
    p = p * z + 2.0 / 11.0
    p = p * z + 2.0 / 9.0
    p = p * z + 2.0 / 7.0
    p = p * z + 2.0 / 5.0
    p = p * z + 2.0 / 3.0
    tail = n * 1.9082149292705877e-10 + s * z * p
    return n * 0.6931471803691238 + (2.0 * s + tail) + (x - x)


@exact
def negative_logs(shares, logs):  # type: ignore[no-untyped-def]
    """Write −log of each share, which is in (0, 1]."""
    prefer_wide_vectors()
    for i in range(shares.size):
        logs[i] = _log(1.0 / shares[i])


@exact
def normalise(log_joint, weights, top, total):  # type: ignore[no-untyped-def]
    """Turn log π p of a tile, (k, ROWS), into responsibilities times sample weights.

    ``top`` (ROWS,) must hold the largest log π p of each row, and then holds log p(x); ``total``
    (ROWS,) is scratch.
    """
    prefer_wide_vectors()
    k = log_joint.shape[0]
    fill(total, 0.0, 0)
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


@exact
def joint_densities(log_joint, constant, half, squares, top, first):  # type: ignore[no-untyped-def]
    """Write log π p = constant − half·squares of a component; top keeps the largest of a row."""
    prefer_wide_vectors()
    for i in range(ROWS):
        value = constant - half * squares[i]
        highest = top[i]
        log_joint[i] = value
        top[i] = value if first or value > highest else highest


@inlined
def dot(a, b):  # type: ignore[no-untyped-def]
    """Return Σ a·b over the rows of a tile."""
    prefer_wide_vectors()
    total = a.dtype.type(0)
    for i in range(ROWS):
        total += a[i] * b[i]
    return total


@inlined
def sum_of(a):  # type: ignore[no-untyped-def]
    """Return Σ a over the rows of a tile."""
    prefer_wide_vectors()
    total = a.dtype.type(0)
    for i in range(ROWS):
        total += a[i]
    return total


@exact
def _labels(log_joint, top, labels):  # type: ignore[no-untyped-def]
    """Write the first component whose log π p is the largest of its row, as a double."""
    prefer_wide_vectors()
    fill(labels, 0.0, 0)
    for c in range(log_joint.shape[0] - 1, -1, -1):
        joint = log_joint[c]
        component = float(c)
        for i in range(ROWS):
            label = labels[i]
            labels[i] = component if joint[i] == top[i] else label


@inlined
def normalise_tile(walk):  # type: ignore[no-untyped-def]
    """Turn log π p into responsibilities times sample weights; return Σ w log p(x) of the tile."""
    normalise(walk.log_joint, walk.weights, walk.top, walk.scratch)
    return dot(walk.weights, walk.top)


@exact
def assign_tile(  # type: ignore[no-untyped-def]
    walk, start, rows, labels, densities, certainties, responsibilities
):
    """Write the predictions for the rows of a tile to the arrays of the caller."""
    prefer_wide_vectors()
    _labels(walk.log_joint, walk.top, walk.scratch)
    store_labels(walk.scratch, labels, start, rows)
    normalise(walk.log_joint, walk.weights, walk.top, walk.scratch)
    store(walk.top, densities, start, rows)
    if certainties.address != 0:
        # 1 / Σ exp(log π p − top), by which `normalise` has divided: the largest responsibility.
        store(walk.scratch, certainties, start, rows)
    if responsibilities.n > 0:
        for c in range(walk.log_joint.shape[0]):
            column = VectorAddress(
                responsibilities.address + c * responsibilities.column_stride,
                responsibilities.row_stride,
            )
            store(walk.log_joint[c], column, start, rows)
