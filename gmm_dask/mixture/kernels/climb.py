"""EM of many small mixtures in one call: a search on a few hundred rows consists of little else.

Between two calls of numpy, an iteration on a hundred rows takes a hundred times as long as its
arithmetic. So the whole loop is compiled here, E-step, M-step and the test for convergence. It is
the textbook's EM: the rows lie in memory, and covariances are summed about the new means, so that
nothing cancels. `tests/mixture/test_climb.py` holds it to `gmm_dask.mixture.em`.
"""

from __future__ import annotations

import numpy as np

from gmm_dask.mixture.kernels.compile import inlined, kernel
from gmm_dask.mixture.kernels.densities import dot, joint_densities, normalise, sum_of
from gmm_dask.mixture.kernels.tiles import ROWS, aligned, aligned_rows, fill, prefer_wide_vectors
from gmm_dask.mixture.kernels.whitening import add_products, whiten

#: The forms of covariances, as numbers that a kernel can compare.
FULL, TIED, DIAG, SPHERICAL = range(4)
FORMS = {"full": FULL, "tied": TIED, "diag": DIAG, "spherical": SPHERICAL}
#: How a climb ends.
CONVERGED, STOPPED, BROKEN = range(3)

_COUNT_FLOOR = 10 * float(np.finfo(np.float64).eps)
_LOG_2_PI = float(np.log(2.0 * np.pi))


@inlined
def factorize(covariance, lower, U):  # type: ignore[no-untyped-def]
    """Write the Cholesky factor L and U = L⁻ᵀ; return Σ log Lⱼⱼ, NaN if there is no factor."""
    d = covariance.shape[0]
    log_determinant = 0.0
    for i in range(d):
        for j in range(i):
            rest = covariance[i, j]
            for l in range(j):  # noqa: E741
                rest -= lower[i, l] * lower[j, l]
            lower[i, j] = rest / lower[j, j]
        rest = covariance[i, i]
        for l in range(i):  # noqa: E741
            rest -= lower[i, l] * lower[i, l]
        if not 0.0 < rest < np.inf:  # nor NaN
            return np.nan
        lower[i, i] = np.sqrt(rest)
        log_determinant += np.log(lower[i, i])
    for i in range(d):
        scale = 1.0 / lower[i, i]
        for j in range(i):
            rest = 0.0
            for l in range(j, i):  # noqa: E741
                rest -= lower[i, l] * U[j, l]
            U[j, i] = rest * scale
        U[i, i] = scale
    return log_determinant


@inlined
def _prepare(form, covariances, shares, lower, factors, scales, constants):  # type: ignore[no-untyped-def]
    """Write the factors of all components and log π − log|L| − d/2 · log 2π.

    Returns the first component whose covariance is not positive definite, −1 if there is none.
    """
    k, d = scales.shape
    log_determinant = 0.0
    for c in range(k):
        if form == FULL or (form == TIED and c == 0):
            covariance = covariances[c * d * d : (c + 1) * d * d].reshape((d, d))
            log_determinant = factorize(covariance, lower, factors[c])
        elif form in (DIAG, SPHERICAL):
            log_determinant = 0.0
            for j in range(d):
                variance = covariances[c * d + j if form == DIAG else c]
                if not 0.0 < variance < np.inf:
                    return c
                scales[c, j] = 1.0 / np.sqrt(variance)
                log_determinant += 0.5 * np.log(variance)
        if not -np.inf < log_determinant < np.inf:
            return c
        constants[c] = np.log(shares[c]) - log_determinant - 0.5 * d * _LOG_2_PI
    return -1


@inlined
def _scaled_squares(tile, mean, scales, squares):  # type: ignore[no-untyped-def]
    """Write Σ (x − μ)² / σ² of the rows of a tile."""
    prefer_wide_vectors()
    fill(squares, 0.0, 0)
    for j in range(mean.size):
        x = tile[j * ROWS : (j + 1) * ROWS]
        mu, scale = mean[j], scales[j]
        for i in range(ROWS):
            y = (x[i] - mu) * scale
            squares[i] += y * y


