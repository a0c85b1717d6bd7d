"""Predictions are one to one with the input, in order; unchanged files are not read again."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask import steps
from gmm_dask.config import ThreadsCluster
from gmm_dask.errors import InputChangedError, StorageError
from gmm_dask.events import silent
from gmm_dask.mixture.assignment import assign
from gmm_dask.storage.input.parquet_rows import ParquetChunks
from gmm_dask.storage.models.registry import Registry
from gmm_dask.storage.predictions.dataset import read_predictions as read_record
from tests.steps.tables import (
    THREADS,
    files_below,
    make_run,
    read_predictions,
    run_fit,
    run_predict,
    write_day,
    write_days,
)


@pytest.fixture
def run(tmp_path):
    write_days(tmp_path)
    run = make_run(tmp_path, predict__probabilities=True)
    run_fit(run)
    return run


def count_files_read(monkeypatch):
    """Return a list to which the input file of every decoded chunk is added."""
    read_from, read = [], ParquetChunks.read

    def counted(self, start, stop, digests=False):
        for rows in read(self, start, stop, digests):
            read_from.append(self.plan.files[rows.file].path)
            yield rows

    monkeypatch.setattr(ParquetChunks, "read", counted)
    return read_from


def test_predictions_are_one_to_one_with_the_input_in_order(run):
    predicted, rows = run_predict(run)
    source = pq.read_table(run.input.path)
    table = read_predictions(run)
    assert rows == table.num_rows == source.num_rows == 1500
    assert predicted.rows == 1470
    assert predicted.dropped == 30
    assert table["number"].equals(source["number"])
    assert table["row"].to_pylist() == list(range(500)) * 3
    files = [f"day={day}/part.parquet" for day in (1, 2, 3) for _ in range(500)]
    assert table["input_file"].to_pylist() == files


def test_predictions_are_those_of_the_model_and_null_where_the_row_has_a_null(run):
    run_predict(run)
    source, table = pq.read_table(run.input.path), read_predictions(run)
    complete = np.array(source["height"].is_valid())
    model = steps.read_model(run)
    rows = np.column_stack([source[name].to_numpy() for name in model.columns])[complete]
    expected = assign(model.parameters, rows, responsibilities=True)
    names = ["component", "log_density", "outlier", *(f"probability_{j}" for j in range(3))]
    for name in names:
        assert np.array_equal(table[name].is_valid(), complete)
    kept = table.select(names).filter(pa.array(complete))
    assert kept["component"].to_pylist() == expected.labels.tolist()
    np.testing.assert_allclose(kept["log_density"], expected.log_densities, rtol=1e-13)
    outliers = expected.log_densities < model.manifest.low_density_threshold
    assert kept["outlier"].to_pylist() == outliers.tolist()
    shares = np.column_stack([kept[f"probability_{j}"] for j in range(3)])
    np.testing.assert_allclose(shares, expected.responsibilities, atol=1e-13)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-12)


def test_predictions_do_not_depend_on_threads(run):
    tables = []
    for threads in (1, 3):
        run_predict(run, f"predict-{threads}", cluster=ThreadsCluster(threads=threads))
        tables.append(read_predictions(run))
        Path(run.output.predictions).unlink()  # otherwise the parts are used again
    assert tables[0].equals(tables[1])


def test_large_files_are_cut_and_empty_ones_have_no_part(tmp_path, monkeypatch):
    write_days(tmp_path)
    run = make_run(tmp_path)
    run_fit(run)
    write_day(tmp_path, 2, rows=140_000, row_group_size=40_000)
    write_day(tmp_path, 4, rows=0)
    write_day(tmp_path, 5, rows=1, nulls=False)
    monkeypatch.setattr("gmm_dask.steps.predicting.PART_ROWS", 1)
    predicted, rows = run_predict(run)
    assert rows == 141_001
    assert len(predicted.parts) > 5
    source, table = pq.read_table(run.input.path), read_predictions(run)
    assert table["number"].equals(source["number"])


def test_the_record_says_what_was_done(run):
    predicted, _ = run_predict(run)
    record = read_record(run.output.predictions)
    assert record.rows == 1500
    assert record.model["version"] == 1
    assert record.summary["rows"] == 1470
    assert record.summary["dropped"] == 30
    assert [check["name"] for check in record.summary["drift"]["checks"]] == [
        check.name for check in predicted.drift.checks
    ]


def test_only_new_files_are_read_and_the_others_are_hard_links(run, tmp_path, monkeypatch):
    run_predict(run)
    before = read_record(run.output.predictions)
    inodes = {part.input_file: (before.path / part.name).stat().st_ino for part in before.parts}
    write_day(tmp_path, 0)  # sorts before the others, so that all numbers change
    read_from = count_files_read(monkeypatch)
    predicted, rows = run_predict(run, "predict-2")
    assert read_from == ["day=0/part.parquet"]
    assert predicted.reused == 3
    assert rows == 2000
    after = read_record(run.output.predictions)
    assert after.reused == 3
    assert {
        part.input_file: (after.path / part.name).stat().st_ino
        for part in after.parts
        if part.input_file in inodes
    } == inodes
    source, table = pq.read_table(run.input.path), read_predictions(run)
    assert table["number"].equals(source["number"])
    assert table["row"].to_pylist() == list(range(500)) * 4


def test_a_changed_file_is_predicted_again_and_a_removed_one_is_left_out(
    run, tmp_path, monkeypatch
):
    run_predict(run)
    write_day(tmp_path, 2, shift=0.5)
    (tmp_path / "input/day=3/part.parquet").unlink()
    read_from = count_files_read(monkeypatch)
    predicted, rows = run_predict(run, "predict-2")
    assert read_from == ["day=2/part.parquet"]
    assert predicted.reused == 1
    assert rows == 1000
    assert read_predictions(run)["number"].equals(pq.read_table(run.input.path)["number"])


def test_nothing_new_reads_nothing_and_publishes_the_same_rows(run, monkeypatch):
    run_predict(run)
    before = read_predictions(run)
    read_from = count_files_read(monkeypatch)
    predicted, rows = run_predict(run, "predict-2")
    assert read_from == []
    assert (predicted.parts, predicted.reused, predicted.drift, rows) == ((), 3, None, 1500)
    assert read_predictions(run).equals(before)


def test_another_model_reads_everything_again(run, tmp_path, monkeypatch):
    run_predict(run)
    other = make_run(tmp_path, model__n_components=2, predict__probabilities=True)
    run_fit(other, "fit-2")
    read_from = count_files_read(monkeypatch)
    predicted, _ = run_predict(run, "predict-2")
    assert sorted(read_from) == [f"day={day}/part.parquet" for day in (1, 2, 3)]
    assert predicted.reused == 0
    assert set(read_predictions(run)["component"].drop_null().to_pylist()) == {0, 1}


@pytest.mark.parametrize(
    "change",
    [{"predict__key_columns": []}, {"input__nulls": "drop", "predict__probabilities": False}],
)
def test_other_settings_read_everything_again(run, tmp_path, monkeypatch, change):
    run_predict(run)
    read_from = count_files_read(monkeypatch)
    keys = {"predict__probabilities": True} | change
    assert run_predict(make_run(tmp_path, **keys), "predict-2")[0].reused == 0
    assert len(read_from) == 3


def test_a_model_that_is_the_same_under_another_number_keeps_the_parts(run):
    run_predict(run)
    run_fit(run, "fit-2")
    predicted, _ = run_predict(run, "predict-2")
    assert predicted.reused == 3
    assert read_record(run.output.predictions).model["version"] == 2


def test_a_lost_part_is_predicted_again(run, monkeypatch):
    run_predict(run)
    record = read_record(run.output.predictions)
    (record.path / record.parts[1].name).unlink()
    read_from = count_files_read(monkeypatch)
    assert run_predict(run, "predict-2")[0].reused == 2
    assert read_from == ["day=2/part.parquet"]
    assert read_predictions(run).num_rows == 1500


def test_without_the_record_everything_is_predicted_again(run, tmp_path):
    run_predict(run)
    (tmp_path / "predictions.versions" / "predict-1.json").write_text("{}")
    assert run_predict(run, "predict-2")[0].reused == 0
    assert read_predictions(run).num_rows == 1500


def test_permanent_ids_are_written(run):
    model = steps.read_model(run)
    manifest = replace(model.manifest, clusters=None)
    renamed = replace(model, component_ids=(7, 3, 11), manifest=manifest, run={}, path=None)
    Registry(run.output.models, run.output.name).publish(renamed, run_id="renamed")
    run_predict(run)
    table = read_predictions(run)
    assert {"probability_7", "probability_3", "probability_11"} < set(table.column_names)
    shares = np.column_stack([table[f"probability_{j}"].to_numpy() for j in (7, 3, 11)])
    complete = np.array(table["component"].is_valid())
    likeliest = np.array([7, 3, 11])[shares[complete].argmax(axis=1)]
    assert table["component"].drop_null().to_pylist() == likeliest.tolist()


def interrupt(run, run_id="predict-2"):
    """Interrupt a prediction after its scan, before it is published."""
    plan = steps.inspect_input(run, for_fit=False)
    with steps.open_predictions(
        run, plan, steps.read_model(run), THREADS, silent, run_id
    ) as prediction:
        predicted = steps.predict(run, prediction)
        assert steps.verify_predictions(run, prediction, predicted) == plan.rows
        raise KeyboardInterrupt


def test_an_interrupted_prediction_changes_nothing(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupt(run)
    assert {path.name for path in tmp_path.iterdir()} == {"input", "models"}
    run_predict(run)
    write_day(tmp_path, 4)
    before = files_below(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        interrupt(run)
    assert files_below(tmp_path) == before


def test_a_run_that_is_tried_again_publishes_once(run, tmp_path, monkeypatch):
    run_predict(run, "first")
    before = files_below(tmp_path)
    write_day(tmp_path, 1, shift=0.5)  # the input may have changed since
    before["input/day=1/part.parquet"] = (tmp_path / "input/day=1/part.parquet").read_bytes()
    read_from = count_files_read(monkeypatch)
    predicted, rows = run_predict(run, "first")
    assert (predicted.parts, predicted.reused, predicted.drift, rows) == ((), 3, None, 1500)
    assert read_from == []
    assert files_below(tmp_path) == before


def test_two_predictions_at_once_are_refused(run):
    plan = steps.inspect_input(run, for_fit=False)
    model = steps.read_model(run)
    with (
        steps.open_predictions(run, plan, model, THREADS, silent, "first"),
        pytest.raises(StorageError, match=rf"in use by process {os.getpid()} "),
        steps.open_predictions(run, plan, model, THREADS, silent, "second"),
    ):
        pass


def test_a_file_that_changes_after_the_plan_is_named(run, tmp_path):
    plan = steps.inspect_input(run, for_fit=False)
    write_day(tmp_path, 2, rows=400)
    with (
        pytest.raises(InputChangedError, match=r"^day=2/part\.parquet: was shortened from"),
        steps.open_predictions(
            run, plan, steps.read_model(run), THREADS, silent, "first"
        ) as prediction,
    ):
        steps.predict(run, prediction)
    assert not os.path.lexists(run.output.predictions)


def test_a_part_that_is_lost_before_it_is_published_is_noticed(run):
    plan = steps.inspect_input(run, for_fit=False)
    with steps.open_predictions(
        run, plan, steps.read_model(run), THREADS, silent, "first"
    ) as prediction:
        predicted = steps.predict(run, prediction)
        (prediction.staged.writer.stage.directory / predicted.parts[1].name).unlink()
        with pytest.raises(StorageError, match=r"part-first-00001-.*is missing; predict again"):
            steps.verify_predictions(run, prediction, predicted)
        missing = replace(predicted, parts=predicted.parts[:1])
        with pytest.raises(StorageError, match=r"predictions of day=2/part\.parquet do not hold"):
            steps.publish_predictions(run, prediction, missing)
    assert not os.path.lexists(run.output.predictions)


def test_values_whose_sum_overflows_are_no_infinities(tmp_path):
    write_days(tmp_path)
    run = make_run(tmp_path)
    run_fit(run)
    table = pq.read_table(tmp_path / "input/day=1/part.parquet", partitioning=None)
    table = table.set_column(2, "width", pa.array(np.full(500, 1.7e308)))
    pq.write_table(table, tmp_path / "input/day=1/part.parquet")
    _, rows = run_predict(make_run(tmp_path, predict__probabilities=True))
    assert rows == 1500
    far = read_predictions(run).filter(pa.array(np.arange(1500) < 500)).drop_null()
    assert far.num_rows == 490
    assert set(far["outlier"].to_pylist()) == {True}
    for name in ("log_density", "probability_0", "probability_1", "probability_2"):
        assert np.isfinite(far[name]).all()


def test_float32_rows_are_predicted_as_such(tmp_path):
    write_days(tmp_path)
    run = make_run(tmp_path)
    run_fit(run)
    for day in (1, 2, 3):
        path = tmp_path / f"input/day={day}/part.parquet"
        table = pq.read_table(path, partitioning=None)
        for place, name in ((1, "height"), (2, "width")):
            table = table.set_column(place, name, table[name].cast(pa.float32()))
        pq.write_table(table, path)
    assert run_predict(run)[1] == 1500
