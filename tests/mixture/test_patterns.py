"""Rows with holes: EM over patterns against a textbook in loops, and laws of the lift."""

import numpy as np
import pytest

from gmm_dask.mixture.em import maximize
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import find_patterns
from gmm_dask.mixture.spec import COVARIANCE_NAMES, MixtureSpec
from gmm_dask.mixture.statistics import sum_statistics
from tests.mixture.textbook import textbook_incomplete_em

K, D = 3, 4


def random_mixture(covariance_type, seed=0, k=K, d=D):
    random = np.random.default_rng(seed)
    roots = random.normal(size=(k, d, d))
    matrices = roots @ roots.transpose(0, 2, 1) + 0.3 * np.eye(d)
    weights = random.dirichlet(np.full(k, 5.0))
    means = 2.0 * random.normal(size=(k, d))
    kinds = MixtureParameters.from_covariances("full", weights, means, matrices)
    covariances = kinds.covariance.from_matrices(matrices, weights)
    if covariance_type != "full":
        from gmm_dask.mixture.covariance import COVARIANCE_TYPES

        covariances = COVARIANCE_TYPES[covariance_type].from_matrices(matrices, weights)
    return MixtureParameters.from_covariances(covariance_type, weights, means, covariances)


def rows_with_holes(seed=1, n=60, d=D, share=0.3):
    """Rows of which each keeps at least one value."""
    random = np.random.default_rng(seed)
    X = 2.0 * random.normal(size=(n, d)) + random.integers(3, size=(n, 1))
    holes = random.uniform(size=(n, d)) < share
    holes[np.arange(n), random.integers(d, size=n)] = False
    return np.where(holes, np.nan, X)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("covariance_type", COVARIANCE_NAMES)
def test_em_over_patterns_is_that_of_the_textbook(covariance_type, weighted):
    X, parameters = rows_with_holes(), random_mixture(covariance_type)
    weight = np.random.default_rng(2).uniform(0.0, 3.0, len(X)) if weighted else None
    spec = MixtureSpec(K, covariance_type, reg_covar=1e-3)
    expected = textbook_incomplete_em(
        X, parameters.weights, parameters.means, parameters.matrices, covariance_type, 5,
        spec.reg_covar, weight,
    )  # fmt: skip
    bounds = []
    for _ in range(5):
        statistics = sum_statistics(parameters, X, weight, find_patterns(X))
        bounds.append(statistics.mean_log_likelihood)
        parameters = maximize(parameters, statistics, spec)[0]
    found = (parameters.weights, parameters.means, parameters.matrices, bounds)
    for value, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-9, atol=1e-9)
