"""The sufficient statistics of an E-step: sums over rows that merge by plain ``+``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from math import isfinite
from operator import add
from typing import Any

import numpy as np

from gmm_dask.arrays import FloatArray, IndexArray, LabelsArray, RowsArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture import engine
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import Pattern, Patterns, Scattered, marginal
from gmm_dask.mixture.scattered import scattered_statistics


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """Sums over whitened residuals y = Uᵀ(x − μ) of the parameters that produced them.

    Residuals, because raw moments Σ r x xᵀ lose all digits of the covariance where the data lie
    far from the origin (at an offset of 1e8 with σ = 1, an eigenvalue of −40 came out).

    Attributes
    ----------
    counts
        N = Σ r, (k,).
    residual_sums
        F = Σ r y, (k, d).
    residual_products
        S = Σ r y yᵀ in the form of the covariance type.
    rows
        Number of rows.
    weight
        Sum of the sample weights Σ w; equal to ``rows`` without them.
    log_likelihood
        Σ w log p(x), nats.
    parameters_digest
        Digest of the parameters that whitened the residuals.
    """

    counts: FloatArray
    residual_sums: FloatArray
    residual_products: FloatArray
    rows: int
    weight: float
    log_likelihood: float
    parameters_digest: str

    def __add__(self, other: SufficientStatistics) -> SufficientStatistics:
        if self.parameters_digest != other.parameters_digest:
            raise NumericalError(
                "statistics of different parameters cannot be added: "
                f"{self.parameters_digest} and {other.parameters_digest}"
            )
        return SufficientStatistics(
            self.counts + other.counts,
            self.residual_sums + other.residual_sums,
            self.residual_products + other.residual_products,
            self.rows + other.rows,
            self.weight + other.weight,
            self.log_likelihood + other.log_likelihood,
            self.parameters_digest,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out one half of symmetric products, which travel from every worker."""
        return {**vars(self), "residual_products": pack_symmetric(self.residual_products)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Put the other half back."""
        self.__dict__.update(state, residual_products=unpack_symmetric(*state["residual_products"]))

    @property
    def finite(self) -> bool:
        """Whether no sum overflowed."""
        return isfinite(self.log_likelihood) and bool(np.isfinite(self.residual_products).all())

    @property
    def mean_log_likelihood(self) -> float:
        """Log-likelihood per unit of weight, nats."""
        return self.log_likelihood / self.weight


def pack_symmetric(products: FloatArray) -> tuple[FloatArray, int | None]:
    """Return the lower triangles of symmetric matrices and their size; others as they are."""
    if products.ndim < 2 or not np.array_equal(products, products.swapaxes(-1, -2)):
        return products, None
    d = products.shape[-1]
    return products[..., *np.tril_indices(d)], d


def unpack_symmetric(packed: FloatArray, d: int | None) -> FloatArray:
    """Return what `pack_symmetric` was given."""
    if d is None:
        return packed
    rows, columns = np.tril_indices(d)
    products = np.empty((*packed.shape[:-1], d, d))
    products[..., rows, columns] = packed
    products[..., columns, rows] = packed
    return products


def empty_statistics(parameters: MixtureParameters) -> SufficientStatistics:
    """Return the statistics of no rows, the neutral element of ``+``."""
    k, d = parameters.means.shape
    return SufficientStatistics(
        np.zeros(k),
        np.zeros((k, d)),
        np.zeros(parameters.covariance.shape(k, d)),
        0,
        0.0,
        0.0,
        parameters.digest,
    )


def reorder_statistics(
    sums: SufficientStatistics, order: IndexArray, parameters: MixtureParameters
) -> SufficientStatistics:
    """Return statistics of ``parameters.reordered(order)`` as those of ``parameters``."""
    places = np.argsort(order)
    return replace(
        sums,
        counts=sums.counts[places],
        residual_sums=sums.residual_sums[places],
        residual_products=parameters.covariance.reorder(sums.residual_products, places),
        parameters_digest=parameters.digest,
    )


def sum_statistics(
    parameters: MixtureParameters,
    X: RowsArray,
    sample_weight: FloatArray | None = None,
    patterns: Patterns = (),
    sharing: int | None = None,
    assigned: tuple[LabelsArray, FloatArray, FloatArray] | None = None,
    rounded: bool = False,
) -> SufficientStatistics:
    """Take the statistics of an E-step in one pass over rows in memory.

    Of rows with holes they are the expected values, given what is observed and the parameters:
    the E-step under data missing at random (Ghahramani and Jordan, 1994).

    Parameters
    ----------
    X
        (n, d) float32 or float64, finite but for holes; n = 0 is allowed.
    sample_weight
        (n,), ≥ 0, or None.
    patterns
        Of the rows, if some have holes (`find_patterns`). Rows without any value are not counted.
    sharing
        How many rows in memory, these among them, take a pass with this mixture: by that they are
        divided among many components or not (`gmm_dask.mixture.engine.divides`); those with holes
        by how many have their pattern. None: they are a part of many more, as a chunk is.
    assigned, rounded
        As in `gmm_dask.mixture.engine.statistics`, for complete rows.
    """
    if patterns:
        return reduce(
            add,
            (
                sum_pattern(
                    parameters,
                    pattern,
                    pattern.take(X),
                    None if sample_weight is None else sample_weight[pattern.rows],
                    None if sharing is None else len(pattern.rows),
                )
                for pattern in patterns
                if isinstance(pattern, Scattered) or len(pattern.observed)
            ),
            empty_statistics(parameters),
        )
    divided = None if sharing is None else engine.divides(parameters, sharing)
    sums = engine.statistics(
        parameters, X, sample_weight, divided=divided, assigned=assigned, rounded=rounded
    )
    return _statistics(parameters, X, sample_weight, sums)


def _statistics(
    parameters: MixtureParameters,
    X: RowsArray,
    sample_weight: FloatArray | None,
    sums: tuple[FloatArray, FloatArray, FloatArray, float],
) -> SufficientStatistics:
    """Put together what a pass over rows X summed, N, F, S and Σ w log p(x), and their weight."""
    counts, residual_sums, residual_products, log_likelihood = sums
    weight = float(X.shape[0]) if sample_weight is None else float(np.sum(sample_weight))
    return SufficientStatistics(
        counts,
        residual_sums,
        residual_products,
        int(X.shape[0]),
        weight,
        log_likelihood,
        parameters.digest,
    )


def sum_pattern(
    parameters: MixtureParameters,
    pattern: Pattern | Scattered,
    X: RowsArray,
    sample_weight: FloatArray | None,
    sharing: int | None = None,
) -> SufficientStatistics:
    """Take the statistics of rows of one pattern, by its marginal mixture; or of scattered rows.

    Parameters
    ----------
    X
        What ``pattern.take`` returns: the observed features of the rows, (m, o), or all features
        of scattered ones.
    sample_weight
        (m,) or None.
    sharing
        How many rows in memory have the pattern and share its marginal, as in `sum_statistics`.
    """
    if isinstance(pattern, Scattered):
        sums = scattered_statistics(parameters, X, sample_weight)
        return _statistics(parameters, X, sample_weight, sums)
    if pattern.complete:
        return sum_statistics(parameters, X, sample_weight, sharing=sharing)
    of_features = marginal(parameters, pattern.observed)
    observed = sum_statistics(of_features.parameters, X, sample_weight, sharing=sharing)
    residual_sums, residual_products = of_features.lift(
        observed.counts, observed.residual_sums, observed.residual_products
    )
    return replace(
        observed,
        residual_sums=residual_sums,
        residual_products=residual_products,
        parameters_digest=parameters.digest,
    )


@dataclass(frozen=True, eq=False)
class StatisticsBatch:
    """Statistics of several candidates over the same rows; batches add entry by entry."""

    statistics: tuple[SufficientStatistics, ...]

    def __add__(self, other: StatisticsBatch) -> StatisticsBatch:
        return StatisticsBatch(
            tuple(
                left + right for left, right in zip(self.statistics, other.statistics, strict=True)
            )
        )
