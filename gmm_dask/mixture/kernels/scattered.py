"""Passes over rows with holes that hardly any other row has: one row after the other.

With Σ⁻¹ = U Uᵀ and y = Uᵀ(x − μ), where x − μ is 0 in the holes m: the columns of U[m]ᵀ = Q R span
what the holes could add to y. So y − Q Qᵀ y are the whitened residuals of the row with its missing
values at their conditional means, their squares sum up to those of the marginal, and the covariance
of the missing values adds Q Qᵀ to the products. The determinant of the marginal's U is that of U
divided by that of R. Nothing is subtracted from a square, so nothing becomes negative.

Rows of a pattern follow each other, so that Q is computed once for each pattern and component.
"""

from __future__ import annotations

from math import exp, log, pi, sqrt

import numpy as np

from gmm_dask.mixture.kernels.addresses import doubles, integers, singles
from gmm_dask.mixture.kernels.compile import inlined, kernel
from gmm_dask.mixture.kernels.tiles import largest, prefer_wide_vectors
from gmm_dask.mixture.kernels.whitening import mirror

_HALF_LOG_2PI = 0.5 * log(2.0 * pi)


@inlined
def _limit(factors, d):  # type: ignore[no-untyped-def]
    """Return the largest value of which squares do not overflow, as `kernels.tiles.clip_far` does.

    Nothing changes within 1e145 standard deviations of the means.
    """
    return 1e150 / (d * max(1.0, largest(factors)))


@inlined
def _load_row(source, i, limit, x, holes):  # type: ignore[no-untyped-def]
    """Read a row, with 0 in its holes, whose features are listed; return how many.

    Values beyond the limit are clipped.
    """
    address = source.address + i * source.row_stride
    m = 0
    for j in range(x.size):
        if source.itemsize == 4:
            value = float(singles(address + j * source.column_stride)[0])
        else:
            value = doubles(address + j * source.column_stride)[0]
        x[j] = min(max(value, -limit), limit)
        if np.isnan(value):
            x[j] = 0.0
            holes[m] = j
            m += 1
    return m


@inlined
def _same(holes, m, others, count):  # type: ignore[no-untyped-def]
    """Whether two lists of features are the same; the second becomes the first."""
    same = m == count
    for h in range(m):
        if holes[h] != others[h]:
            same = False
            others[h] = holes[h]
    return same


@inlined
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for j in range(a.size):
        total += a[j] * b[j]
    return total


@inlined
def _leave_out(y, Q, m):  # type: ignore[no-untyped-def]
    """Subtract from y its projection on the first m rows of Q."""
    for h in range(m):
        q = Q[h]
        share = _dot(q, y)
        for j in range(y.size):
            y[j] -= share * q[j]


@inlined
def _span(U, holes, m, Q):  # type: ignore[no-untyped-def]
    """Write orthonormal rows that span U[m] to Q; return log|R|."""
    log_determinant = 0.0
    for h in range(m):
        q = Q[h]
        for j in range(q.size):
            q[j] = U[holes[h], j]
        # Once leaves what rounding adds where rows are nearly parallel; twice does not.
        _leave_out(q, Q, h)
        _leave_out(q, Q, h)
        length = sqrt(_dot(q, q))
        log_determinant += log(length)
        for j in range(q.size):
            q[j] /= length
    return log_determinant


@inlined
def _whiten(x, holes, m, mean, U, z, y):  # type: ignore[no-untyped-def]
    """Write y = Uᵀ(x − μ), with x − μ = 0 in the holes."""
    for j in range(x.size):
        z[j] = x[j] - mean[j]
        y[j] = 0.0
    for h in range(m):
        z[holes[h]] = 0.0
    for a in range(x.size):
        factor, value = U[a], z[a]
        for j in range(a, x.size):
            y[j] += factor[j] * value


@inlined
def _add_product(S, share, y):  # type: ignore[no-untyped-def]
    """Add share · y yᵀ to the lower triangle of S."""
    for a in range(y.size):
        row, value = S[a], share * y[a]
        for b in range(a + 1):
            row[b] += value * y[b]


@inlined
def _normalise(joint):  # type: ignore[no-untyped-def]
    """Turn log π p of a row into responsibilities; return log p and the first best component."""
    label, top = 0, joint[0]
    for c in range(1, joint.size):
        if joint[c] > top:
            label, top = c, joint[c]
    total = 0.0
    for c in range(joint.size):
        joint[c] = exp(joint[c] - top)
        total += joint[c]
    for c in range(joint.size):
        joint[c] /= total
    return top + log(total), label


@inlined
def _weight(vector, i):  # type: ignore[no-untyped-def]
    return 1.0 if vector.address == 0 else doubles(vector.address + i * vector.stride)[0]


@inlined
def _store(i, label, density, joint, labels, densities, certainties, responsibilities):  # type: ignore[no-untyped-def]
    """Write the predictions of a row to the arrays of the caller."""
    integers(labels.address + i * labels.stride)[0] = label
    doubles(densities.address + i * densities.stride)[0] = density
    if certainties.address != 0:
        doubles(certainties.address + i * certainties.stride)[0] = joint[label]
    if responsibilities.n > 0:
        row = responsibilities.address + i * responsibilities.row_stride
        for c in range(joint.size):
            doubles(row + c * responsibilities.column_stride)[0] = joint[c]


@inlined
def _matrix_densities(x, holes, m, changed, constants, means, factors, Q, rest, z, y, joint):  # type: ignore[no-untyped-def]
    """Write y and log π p of a row for each component, by factors of each or of all."""
    if changed:
        for p in range(factors.shape[0]):
            rest[p] = m * _HALF_LOG_2PI - _span(factors[p], holes, m, Q[p])
    for c in range(means.shape[0]):
        p = min(c, factors.shape[0] - 1)
        _whiten(x, holes, m, means[c], factors[p], z, y[c])
        _leave_out(y[c], Q[p], m)
        joint[c] = constants[c] + rest[p] - 0.5 * _dot(y[c], y[c])


