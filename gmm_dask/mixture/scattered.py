"""The E-step over scattered rows: rows with holes whose pattern hardly another row has.

A pass over the rows of a pattern costs what a pass over some forty rows does, so these rows take
passes of their own, which know holes (`kernels/scattered.py`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.kernels import scattered
from gmm_dask.mixture.kernels.addresses import native_rows, rows_at, vector_at, writable
from gmm_dask.mixture.parameters import MixtureParameters


def _mixture(parameters: MixtureParameters) -> tuple[FloatArray, ...]:
    """Return what the passes take of a mixture, in the form of its factors."""
    means, factors = parameters.means, parameters.precisions_cholesky
    if parameters.covariance.factor_form in ("full", "tied"):
        factors = factors.reshape(-1, *factors.shape[-2:])  # (k, d, d) or (1, d, d)
        return parameters.log_constants, writable(means), writable(factors)
    factors = writable(np.broadcast_to(factors.reshape(len(means), -1), means.shape))
    return parameters.log_constants, writable(means), factors, np.log(factors)


def scattered_statistics(
    parameters: MixtureParameters, X: RowsArray, sample_weight: FloatArray | None
) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """Take the sums of an E-step over rows with holes, expected values in their places.

    Parameters
    ----------
    X
        (n, d) float32 or float64, NaN in the holes. Rows of the same pattern should follow each
        other. Each has a value.
    sample_weight
        (n,), ≥ 0, or None.

    Returns
    -------
    counts, residual_sums, residual_products
        N (k,), F (k, d), and S of the covariance type's shape.
    log_likelihood
        Σ w log p(x) of the marginals, nats.
    """
    X = native_rows(X)
    if sample_weight is not None:
        sample_weight = np.asarray(sample_weight, dtype=np.float64)
    k, d = parameters.means.shape
    form = parameters.covariance.factor_form
    counts, residual_sums = np.zeros(k), np.zeros((k, d))
    of_matrices = form in ("full", "tied")
    products = np.zeros((k if form == "full" else 1, d, d) if of_matrices else (k, d))
    sum_rows = scattered.matrix_statistics if of_matrices else scattered.scaled_statistics
    log_likelihood: float = sum_rows(
        rows_at(X),
        vector_at(sample_weight),
        *_mixture(parameters),
        counts,
        residual_sums,
        products,
    )
    if form == "spherical":
        products = products.sum(axis=1)
    shape = parameters.covariance.shape(k, d)
    return counts, residual_sums, products.reshape(shape), log_likelihood


def assign_scattered(
    parameters: MixtureParameters,
    X: RowsArray,
    labels: npt.NDArray[np.int32],
    log_densities: FloatArray,
    responsibilities: FloatArray,
    certainties: FloatArray | None = None,
) -> None:
    """Predict rows with holes in one pass, into the given arrays: see `engine.assign`."""
    X = native_rows(X)
    of_matrices = parameters.covariance.factor_form in ("full", "tied")
    assign_rows = scattered.matrix_assign if of_matrices else scattered.scaled_assign
    assign_rows(
        rows_at(X),
        *_mixture(parameters),
        vector_at(labels),
        vector_at(log_densities),
        vector_at(certainties),
        rows_at(responsibilities),
    )