@inlined
def _add_squares(form, tile, mean, shares, sums):  # type: ignore[no-untyped-def]
    """Add Σ r (x − μ)² of a tile, of each feature or of all together."""
    prefer_wide_vectors()
    for j in range(mean.size):
        x = tile[j * ROWS : (j + 1) * ROWS]
        mu, total = mean[j], 0.0
        for i in range(ROWS):
            total += shares[i] * ((x[i] - mu) * (x[i] - mu))
        sums[j if form == DIAG else 0] += total


@inlined
def _subtract(tile, mean, residuals):  # type: ignore[no-untyped-def]
    """Write x − μ of the rows of a tile."""
    prefer_wide_vectors()
    for j in range(mean.size):
        x = tile[j * ROWS : (j + 1) * ROWS]
        residual = residuals[j * ROWS : (j + 1) * ROWS]
        mu = mean[j]
        for i in range(ROWS):
            residual[i] = x[i] - mu


@inlined
def _copy(values, target):  # type: ignore[no-untyped-def]
    """Copy to a buffer that begins at a cache line, as the vector instructions need it."""
    for i in range(values.size):
        target[i] = values[i]


@inlined
def _maximize(  # type: ignore[no-untyped-def]
    form, tiles, responsibilities, shares, means, covariances, counts, reg_covar, buffers
):
    """Take the M-step from responsibilities (t, k, ROWS), which hold the weights of the rows."""
    residuals, weighted, aligned_shares, shifts, products = buffers
    k, d = means.shape
    size = d * d if form in (FULL, TIED) else (d if form == DIAG else 1)
    total = 0.0
    for c in range(k):
        count = 0.0
        for t in range(tiles.shape[0]):
            count += sum_of(responsibilities[t, c])
        counts[c] = count
        total += count + _COUNT_FLOOR
    fill(products, 0.0, 0)
    for c in range(k):
        count = counts[c] + _COUNT_FLOOR
        shares[c] = count / total
        if counts[c] > _COUNT_FLOOR:  # an empty component stays where it is
            for j in range(d):
                mean = 0.0
                for t in range(tiles.shape[0]):
                    mean += dot(responsibilities[t, c], tiles[t, j * ROWS : (j + 1) * ROWS])
                means[c, j] = mean / count
        place = 0 if form == TIED else c * size
        sums = products[place : place + size]
        for t in range(tiles.shape[0]):
            if form in (FULL, TIED):
                _copy(responsibilities[t, c], aligned_shares)
                _subtract(tiles[t], means[c], residuals)
                add_products(residuals, aligned_shares, weighted, shifts, sums.reshape((d, d)))
            else:
                _add_squares(form, tiles[t], means[c], responsibilities[t, c], sums)
    _update(form, products, covariances, counts, total, reg_covar, d)


@inlined
def _update(  # type: ignore[no-untyped-def]
    form, products, covariances, counts, total, reg_covar, d
):
    """Divide the products by the counts, and add ``reg_covar`` to the diagonals."""
    if form in (FULL, TIED):
        for c in range(counts.size if form == FULL else 1):
            if form == FULL and counts[c] <= _COUNT_FLOOR:
                continue
            count = counts[c] + _COUNT_FLOOR if form == FULL else total
            first = c * d * d
            for i in range(d):
                for j in range(i + 1):
                    value = products[first + i * d + j] / count
                    covariances[first + i * d + j] = value
                    covariances[first + j * d + i] = value
                covariances[first + i * d + i] += reg_covar
        return
    size = d if form == DIAG else 1
    for c in range(counts.size):
        if counts[c] > _COUNT_FLOOR:
            count = (counts[c] + _COUNT_FLOOR) * (d / size)
            for j in range(size):
                covariances[c * size + j] = products[c * size + j] / count + reg_covar


@inlined
def _expect(  # type: ignore[no-untyped-def]
    form, tiles, tile_weights, means, prepared, responsibilities, joint, scratch
):
    """Take the E-step; return the mean log-likelihood, nats."""
    factors, scales, constants = prepared
    residuals, whitened, squares, top, total = scratch
    log_likelihood, weight = 0.0, 0.0
    for t in range(tiles.shape[0]):
        for c in range(constants.size):
            if form in (FULL, TIED):
                U = factors[0 if form == TIED else c]
                whiten(tiles[t], means[c], U, residuals, whitened, squares)
            else:
                _scaled_squares(tiles[t], means[c], scales[c], squares)
            joint_densities(joint[c], constants[c], 0.5, squares, top, c == 0)
        normalise(joint, tile_weights[t], top, total)
        log_likelihood += dot(tile_weights[t], top)
        weight += sum_of(tile_weights[t])
        for c in range(constants.size):
            for i in range(ROWS):
                responsibilities[t, c, i] = joint[c, i]
    return log_likelihood / weight


