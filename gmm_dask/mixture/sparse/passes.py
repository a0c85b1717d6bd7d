"""Passes over bundles of rows: statistics and predictions.

Each bundle goes to the pass over tiles of its form, which is called by its address.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.kernels.addresses import (
    NO_ANSWERS,
    NO_VECTOR,
    doubles,
    rows_at,
)
from gmm_dask.mixture.kernels.calls import returning
from gmm_dask.mixture.kernels.compile import allocating, exact, inlined, kernel
from gmm_dask.mixture.kernels.passes import PASSES
from gmm_dask.mixture.kernels.tiles import fill, prefer_wide_vectors
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.sparse.bundles import (
    add_statistics,
    begin_answers,
    begin_bundles,
    clear_statistics,
    give_answers,
    places_of,
    take_components,
    take_rows,
)

# A pass that has not failed has written another.
_NO_LABEL = -1

_sum = returning("sum_bundle", lambda types: types.float64)
_predict = returning("predict_bundle", lambda types: types.boolean)


class Callee(NamedTuple):
    """The pass that is called, and the form of the factors that it takes.

    Attributes
    ----------
    address
        `Kernel.address` of it.
    axes
        How many axes U has: 3 as (k, d, d), 2 as (d, d) or (k, d), 1 as (k,).
    size
        Numbers in the U of one component, and in its S; 0 where all share one matrix.
    """

    address: int
    axes: int
    size: int


def statistics_of(parameters: MixtureParameters) -> Callee:
    """Return the pass that takes the statistics of a bundle under some of the components."""
    pass_ = PASSES[parameters.covariance.factor_form].statistics
    k, d = parameters.means.shape
    sums = np.empty(k), np.empty((k, d)), np.empty(parameters.covariance.shape(k, d))
    return _callee(
        parameters, pass_.address(_ROWS, NO_VECTOR, *_arrays(parameters), *sums, NO_ANSWERS)
    )


def assign_of(parameters: MixtureParameters) -> Callee:
    """Return the pass that predicts a bundle under some of the components."""
    pass_ = PASSES[parameters.covariance.factor_form].assign
    answers = NO_VECTOR, NO_VECTOR, NO_VECTOR, _ROWS
    return _callee(parameters, pass_.address(_ROWS, *_arrays(parameters), *answers))


_ROWS = rows_at(np.empty((0, 1)))


def _arrays(parameters: MixtureParameters) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return arrays of the types of constants, means and factors."""
    k, d = parameters.means.shape
    return np.empty(k), np.empty((k, d)), np.empty(parameters.covariance.shape(k, d))


def _callee(parameters: MixtureParameters, address: int) -> Callee:
    k, d = parameters.means.shape
    shape = parameters.covariance.shape(k, d)
    own = parameters.covariance.by_component
    return Callee(address, len(shape), int(np.prod(shape[1:])) if own else 0)


@inlined
def _sum_bundle(callee, bundle, rows, weights, m, d, shared, pooled):  # type: ignore[no-untyped-def]
    """Take the statistics of a bundle of m components; ``shared`` and ``pooled`` are U and S."""
    constants, means = bundle.constants[:m], bundle.means[: m * d].reshape((m, d))
    first = rows, weights, constants, means
    N, F = bundle.counts[:m], bundle.residual_sums[: m * d].reshape((m, d))
    U, S = bundle.factors[: m * callee.size], bundle.residual_products[: m * callee.size]
    if callee.axes == 3:
        shape = m, d, d
        given = (*first, U.reshape(shape), N, F, S.reshape(shape), NO_ANSWERS)
        return _sum(callee.address, given)
    if callee.axes == 1:
        return _sum(callee.address, (*first, U, N, F, S, NO_ANSWERS))
    if callee.size == 0:
        return _sum(callee.address, (*first, shared, N, F, pooled, NO_ANSWERS))
    size = m, d
    return _sum(callee.address, (*first, U.reshape(size), N, F, S.reshape(size), NO_ANSWERS))


