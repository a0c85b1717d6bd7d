"""EM as in a textbook, in loops over rows and components: slow, plain, independent.

It shares no code with the package. Covariances are always full matrices, (k, d, d).
"""

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

FloatArray = npt.NDArray[np.float64]


def textbook_expectation(
    X: FloatArray, weights: FloatArray, means: FloatArray, matrices: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Responsibilities (n, k) and log-densities (n,), row by row."""
    n, k = len(X), len(weights)
    responsibilities, log_densities = np.empty((n, k)), np.empty(n)
    for i in range(n):
        joint = np.empty(k)
        for j in range(k):
            joint[j] = np.log(weights[j]) + multivariate_normal.logpdf(X[i], means[j], matrices[j])
        log_densities[i] = logsumexp(joint)
        responsibilities[i] = np.exp(joint - log_densities[i])
    return responsibilities, log_densities


def textbook_maximization(
    X: FloatArray, responsibilities: FloatArray, covariance_type: str, reg_covar: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weights, means and matrices, from responsibilities times sample weights."""
    (n, d), k = X.shape, responsibilities.shape[1]
    counts, means, scatters = np.zeros(k), np.zeros((k, d)), np.zeros((k, d, d))
    for j in range(k):
        for i in range(n):
            counts[j] += responsibilities[i, j]
            means[j] += responsibilities[i, j] * X[i]
        means[j] /= counts[j]
        for i in range(n):
            residual = X[i] - means[j]
            scatters[j] += responsibilities[i, j] * np.outer(residual, residual)
    matrices = np.empty((k, d, d))
    for j in range(k):
        if covariance_type == "tied":
            matrices[j] = scatters.sum(axis=0) / counts.sum()
        elif covariance_type == "full":
            matrices[j] = scatters[j] / counts[j]
        elif covariance_type == "diag":
            matrices[j] = np.diag(np.diag(scatters[j] / counts[j]))
        elif covariance_type == "spherical":
            matrices[j] = np.eye(d) * np.trace(scatters[j] / counts[j]) / d
        matrices[j] += reg_covar * np.eye(d)
    return counts / counts.sum(), means, matrices


def textbook_em(
    X: FloatArray,
    weights: FloatArray,
    means: FloatArray,
    matrices: FloatArray,
    covariance_type: str,
    n_iter: int,
    reg_covar: float = 0.0,
    sample_weight: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray, list[float]]:
    """Parameters after ``n_iter`` iterations, and the mean log-likelihood before each M-step."""
    w = np.ones(len(X)) if sample_weight is None else sample_weight
    lower_bounds = []
    for _ in range(n_iter):
        responsibilities, log_densities = textbook_expectation(X, weights, means, matrices)
        lower_bounds.append(np.dot(w, log_densities) / w.sum())
        weights, means, matrices = textbook_maximization(
            X, responsibilities * w[:, None], covariance_type, reg_covar
        )
    return weights, means, matrices, lower_bounds


def textbook_incomplete_em(
    X: FloatArray,
    weights: FloatArray,
    means: FloatArray,
    matrices: FloatArray,
    covariance_type: str,
    n_iter: int,
    reg_covar: float = 0.0,
    sample_weight: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray, list[float]]:
    """EM for rows with NaN, by conditional expectations row by row; else as `textbook_em`."""
    (n, d), k, means = X.shape, len(weights), means.copy()
    w = np.ones(n) if sample_weight is None else sample_weight
    lower_bounds = []
    for _ in range(n_iter):
        responsibilities, log_densities = np.empty((n, k)), np.empty(n)
        rows, spreads = np.empty((n, k, d)), np.zeros((n, k, d, d))
        for i in range(n):
            o, m = np.flatnonzero(~np.isnan(X[i])), np.flatnonzero(np.isnan(X[i]))
            joint = np.empty(k)
            for j in range(k):
                of_observed = matrices[j][np.ix_(o, o)]
                joint[j] = np.log(weights[j]) + multivariate_normal.logpdf(
                    X[i, o], means[j][o], of_observed
                )
                regression = np.linalg.solve(of_observed, matrices[j][np.ix_(o, m)]).T
                rows[i, j, o] = X[i, o]
                rows[i, j, m] = means[j][m] + regression @ (X[i, o] - means[j][o])
                spreads[i, j][np.ix_(m, m)] = (
                    matrices[j][np.ix_(m, m)] - regression @ matrices[j][np.ix_(o, m)]
                )
            log_densities[i] = logsumexp(joint)
            responsibilities[i] = w[i] * np.exp(joint - log_densities[i])
        lower_bounds.append(np.dot(w, log_densities) / w.sum())
        counts, scatters = responsibilities.sum(axis=0), np.zeros((k, d, d))
        for j in range(k):
            means[j] = responsibilities[:, j] @ rows[:, j] / counts[j]
            for i in range(n):
                residual = rows[i, j] - means[j]
                scatters[j] += responsibilities[i, j] * (
                    np.outer(residual, residual) + spreads[i, j]
                )
        if covariance_type == "tied":
            matrices = np.repeat(scatters.sum(axis=0)[None] / counts.sum(), k, axis=0)
        else:
            matrices = scatters / counts[:, None, None]
        if covariance_type == "diag":
            matrices = matrices * np.eye(d)
        elif covariance_type == "spherical":
            matrices = np.trace(matrices, axis1=1, axis2=2)[:, None, None] * np.eye(d) / d
        matrices = matrices + reg_covar * np.eye(d)
        weights = counts / counts.sum()
    return weights, means, matrices, lower_bounds
