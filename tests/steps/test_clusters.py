"""The column ``cluster``: what it holds, when it is refused, and when its parts are used again."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask import steps
from gmm_dask.config import RunConfig, check_config
from gmm_dask.errors import ConfigError, ModelError
from gmm_dask.events import silent
from gmm_dask.mixture.assignment import assign
from gmm_dask.pipelines.sequences import directly, retrain
from gmm_dask.storage.models.clusters import Clusters, name_clusters
from gmm_dask.storage.models.registry import Registry
from gmm_dask.storage.predictions.dataset import read_predictions as read_record
from tests.steps.tables import (
    THREADS,
    make_run,
    read_predictions,
    run_fit,
    run_predict,
    run_retrain,
    write_day,
    write_days,
)

SIX = {"model__n_components": 6}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    """Three days of three Gaussians, and a model of six components that make three clusters."""
    root = tmp_path_factory.mktemp("fitted")
    write_days(root)
    run_fit(make_run(root, **SIX))
    return root


@pytest.fixture
def root(fitted, tmp_path) -> Path:
    """The same input and model, with predictions of its own."""
    for name in ("input", "models"):
        (tmp_path / name).symlink_to(fitted / name)
    return tmp_path


def expected_clusters(run, cluster_ids):
    """Id of the cluster whose components' responsibilities sum highest, for complete rows."""
    model, source = steps.read_model(run), pq.read_table(run.input.path)
    rows = np.column_stack([source[name].to_numpy() for name in model.columns])
    complete = np.isfinite(rows).all(axis=1)
    shares = assign(model.parameters, rows[complete], responsibilities=True).responsibilities
    ids = sorted(set(cluster_ids))
    sums = [shares[:, np.array(cluster_ids) == identity].sum(axis=1) for identity in ids]
    return np.array(ids)[np.argmax(sums, axis=0)].tolist(), complete


def test_the_cluster_stands_beside_the_component_and_is_null_where_that_is(root):
    run = make_run(root, predict__cluster=True, **SIX)
    run_predict(run)
    table = read_predictions(run)
    clusters = steps.read_model(run).manifest.clusters
    expected, complete = expected_clusters(run, clusters.cluster_ids)
    assert clusters.n_clusters == len(set(expected)) == 3
    assert table.column_names.index("cluster") == table.column_names.index("component") + 1
    assert table.schema.field("cluster").type == table.schema.field("component").type == pa.int32()
    assert np.array_equal(table["cluster"].is_valid(), complete)
    assert table["cluster"].drop_null().to_pylist() == expected
    assert not any(name.startswith("probability") for name in table.column_names)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_number_of_clusters_can_be_asked_for(root, n):
    run = make_run(root, predict__cluster=n, predict__probabilities=True, **SIX)
    run_predict(run)
    model = steps.read_model(run)
    cut = model.manifest.clusters.tree(model.component_ids).cut(n)
    expected, _ = expected_clusters(run, name_clusters(cut, model.component_ids))
    assert read_predictions(run)["cluster"].drop_null().to_pylist() == expected
    assert len(set(expected)) == n


def test_as_many_clusters_as_components_are_the_components(root):
    run = make_run(root, predict__cluster=6, **SIX)
    run_predict(run)
    assert read_predictions(run)["cluster"].equals(read_predictions(run)["component"])


def test_without_being_asked_for_no_cluster_is_written(root):
    run = make_run(root, **SIX)
    run_predict(run)
    assert "cluster" not in read_predictions(run).column_names
    assert "cluster_ids" not in read_record(run.output.predictions).settings


def test_parts_are_used_again_only_under_the_same_cut(root):
    steps_of_reuse = [(False, 0), (True, 0), (True, 3), (3, 3), (2, 0), (2, 3), (False, 0)]
    for number, (cluster, reused) in enumerate(steps_of_reuse):
        run = make_run(root, predict__cluster=cluster, **SIX)
        predicted, rows = run_predict(run, f"predict-{number}")
        assert (predicted.reused, rows) == (reused, 1500), (number, cluster)
        assert ("cluster" in read_predictions(run).column_names) is bool(cluster)
    assert read_record(make_run(root).output.predictions).settings.get("cluster_ids") is None


def test_only_a_new_file_is_predicted(tmp_path):
    write_days(tmp_path)
    run = make_run(tmp_path, predict__cluster=True, **SIX)
    run_fit(run)
    run_predict(run)
    write_day(tmp_path, 4)
    assert run_predict(run, "predict-2")[0].reused == 3
    expected, _ = expected_clusters(run, steps.read_model(run).manifest.clusters.cluster_ids)
    assert read_predictions(run)["cluster"].drop_null().to_pylist() == expected


