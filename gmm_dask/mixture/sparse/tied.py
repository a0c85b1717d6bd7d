"""Passes over bundles of rows with a tied covariance: statistics and predictions."""

from __future__ import annotations

import numpy as np

from gmm_dask.mixture.kernels import tied
from gmm_dask.mixture.kernels.addresses import NO_ANSWERS, NO_VECTOR
from gmm_dask.mixture.kernels.compile import kernel
from gmm_dask.mixture.kernels.tiles import fill, prefer_wide_vectors
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

_statistics, _assign = tied.statistics.part, tied.assign.part


@kernel("statistics kernel of the tied covariance for many components")
def statistics(  # type: ignore[no-untyped-def]
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
    """Add N, F and S of the rows to the given arrays; return the log-likelihood."""
    prefer_wide_vectors()
    k, d = means.shape
    bundle = begin_bundles(bounds, bundles, k, d, 0, 0)
    every, total = np.empty((k, 0)), np.empty((k, 0))
    pooled = np.empty((d, d))
    log_likelihood = 0.0
    for b in range(bundles):
        numbers = order[bounds[b] : bounds[b + 1]]
        rows, weights = take_rows(bundle, source, sample_weight, numbers, d)
        m = take_components(bundle, active[b], constants, means, every)
        clear_statistics(bundle, m, d, 0)
        fill(pooled.reshape(d * d), 0.0, 0)
        log_likelihood += _statistics(
            rows,
            weights,
            bundle.constants[:m],
            bundle.means[: m * d].reshape((m, d)),
            factors,
            bundle.counts[:m],
            bundle.residual_sums[: m * d].reshape((m, d)),
            pooled,
            NO_ANSWERS,
        )
        add_statistics(bundle, m, counts, residual_sums, total)
        residual_products += pooled
    return log_likelihood


@kernel("prediction kernel of the tied covariance for many components")
def assign(  # type: ignore[no-untyped-def]
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
    bundle = begin_bundles(bounds, bundles, k, d, 0, 0)
    answers = begin_answers(bounds, bundles, active, responsibilities)
    every = np.empty((k, 0))
    finite = True
    for b in range(bundles):
        numbers = order[bounds[b] : bounds[b + 1]]
        rows, _ = take_rows(bundle, source, NO_VECTOR, numbers, d)
        m = take_components(bundle, active[b], constants, means, every)
        of_labels, of_densities, of_certainties, of_shares = places_of(answers, m, numbers.size)
        finite = (
            _assign(
                rows,
                bundle.constants[:m],
                bundle.means[: m * d].reshape((m, d)),
                factors,
                of_labels,
                of_densities,
                of_certainties,
                of_shares,
            )
            and finite
        )
        give_answers(
            bundle, answers, m, k, numbers, labels, densities, certainties, responsibilities
        )
    return finite
