"""Standardised deviations of rows from the components of a mixture, summed.

t = (x − μ)/σ, where σ is the standard deviation of a feature in a component. Where rows come from
the mixture, Σ r t is expected to be 0 and Σ r t² to be Σ r, for each component and feature. The
same holds of the rows of a fit, whatever they are like: an M-step that changes nothing says just
this. So what differs from it differs from the rows of the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import Patterns, each_pattern, marginal
from gmm_dask.mixture.statistics import SufficientStatistics, sum_statistics


@dataclass(frozen=True, eq=False)
class DeviationSums:
    """Sums over rows of their standardised deviations; they merge by ``+``.

    Attributes
    ----------
    counts
        Σ w r of all rows, (k,).
    held
        Σ w r of the rows that have the feature, (k, d).
    sums
        Σ w r t of these, (k, d).
    squares
        Σ w r t² of these, as far apart as the covariance type has spreads: (k, d), or (1, d) where
        components share them, or (k, 1) where features do.
    weight, squared_weight
        Σ w and Σ w².
    parameters_digest
        Digest of the parameters from which the rows deviate.
    """

    counts: FloatArray
    held: FloatArray
    sums: FloatArray
    squares: FloatArray
    weight: float
    squared_weight: float
    parameters_digest: str

    def __add__(self, other: DeviationSums) -> DeviationSums:
        if self.parameters_digest != other.parameters_digest:
            raise NumericalError(
                "deviations from different parameters cannot be added: "
                f"{self.parameters_digest} and {other.parameters_digest}"
            )
        return DeviationSums(
            self.counts + other.counts,
            self.held + other.held,
            self.sums + other.sums,
            self.squares + other.squares,
            self.weight + other.weight,
            self.squared_weight + other.squared_weight,
            self.parameters_digest,
        )

    @property
    def effective_rows(self) -> float:
        """Rows of equal weight that would say as much, (Σ w)² / Σ w²; 0 without any weight."""
        return self.weight**2 / self.squared_weight if self.squared_weight > 0.0 else 0.0


def sum_deviations(
    parameters: MixtureParameters,
    X: RowsArray,
    sample_weight: FloatArray | None = None,
    patterns: Patterns = (),
) -> DeviationSums:
    """Sum the deviations of rows in memory: one pass.

    A row with holes counts for the features that it has, by its responsibilities under their
    marginal mixture. Nothing is filled in: expected values would hide a shift.

    Parameters
    ----------
    X
        (n, d) float32 or float64, finite but for holes, in model units; n = 0 is allowed.
    sample_weight
        (n,), ≥ 0, or None.
    patterns
        Of the rows, if some have holes (`find_patterns`). Rows without any value are not counted.
    """
    if not patterns:
        squared = float(len(X)) if sample_weight is None else float(sample_weight @ sample_weight)
        return deviations_of(parameters, sum_statistics(parameters, X, sample_weight), squared)
    k, d = parameters.means.shape
    rows, columns = spread_shape(parameters)
    total = DeviationSums(
        np.zeros(k), np.zeros((k, d)), np.zeros((k, d)), np.zeros((rows or k, columns or d)),
        0.0, 0.0, parameters.digest,
    )  # fmt: skip
    for pattern in each_pattern(X, patterns):
        observed = pattern.observed
        if not len(observed):
            continue
        weight = None if sample_weight is None else sample_weight[pattern.rows]
        part = sum_deviations(marginal(parameters, observed).parameters, pattern.take(X), weight)
        held, sums, squares = (
            np.zeros_like(array) for array in (total.held, total.sums, total.squares)
        )
        held[:, observed], sums[:, observed] = part.held, part.sums
        squares[:, observed if columns is None else slice(None)] = part.squares
        total += DeviationSums(
            part.counts, held, sums, squares, part.weight, part.squared_weight, parameters.digest
        )
    return total


def deviations_of(
    parameters: MixtureParameters, statistics: SufficientStatistics, squared_weight: float
) -> DeviationSums:
    """Take the deviations from the statistics of an E-step, whose residuals are whitened.

    Parameters
    ----------
    parameters
        Those that produced the statistics.
    statistics
        Of complete rows: of others they hold expected values, which show less of a shift.
    squared_weight
        Σ w² of the rows; without weights, their number.
    """
    if statistics.parameters_digest != parameters.digest:
        raise NumericalError("the statistics are of other parameters than their deviations")
    F, S, U = (
        statistics.residual_sums, statistics.residual_products, parameters.precisions_cholesky
    )  # fmt: skip
    form = parameters.covariance.factor_form
    if form in ("full", "tied"):
        L = np.swapaxes(np.linalg.inv(U), -1, -2)  # (k, d, d) or (d, d)
        deviation = np.sqrt(np.square(L).sum(axis=-1))  # σ, (k, d) or (d,)
        sums = (L @ F[:, :, None])[:, :, 0] / deviation
        squares = ((L @ S) * L).sum(axis=-1) / np.square(deviation)
    else:
        sums, squares = F, S
    k, d = F.shape
    rows, columns = spread_shape(parameters)
    return DeviationSums(
        statistics.counts,
        np.repeat(statistics.counts[:, None], d, axis=1),
        sums,
        squares.reshape(rows or k, columns or d),
        statistics.weight,
        squared_weight,
        parameters.digest,
    )


def spread_shape(parameters: MixtureParameters) -> tuple[int | None, int | None]:
    """Rows and columns of the spreads; None: as many as there are components, or features."""
    form = parameters.covariance.factor_form
    return (1 if form == "tied" else None), (1 if form == "spherical" else None)
