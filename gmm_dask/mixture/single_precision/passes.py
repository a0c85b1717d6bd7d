"""The pass in single precision over rows in memory, and the rows that it leaves to float64."""

from __future__ import annotations

import numpy as np

from gmm_dask.arrays import FloatArray, IndexArray, RowsArray
from gmm_dask.mixture.kernels.addresses import rows_at, vector_at, writable
from gmm_dask.mixture.kernels.tiles import ROWS
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.single_precision import diag, full, spherical, tied
from gmm_dask.mixture.single_precision.narrowing import MOST_ROUNDED_OFFSET

#: The pass for each form of the factors U.
KERNELS = {
    "full": full.statistics,
    "tied": tied.statistics,
    "diag": diag.statistics,
    "spherical": spherical.statistics,
}


Sums = tuple[FloatArray, FloatArray, FloatArray, float]


def statistics(
    parameters: MixtureParameters, X: RowsArray, sample_weight: FloatArray | None
) -> tuple[Sums, IndexArray] | None:
    """Take the sums of an E-step in single precision; None where that is not safe.

    Parameters
    ----------
    X
        (n, d) float32, or float64 rows that may be rounded (`rounds`), any order and strides.
    sample_weight
        (n,) float64, ≥ 0, or None.

    Returns
    -------
    sums
        N (k,), F (k, d), S of the covariance type's shape, and Σ w log p(x), nats.
    left_out
        The numbers of the rows that are not in the sums, (m,).
    """
    covariance = parameters.covariance
    k, d = parameters.means.shape
    sums = np.zeros(k), np.zeros((k, d)), np.zeros(covariance.shape(k, d))
    starts = np.empty(-(-len(X) // ROWS), np.int64)
    log_likelihood, m = KERNELS[covariance.factor_form](
        rows_at(X),
        vector_at(sample_weight),
        parameters.log_constants,
        writable(parameters.means),
        writable(parameters.precisions_cholesky),
        writable(parameters.covariances),
        *sums,
        starts,
    )
    if m < 0:
        return None
    left_out = (starts[:m, None] + np.arange(ROWS)).ravel()
    return (*sums, log_likelihood), left_out[left_out < len(X)]


def is_safe(parameters: MixtureParameters) -> bool:
    """Whether float32 rows are computed in float32 under a mixture."""
    d = parameters.n_features
    return (
        parameters.covariance.factor_form in KERNELS
        and statistics(parameters, np.empty((0, d), np.float32), None) is not None
    )


def rounds(parameters: MixtureParameters) -> bool:
    """Whether float64 rows may be rounded to float32 under a mixture."""
    form, variances = parameters.covariance.factor_form, parameters.covariances
    if form in ("full", "tied"):
        variances = np.diagonal(variances, axis1=-2, axis2=-1)  # (k, d) or (d,)
    elif form == "spherical":
        variances = variances[:, None]
    return bool((parameters.means**2 <= MOST_ROUNDED_OFFSET**2 * variances).all())
