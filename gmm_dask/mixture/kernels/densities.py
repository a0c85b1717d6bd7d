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
from gmm_dask.mixture.kernels.whitening import sum_rows

_EIGHTH = ROWS // 8

# (e^t − 1 − t)/t² for |t| ≤ log √2: Chebyshev's interpolation, error 2e-17 of e^t.
_E2, _E3, _E4 = 0.5000000000000001, 0.16666666666666669, 0.04166666666662416
_E5, _E6, _E7 = 0.008333333333330063, 0.0013888888917199863, 0.00019841269863042963
_E8, _E9 = 2.4801521317484083e-05, 2.7557268476553695e-06
_E10, _E11 = 2.7620078203806394e-07, 2.5100377619606372e-08


@exact
def reduce(x):  # type: ignore[no-untyped-def]
    """Split x ≤ 0: return t and 2ⁿ with x = n·log 2 + t and |t| ≤ 0.35; 0 and 0 where x < −230.

    Values below e^−230 ≈ 1e-100 would lead to denormal numbers in the sums that follow, which slow
    them 5 to 30 times. Adding 1.5·2⁵² rounds to the integer n and leaves it in the lowest bits.
    """
    shifted = x * 1.4426950408889634 + 6755399441055744.0
    n = shifted - 6755399441055744.0
    t = x - n * 0.6931471803691238  # log 2 in two parts: n times the first is exact
    t = t - n * 1.9082149292705877e-10
    power = double_of((bits_of(shifted) << 52) + 0x3FF0000000000000)  # bits of 1
    return 0.0 if x < -230.0 else t, 0.0 if x < -230.0 else power


@exact
def exp_of_small(t):  # type: ignore[no-untyped-def]
    """Exp of |t| ≤ 0.35, accurate to about one unit in the last place.

    The polynomial is one in t² with pairs of terms for coefficients: half as many steps wait for
    each other, so more rows are under way at once.
    """
    z = t * t
    p = _E10 + _E11 * t
    p = p * z + (_E8 + _E9 * t)
    p = p * z + (_E6 + _E7 * t)
    p = p * z + (_E4 + _E5 * t)
    p = p * z + (_E2 + _E3 * t)
    return 1.0 + (t + z * p)


