"""Information criteria as scikit-learn counts them; collapse, starvation and the ranking."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as Reference

from benchmarks.sets import iris
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.criteria import aic, bic, health, icl, n_parameters, rank
from gmm_dask.mixture.em import Candidate, Status
from gmm_dask.mixture.initialization import wide_start
from gmm_dask.mixture.iterations import Iteration
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import MixtureSpec


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_criteria_equal_scikit_learns(covariance_type):
    X = iris()
    fitted = Reference(3, covariance_type=covariance_type, random_state=0).fit(X)
    parameters = MixtureParameters.from_covariances(
        covariance_type, fitted.weights_, fitted.means_, fitted.covariances_
    )
    total = fitted.score(X) * len(X)
    assert n_parameters(parameters) == fitted._n_parameters()
    assert aic(parameters, total) == pytest.approx(fitted.aic(X))
    assert bic(parameters, total, len(X)) == pytest.approx(fitted.bic(X))


def test_icl_adds_twice_the_uncertainty_of_the_most_probable_components():
    """Against the definition of R's mclust, −(BIC + 2 Σ c log z), with z of scikit-learn."""
    X = iris()
    fitted = Reference(3, random_state=0).fit(X)
    parameters = MixtureParameters.from_covariances(
        "full", fitted.weights_, fitted.means_, fitted.covariances_
    )
    certainties = assign(parameters, X, certainties=True).certainties
    expected = fitted.bic(X) - 2 * np.log(fitted.predict_proba(X).max(axis=1)).sum()
    total, uncertainty = fitted.score(X) * len(X), -np.log(certainties).sum()
    assert icl(parameters, total, len(X), uncertainty) == pytest.approx(expected)


def mixture(*variances):
    """Components in two dimensions at 0, 1, 2, …, round with these variances."""
    k = len(variances)
    means = np.arange(k, dtype=float)[:, None] * np.ones(2)
    covariances = np.stack([variance * np.eye(2) for variance in variances])
    return MixtureParameters.from_covariances("full", np.full(k, 1 / k), means, covariances)


def test_collapse_is_relative_to_the_scale_of_the_data():
    counts = np.array([100.0, 100.0])
    narrow = mixture(1.0, 1e-9)
    assert health(narrow, counts, np.ones(2), 0.0).collapsed.tolist() == [False, True]
    assert health(narrow, counts, np.full(2, 1e-9), 0.0).collapsed.tolist() == [False, False]


def test_a_covariance_at_the_floor_has_collapsed():
    at_floor = mixture(1.0, 1.005e-6)
    assert health(at_floor, None, np.ones(2), 1e-6).collapsed.tolist() == [False, True]
    assert health(at_floor, None, np.ones(2), 1e-7).collapsed.tolist() == [False, False]


def test_too_few_rows_for_a_covariance_are_starvation():
    judged = health(mixture(1.0, 1.0), np.array([2.9, 3.0]), np.ones(2), 0.0)
    assert judged.starved.tolist() == [True, False]
    assert judged.defects == 1


def test_a_component_with_both_defects_counts_once():
    assert health(mixture(1e-12), np.array([1.0]), np.ones(2), 0.0).defects == 1


def candidate(parameters, log_likelihood, status=Status.CONVERGED):
    last = Iteration(log_likelihood, parameters.weights, parameters.means, (), 0.0)
    counts = np.full(parameters.n_components, 100.0)
    return Candidate(parameters, status, (last,), counts)


def test_health_comes_before_likelihood_and_breakdown_last():
    good, better = mixture(1.0, 2.0), mixture(1.0, 3.0)
    runs = (
        candidate(better, 99.0, Status.ILL_CONDITIONED),
        candidate(mixture(1.0, 1e-12), 50.0),
        candidate(good, -3.0),
        candidate(better, -2.0),
    )
    assert rank(runs, np.ones(2), 1e-6) == [3, 2, 1, 0]


def test_equals_keep_their_order():
    runs = tuple(candidate(mixture(1.0), -1.0) for _ in range(4))
    assert rank(runs, np.ones(2), 1e-6) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("covariance_type", "counts", "starved"),
    [
        # Four rows span three dimensions; fewer lie in a plane, on which a Gaussian is unbounded.
        ("full", [3.9, 4.0], [True, False]),
        # One row has no spread; two have, in each feature.
        ("diag", [1.9, 2.0], [True, False]),
        ("spherical", [1.9, 2.0], [True, False]),
        # The covariance is that of all rows: a single row may have a component of its own.
        ("tied", [0.1, 1.0], [False, False]),
    ],
)
def test_a_component_is_starved_where_its_likelihood_has_no_bound(covariance_type, counts, starved):
    shapes = {"full": np.stack([np.eye(3)] * 2), "tied": np.eye(3), "diag": np.ones((2, 3))}
    parameters = MixtureParameters.from_covariances(
        covariance_type, [0.5, 0.5], np.zeros((2, 3)), shapes.get(covariance_type, np.ones(2))
    )
    judged = health(parameters, np.array(counts), np.ones(3), 1e-6)
    assert judged.starved.tolist() == starved


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_mixtures_of_a_form_are_ranked_as_each_by_itself(covariance_type):
    """A mixture of another form among them lets each be judged alone."""
    random = np.random.default_rng(0)
    spec, variances = MixtureSpec(2, covariance_type), np.ones(2)
    X = random.normal(size=(200, 2))
    mixtures = [wide_start(X, spec, np.random.RandomState(seed)) for seed in range(4)]
    narrow = mixtures[1].covariances * 1e-9
    mixtures[1] = MixtureParameters.from_covariances(
        covariance_type, mixtures[1].weights, mixtures[1].means, narrow
    )
    step = Iteration(0.0, np.ones(2), np.zeros((2, 2)), (), 0.0)
    steps = [replace(step, log_likelihood=float(value)) for value in (1.0, 9.0, 3.0, 2.0)]
    candidates = [
        Candidate(mixture, history=(step,), counts=counts, rows=200, weight=200.0)
        for mixture, step, counts in zip(
            mixtures, steps, [np.full(2, 100.0)] * 3 + [np.array([200.0, 0.0])], strict=True
        )
    ]
    other = Candidate(wide_start(X, MixtureSpec(3, covariance_type), np.random.RandomState(0)))
    together = rank(tuple(candidates), variances, 1e-6)
    assert (together[0], together[-1]) == (2, 1)
    other = replace(other, history=(replace(step, log_likelihood=-50.0),))
    assert [i for i in rank((*candidates, other), variances, 1e-6) if i < 4] == together
