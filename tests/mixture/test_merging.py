"""The merge tree: the greedy merges of Baudry and others, and the number of clusters suggested."""

import numpy as np
import pytest

from gmm_dask.errors import ConfigError
from gmm_dask.mixture import merging
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.merging import (
    APART,
    LEAST_OVERLAP,
    ONE_HUMP,
    MergeTree,
    assign_clusters,
    merge_components,
    rows_to_merge,
)
from gmm_dask.mixture.parameters import MixtureParameters


def entropy_of(clusters, responsibilities, weights):
    """Σ w Σ −t log t over rows and clusters, in loops; a cluster is a list of components."""
    total = 0.0
    for row, weight in zip(responsibilities.tolist(), weights, strict=True):
        for cluster in clusters:
            share = sum(row[component] for component in cluster)
            total -= weight * share * np.log(share) if share > 0 else 0.0
    return total / sum(weights)


def merge_in_loops(responsibilities, weights):
    """Merges and entropies by trying every pair at every step."""
    clusters = [[component] for component in range(responsibilities.shape[1])]
    merges, entropies = [], [entropy_of(clusters, responsibilities, weights)]
    while len(clusters) > 1:
        tried = []
        for b in range(len(clusters)):
            for a in range(b):
                rest = [cluster for i, cluster in enumerate(clusters) if i not in (a, b)]
                union = sorted([*rest, clusters[a] + clusters[b]])
                entropy = round(entropy_of(union, responsibilities, weights), 12)
                tried.append((entropy, clusters[a][0], clusters[b][0], union))
        _, a, b, clusters = min(tried)
        merges.append((a, b))
        entropies.append(entropy_of(clusters, responsibilities, weights))
    return tuple(merges), entropies


def draw_responsibilities(m, k, seed, concentration=0.3):
    return np.random.default_rng(seed).dirichlet(np.full(k, concentration), size=m)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("k", "concentration"), [(1, 1.0), (2, 0.3), (5, 0.3), (7, 0.02)])
def test_the_merges_are_those_of_brute_force(k, concentration, weighted):
    responsibilities = draw_responsibilities(40, k, k, concentration)
    weights = np.random.default_rng(1).uniform(0.0, 3.0, 40) if weighted else None
    tree = merge_components(responsibilities, weights)
    merges, entropies = merge_in_loops(
        responsibilities, [1.0] * 40 if weights is None else weights.tolist()
    )
    assert tree.merges == merges
    np.testing.assert_allclose(tree.entropies, entropies, rtol=0, atol=1e-12)
    assert tree.entropies[-1] == 0.0
    assert (tree.rows, tree.n_components) == (40, k)


def test_a_share_is_the_weight_of_the_cluster_that_a_merge_makes():
    responsibilities = draw_responsibilities(50, 5, seed=3)
    weights = np.random.default_rng(4).uniform(size=50)
    tree = merge_components(responsibilities, weights)
    cuts = [tree.cut(n) for n in (4, 3, 2, 1)]
    for (a, b), share, cut in zip(tree.merges, tree.shares, cuts, strict=True):
        assert cut[a] == cut[b]
        members = responsibilities[:, cut == cut[a]].sum(axis=1)
        assert share == pytest.approx(np.average(members, weights=weights), rel=1e-12)
    falls = -np.diff(tree.entropies)
    np.testing.assert_allclose(tree.overlaps, falls / tree.shares, rtol=1e-12)
    assert np.all(tree.overlaps <= np.log(2) + 1e-12)


def test_a_row_of_weight_two_is_two_rows():
    responsibilities = draw_responsibilities(30, 4, seed=5)
    weights = np.random.default_rng(6).integers(0, 3, 30).astype(float)
    weighted = merge_components(responsibilities, weights)
    repeated = merge_components(np.repeat(responsibilities, weights.astype(int), axis=0))
    assert weighted.merges == repeated.merges
    np.testing.assert_allclose(weighted.entropies, repeated.entropies, atol=1e-14)