def test_a_model_without_clusters_is_refused_before_anything_is_written(tmp_path, caplog):
    write_days(tmp_path)
    run = make_run(tmp_path)
    run_fit(run)
    model = steps.read_model(run)
    older = replace(model, manifest=replace(model.manifest, clusters=None), run=None, path=None)
    Registry(run.output.models, run.output.name).publish(older, run_id="older")
    asking = make_run(tmp_path, predict__cluster=True)
    with pytest.raises(ModelError, match=r"version 2 of model boxes has no clusters.*--force, or"):
        run_predict(asking)
    assert {path.name for path in tmp_path.iterdir()} == {"input", "models"}
    assert run_predict(run)[1] == 1500
    # A retrain says so before it fits; what it publishes has clusters.
    write_day(tmp_path, 4)
    caplog.set_level(logging.INFO, "gmm_dask")
    outcome = retrain(asking, THREADS, directly, silent, "retrain-1")
    assert outcome.predictions.model.version == 3
    (warning,) = (message for message in caplog.messages if "has no clusters" in message)
    assert warning.startswith("if the candidate is refused, nothing can be predicted: version 2 of")
    fitting = next(message for message in caplog.messages if message.startswith("fitting 3 full"))
    assert caplog.messages.index(warning) < caplog.messages.index(fitting)


def test_more_clusters_than_components_are_refused_before_anything_is_written(root):
    asking = make_run(root, predict__cluster=7, **SIX)
    with pytest.raises(ConfigError, match=r"predict\.cluster = 7: .*n_components is 6; ask for f"):
        steps.inspect_input(asking)
    # The model need not have as many components as the run file would fit.
    asking = make_run(root, predict__cluster=7, model__n_components=9)
    with pytest.raises(
        ConfigError, match=r"predict\.cluster = 7: 7 clusters cannot be made of 6 components; ask"
    ):
        run_predict(asking)
    assert {path.name for path in root.iterdir()} == {"input", "models"}


@pytest.mark.parametrize("value", [0, -1, 2.5, "two"])
def test_what_is_no_number_of_clusters_is_refused(tmp_path, value):
    tables = make_run(tmp_path).model_dump()
    tables["predict"]["cluster"] = value
    with pytest.raises(ConfigError, match=r"predict\.cluster"):
        check_config(RunConfig, tables, "run.toml")


def test_a_key_column_of_that_name_is_refused_only_beside_clusters(tmp_path):
    write_days(tmp_path)
    for path in (tmp_path / "input").rglob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.rename_columns(["cluster", *table.column_names[1:]]), path)
    run = make_run(tmp_path, predict__key_columns=["cluster"])
    run_fit(run)
    run_predict(run)
    assert read_predictions(run)["cluster"].equals(pq.read_table(run.input.path)["cluster"])
    both = make_run(tmp_path, predict__key_columns=["cluster"], predict__cluster=True)
    with pytest.raises(ConfigError, match="'cluster' is the name of a column of the predictions"):
        run_predict(both, "predict-2")


def test_ids_are_the_smallest_of_the_components_and_survive_a_retrain(tmp_path):
    write_days(tmp_path)
    keys = {"retrain__start": "current", "fit__tol": 1e-4}
    run = make_run(tmp_path, predict__cluster=True, **keys, **SIX)
    run_fit(run)
    model = steps.read_model(run)
    ids = (12, 7, 30, 4, 25, 9)
    clusters = Clusters.of(model.manifest.clusters.tree(model.component_ids), ids)
    manifest = replace(model.manifest, clusters=clusters, next_component_id=31)
    renamed = replace(model, component_ids=ids, manifest=manifest, run=None, path=None)
    Registry(run.output.models, run.output.name).publish(renamed, run_id="renamed")
    run_predict(run)
    before = read_predictions(run)
    names = set(before["cluster"].drop_null().to_pylist())
    assert len(names) == 3
    assert names == set(clusters.cluster_ids)
    assert 4 in names  # the oldest component of all
    write_day(tmp_path, 4)
    run_retrain(run, "retrain-1")
    assert steps.read_model(run).version == 3
    run_predict(run, "predict-2")
    after = read_predictions(run)
    assert set(after["cluster"].drop_null().to_pylist()) == names
    same = np.array(after["cluster"])[:1500] == np.array(before["cluster"])
    assert same[np.array(before["cluster"].is_valid())].mean() > 0.99
