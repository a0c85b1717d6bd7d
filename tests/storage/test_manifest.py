"""The JSON of a model as records: what is read is what was written, key by key."""

import json
from dataclasses import MISSING, fields, replace

import numpy as np
import pytest

from gmm_dask.chunked.selection_records import CellRow, SelectionTable
from gmm_dask.errors import ModelError
from gmm_dask.mixture.spec import Cell
from gmm_dask.storage.files.sealed import plain, seal
from gmm_dask.storage.models.manifest import Manifest, Publication
from tests.storage.stored import some_manifest


def through_json(content):
    return json.loads(json.dumps(content))


TABLE = SelectionTable(
    "bic",
    Cell(2, "diag"),
    (
        CellRow(1, "diag", -2.5, 5.0, 5.0, 4.0, "beaten"),
        CellRow(2, "diag", -2.25, 4.5, 4.75, 3.5, "converged"),
        CellRow(3, "diag", None, None, None, None, "ill_conditioned", "a covariance"),
    ),
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"search": None},
        {"clusters": None},
        {"counts": None, "last_moved": None, "history": (), "n_iter": 0},
        {"selection": TABLE},
    ],
)
def test_a_manifest_comes_back_and_is_written_as_the_same_bytes(changes):
    manifest = some_manifest(**changes)
    content = through_json(manifest.to_json())
    assert Manifest.from_json(content) == manifest
    assert seal(Manifest.from_json(content).to_json()) == seal(content)


def test_the_keys_stand_in_the_order_of_the_format():
    assert list(some_manifest().to_json()) == [
        "configuration", "snapshot", "files", "rows", "rows_dropped", "weight", "status", "n_iter",
        "history", "last_moved", "counts", "log_likelihood", "aic", "bic", "icl", "collapsed",
        "starved", "occupancy", "quantiles", "low_density_threshold", "scans", "search",
        "selection", "features",
        "warnings", "mixed", "versions", "python", "machine", "fit_key", "next_component_id",
        "clusters", "filter", "rows_outside", "replaced", "replaced_on_sample", "files_skipped",
        "rows_incomplete", "complete_log_likelihood", "effective_rows", "transforms",
        "refit", "labels",
    ]  # fmt: skip
    content = some_manifest().to_json()
    assert list(content["search"]) == ["rows", "starts", "failed", "iterations", "log_likelihoods"]
    assert list(content["features"]["b"]) == ["minimum", "maximum", "mean", "standard_deviation"]
    assert content["quantiles"] == {"0.001": -12.125, "0.5": -2.0}
    assert content["clusters"] == {
        "rows": 900, "merges": [[4, 7], [0, 4]], "entropies": [0.375, 0.0625, 0.0],
        "shares": [0.75, 1.0], "n_clusters": 2, "cluster_ids": [4, 0, 4],
    }  # fmt: skip


@pytest.mark.parametrize(
    "key", [field.name for field in fields(Manifest) if field.default is MISSING]
)
def test_a_missing_key_is_named(key):
    content = some_manifest().to_json()
    del content[key]
    with pytest.raises(KeyError, match=key):
        Manifest.from_json(content)


def test_an_older_manifest_has_no_clusters():
    content = some_manifest().to_json()
    del content["clusters"]
    assert Manifest.from_json(content) == some_manifest(clusters=None)


def test_numbers_of_numpy_become_numbers():
    manifest = some_manifest(rows=np.int64(3), weight=np.float64(0.1), counts=np.arange(3))
    content = manifest.to_json()
    assert (content["rows"], content["weight"], content["counts"]) == (3, 0.1, [0, 1, 2])
    assert plain((np.int64(2), np.bool_(True))) == [2, True]


def test_what_is_no_finite_number_becomes_null():
    assert plain({"x": [float("nan"), np.float64(-np.inf)]}) == {"x": [None, None]}


def test_what_is_not_json_is_refused():
    with pytest.raises(ModelError, match="not complex"):
        some_manifest(warnings=(1j,)).to_json()


def test_a_publication_says_what_became_of_the_model():
    run = {"run_id": "blue-fox", "created": "2026-01-01T00:00:00+00:00", "host": "h"}
    published = Publication(**run, version=2)
    rejected = Publication(**run, rejected="too low")
    assert list(published.to_json().items()) == [*run.items(), ("version", 2), ("based_on", None)]
    assert list(rejected.to_json().items()) == [*run.items(), ("rejected", "too low")]
    for publication in (published, rejected, replace(published, based_on=1)):
        assert Publication.from_json(through_json(publication.to_json())) == publication