@exact
def _log(x):  # type: ignore[no-untyped-def]
    """Log of a normal x > 0, accurate to about one unit in the last place; NaN stays NaN.

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
def _exponentiate(log_joint, top, scratch):  # type: ignore[no-untyped-def]
    """Turn log π p of a tile, (k, ROWS), into its exponentials over the largest of a row.

    The first half of ``scratch``, (2·ROWS,), receives their sums. Two loops take four fifths of
    the time of one, whose constants would not fit into the registers.
    """
    prefer_wide_vectors()
    total, powers = scratch[:ROWS], scratch[ROWS : 2 * ROWS]
    fill(total, 0.0, 0)
    for c in range(log_joint.shape[0]):
        joint = log_joint[c]
        for i in range(ROWS):
            joint[i], powers[i] = reduce(joint[i] - top[i])
        for i in range(ROWS):
            e = exp_of_small(joint[i]) * powers[i]
            joint[i] = e
            total[i] += e


@exact
def _scale(log_joint, weights, total):  # type: ignore[no-untyped-def]
    """Turn exponentials into responsibilities times weights, and sums into weights over sums."""
    prefer_wide_vectors()
    for i in range(ROWS):
        total[i] = weights[i] / total[i]
    for c in range(log_joint.shape[0]):
        joint = log_joint[c]
        for i in range(ROWS):
            joint[i] *= total[i]


@exact
def _add_logs(top, total):  # type: ignore[no-untyped-def]
    """Add log total to top."""
    prefer_wide_vectors()
    for i in range(ROWS):
        top[i] += _log(total[i])


@inlined
def normalise(log_joint, weights, top, scratch):  # type: ignore[no-untyped-def]
    """Turn log π p of a tile, (k, ROWS), into responsibilities times sample weights.

    ``top`` (ROWS,) must hold the largest log π p of each row, and then holds log p(x). ``scratch``
    is (2·ROWS,); its first half then holds weights over sums of exponentials.
    """
    _exponentiate(log_joint, top, scratch)
    _add_logs(top, scratch)
    _scale(log_joint, weights, scratch)


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
    return sum_rows(a)


@inlined
def add_counts(log_joint, counts):  # type: ignore[no-untyped-def]
    """Add N of the rows of a tile, whose responsibilities are (k, ROWS)."""
    for c in range(counts.size):
        counts[c] += sum_of(log_joint[c])


@exact
def _all_weigh_one(weights):  # type: ignore[no-untyped-def]
    prefer_wide_vectors()
    others = 0
    for i in range(ROWS):
        others += weights[i] != 1.0
    return others == 0


@inlined
def sum_of_logs(total):  # type: ignore[no-untyped-def]
    """Return Σ log total over the rows of a tile.

    One logarithm serves eight rows: their product is at most k⁸, for sums of k exponentials that
    are at most 1, or at least k⁻⁸, for largest responsibilities; and its relative error is that of
    eight roundings.
    """
    prefer_wide_vectors()
    result = 0.0
    for i in range(_EIGHTH):
        low = (total[i] * total[i + _EIGHTH]) * (total[i + 2 * _EIGHTH] * total[i + 3 * _EIGHTH])
        high = total[i + 4 * _EIGHTH] * total[i + 5 * _EIGHTH]
        high *= total[i + 6 * _EIGHTH] * total[i + 7 * _EIGHTH]
        result += _log(low * high)
    return result


@exact
def _labels(log_joint, top, labels):  # type: ignore[no-untyped-def]
    """Write the first component whose log π p is the largest of its row, as a double.

    The loop counts upwards: LLVM makes no vector instructions of one that counts down.
    """
    prefer_wide_vectors()
    fill(labels, 0.0, 0)
    last = log_joint.shape[0] - 1
    for step in range(last + 1):
        joint = log_joint[last - step]
        component = float(last - step)
        for i in range(ROWS):
            label = labels[i]
            labels[i] = component if joint[i] == top[i] else label


@exact
def _write_labels(walk, start, rows, labels):  # type: ignore[no-untyped-def]
    """Write the most probable component of the rows of a tile to an array of the caller."""
    _labels(walk.log_joint, walk.top, walk.scratch)
    store_labels(walk.scratch, labels, start, rows)


@exact
def _write_certainties(walk, start, rows, certainties):  # type: ignore[no-untyped-def]
    """Write 1 / Σ exp(log π p − top), the largest responsibility, of the rows of a tile.

    The first half of ``scratch`` holds the sums.
    """
    prefer_wide_vectors()
    total, largest = walk.scratch[:ROWS], walk.scratch[ROWS : 2 * ROWS]
    for i in range(ROWS):
        largest[i] = 1.0 / total[i]
    store(largest, certainties, start, rows)


@inlined
def normalise_tile(walk, start, rows, answers):  # type: ignore[no-untyped-def]
    """Turn log π p into responsibilities times sample weights; return Σ w log p(x) of the tile.

    Answers, if they are wanted, have the bits that `assign_tile` gives them.
    """
    answering = answers.labels.address != 0
    if answering:
        _write_labels(walk, start, rows, answers.labels)
    _exponentiate(walk.log_joint, walk.top, walk.scratch)
    equal = _all_weigh_one(walk.weights)
    log_likelihood = 0.0
    if equal:
        log_likelihood = sum_of(walk.top) + sum_of_logs(walk.scratch)
    if answering or not equal:
        _add_logs(walk.top, walk.scratch)
    if not equal:
        log_likelihood = dot(walk.weights, walk.top)
    if answering:
        store(walk.top, answers.densities, start, rows)
        _write_certainties(walk, start, rows, answers.certainties)
    _scale(walk.log_joint, walk.weights, walk.scratch)
    return log_likelihood


@exact
def assign_tile(  # type: ignore[no-untyped-def]
    walk, start, rows, labels, densities, certainties, responsibilities
):
    """Write the predictions for the rows of a tile to the arrays of the caller."""
    prefer_wide_vectors()
    _write_labels(walk, start, rows, labels)
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
