"""Shifts of means, spreads and shares of components between the rows of a fit and later rows.

Each comes with its standard error and the probability that chance alone shows as much. The errors
are bounds: a row's responsibility is at most 1, so Var(Σ r t) ≤ n E[r t²] = n π, and overlap makes
a shift less uncertain than that, never more. Both sides are uncertain: the later rows, and the
parameters, by the rows of their fit. To first order an error of fitted parameters enters as the
mean deviation of the rows of the fit would, so its variance is the same with their number.

`scipy.special` is imported where it is called: it takes 0.1 s, and most runs measure no drift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.deviations import DeviationSums, spread_shape
from gmm_dask.mixture.parameters import MixtureParameters

#: Probability that a batch shows any drift by chance, over all that is measured in it.
FALSE_ALARMS = 1e-3
#: Effective rows that a component needs before its mean and spread are judged.
LEAST_ROWS = 10.0
#: A ratio of variances below this is no narrower, and squares that scatter more say nothing.
LEAST_RATIO, MOST_NOISE = 1e-6, 1e6


@dataclass(frozen=True, eq=False)
class Estimates:
    """Measured values, how uncertain they are, and whether chance explains them.

    Attributes
    ----------
    values
        NaN where no row says anything.
    errors
        Standard errors, at most; infinite where no row says anything.
    chances
        Probability of a value so far from no change, or farther, without any drift. 1 where there
        are too few rows to judge.
    """

    values: FloatArray
    errors: FloatArray
    chances: FloatArray


@dataclass(frozen=True, eq=False)
class Shifts:
    """How rows differ from those that a mixture was fitted to, component by component.

    Attributes
    ----------
    means
        Shift of the mean of each feature in each component, in σ of that feature there, (k, d).
    spreads
        Ratio of the standard deviations: (k, d), (1, d) or (k, 1), as `DeviationSums.squares`.
    shares
        Change of the share of the weight that each component has, (k,).
    """

    means: Estimates
    spreads: Estimates
    shares: Estimates

    @property
    def n_tests(self) -> int:
        """The number of values that are judged."""
        return self.means.values.size + self.spreads.values.size + self.shares.values.size


def measure_shifts(
    parameters: MixtureParameters,
    sums: DeviationSums,
    fitted_rows: float,
    reg_covar: float = 0.0,
    noise: FloatArray | None = None,
) -> Shifts:
    """Measure how rows differ from those that a mixture was fitted to.

    Parameters
    ----------
    sums
        Deviations of the later rows, with a weight above 0.
    fitted_rows
        Effective rows of the fit, > 0.
    reg_covar
        What the fit added to the variances, in model units: the rows spread by so much less.
    noise
        How much more the squares of the rows of the fit scatter than those of Gaussian rows
        (`measure_noise`), of the shape of the spreads; None: as much.
    """
    rows = sums.effective_rows
    equal = sums.squared_weight / sums.weight  # weight of a row, if all had the same
    counted = sums.held / equal  # effective rows of each component and feature, (k, d)
    fitted = np.maximum(parameters.weights * fitted_rows, 1e-300)[:, None]  # (k, 1)
    means = _means(sums, counted, fitted)
    deltas = np.nan_to_num(means.values)
    shape = sums.squares.shape
    held = _pool(sums.held, shape)
    variances = np.diagonal(parameters.matrices, axis1=1, axis2=2)[: shape[0], : shape[1]]
    # Where the variance is hardly more than what was added, the rows have none to compare.
    left = 1.0 - reg_covar / variances
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = _pool(sums.held * np.square(deltas), shape) / held
        ratios = (sums.squares / held - moved) / left
    noise = np.ones(shape) if noise is None else np.maximum(noise, 1.0)
    spreads = _spreads(
        np.where(left > 0.01, ratios, np.nan),
        _pool(counted, shape) / noise,
        _pool(np.broadcast_to(fitted, counted.shape), shape) / noise,
    )
    shares = sums.counts / sums.weight
    weights = parameters.weights
    errors = np.sqrt(weights * (1.0 - weights) * (1.0 / rows + 1.0 / fitted_rows))
    chances = count_chances(shares * rows, rows, weights * fitted_rows, fitted_rows)
    return Shifts(means, spreads, Estimates(shares - weights, errors, chances))


def _means(sums: DeviationSums, counted: FloatArray, fitted: FloatArray) -> Estimates:
    from scipy.special import erfc

    with np.errstate(divide="ignore", invalid="ignore"):
        values = sums.sums / sums.held
        # Rows that lie far out make a mean less certain than Gaussian rows would.
        wide = np.ones_like(values)
        if sums.squares.shape == values.shape:
            wide = np.fmax(sums.squares / sums.held, 1.0)
        errors = np.sqrt(wide / counted + 1.0 / fitted)
        distances = np.abs(values) / errors
    judged = (counted >= LEAST_ROWS) & (fitted >= LEAST_ROWS) & np.isfinite(distances)
    errors = np.where(counted > 0.0, errors, np.inf)
    chances = np.where(judged, erfc(np.where(judged, distances, 0.0) / np.sqrt(2.0)), 1.0)
    return Estimates(values, errors, chances)


def _spreads(ratios: FloatArray, counted: FloatArray, fitted: FloatArray) -> Estimates:
    """Judge ratios of variances by Fisher's F; the values are of standard deviations."""
    from scipy.special import fdtr, fdtrc

    judged = (counted >= LEAST_ROWS) & (fitted >= LEAST_ROWS) & np.isfinite(ratios)
    first, second = np.where(judged, counted, 1.0), np.where(judged, fitted, 1.0)
    held = np.where(judged, np.fmax(ratios, 0.0), 1.0)
    tails = np.minimum(fdtr(first, second, held), fdtrc(first, second, held))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.sqrt(np.fmax(ratios, LEAST_RATIO))
        errors = values * np.sqrt(0.5 * (1.0 / counted + 1.0 / fitted))
    values = np.where(np.isnan(ratios), np.nan, values)
    errors = np.where(np.isfinite(errors), errors, np.inf)
    return Estimates(values, errors, np.where(judged, np.minimum(2.0 * tails, 1.0), 1.0))