@inlined
def _climb(  # type: ignore[no-untyped-def]
    form,
    rows,
    tile_weights,
    maximize_first,
    responsibilities,
    shares,
    means,
    covariances,
    counts,
    outcome,
    limits,
    buffers,
):
    """Run EM for one mixture; see `climb`."""
    reg_covar, tol, max_iter = limits
    factors, lower, scales, constants, joint, expecting, maximizing = buffers
    before, change, status, iteration = -np.inf, np.inf, STOPPED, 0
    expected, singular = maximize_first, -1
    while iteration < max_iter:
        if not expected:
            log_likelihood = np.nan
            singular = _prepare(form, covariances, shares, lower, factors, scales, constants)
            if singular < 0:
                prepared = factors, scales, constants
                log_likelihood = _expect(
                    form, rows, tile_weights, means, prepared, responsibilities, joint, expecting
                )
            if not -np.inf < log_likelihood < np.inf:
                status = BROKEN
                break
            change = log_likelihood - before
            before = log_likelihood
            iteration += 1
        expected = False
        _maximize(
            form, rows, responsibilities, shares, means, covariances, counts, reg_covar, maximizing
        )
        if abs(change) < tol:
            status = CONVERGED
            break
    outcome[0] = -np.inf if status == BROKEN else before
    outcome[1] = change
    outcome[2] = iteration
    outcome[3] = status
    outcome[4] = singular


@kernel("search of small samples")
def climb(  # type: ignore[no-untyped-def]
    form,
    tiles,
    tile_weights,
    maximize_first,
    responsibilities,
    shares,
    means,
    covariances,
    counts,
    outcomes,
    reg_covar,
    tol,
    max_iter,
):
    """Run EM for each of b mixtures until its likelihood changes by less than ``tol``.

    Parameters
    ----------
    form
        `FULL`, `TIED`, `DIAG` or `SPHERICAL`.
    tiles, tile_weights
        The rows, (t, d · ROWS), each tile feature-major, and their weights, (t, ROWS); rows that
        fill up the last tile weigh 0.
    maximize_first
        Whether the mixtures begin with an M-step from the given responsibilities; else they begin
        with an E-step under the given parameters.
    responsibilities
        (b, t, k, ROWS), times the weights of the rows. Holds those of the last E-step at the end.
    shares, means, covariances, counts
        π (b, k), μ (b, k, d), Σ flat (b, …) and N (b, k), changed in place.
    outcomes
        (b, 5): the mean log-likelihood of the last E-step (nats), its change, the iterations, how
        the climb ended (`CONVERGED`, `STOPPED` after ``max_iter`` iterations, or `BROKEN`), and
        the component whose covariance broke it, or −1.
    """
    prefer_wide_vectors()
    b, k, d = means.shape
    rows = aligned_rows(tiles.shape[0], d * ROWS)
    for t in range(tiles.shape[0]):
        _copy(tiles[t], rows[t])
    residuals, whitened = aligned(d * ROWS), aligned(d * ROWS)
    first, second, third = aligned(ROWS), aligned(ROWS), aligned(2 * ROWS)
    buffers = (
        np.zeros((k, d, d)),
        np.empty((d, d)),
        np.empty((k, d)),
        np.empty(k),
        aligned_rows(k, ROWS),
        (residuals, whitened, first, second, third),
        (residuals, whitened, first, np.empty(d), np.empty(covariances.shape[1])),
    )
    for m in range(b):
        _climb(
            form,
            rows,
            tile_weights,
            maximize_first,
            responsibilities[m],
            shares[m],
            means[m],
            covariances[m],
            counts[m],
            outcomes[m],
            (reg_covar, tol, max_iter),
            buffers,
        )
