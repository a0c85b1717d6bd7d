"""The compiled k-means of the search against scikit-learn's."""

import numpy as np
import pytest
from sklearn.cluster import KMeans, kmeans_plusplus

from benchmarks.sets import LADDER, EmbeddingKind, MixtureKind
from gmm_dask.mixture.clustering import alike, label_rows
from gmm_dask.mixture.initialization import INITIALIZATIONS, SEARCH_INITIALIZATIONS
from gmm_dask.mixture.kernels.kmeans import cluster_from, label_by_kmeans


def inertia(X, labels, weights):
    members = [labels == label for label in np.unique(labels)]
    centres = [np.average(X[rows], axis=0, weights=weights[rows]) for rows in members]
    return sum(
        (weights[rows] * np.square(X[rows] - centre).sum(axis=1)).sum()
        for rows, centre in zip(members, centres, strict=True)
    )


#: The last has so many clusters that rows are added to their sums one by one.
KINDS = LADDER["overlapping 2x3"], LADDER["separated 8x10"], MixtureKind(3, 30, 4.0)


@pytest.fixture(params=KINDS, ids=str)
def kind(request):
    return request.param


def test_seeds_are_those_of_scikit_learn(kind):
    X = kind.draw(1_000)
    for seed in range(5):
        seeds, _ = kmeans_plusplus(X, kind.k, random_state=seed)
        nearest = np.square(X[:, None, :] - seeds).sum(axis=2).argmin(axis=1)
        for rows in (X, np.asfortranarray(X)):
            labels = label_by_kmeans(rows, None, kind.k, np.random.RandomState(seed), 0)
            np.testing.assert_array_equal(labels, nearest)


@pytest.mark.parametrize("weighted", [False, True])
def test_at_rest_clusters_are_as_tight_as_those_of_scikit_learn(kind, weighted):
    X, random = kind.draw(1_000), np.random.default_rng(0)
    weights = random.uniform(0.1, 5.0, len(X)) if weighted else np.ones(len(X))
    labels = label_by_kmeans(X, weights, kind.k, np.random.RandomState(0), 300)
    theirs = KMeans(kind.k, n_init=1, tol=0.0, random_state=0).fit(X, sample_weight=weights)
    ours = inertia(X, labels, weights)
    assert ours == pytest.approx(inertia(X, theirs.labels_, weights), rel=0.05)
    # No row is nearer to the centre of other rows: k-means has come to rest.
    centres = np.stack(
        [np.average(X[labels == c], axis=0, weights=weights[labels == c]) for c in range(kind.k)]
    )
    squares = np.square(X[:, None, :] - centres).sum(axis=2)
    np.testing.assert_array_equal(labels, squares.argmin(axis=1))


@pytest.mark.parametrize("weighted", [False, True])
def test_labels_of_a_single_start_are_those_of_scikit_learn(kind, weighted):
    X = kind.draw(1_000)
    weights = np.random.default_rng(0).uniform(0.1, 5.0, len(X)) if weighted else None
    for seed in range(5):
        theirs, ours = (
            methods["kmeans"](X, weights, kind.k, np.random.RandomState(seed))
            for methods in (INITIALIZATIONS, SEARCH_INITIALIZATIONS)
        )
        np.testing.assert_array_equal(ours, theirs)


def test_from_given_centres_it_comes_to_rest_where_scikit_learn_does(kind):
    X = kind.draw(1_000)
    start = X[: kind.k].copy()
    labels, centres = cluster_from(X, start, 300)
    theirs = KMeans(kind.k, init=start, n_init=1, tol=0.0).fit(X)
    np.testing.assert_array_equal(labels, theirs.labels_)
    np.testing.assert_allclose(centres, theirs.cluster_centers_)
    np.testing.assert_array_equal(start, X[: kind.k])
    np.testing.assert_array_equal(cluster_from(X, centres, 0)[0], labels)
    # Far from all rows, a cluster stays what it was.
    _, centres = cluster_from(X, np.vstack([start, np.full(X.shape[1], 1e3)]), 10)
    assert (centres[-1] == 1e3).all()


def test_weights_count_as_rows_far_from_the_origin_too():
    X = np.array([[0.0, 0.0], [0.1, 0.0], [9.0, 9.0], [9.1, 9.0], [0.0, 0.2], [5.0, 0.0]]) + 1e9
    weights = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    for seed in range(5):
        labels = label_by_kmeans(X, weights, 2, np.random.RandomState(seed), 10)
        assert labels[0] == labels[1] == labels[4] != labels[2] == labels[3]


def test_fewer_distinct_rows_than_clusters_leave_some_empty():
    X = np.repeat(np.arange(2.0)[:, None], 200, axis=0)
    for iterations in (0, 10):
        labels = label_by_kmeans(X, None, 5, np.random.RandomState(0), iterations)
        assert len(np.unique(labels)) == 2
        assert labels[0] != labels[-1]
    assert not label_by_kmeans(X, None, 1, np.random.RandomState(0), 10).any()


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("weighted", [False, True])
def test_of_many_features_products_give_the_labels_of_the_kernel(weighted, offset):
    kind = EmbeddingKind(70, 5, 0.7)
    X = kind.draw(4_000)[0] + offset
    weights = np.random.default_rng(0).uniform(0.1, 5.0, len(X)) if weighted else None
    for iterations, tol in ((0, None), (10, None), (300, 1e-4)):
        expected, *labels = (
            label(rows, weights, 5, np.random.RandomState(1), iterations, tol)
            for label, rows in (
                (label_by_kmeans, X),
                (label_rows, X),
                (label_rows, np.asfortranarray(X)),
                (label_rows, (X - offset).astype(np.float32)),
            )
        )
        for computed in labels:
            assert (computed == expected).mean() > 0.999


def test_a_cluster_without_rows_keeps_its_centre_by_products_too():
    X = np.repeat(np.arange(2.0)[:, None], 200, axis=0) * np.ones(64)
    for iterations in (0, 10):
        labels = label_rows(X, None, 5, np.random.RandomState(0), iterations)
        assert len(np.unique(labels)) == 2
        assert labels[0] != labels[-1]


def test_labellings_are_alike_in_any_order_but_not_where_a_small_cluster_is_lost():
    labels = np.repeat(np.arange(3, dtype=np.int32), [1000, 500, 5])
    turned = ((labels + 1) % 3).astype(np.int32)
    assert alike(labels, turned, 3)
    turned[:10] = 2
    assert alike(labels, turned, 3)
    assert not alike(labels, np.where(labels == 2, 1, labels), 3)
    assert not alike(labels, np.where(np.arange(1505) % 2, labels, 0).astype(np.int32), 3)


@pytest.mark.parametrize("scale", [1e-25, 1e20])
def test_products_of_float32_rows_stay_in_range(scale):
    X, _ = EmbeddingKind(64, 3, 1.0).draw(600)
    plain, scaled = (
        label_rows(rows.astype(np.float32), None, 3, np.random.RandomState(0), 10)
        for rows in (X, X * scale)
    )
    assert alike(scaled, plain, 3)


def test_labellings_are_alike_where_nearly_the_same_rows_are_together():
    labels = np.repeat(np.arange(3, dtype=np.int32), 100)
    renamed = np.array([2, 0, 1], np.int32)[labels]
    assert alike(labels, renamed, 3)
    few, many = renamed.copy(), renamed.copy()
    few[:4], many[:20] = 0, 0  # in the cluster of other rows
    assert alike(labels, few, 3)
    assert not alike(labels, many, 3)
    assert not alike(labels, np.minimum(labels, 1), 3)