def _pool(values: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Add values (k, d) over the components or features that share a spread."""
    for axis in (0, 1):
        if shape[axis] == 1:
            values = values.sum(axis=axis, keepdims=True)
    return values


def count_chances(
    counts: FloatArray, rows: float, fitted_counts: FloatArray, fitted_rows: float
) -> FloatArray:
    """Return the probability of counts so different by chance, on either side.

    Both counts are of rare or common rows among many; given their sum, each is binomial. Effective
    counts need not be whole.

    Parameters
    ----------
    counts, rows
        Later rows of a kind, and all later rows.
    fitted_counts, fitted_rows
        The same of the fit.
    """
    above = chances_of_more(counts, rows, fitted_counts, fitted_rows)
    below = chances_of_more(fitted_counts, fitted_rows, counts, rows)
    return np.minimum(2.0 * np.minimum(above, below), 1.0)


def chances_of_more(
    counts: npt.ArrayLike, rows: float, fitted_counts: npt.ArrayLike, fitted_rows: float
) -> FloatArray:
    """Return the probability of at least ``counts`` later rows of a kind, by chance.

    Parameters as of `count_chances`.
    """
    from scipy.special import betainc

    counts, fitted_counts = np.asarray(counts, float), np.asarray(fitted_counts, float)
    tails = betainc(np.maximum(counts, 1e-12), fitted_counts + 1.0, rows / (rows + fitted_rows))
    return np.where(counts > 0.0, tails, 1.0)


def exchange_chance(change: float, k: int, rows: float, fitted_rows: float) -> float:
    """Bound the probability that so much of the weight is in other of k components by chance.

    ``change`` is a total variation distance τ. P ≤ 2^k exp(−2 n τ²): Hoeffding's bound for each of
    the 2^k sets of components (Bretagnolle, Huber and Carol).
    """
    both = 1.0 / (1.0 / rows + 1.0 / fitted_rows)
    return float(np.exp(min(k * np.log(2.0) - 2.0 * both * change**2, 0.0)))


def measure_noise(
    parameters: MixtureParameters, X: RowsArray, sample_weight: FloatArray | None = None
) -> FloatArray:
    """Measure how the squares of deviations scatter, as a multiple of Gaussian rows.

    Components of real rows have heavier tails than Gaussians, so their spreads differ more from
    one day to the next. At least 1, at most `MOST_NOISE`. Costs a pass over the rows, and n·k·d
    numbers in turn.

    Parameters
    ----------
    X
        Complete rows of the fit, (n, d), in model units; n = 0 is allowed.
    sample_weight
        (n,) or None.

    Returns
    -------
    (k, d), (1, d) or (k, 1), as `DeviationSums.squares`.
    """
    k, d = parameters.means.shape
    rows, columns = spread_shape(parameters)
    assigned = assign(parameters, X, responsibilities=True)
    assert assigned.responsibilities is not None
    shares = assigned.responsibilities.T  # (k, n)
    if sample_weight is not None:
        shares = shares * sample_weight
    deviations = np.sqrt(np.diagonal(parameters.matrices, axis1=1, axis2=2))
    scatter = np.zeros((k, columns or d))
    whole = np.empty(X.shape)  # in place of a new array for each step
    for component in range(k):
        with np.errstate(over="ignore", invalid="ignore"):  # values near the largest number
            squares = np.subtract(X, parameters.means[component], out=whole)
            squares /= deviations[component]
            np.square(squares, out=squares)
            if columns == 1:
                squares = squares.mean(axis=1, keepdims=True)
            squares -= 1.0
            scatter[component] = shares[component] @ np.square(squares, out=squares)
    counts = shares.sum(axis=1, keepdims=True)
    if rows == 1:
        scatter, counts = scatter.sum(axis=0, keepdims=True), counts.sum(axis=0, keepdims=True)
    gaussian = 2.0 / d if columns == 1 else 2.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.fmin(np.fmax(scatter / counts / gaussian, 1.0), MOST_NOISE)
