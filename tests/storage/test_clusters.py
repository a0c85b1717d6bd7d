"""The merge tree in a manifest: by permanent ids, and back."""

from dataclasses import replace

import numpy as np
import pytest

from gmm_dask.errors import ModelError
from gmm_dask.mixture.merging import merge_components
from gmm_dask.storage.models.clusters import Clusters, name_clusters
from tests.storage.stored import some_manifest, some_model

IDS = (4, 0, 7)
CLUSTERS = some_manifest().clusters


def test_a_cluster_has_the_smallest_id_of_its_components():
    assert name_clusters(np.array([0, 1, 0, 2]), (9, 5, 3, 4)) == (3, 5, 3, 4)
    assert name_clusters(np.arange(3), IDS) == IDS


@pytest.mark.parametrize("seed", range(5))
def test_the_tree_comes_back_whatever_the_ids(seed):
    random = np.random.default_rng(seed)
    k = seed + 1
    tree = merge_components(random.dirichlet(np.full(k, 0.3), size=50))
    ids = tuple(random.permutation(20)[:k].tolist())
    clusters = Clusters.of(tree, ids)
    assert clusters.tree(ids) == tree
    assert clusters.cluster_ids == name_clusters(tree.cut(), ids)
    for step, (a, b) in enumerate(clusters.merges):
        before, after = (name_clusters(tree.cut(k - n), ids) for n in (step, step + 1))
        assert a < b
        assert set(before) - set(after) == {b}
        assert {after[j] for j in range(k) if before[j] == b} == {a}


def test_the_clusters_of_the_example_are_the_tree_of_its_components():
    tree = CLUSTERS.tree(IDS)
    assert tree.merges == ((0, 2), (0, 1))
    assert tree.cut().tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"merges": ((4, 7),)},
        {"merges": ((7, 4), (0, 7))},
        {"merges": ((4, 9), (0, 4))},
        {"merges": ((1, 7), (0, 4))},
        {"merges": ((0, 7), (4, 7))},
        {"entropies": (0.375, 0.0)},
        {"shares": (1.0,)},
        {"n_clusters": 0},
        {"n_clusters": 4},
        {"cluster_ids": (4, 0)},
        {"cluster_ids": (0, 0, 4)},
    ],
)
def test_a_tree_of_other_components_is_refused(changes):
    with pytest.raises(ModelError, match=r"clusters is not the merge tree of components \[4, 0, 7"):
        replace(CLUSTERS, **changes).tree(IDS)


def test_a_model_is_refused_with_the_tree_of_another():
    model = some_model()
    with pytest.raises(ModelError, match="not the merge tree of components"):
        replace(model, component_ids=(4, 0, 8))
