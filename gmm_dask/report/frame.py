"""The frame of a picture: features and iterations drawn, ranges, ellipses of components."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.parameters import MixtureParameters

SUBSTANTIAL_WEIGHT = 0.01  # a component below this does not widen the picture


def ellipse(
    mean: FloatArray, covariance: FloatArray, sigma: float, n_points: int = 97
) -> FloatArray:
    """Closed outline (n_points, 2) of the points at Mahalanobis distance ``sigma``.

    The Cholesky factor is written out, so that a singular covariance gives a segment or a point.
    """
    angles = np.linspace(0.0, 2.0 * np.pi, n_points)
    width, depth = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
    correlation = 0.0
    if width > 0.0 and depth > 0.0:
        correlation = float(np.clip(covariance[0, 1] / width / depth, -1.0, 1.0))
    circle = np.column_stack([np.cos(angles), np.sin(angles)])  # (n_points, 2)
    tilted = correlation * circle[:, 0] + np.sqrt(1.0 - correlation**2) * circle[:, 1]
    offsets = np.column_stack([width * circle[:, 0], depth * tilted])
    return mean + sigma * offsets


def substantial_components(parameters: MixtureParameters, n_rows: int) -> npt.NDArray[np.bool_]:
    """Mask (k,) of the components that hold at least 1 % of the rows, and more than d of them."""
    floor = max(SUBSTANTIAL_WEIGHT, (parameters.n_features + 1) / n_rows)
    substantial: npt.NDArray[np.bool_] = parameters.weights >= min(floor, parameters.weights.max())
    return substantial


def feature_limits(
    values: FloatArray, means: FloatArray, deviations: FloatArray
) -> tuple[float, float]:
    """Range of an axis that shows most rows and the components, but not every outlier.

    The range between the 1 % and 99 % quantiles of the rows is extended twice: to the rows that
    lie within half its width on either side, then to 3 σ around each mean, by at most a quarter
    of its width.

    Parameters
    ----------
    values
        Values of the sample, (m,); NaN where a row has none.
    means, deviations
        Means and standard deviations of the substantial components, (k,).
    """
    values = values[~np.isnan(values)]
    if not len(values):  # a feature that hardly any row has
        values = means
    low = float(np.quantile(values, 0.01, method="higher"))
    high = float(np.quantile(values, 0.99, method="lower"))
    low, high = min(low, high), max(low, high)
    slack = 0.5 * (high - low)
    near = values[(values >= low - slack) & (values <= high + slack)]
    low, high = float(near.min()), float(near.max())
    reach = 0.25 * (high - low) if high > low else np.inf
    low = min(low, max(float(np.min(means - 3.0 * deviations)), low - reach))
    high = max(high, min(float(np.max(means + 3.0 * deviations)), high + reach))
    middle = 0.5 * low + 0.5 * high
    # A constant column has no width, but an axis needs one beyond rounding.
    half = max(0.53 * (high - low), 1e-13 * abs(middle), 1e-280)
    return middle - half, middle + half


def separating_features(parameters: MixtureParameters, most: int) -> list[int]:
    """The ``most`` features in which the component means differ most, in the order of columns.

    The measure is the share of a feature's variance that lies between the means.
    """
    weights = parameters.weights
    centered = parameters.means - weights @ parameters.means  # (k, d)
    between = weights @ centered**2  # (d,)
    within = weights @ np.diagonal(parameters.matrices, axis1=1, axis2=2)
    total = between + within
    share = np.divide(between, total, out=np.zeros_like(total), where=total > 0.0)
    return sorted(np.argsort(-share, kind="stable")[:most].tolist())


def first_drawn(bounds: FloatArray) -> int:
    """Index of the first iteration to draw.

    A start far from the data can lie millions of nats below all later iterations, which would
    then look like a flat line. So an iteration is left out if it lies more than 30 nats below the
    last and the next one covers more than nine tenths of that distance. The last two are always
    drawn.
    """
    first = 0
    while first < len(bounds) - 2:
        distance, remaining = bounds[-1] - bounds[first : first + 2]
        if not (distance > 30.0 and remaining < 0.1 * distance):
            break
        first += 1
    return first
