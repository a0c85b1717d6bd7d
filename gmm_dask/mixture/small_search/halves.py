"""Components split in two by two compiled calls: the split of `gmm_dask.mixture.moves`, faster.

Of a component there are some thousand rows at the most. Two ways to cut them and a few iterations
of EM for each are little arithmetic between many calls of numpy.
"""

from __future__ import annotations

import numpy as np

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.kernels.addresses import writable
from gmm_dask.mixture.kernels.climb import BROKEN, FORMS, climb
from gmm_dask.mixture.kernels.cuts import cut
from gmm_dask.mixture.kernels.tiles import ROWS
from gmm_dask.mixture.parameters import LOG_2_PI, MixtureParameters
from gmm_dask.mixture.spec import MixtureSpec


def climb_halves(
    X: RowsArray, share: FloatArray, spec: MixtureSpec, least: int, iterations: int
) -> tuple[float, MixtureParameters | None]:
    """Split the rows of a component in two; return the gain of log-likelihood and the two halves.

    Parameters
    ----------
    X
        Rows of the component, (r, d).
    share
        Responsibility of the component for each row, times the row's weight, (r,), above 0.
    spec
        Of the whole mixture.
    least
        A half of fewer rows is none.
    iterations
        Of EM, for each way to cut.

    Returns
    -------
    gain
        Nats; −inf if the component cannot be split.
    halves
        A mixture of two components; None if the component cannot be split.
    """
    (r, d), weight, form = X.shape, float(share.sum()), FORMS[spec.covariance_type]
    covariance = COVARIANCE_TYPES[spec.covariance_type]
    tiles = -(-r // ROWS)
    laid, weights, halves = (
        np.zeros(shape) for shape in ((tiles, d * ROWS), (tiles, ROWS), (2, tiles, 2, ROWS))
    )
    centre, matrix = np.empty(d), np.empty((d, d))
    members = writable(np.asarray(X.T, np.float64))
    reg_covar = float(spec.reg_covar)
    size = cut(form, members, share, reg_covar, laid, weights, halves, centre, matrix)
    if not np.isfinite(size):
        return -np.inf, None
    # The log-likelihood of a Gaussian with the mean and the covariance of the rows.
    unsplit = -0.5 * weight * (d * (LOG_2_PI + 1.0) + 2.0 * size)
    shape = covariance.shape(2, d)
    pooled = covariance.from_matrices(np.stack([matrix, matrix]), np.ones(2))  # where none are left
    climbed = np.zeros((2, 2)), np.zeros((2, 2, d)), np.stack([pooled.ravel()] * 2)
    counts, outcomes = np.zeros((2, 2)), np.zeros((2, 5))
    climb(
        form, laid, weights, True, halves, *climbed, counts, outcomes, reg_covar, 0.0, iterations
    )  # fmt: skip
    broken = (outcomes[:, 3] == BROKEN) | (counts.min(axis=1) * (weight / r) < least)
    gains = np.where(broken, -np.inf, outcomes[:, 0] * weight)
    best = int(np.argmax(gains))
    if not np.isfinite(gains[best]):
        return -np.inf, None
    shares, means, covariances = (values[best] for values in climbed)
    try:
        return float(gains[best]) - unsplit, MixtureParameters.from_covariances(
            spec.covariance_type, shares, means + centre, covariances.reshape(shape)
        )
    except NumericalError:  # the last M-step led to a singular covariance
        return -np.inf, None
