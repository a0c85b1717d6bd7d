"""Starts: refusals, the methods of scikit-learn, and wide starts."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as Reference

from benchmarks.sets import iris
from gmm_dask.errors import ConfigError
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.initialization import (
    INITIALIZATIONS,
    check_start,
    given_start,
    initial_parameters,
    labelled_start,
    one_hot,
    seeded,
    start_from_responsibilities,
    wide_start,
)
from gmm_dask.mixture.spec import MixtureSpec, Start

TYPES = tuple(COVARIANCE_TYPES)
FREE = Start()


def test_a_generator_seeded_again_draws_the_numbers_of_a_new_one():
    for seed in (0, 7, 2**32 - 1):
        generator, new = seeded(seed), np.random.RandomState(seed)
        np.testing.assert_array_equal(generator.normal(size=3), new.normal(size=3))
        np.testing.assert_array_equal(generator.choice(99, 50), new.choice(99, 50))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(seeded, 0).result() is not generator


@pytest.mark.parametrize("init_params", INITIALIZATIONS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_same_start_as_scikit_learn(init_params, covariance_type):
    X = iris()
    reference = Reference(
        3, covariance_type=covariance_type, init_params=init_params, random_state=0, max_iter=0
    ).fit(X)
    start = initial_parameters(
        X, None, MixtureSpec(3, covariance_type, start=Start(init_params)), np.random.RandomState(0)
    )
    # In scikit-learn the weights from k seeds sum to k/n, which the first E-step divides out.
    weights = reference.weights_ / reference.weights_.sum()
    np.testing.assert_allclose(start.weights, weights, rtol=1e-9)
    np.testing.assert_allclose(start.means, reference.means_, rtol=1e-9)
    expected = reference.covariances_
    if covariance_type == "tied" and init_params in ("k-means++", "random_from_data"):
        # k seeds have no scatter. scikit-learn's formula, which assumes that the responsibilities
        # sum to n, divides the scatter of all rows about 0 by k.
        expected = 1e-6 * np.eye(4)
    np.testing.assert_allclose(start.covariances, expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Start(weights=np.ones(2) / 2), "'weights_init' should have the shape of"),
        (Start(means=np.zeros((3, 5))), "'means_init' should have the shape of"),
        (Start(precisions=np.ones((3, 4))), "'precisions_init' should have the shape"),
        (Start(means=np.full((3, 4), np.nan)), "'means_init' holds NaN or infinity"),
        (Start(weights=np.array([-0.5, 0.5, 1.0])), "in the range"),
        (Start(weights=np.array([0.3, 0.3, 0.3])), "sum.weights. = 0.9"),
    ],
)
def test_given_parameters_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        check_start(MixtureSpec(3, start=given), 4)


def test_a_start_given_in_part_is_no_start():
    with pytest.raises(ConfigError, match="are needed together"):
        given_start(MixtureSpec(2, start=Start(means=np.zeros((2, 2)))))


def test_a_start_is_free_complete_or_neither():
    assert FREE.free
    assert not FREE.complete
    part = Start(means=np.zeros((2, 1)))
    assert not part.free
    assert not part.complete


def test_given_means_replace_those_of_the_rows():
    means = np.arange(12.0).reshape(3, 4)
    spec = MixtureSpec(3, start=Start(means=means))
    for start in (
        initial_parameters(iris(), None, spec, np.random.RandomState(0)),
        wide_start(iris(), spec, np.random.RandomState(0)),
    ):
        np.testing.assert_array_equal(start.means, means)


@pytest.mark.parametrize("method", ["kmeans", "k-means++"])
@pytest.mark.parametrize("scale", [2.0**60, 2.0**130, 2.0**1000])
def test_weights_beyond_float32_start_where_others_do(method, scale):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(500, 2)) + 5.0 * rng.integers(0, 3, (500, 1))).astype(np.float32)
    weights = rng.uniform(0.5, 2.0, 500)
    spec = MixtureSpec(3, start=Start(method))
    start, large = (
        initial_parameters(X, w, spec, np.random.RandomState(0)) for w in (weights, scale * weights)
    )
    np.testing.assert_array_equal(large.means, start.means)


def test_weights_go_into_responsibilities():
    shares = one_hot(np.array([1, 0]), 2, np.array([0.25, 3.0]))
    np.testing.assert_array_equal(shares, [[0.0, 0.25], [3.0, 0.0]])


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_start_of_many_components_is_that_of_their_rows(covariance_type, weighted):
    """It is made of a few components at a time; some, as here, may have no rows."""
    random, k = np.random.default_rng(0), 50
    X = random.normal(size=(3_000, 4)) + 1e3
    labels = random.integers(0, k - 20, len(X)).astype(np.int32) + 10
    weights = random.uniform(0.5, 1.5, len(X)) if weighted else None
    spec = MixtureSpec(k, covariance_type, 1e-3)
    ours = labelled_start(X, labels, weights, spec)
    plain = start_from_responsibilities(X, one_hot(labels, k, weights), spec)
    for name in ("weights", "means", "covariances"):
        np.testing.assert_allclose(getattr(ours, name), getattr(plain, name), rtol=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_wide_starts_stand_on_rows_and_differ_in_width(covariance_type):
    X = np.random.default_rng(0).normal(size=(2_000, 3))
    start = wide_start(X, MixtureSpec(5, covariance_type, 0.0), np.random.RandomState(0))
    assert all((mean == X).all(axis=1).any() for mean in start.means)
    widths = np.trace(start.matrices, axis1=1, axis2=2) / 3
    assert ((widths > 0.9 * np.exp(-3)) & (widths < 1.1 * np.exp(0.5))).all()
    # A tied covariance has one width for all.
    assert len(np.unique(widths.round(12))) == (1 if covariance_type == "tied" else 5)


SPY = """
import numpy as np
from gmm_dask.mixture.initialization import kmeans_labels
from gmm_dask.mixture.threads import single_threaded

with single_threaded():
    import sklearn.cluster
    from threadpoolctl import threadpool_info

    fit = sklearn.cluster.KMeans.fit
    def spied(*arguments, **keywords):
        print(max(library["num_threads"] for library in threadpool_info()))
        return fit(*arguments, **keywords)
    sklearn.cluster.KMeans.fit = spied
    kmeans_labels(np.arange(20.0)[:, None], None, 2, np.random.RandomState(0))
"""


def test_k_means_runs_on_one_thread_though_it_is_imported_late():
    """A limit does not reach libraries that are loaded after it is set."""
    environment = {**os.environ, "OMP_NUM_THREADS": "4"}
    run = subprocess.run(
        [sys.executable, "-c", SPY], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout == "1\n"
