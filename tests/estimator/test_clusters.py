"""Clusters made of components, as a user of the estimator makes them."""

import doctest
import pickle

import dask.array as da
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from gmm_dask import GaussianMixture, estimator_clusters, load_model
from gmm_dask.errors import ConfigError, NonFiniteError
from gmm_dask.mixture.merging import assign_clusters, merge_components
from tests.steps.tables import make_run, read_predictions, run_fit, run_predict, write_days


def draw_arches(n=1500, seed=0):
    """Two half rings, one far above the other, (2n, 2), in random order."""
    random = np.random.default_rng(seed)
    angle = random.uniform(0.0, np.pi, 2 * n)
    X = np.stack([5 * np.cos(angle), 5 * np.sin(angle) + 20 * (np.arange(2 * n) % 2)], axis=1)
    return X + random.normal(scale=0.5, size=X.shape)


@pytest.fixture(scope="module")
def X():
    return draw_arches()


@pytest.fixture(scope="module")
def fitted(X):
    return GaussianMixture(8, random_state=0).fit(X)


@pytest.fixture
def mixture(fitted):
    return pickle.loads(pickle.dumps(fitted))


def test_two_curved_clusters_are_found_and_predicted(mixture, X):
    assert mixture.merge_components(X) is mixture
    assert mixture.merge_tree_.n_clusters == 2
    labels = mixture.predict_clusters(X)
    assert labels.dtype == np.int64
    upper = np.arange(len(X)) % 2
    assert np.array_equal(labels, upper) or np.array_equal(labels, 1 - upper)


def test_the_tree_is_that_of_all_rows_where_they_are_few(mixture, X):
    weights = np.random.default_rng(1).uniform(size=len(X))
    for sample_weight in (None, weights):
        tree = mixture.merge_components(X, sample_weight=sample_weight).merge_tree_
        assert tree == merge_components(mixture.predict_proba(X), sample_weight)
    assert tree.rows == len(X)


def test_another_number_of_clusters_needs_no_other_tree(mixture, X):
    mixture.merge_components(X)
    for n in (1, 2, 5, 8):
        cut = mixture.merge_tree_.cut(n)
        expected = assign_clusters(mixture.predict_proba(X), cut)
        np.testing.assert_array_equal(mixture.predict_clusters(X, n), expected)
    np.testing.assert_array_equal(mixture.predict_clusters(X, n_clusters=8), mixture.predict(X))
    with pytest.raises(
        ConfigError, match="9 clusters cannot be made of 8 components; ask for 1 to"
    ):
        mixture.predict_clusters(X, n_clusters=9)


@pytest.mark.parametrize("chunks", [500, 1234])
def test_a_dask_array_gives_the_same_tree_and_lazy_clusters(mixture, X, chunks):
    weights = np.random.default_rng(1).uniform(size=len(X))
    expected = mixture.merge_components(X, sample_weight=weights).merge_tree_
    lazy = da.from_array(X, chunks=(chunks, 2))
    tree = mixture.merge_components(lazy, sample_weight=weights).merge_tree_
    assert tree.merges == expected.merges
    np.testing.assert_allclose(tree.entropies, expected.entropies, atol=1e-12)
    labels = mixture.predict_clusters(lazy)
    assert isinstance(labels, da.Array)
    assert (labels.dtype, labels.shape) == (np.int64, (len(X),))
    np.testing.assert_array_equal(labels, mixture.predict_clusters(X))


def test_of_many_rows_a_sample_decides_alike_for_any_chunks(mixture, monkeypatch):
    monkeypatch.setattr("gmm_dask.mixture.merging.rows_to_merge", lambda k: 600)
    monkeypatch.setattr("gmm_dask.estimator_clusters.rows_to_merge", lambda k: 600)
    X = draw_arches(2000, seed=3)
    trees = [
        mixture.merge_components(da.from_array(X, chunks=(rows, 2))).merge_tree_
        for rows in (4000, 700)
    ]
    assert trees[0] == trees[1]
    assert trees[0].rows == mixture.merge_components(X).merge_tree_.rows == 600
    assert trees[0].n_clusters == mixture.merge_tree_.n_clusters == 2


def test_clusters_are_made_after_a_fit_and_again_after_the_next(mixture, X):
    with pytest.raises(NotFittedError):
        GaussianMixture(2).merge_components(X)
    with pytest.raises(NotFittedError, match="Call 'merge_components' after 'fit', with the same"):
        mixture.predict_clusters(X)
    mixture.merge_components(X)
    assert not hasattr(clone(mixture), "merge_tree_")
    again = pickle.loads(pickle.dumps(mixture))
    np.testing.assert_array_equal(again.predict_clusters(X), mixture.predict_clusters(X))
    mixture.set_params(n_components=2).fit(X)
    assert not hasattr(mixture, "merge_tree_")


def test_rows_that_cannot_be_used_are_refused(mixture, X):
    bad = X.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        mixture.merge_components(bad)
    with pytest.raises(NonFiniteError, match="row 3"):
        mixture.merge_components(da.from_array(bad, chunks=(1000, 2)))
    for other in (X[:, :1], da.from_array(X[:, :1])):
        with pytest.raises(
            ValueError, match="X has 1 features, but GaussianMixture is expecting 2"
        ):
            mixture.merge_components(other)
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        mixture.merge_components(X, sample_weight=-np.ones(len(X)))
    assert not hasattr(mixture, "merge_tree_")


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_a_published_model_predicts_the_clusters_of_the_column(tmp_path):
    write_days(tmp_path, nulls=False)
    run = make_run(tmp_path, model__n_components=6, predict__cluster=True)
    run_fit(run)
    run_predict(run)
    model = load_model(tmp_path / "models" / "boxes")
    names = ["height", "width"]
    rows = pq.read_table(run.input.path).select(names)
    X = np.column_stack([rows[name].to_numpy() for name in names])
    clusters = model.predict_clusters(X)
    ids = np.array([model.component_ids_[model.merge_tree_.cut() == c].min() for c in range(3)])
    assert pa.chunked_array([pa.array(ids[clusters], pa.int32())]).equals(
        read_predictions(run)["cluster"]
    )


def test_the_example_of_the_docstring():
    results = doctest.testmod(estimator_clusters)
    assert results.attempted
    assert not results.failed
