"""Bundles: rows in order with the components that may matter for them, and passes over them.

A bundle's rows are copied out feature-major, and its components into a mixture of their own, which
a pass over tiles takes like any other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gmm_dask.mixture.kernels.addresses import (
    RowsAddress,
    VectorAddress,
    doubles,
    integers,
    singles,
)
from gmm_dask.mixture.kernels.compile import allocating, exact, inlined
from gmm_dask.mixture.kernels.tiles import aligned, fill, prefer_wide_vectors


class Bundle(NamedTuple):
    """The buffers for one bundle after the other, flat and large enough for each.

    Attributes
    ----------
    rows, weights
        Of the bundle, feature-major; and their sample weights.
    components
        The numbers of its components.
    constants, means, factors
        Of these components.
    counts, residual_sums, residual_products
        Their statistics.
    """

    rows: Any
    weights: Any
    components: Any
    constants: Any
    means: Any
    factors: Any
    counts: Any
    residual_sums: Any
    residual_products: Any


@allocating
@inlined
def begin_bundles(bounds, bundles, k, d, factor, product):  # type: ignore[no-untyped-def]
    """Allocate the buffers; ``factor`` and ``product`` are the sizes of U and S of a component."""
    most = 0
    for b in range(bundles):
        most = max(most, bounds[b + 1] - bounds[b])
    return Bundle(
        aligned(most * d),
        aligned(most),
        np.empty(k, np.int64),
        np.empty(k),
        np.empty(k * d),
        np.empty(k * factor),
        np.empty(k),
        np.empty(k * d),
        np.empty(k * product),
    )


@inlined
def address_of(values):  # type: ignore[no-untyped-def]
    """Return the address of an array as a signed integer, as the passes are given it."""
    return np.int64(values.ctypes.data)


@exact
def take_rows(bundle, source, sample_weight, order, d):  # type: ignore[no-untyped-def]
    """Copy the rows with these numbers, and their weights; return where they are."""
    prefer_wide_vectors()
    rows = order.size
    for j in range(d):
        feature = bundle.rows[j * rows : (j + 1) * rows]
        column = source.address + j * source.column_stride
        if source.itemsize == 4:
            for i in range(rows):
                feature[i] = singles(column + order[i] * source.row_stride)[0]
        else:
            for i in range(rows):
                feature[i] = doubles(column + order[i] * source.row_stride)[0]
    weights = address_of(bundle.weights) if sample_weight.address != 0 else 0
    if sample_weight.address != 0:
        for i in range(rows):
            bundle.weights[i] = doubles(sample_weight.address + order[i] * sample_weight.stride)[0]
    return RowsAddress(address_of(bundle.rows), 8, rows * 8, 8, rows), VectorAddress(weights, 8)


@exact
def take_components(bundle, active, constants, means, factors):  # type: ignore[no-untyped-def]
    """Copy the components of a bundle; return how many. Factors are (k, size) or (0, 0)."""
    prefer_wide_vectors()
    d, size = means.shape[1], factors.shape[1]
    m = 0
    for c in range(active.size):
        if active[c]:
            bundle.components[m] = c
            bundle.constants[m] = constants[c]
            _copy(means[c], bundle.means[m * d : (m + 1) * d])
            _copy(factors[c], bundle.factors[m * size : (m + 1) * size])
            m += 1
    return m


@exact
def _copy(values, target):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        target[i] = values[i]


@inlined
def clear_statistics(bundle, m, d, product):  # type: ignore[no-untyped-def]
    """Set the statistics of a bundle of m components to 0."""
    fill(bundle.counts[:m], 0.0, 0)
    fill(bundle.residual_sums[: m * d], 0.0, 0)
    fill(bundle.residual_products[: m * product], 0.0, 0)


@exact
def add_statistics(  # type: ignore[no-untyped-def]
    bundle, m, counts, residual_sums, residual_products
):
    """Add the statistics of a bundle's m components to those of all; S is (k, size)."""
    prefer_wide_vectors()
    d, size = residual_sums.shape[1], residual_products.shape[1]
    for a in range(m):
        c = bundle.components[a]
        counts[c] += bundle.counts[a]
        _add(bundle.residual_sums[a * d : (a + 1) * d], residual_sums[c])
        _add(bundle.residual_products[a * size : (a + 1) * size], residual_products[c])


@exact
def _add(values, target):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        target[i] += values[i]


class Answers(NamedTuple):
    """The predictions for the rows of a bundle, large enough for each.

    Attributes
    ----------
    labels, densities, certainties
        As a pass writes them, of the components of the bundle.
    shares
        Responsibilities, row by row, flat; empty unless they are asked for.
    """

    labels: Any
    densities: Any
    certainties: Any
    shares: Any


@allocating
@inlined
def begin_answers(bounds, bundles, active, responsibilities):  # type: ignore[no-untyped-def]
    """Allocate the buffers."""
    most, shares = 0, 0
    for b in range(bundles):
        rows = bounds[b + 1] - bounds[b]
        most = max(most, rows)
        if responsibilities.n > 0:
            m = 0
            for c in range(active.shape[1]):
                m += active[b, c]
            shares = max(shares, rows * m)
    return Answers(np.empty(most, np.int32), np.empty(most), np.empty(most), np.empty(shares))


@inlined
def places_of(answers, m, rows):  # type: ignore[no-untyped-def]
    """Return where a pass writes labels, densities, certainties and responsibilities."""
    return (
        VectorAddress(address_of(answers.labels), 4),
        VectorAddress(address_of(answers.densities), 8),
        VectorAddress(address_of(answers.certainties), 8),
        RowsAddress(
            address_of(answers.shares), 8 * m, 8, 8, rows if answers.shares.size > 0 else 0
        ),
    )


@exact
def give_answers(  # type: ignore[no-untyped-def]
    bundle, answers, m, k, order, labels, densities, certainties, responsibilities
):
    """Write the predictions of a bundle to the arrays of the caller."""
    for i in range(order.size):
        row = order[i]
        label = np.int32(bundle.components[answers.labels[i]])
        integers(labels.address + row * labels.stride)[0] = label
        doubles(densities.address + row * densities.stride)[0] = answers.densities[i]
        if certainties.address != 0:
            doubles(certainties.address + row * certainties.stride)[0] = answers.certainties[i]
        if responsibilities.n > 0:
            place, stride = responsibilities.address, responsibilities.column_stride
            place += row * responsibilities.row_stride
            for c in range(k):
                doubles(place + c * stride)[0] = 0.0
            for a in range(m):
                share = answers.shares[i * m + a]
                doubles(place + bundle.components[a] * stride)[0] = share