@kernel("statistics kernel of scattered holes, full and tied covariances")
def matrix_statistics(  # type: ignore[no-untyped-def]
    source, sample_weight, constants, means, factors, counts, residual_sums, residual_products
):
    """Add N, F and S of the rows to the given arrays; return the log-likelihood.

    Factors and S have one matrix for each component, or one for all.
    """
    prefer_wide_vectors()
    k, d = means.shape
    parts = factors.shape[0]
    x, z, y, joint = np.empty(d), np.empty(d), np.empty((k, d)), np.empty(k)
    holes, before = np.zeros(d, np.int64), np.zeros(d, np.int64)
    Q, rest, held = np.empty((parts, d, d)), np.empty(parts), np.zeros(parts)
    limit = _limit(factors, d)
    count = -1
    log_likelihood = 0.0
    for i in range(source.n + 1):
        # After the last row there is a pattern of no holes, so that the code stands here once.
        m = _load_row(source, i, limit, x, holes) if i < source.n else 0
        changed = not _same(holes, m, before, count)
        if changed:
            for p in range(parts):
                for h in range(count):
                    _add_product(residual_products[p], held[p], Q[p, h])
                held[p] = 0.0
            count = m
        if i == source.n:
            break
        _matrix_densities(x, holes, m, changed, constants, means, factors, Q, rest, z, y, joint)
        weight = _weight(sample_weight, i)
        density, _ = _normalise(joint)
        log_likelihood += weight * density
        for c in range(k):
            p = min(c, parts - 1)
            share = weight * joint[c]
            if share != 0.0:
                counts[c] += share
                held[p] += share
                for j in range(d):
                    residual_sums[c, j] += share * y[c, j]
                _add_product(residual_products[p], share, y[c])
    for p in range(parts):
        mirror(residual_products[p])
    return log_likelihood


@kernel("prediction kernel of scattered holes, full and tied covariances")
def matrix_assign(  # type: ignore[no-untyped-def]
    source, constants, means, factors, labels, densities, certainties, responsibilities
):
    """Write the predictions of all rows."""
    prefer_wide_vectors()
    k, d = means.shape
    parts = factors.shape[0]
    x, z, y, joint = np.empty(d), np.empty(d), np.empty((k, d)), np.empty(k)
    holes, before = np.zeros(d, np.int64), np.zeros(d, np.int64)
    Q, rest = np.empty((parts, d, d)), np.empty(parts)
    limit = _limit(factors, d)
    count = -1
    for i in range(source.n):
        m = _load_row(source, i, limit, x, holes)
        changed = not _same(holes, m, before, count)
        count = m
        _matrix_densities(x, holes, m, changed, constants, means, factors, Q, rest, z, y, joint)
        density, label = _normalise(joint)
        _store(i, label, density, joint, labels, densities, certainties, responsibilities)


@inlined
def _scaled_densities(x, holes, m, constants, means, factors, logs, y, joint):  # type: ignore[no-untyped-def]
    """Write y and log π p of a row for each component, by a factor of each feature."""
    for c in range(means.shape[0]):
        whitened, rest = y[c], m * _HALF_LOG_2PI
        for j in range(x.size):
            whitened[j] = (x[j] - means[c, j]) * factors[c, j]
        for h in range(m):
            whitened[holes[h]] = 0.0
            rest -= logs[c, holes[h]]
        joint[c] = constants[c] + rest - 0.5 * _dot(whitened, whitened)


@kernel("statistics kernel of scattered holes, diag and spherical covariances")
def scaled_statistics(  # type: ignore[no-untyped-def]
    source, sample_weight, constants, means, factors, logs, counts, residual_sums, residual_products
):
    """Add N, F and S of the rows to the given arrays; return the log-likelihood.

    Factors, their logarithms and S are (k, d).
    """
    prefer_wide_vectors()
    k, d = means.shape
    x, y, joint, holes = np.empty(d), np.empty((k, d)), np.empty(k), np.zeros(d, np.int64)
    limit = _limit(factors, d)
    log_likelihood = 0.0
    for i in range(source.n):
        m = _load_row(source, i, limit, x, holes)
        _scaled_densities(x, holes, m, constants, means, factors, logs, y, joint)
        weight = _weight(sample_weight, i)
        density, _ = _normalise(joint)
        log_likelihood += weight * density
        for c in range(k):
            share = weight * joint[c]
            if share != 0.0:
                counts[c] += share
                for j in range(d):
                    residual_sums[c, j] += share * y[c, j]
                    residual_products[c, j] += share * y[c, j] * y[c, j]
                for h in range(m):
                    residual_products[c, holes[h]] += share
    return log_likelihood


@kernel("prediction kernel of scattered holes, diag and spherical covariances")
def scaled_assign(  # type: ignore[no-untyped-def]
    source, constants, means, factors, logs, labels, densities, certainties, responsibilities
):
    """Write the predictions of all rows."""
    prefer_wide_vectors()
    k, d = means.shape
    x, y, joint, holes = np.empty(d), np.empty((k, d)), np.empty(k), np.zeros(d, np.int64)
    limit = _limit(factors, d)
    for i in range(source.n):
        m = _load_row(source, i, limit, x, holes)
        _scaled_densities(x, holes, m, constants, means, factors, logs, y, joint)
        density, label = _normalise(joint)
        _store(i, label, density, joint, labels, densities, certainties, responsibilities)