def test_weights_that_are_all_zero_say_nothing():
    responsibilities = draw_responsibilities(30, 4, seed=7)
    assert merge_components(responsibilities, np.zeros(30)) == merge_components(responsibilities)


def test_equal_merges_are_made_in_the_order_of_the_components():
    separate = np.repeat(np.eye(4), 5, axis=0)
    tree = merge_components(separate)
    assert tree.merges == ((0, 1), (0, 2), (0, 3))
    assert tree.entropies == (0.0,) * 4
    assert tree.n_clusters == 4


@pytest.mark.parametrize("seed", range(10))
def test_merges_that_differ_by_rounding_alone_are_equal(seed):
    """Components 2 and 3 share as many rows as 0 and 1, alike, but summed in another order."""
    random = np.random.default_rng(seed)
    shares = random.uniform(size=200)
    responsibilities = np.zeros((400, 4))
    responsibilities[:200, :2] = np.column_stack([shares, 1.0 - shares])
    shuffled = random.permutation(shares)
    responsibilities[200:, 2:] = np.column_stack([shuffled, 1.0 - shuffled])
    assert merge_components(responsibilities).merges == ((0, 1), (2, 3), (0, 2))


def test_a_component_without_rows_is_no_reason_to_merge():
    responsibilities = np.column_stack([draw_responsibilities(40, 2, 8, 0.01), np.zeros(40)])
    tree = merge_components(responsibilities)
    assert np.isfinite(tree.entropies).all()
    assert np.isfinite(tree.overlaps).all()
    assert tree.overlaps[-1] == 0.0


def test_a_cut_numbers_clusters_by_their_first_components():
    tree = MergeTree(9, ((1, 3), (0, 4), (0, 1), (0, 2)), (0.4, 0.3, 0.2, 0.1, 0.0), (0.5,) * 4, 3)
    assert tree.cut(5).tolist() == [0, 1, 2, 3, 4]
    assert tree.cut(4).tolist() == [0, 1, 2, 1, 3]
    assert tree.cut().tolist() == tree.cut(3).tolist() == [0, 1, 2, 1, 0]
    assert tree.cut(2).tolist() == [0, 0, 1, 0, 0]
    assert tree.cut(1).tolist() == [0] * 5
    for n in (0, 6, -1):
        with pytest.raises(ConfigError, match=f"{n} clusters cannot be made of 5 components; ask"):
            tree.cut(n)


def test_a_row_belongs_to_the_cluster_that_is_most_probable_not_to_its_best_component():
    responsibilities = np.array([[0.4, 0.3, 0.3], [0.6, 0.2, 0.2], [0.5, 0.25, 0.25]])
    assert assign_clusters(responsibilities, [7, 9, 9]).tolist() == [9, 7, 7]
    assert assign_clusters(responsibilities, [9, 7, 7]).tolist() == [7, 9, 7]
    assert assign_clusters(responsibilities[:0], [9, 7, 7]).shape == (0,)


def test_each_component_alone_is_what_assignment_says():
    responsibilities = draw_responsibilities(100, 5, seed=9)
    np.testing.assert_array_equal(
        assign_clusters(responsibilities, range(5)), responsibilities.argmax(axis=1)
    )


def test_the_levels_are_the_overlaps_of_two_equal_gaussians():
    x = np.linspace(-12, 12, 200_001)
    density = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi) * (x[1] - x[0])
    for distance, level in ((2.0, ONE_HUMP), (5.0, APART), (6.0, LEAST_OVERLAP)):
        log_odds = distance * x - 0.5 * distance**2
        other = 1.0 / (1.0 + np.exp(-log_odds))
        overlap = density @ (np.logaddexp(0.0, log_odds) - other * log_odds)
        assert level == pytest.approx(overlap, rel=0.02)


