"""Components split in two by one compiled call: the split of `gmm_dask.mixture.moves`, faster.

Of a component there are some thousand rows at the most. Two ways to cut them and a few iterations
of EM for each are little arithmetic between many calls of numpy.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.parameters import LOG_2_PI, MixtureParameters
from gmm_dask.mixture.small_search.climbers import SmallSample
from gmm_dask.mixture.spec import EMOptions, MixtureSpec, Start
from gmm_dask.mixture.starts import Sample


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
    rows = SmallSample(Sample(X, share), replace(spec, n_components=2, start=Start()))
    d, weight = X.shape[1], float(share.sum())
    mean = rows.row_weights @ rows.rows / len(X)  # (d,)
    covariance = rows.covariance.estimate(
        rows.rows, rows.row_weights[:, None], np.asarray([float(len(X))]), mean[None], rows.spec
    )
    (matrix,) = rows.covariance.matrices(covariance, 1, d)  # (d, d)
    variances, axes = np.linalg.eigh(matrix)  # ascending
    if not variances[0] > 0.0:
        return -np.inf, None
    # The log-likelihood of a Gaussian with the mean and the covariance of the rows.
    unsplit = -0.5 * weight * (d * (LOG_2_PI + 1.0) + float(np.log(variances).sum()))
    along = (rows.rows - mean) @ axes  # (r, d), on the principal axes
    squares = (along * along / variances).sum(axis=1)
    cuts = np.stack([along[:, -1] > 0.0, squares < np.median(squares)])  # (2, r)
    halves = np.stack([cuts, ~cuts], axis=1) * rows.row_weights  # (2, 2, r)
    nothing = np.empty((2, 0))
    climbed = rows.climb_from(rows.in_tiles(halves), EMOptions(0.0, iterations), nothing)
    counts = climbed.counts.min(axis=1) * (weight / len(X))
    gains = np.where(climbed.broken | (counts < least), -np.inf, climbed.log_likelihoods * weight)
    best = int(np.argmax(gains))
    if not np.isfinite(gains[best]):
        return -np.inf, None
    try:
        return float(gains[best]) - unsplit, rows.parameters(climbed, best)
    except NumericalError:  # the last M-step led to a singular covariance
        return -np.inf, None