@inlined
def _predict_bundle(callee, bundle, rows, m, d, shared, places):  # type: ignore[no-untyped-def]
    """Predict the rows of a bundle of m components; return whether all are finite."""
    constants, means = bundle.constants[:m], bundle.means[: m * d].reshape((m, d))
    U = bundle.factors[: m * callee.size]
    first = rows, constants, means
    if callee.axes == 3:
        return _predict(callee.address, (*first, U.reshape((m, d, d)), *places))
    if callee.axes == 1:
        return _predict(callee.address, (*first, U, *places))
    if callee.size == 0:
        return _predict(callee.address, (*first, shared, *places))
    return _predict(callee.address, (*first, U.reshape((m, d)), *places))


@exact
def _has_failed(bundle, rows, weights, m):  # type: ignore[no-untyped-def]
    """Tell whether the pass has failed: no component has a share in rows that have a weight."""
    for a in range(m):
        if bundle.counts[a] != 0.0:
            return False
    total = 1.0 * rows.n
    if weights.address != 0:
        total = 0.0
        for i in range(rows.n):
            total += doubles(weights.address)[i]
    return total > 0.0


@allocating
@inlined
def _shared_matrix(callee, factors, d):  # type: ignore[no-untyped-def]
    """Return U where all components share it; else a matrix without meaning."""
    return factors.reshape((d, d)) if callee.size == 0 else np.empty((d, d))


@allocating
@inlined
def _own_factors(callee, factors, k):  # type: ignore[no-untyped-def]
    """Return the factors of each component, (k, size)."""
    return factors[: k * callee.size].reshape((k, callee.size))


@kernel("statistics kernel for many components")
def statistics(  # type: ignore[no-untyped-def]
    callee,
    source,
    sample_weight,
    order,
    bounds,
    bundles,
    active,
    constants,
    means,
    factors,
    counts,
    residual_sums,
    residual_products,
):
    """Add N, F and S of the rows to the given arrays; return the log-likelihood.

    Factors and S are flat.
    """
    prefer_wide_vectors()
    k, d = means.shape
    bundle = begin_bundles(bounds, bundles, k, d, callee.size, callee.size)
    every = _own_factors(callee, factors, k)
    total = _own_factors(callee, residual_products, k)
    shared, pooled = _shared_matrix(callee, factors, d), np.zeros((d, d))
    log_likelihood = 0.0
    for b in range(bundles):
        numbers = order[bounds[b] : bounds[b + 1]]
        rows, weights = take_rows(bundle, source, sample_weight, numbers, d)
        m = take_components(bundle, active[b], constants, means, every)
        clear_statistics(bundle, m, d, callee.size)
        fill(pooled.reshape(d * d), 0.0, 0)
        log_likelihood += _sum_bundle(callee, bundle, rows, weights, m, d, shared, pooled)
        if _has_failed(bundle, rows, weights, m):
            raise MemoryError("a pass over a bundle of rows had too little memory")
        add_statistics(bundle, m, counts, residual_sums, total)
        if callee.size == 0:
            for i in range(d * d):
                residual_products[i] += pooled[i // d, i % d]
    return log_likelihood


@kernel("prediction kernel for many components")
def assign(  # type: ignore[no-untyped-def]
    callee,
    source,
    order,
    bounds,
    bundles,
    active,
    constants,
    means,
    factors,
    labels,
    densities,
    certainties,
    responsibilities,
):
    """Write the predictions of all rows; return whether all values are finite."""
    prefer_wide_vectors()
    k, d = means.shape
    bundle = begin_bundles(bounds, bundles, k, d, callee.size, callee.size)
    answers = begin_answers(bounds, bundles, active, responsibilities)
    every, shared = _own_factors(callee, factors, k), _shared_matrix(callee, factors, d)
    finite = True
    for b in range(bundles):
        numbers = order[bounds[b] : bounds[b + 1]]
        rows, _ = take_rows(bundle, source, NO_VECTOR, numbers, d)
        m = take_components(bundle, active[b], constants, means, every)
        places = places_of(answers, m, numbers.size)
        if numbers.size > 0:
            answers.labels[0] = _NO_LABEL
        finite = _predict_bundle(callee, bundle, rows, m, d, shared, places) and finite
        if numbers.size > 0 and answers.labels[0] == _NO_LABEL:
            raise MemoryError("a prediction of a bundle of rows had too little memory")
        give_answers(
            bundle, answers, m, k, numbers, labels, densities, certainties, responsibilities
        )
    return finite
