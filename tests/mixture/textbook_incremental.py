"""Incremental EM as in a textbook: what every row was given is stored, row by row.

It shares no code with the package. Neal and Hinton (1998): an E-step renews the responsibilities
of some rows, an M-step takes those of all rows, whenever they were computed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logsumexp

from tests.mixture.textbook import FloatArray

Mixture = tuple[FloatArray, FloatArray, FloatArray]


@dataclass
class TextbookUnit:
    """Rows, and of each: responsibilities, expected values and covariances by component."""

    X: FloatArray
    sample_weight: FloatArray
    responsibilities: FloatArray
    filled: FloatArray
    spreads: FloatArray
    log_densities: FloatArray

    def forgotten(self, factor: float) -> TextbookUnit:
        """The same rows, of less weight."""
        return replace(self, sample_weight=factor * self.sample_weight)


def log_normal(x: FloatArray, mean: FloatArray, matrix: FloatArray) -> float:
    """Log-density of a Gaussian; scipy's takes five times as long for a single row."""
    residual = x - mean
    distance = residual @ np.linalg.solve(matrix, residual)
    return -0.5 * float(distance + np.linalg.slogdet(2.0 * np.pi * matrix)[1])


def read_unit(X: FloatArray, sample_weight: FloatArray, mixture: Mixture) -> TextbookUnit:
    """The E-step of a unit's rows, which may have NaN."""
    weights, means, matrices = mixture
    (n, d), k = X.shape, len(weights)
    responsibilities, log_densities = np.empty((n, k)), np.empty(n)
    filled, spreads = np.empty((n, k, d)), np.zeros((n, k, d, d))
    for i in range(n):
        o, m = np.flatnonzero(~np.isnan(X[i])), np.flatnonzero(np.isnan(X[i]))
        joint = np.empty(k)
        for j in range(k):
            of_observed = matrices[j][np.ix_(o, o)]
            joint[j] = np.log(weights[j]) + log_normal(X[i, o], means[j][o], of_observed)
            regression = np.linalg.solve(of_observed, matrices[j][np.ix_(o, m)]).T
            filled[i, j, o] = X[i, o]
            filled[i, j, m] = means[j][m] + regression @ (X[i, o] - means[j][o])
            spreads[i, j][np.ix_(m, m)] = (
                matrices[j][np.ix_(m, m)] - regression @ matrices[j][np.ix_(o, m)]
            )
        log_densities[i] = logsumexp(joint)
        responsibilities[i] = np.exp(joint - log_densities[i])
    return TextbookUnit(X, sample_weight, responsibilities, filled, spreads, log_densities)


def maximize_units(units: list[TextbookUnit], covariance_type: str, reg_covar: float) -> Mixture:
    """The M-step of the rows of all units."""
    _, k, d = units[0].filled.shape
    counts, means, scatters = np.zeros(k), np.zeros((k, d)), np.zeros((k, d, d))
    for unit in units:
        for i in range(len(unit.X)):
            for j in range(k):
                share = unit.sample_weight[i] * unit.responsibilities[i, j]
                counts[j] += share
                means[j] += share * unit.filled[i, j]
    means /= counts[:, None]
    for unit in units:
        for i in range(len(unit.X)):
            for j in range(k):
                residual = unit.filled[i, j] - means[j]
                share = unit.sample_weight[i] * unit.responsibilities[i, j]
                scatters[j] += share * (np.outer(residual, residual) + unit.spreads[i, j])
    matrices = np.empty((k, d, d))
    for j in range(k):
        within = scatters[j] / counts[j]
        matrices[j] = {
            "full": within,
            "tied": scatters.sum(axis=0) / counts.sum(),
            "diag": np.diag(np.diag(within)),
            "spherical": np.eye(d) * np.trace(within) / d,
        }[covariance_type]
        matrices[j] += reg_covar * np.eye(d)
    return counts / counts.sum(), means, matrices


def bound_of(units: list[TextbookUnit], mixture: Mixture) -> float:
    """E log p(x, component, what is missing) + entropy of both, per unit of weight."""
    total = weight = 0.0
    for unit in units:
        for i, x in enumerate(unit.X):
            weight += unit.sample_weight[i]
            for pi, mean, matrix, share, filled, spread in zip(
                *mixture,
                unit.responsibilities[i],
                unit.filled[i],
                unit.spreads[i],
                strict=True,
            ):
                missing = np.flatnonzero(np.isnan(x))
                expected = log_normal(filled, mean, matrix)
                expected -= 0.5 * np.trace(np.linalg.solve(matrix, spread))
                if len(missing):
                    of_missing = 2.0 * np.pi * np.e * spread[np.ix_(missing, missing)]
                    expected += 0.5 * np.linalg.slogdet(of_missing)[1]
                if share > 0.0:
                    total += unit.sample_weight[i] * share * (np.log(pi) + expected - np.log(share))
    return total / weight