@pytest.mark.parametrize(
    ("overlaps", "n_clusters"),
    [
        ([], 1),
        ([0.0], 2),
        ([0.06], 2),  # two Gaussians at 4 σ
        ([0.10], 1),  # at 3.5 σ
        ([0.6], 1),
        ([0.0, 0.0, 0.0], 4),
        ([0.12, 0.12, 0.0, 0.0, 0.0], 4),  # two crosses and two more: Baudry and others, 4.1
        ([0.05, 0.0], 2),
        ([0.015, 0.0], 3),
        ([0.08, 0.07, 0.05, 0.03, 0.05, 0.04, 0.03, 0.03], 9),  # a grid at 4 σ
        ([0.24, 0.15, 0.10, 0.09, 0.07], 1),  # half a ring
        ([0.21, 0.17, 0.22, 0.12, 0.12, 0.09, 0.07, 0.06, 0.004], 2),  # two half moons
    ],
)
def test_the_suggestion_is_where_the_overlap_falls_most(overlaps, n_clusters):
    assert merging._suggest_n_clusters(np.array(overlaps)) == n_clusters


def test_fewer_rows_decide_where_there_are_many_components():
    assert [rows_to_merge(k) for k in (1, 30, 50, 100, 500)] == [10_000] * 3 + [2_500, 2_000]


def gaussians(weights, means, covariances):
    return MixtureParameters.from_covariances(
        "full", np.array(weights), np.array(means, float), np.array(covariances, float)
    )


def drawn_tree(mixture, n, seed=0):
    random = np.random.default_rng(seed)
    labels = random.choice(mixture.n_components, size=n, p=mixture.weights)
    noise = random.normal(size=(n, mixture.n_features))
    X = mixture.means[labels] + np.einsum(
        "nij,nj->ni", np.linalg.cholesky(mixture.matrices)[labels], noise
    )
    return merge_components(assign(mixture, X, responsibilities=True).responsibilities)


def test_two_crosses_are_two_clusters():
    """Like example 4.1 of Baudry and others: two Gaussians that cross are one cluster, twice."""
    wide, tall = np.diag([9.0, 0.09]), np.diag([0.09, 9.0])
    mixture = gaussians(
        [0.15, 0.2, 0.15, 0.15, 0.2, 0.15],
        [[0, 10], [10, 0], [-10, 0], [0, -10], [10, 0], [-10, 0]],
        [np.diag([1, 0.1]), wide, wide, np.diag([0.1, 1]), tall, tall],
    )
    tree = drawn_tree(mixture, 2000)
    assert tree.n_clusters == 4
    assert tree.cut().tolist() == [0, 1, 2, 3, 1, 2]


def test_gaussians_along_a_curve_are_one_cluster_and_a_distant_one_another():
    """Five Gaussians along half a ring, and one in its centre."""
    angles = np.linspace(0.1, 0.9, 5) * np.pi
    along = np.stack([-np.sin(angles), np.cos(angles)], axis=1)
    covariances = 0.1 * np.eye(2) + 0.9 * along[:, :, None] * along[:, None, :]
    means = np.vstack([5 * np.stack([np.cos(angles), np.sin(angles)], axis=1), [0, -3]])
    mixture = gaussians([0.16] * 5 + [0.2], means, [*covariances, 0.5 * np.eye(2)])
    tree = drawn_tree(mixture, 4000)
    assert tree.n_clusters == 2
    assert tree.cut().tolist() == [0] * 5 + [1]


@pytest.mark.parametrize("k", [1, 2, 3, 9])
@pytest.mark.parametrize("distance", [5.0, 8.0, 100.0])
def test_separate_components_are_a_cluster_each(k, distance):
    means = distance * np.array([[i % 3, i // 3] for i in range(k)])
    tree = drawn_tree(gaussians(np.full(k, 1 / k), means, [np.eye(2)] * k), 3000)
    assert tree.n_clusters == k


@pytest.mark.parametrize("k", [2, 3, 6])
def test_components_within_one_hump_are_one_cluster(k):
    means = np.column_stack([1.5 * np.arange(k), np.zeros(k)])
    tree = drawn_tree(gaussians(np.full(k, 1 / k), means, [np.eye(2)] * k), 3000)
    assert tree.n_clusters == 1
