"""A summary says in one line which components make one cluster."""

from dataclasses import replace

import numpy as np
import pytest

from gmm_dask.mixture.merging import MergeTree
from gmm_dask.pipelines.summary import clusters_words, model_summary
from gmm_dask.storage.models.clusters import Clusters
from tests.storage.stored import some_manifest, some_model


def clusters_of(k, n, ids):
    merges = tuple((0, b) for b in range(1, k))
    entropies = tuple(np.linspace(0.5, 0.0, k).tolist())
    return Clusters.of(MergeTree(100, merges, entropies, (0.5,) * (k - 1), n), ids)


@pytest.mark.parametrize(
    ("n", "ids", "words"),
    [
        (1, (0,), "1 from 1 component"),
        (3, (5, 3, 4), "3 from 3 components"),
        (2, (5, 3, 4), "2 from 3 components: 3+5, 4"),
        (1, (5, 3, 4), "1 from 3 components: 3+4+5"),
        (20, range(30), "20 from 30 components"),
    ],
)
def test_clusters_in_words(n, ids, words):
    assert clusters_words(clusters_of(len(ids), n, ids), ids) == words


def test_the_summary_of_a_model_names_its_clusters():
    facts = dict(model_summary(some_model()).facts)
    assert facts["clusters"] == "2 from 3 components: 0, 4+7"


def test_the_summary_of_an_older_model_does_not():
    model = replace(some_model(), manifest=some_manifest(clusters=None))
    assert "clusters" not in dict(model_summary(model).facts)
