"""An oracle for the kernels: the same mathematics in plain NumPy, with (k, n, d) arrays.

Every sum comes with the sum of the sizes of its terms, against which errors are measured: Σ r y is
near 0 at convergence, and has no correct digits there in any order of summation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.parameters import MixtureParameters


def full_factors(covariance_type: str, factors: FloatArray, k: int, d: int) -> FloatArray:
    """U of each component as a matrix, (k, d, d)."""
    if covariance_type == "full":
        return factors
    if covariance_type == "tied":
        return np.broadcast_to(factors, (k, d, d))
    if covariance_type == "diag":
        return factors[:, :, None] * np.eye(d)
    return factors[:, None, None] * np.eye(d)


def in_form(covariance_type: str, products: FloatArray) -> FloatArray:
    """Second moments (k, d, d) in the form of the covariance type."""
    if covariance_type == "full":
        return products
    if covariance_type == "tied":
        return products.sum(axis=0)
    if covariance_type == "diag":
        return np.diagonal(products, axis1=1, axis2=2)
    return np.trace(products, axis1=1, axis2=2)


@dataclass
class Expected:
    """Statistics and densities, and the sizes of the terms of each sum."""

    counts: FloatArray
    residual_sums: FloatArray
    residual_products: FloatArray
    log_likelihood: float
    sizes: Mapping[str, FloatArray | float]
    log_densities: FloatArray
    responsibilities: FloatArray
    log_joint: FloatArray


def expectation(
    parameters: MixtureParameters, X: RowsArray, sample_weight: FloatArray | None = None
) -> Expected:
    """Take the E-step for rows X (n, d)."""
    k, d = parameters.means.shape
    covariance_type = parameters.covariance_type
    X = np.asarray(X, dtype=np.float64)
    w = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight)
    U = full_factors(covariance_type, parameters.precisions_cholesky, k, d)
    y = np.einsum("knm,kmj->knj", X[None] - parameters.means[:, None], U)  # (k, n, d)
    log_determinants = np.log(np.diagonal(U, axis1=1, axis2=2)).sum(axis=1)
    log_joint = (
        parameters.log_weights[:, None]
        + log_determinants[:, None]
        - 0.5 * d * np.log(2.0 * np.pi)
        - 0.5 * np.square(y).sum(axis=2)
    )  # (k, n)
    top = log_joint.max(axis=0, initial=-np.inf)
    log_densities = top + np.log(np.exp(log_joint - top).sum(axis=0))  # (n,)
    r = np.exp(log_joint - log_densities)  # (k, n)

    def sums(of_y: FloatArray, of_density: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        return (
            np.einsum("n,kn,knj->kj", w, r, of_y),
            in_form(covariance_type, np.einsum("n,kn,kni,knj->kij", w, r, of_y, of_y)),
            float(w @ of_density),
        )

    residuals, products, likelihood = sums(np.abs(y), np.abs(log_densities))
    if covariance_type in ("full", "tied"):  # entry i, j has the scale of i times that of j
        diagonal = np.sqrt(np.diagonal(products, axis1=-2, axis2=-1))
        products = diagonal[..., :, None] * diagonal[..., None, :]
    sizes = {
        "counts": r @ w,
        "residual_sums": residuals,
        "residual_products": products,
        "log_likelihood": likelihood,
    }
    return Expected(r @ w, *sums(y, log_densities), sizes, log_densities, r.T, log_joint.T)


def update(
    parameters: MixtureParameters,
    counts: FloatArray,
    residual_means: FloatArray,
    residual_products: FloatArray,
    reg_covar: float,
) -> tuple[FloatArray, FloatArray]:
    """Take the M-step: covariances, component by component, and shifts of the means."""
    k, d = parameters.means.shape
    covariance_type = parameters.covariance_type
    U = full_factors(covariance_type, parameters.precisions_cholesky, k, d)
    L = [np.linalg.inv(U[c]).T for c in range(k)]
    shifts = np.array([L[c] @ residual_means[c] for c in range(k)])
    if covariance_type == "tied":
        between = sum(counts[c] * np.outer(residual_means[c], residual_means[c]) for c in range(k))
        within = (residual_products - between) / counts.sum()
        return L[0] @ within @ L[0].T + reg_covar * np.eye(d), shifts
    covariances = np.empty(parameters.covariance.shape(k, d))
    for c in range(k):
        delta = residual_means[c]
        if covariance_type == "full":
            within = residual_products[c] / counts[c] - np.outer(delta, delta)
            covariances[c] = L[c] @ within @ L[c].T + reg_covar * np.eye(d)
        elif covariance_type == "diag":
            within = residual_products[c] / counts[c] - delta**2
            covariances[c] = within * parameters.covariances[c] + reg_covar
        else:
            within = (residual_products[c] / counts[c] - delta @ delta) / d
            covariances[c] = within * parameters.covariances[c] + reg_covar
    return covariances, shifts


def estimate(
    covariance_type: str,
    X: RowsArray,
    responsibilities: FloatArray,
    counts: FloatArray,
    means: FloatArray,
    reg_covar: float,
) -> FloatArray:
    """Compute covariances from responsibilities, row by row."""
    k, d = means.shape
    matrices = np.zeros((k, d, d))
    for x, r in zip(np.asarray(X, dtype=np.float64), responsibilities, strict=True):
        for c in range(k):
            matrices[c] += r[c] * np.outer(x - means[c], x - means[c])
    if covariance_type == "tied":
        return matrices.sum(axis=0) / counts.sum() + reg_covar * np.eye(d)
    matrices /= counts[:, None, None]
    if covariance_type == "full":
        return matrices + reg_covar * np.eye(d)
    variances = np.diagonal(matrices, axis1=1, axis2=2)
    if covariance_type == "diag":
        return variances + reg_covar
    return variances.mean(axis=1) + reg_covar
