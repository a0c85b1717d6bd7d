"""Runs with labels: fit, predict, retrain, and what a run file refuses."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from gmm_dask import load_model, steps
from gmm_dask.chunked.reading import verify_rows
from gmm_dask.chunked.scan import Work
from gmm_dask.chunked.survey import survey_source
from gmm_dask.errors import ConfigError, InputError, ModelError, SchemaError, ValuesChangedError
from gmm_dask.pipelines.command import app
from gmm_dask.steps.labelling import label_model
from gmm_dask.steps.openlineage import LINEAGE
from gmm_dask.storage.files.choice import version_at
from gmm_dask.storage.models.model import read_file
from gmm_dask.storage.models.paths import load_model_at
from tests.steps.tables import (
    MEANS,
    make_run,
    out_of_core,
    read_predictions,
    run_fit,
    run_predict,
    run_retrain,
)
from tests.steps.test_fit_state import at_iteration, at_stage, bits, fit, interrupt, scans

CLASSES = np.array(["box", "crate", "tray"])
LABELS = {"labels__column": "class"}
#: What a column of labels may hold instead of the three names, and its type.
KINDS = {
    "text": (CLASSES, pa.string()),
    "categories": (CLASSES, pa.dictionary(pa.int32(), pa.string())),
    "integers": (np.array([3, 1, 2]), pa.int16()),
    "floats": (np.array([3.0, 1.0, 2.0]), pa.float64()),
}


def write(root, name="a", rows=900, seed=0, every=20, kind="text", filled=True):
    """Write rows of three Gaussians; every so manieth has a label."""
    random = np.random.default_rng(seed)
    component = random.choice(3, size=rows, p=[0.5, 0.3, 0.2])
    heights, widths = (random.normal(size=(rows, 2)) + MEANS[component]).T
    names, type_ = KINDS[kind]
    labels = [
        names[c].item() if filled and number % every == 0 else None
        for number, c in enumerate(component)
    ]
    table = pa.table({
        "height": pa.array(heights, mask=np.arange(rows) % 50 == 7), "width": widths,
        "number": np.arange(rows), "truth": CLASSES[component], "class": pa.array(labels, type_),
    })  # fmt: skip
    path = root / "input" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=200)
    return path


@pytest.mark.usefixtures("drawn")
def test_labels_name_the_components_of_a_run_and_its_predictions(tmp_path):
    write(tmp_path)
    write(tmp_path, "b", seed=1, filled=False)
    run = make_run(tmp_path, **LABELS, predict__key_columns=["truth"])
    made = run_fit(run)
    labels = made.manifest.labels
    assert sorted(labels.labels) == sorted(CLASSES)
    assert min(labels.confidences) > 0.95
    assert sum(labels.weights) == pytest.approx(44, abs=1)  # one has a null
    assert made.manifest.configuration["labels"]["column"] == "class"
    assert load_model_at(made.published.path).manifest.labels == labels
    run_predict(run)
    table = read_predictions(run)
    assert table.column_names[3:6] == ["component", "label", "label_confidence"]
    used = table["component"].is_valid().to_numpy()
    assert (table["label"].is_valid().to_numpy() == used).all()
    right = table["label"].to_numpy() == table["truth"].to_numpy()
    assert right[used].mean() > 0.98
    model = load_model(made.published.path)
    rows = pl.read_parquet(tmp_path / "input/a.parquet").drop_nulls("height")
    frame = model.predict_frame(rows)
    assert (frame["label"] == rows["truth"]).mean() > 0.98
    assert model.predict_labels(rows.select("height", "width")).tolist() == frame["label"].to_list()
    page = (made.published.path / "report.html").read_text()
    assert "Labels of the components" in page


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_every_type_are_the_same_labels(tmp_path, kind):
    write(tmp_path, kind=kind)
    run = make_run(tmp_path, **LABELS, input__filter="number < 700")
    labels = run_fit(run).manifest.labels
    assert 33 <= sum(labels.weights) <= 35  # of 35 rows inside, where one has a null
    names = sorted(str(name).removesuffix(".0") for name in KINDS[kind][0].tolist())
    assert list(labels.names) == sorted(labels.labels) == names


def test_a_labelled_fit_that_was_interrupted_ends_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(steps.resuming, "SAVE_SECONDS", 0.0)
    write(tmp_path, rows=3_000)
    keys = {"fit__search_rows": 500, "fit__tol": 1e-9, "fit__n_init": 2, "model__n_components": 4}
    run = make_run(tmp_path, **LABELS, **keys)
    whole, events = fit(run)
    assert len(scans(events)) > 2
    cached, _ = fit(make_run(tmp_path, **LABELS, **keys, output__name="cached"), 2**30)
    assert bits(cached.result.best) == bits(whole.result.best)
    for until in (at_stage("polish"), at_iteration(1)):
        for state in (tmp_path / "models").rglob("state"):
            state.unlink()
        interrupt(run, until)
        resumed, _ = fit(run)
        assert bits(resumed.result.best) == bits(whole.result.best)
        assert resumed.result.ownership == whole.result.ownership


def test_a_retrain_keeps_components_and_labels_and_a_new_label_finds_a_free_one(tmp_path):
    write(tmp_path)
    run = make_run(tmp_path, **LABELS, model__n_components=4, retrain__start="current",
                   retrain__require_converged=False, retrain__allow_collapsed=True)  # fmt: skip
    first = run_fit(run)
    write(tmp_path, "b", seed=2)
    evaluation, decision, _ = run_retrain(run, "retrain-1")
    assert decision.accepted, decision.reason
    before = dict(
        zip(first.evaluation.model.component_ids, first.manifest.labels.labels, strict=True)
    )
    after = evaluation.model.manifest.labels
    for identity, label in zip(evaluation.model.component_ids, after.labels, strict=True):
        assert label in (before[identity], "unknown") or before[identity] == "unknown"


def test_what_cannot_be_is_refused_in_a_sentence(tmp_path):
    path = write(tmp_path)
    for keys, error, message in (
        (
            {"labels__column": "klass"},
            SchemaError,
            "has no column 'klass', which labels.col",
        ),
        ({"labels__column": "number"}, ConfigError, "labels need one component"),
        (
            {"labels__column": "width", "input__columns": ["height"]},
            SchemaError,
            "a.parquet: column 'width'",
        ),
        (LABELS | {"model__n_components": 2}, ConfigError, "3 labels need one component each"),
        (LABELS | {"labels__components": 2}, ConfigError, "give at least 6"),
        (LABELS | {"fit__on_collapse": "replace"}, ConfigError, "leave it at 'report'"),
        (LABELS | {"select__n_components": [2, 4]}, ConfigError, "exclude each other"),
        (LABELS | {"retrain__start": "incremental"}, ConfigError, "keeps no labels"),
        ({"labels__column": "width"}, ConfigError, "a label is no feature"),
    ):
        with pytest.raises(error, match=message):
            run_fit(make_run(tmp_path, **keys))
    table = pq.read_table(path)
    dates = pa.array(np.arange(len(table)).astype("datetime64[D]"))
    pq.write_table(table.set_column(4, "class", dates), path)
    with pytest.raises(SchemaError, match=r"is date32.*labels are text, integers or booleans"):
        run_fit(make_run(tmp_path, **LABELS))


def test_a_label_that_changes_is_another_input_and_noticed_between_scans(tmp_path):
    path = write(tmp_path, rows=1_500)
    run = make_run(tmp_path, **LABELS)
    plan = steps.inspect_input(run)
    assert plan.digest != steps.inspect_input(make_run(tmp_path)).digest
    with out_of_core(plan) as scanner:
        survey_source(scanner, 100, 0, run.input.nulls)
        (rows, *_) = scanner.chunks.read(0, 1)
        codes = rows.labels.codes.copy()
        codes[0] += 1
        changed = replace(rows, labels=replace(rows.labels, codes=codes))
        work = Work(len, None, run.input.nulls, scanner.fingerprints, True)
        verify_rows(scanner.chunks, rows, work)
        with pytest.raises(ValuesChangedError):
            verify_rows(scanner.chunks, changed, work)
    assert run_fit(run, "fit-1")
    assert run_retrain(run, "same") is None
    table = pq.read_table(path)
    pq.write_table(
        table.set_column(4, "class", table["class"].take(list(range(1_500))[::-1])), path
    )
    assert run_retrain(run, "relabelled") is not None


def test_a_key_column_called_label_is_refused_once_there_are_labels(tmp_path):
    path = write(tmp_path)
    table = pq.read_table(path)
    pq.write_table(table.append_column("label", table["truth"]), path)
    run_fit(make_run(tmp_path, **LABELS))
    with pytest.raises(ConfigError, match="'label' is the name of a column of the predictions"):
        run_predict(make_run(tmp_path, **LABELS, predict__key_columns=["label"]))


@pytest.fixture(params=["disk", "store"])
def models(request, tmp_path):
    if request.param == "disk":
        return tmp_path / "models"
    return f"{request.getfixturevalue('bucket')}/models"


def test_a_model_without_labels_is_labelled_as_its_next_version(tmp_path, models):
    path = write(tmp_path)
    run = make_run(tmp_path, output__models=str(models))
    plain = run_fit(run)
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(path).select(["width", "class", "height"]).slice(0, 400), few)
    result = CliRunner().invoke(app, ["label", f"{models}/boxes", "--with", str(few)])
    assert result.exit_code == 0, result.output
    assert "confidence 100%" in result.output
    assert f"published {models}/boxes/v000002" in result.output
    first, second = (load_model_at(f"{models}/boxes", number) for number in (1, 2))
    assert first.manifest.labels is None
    assert sorted(second.manifest.labels.labels) == sorted(CLASSES)
    assert second.parameters.digest == first.parameters.digest
    assert second.run.based_on == 1
    assert replace(second.manifest, labels=None) == first.manifest
    event = json.loads(read_file(version_at(second.path), LINEAGE))
    assert event["job"]["name"] == "boxes.label"
    assert event["outputs"][0]["facets"]["version"]["datasetVersion"] == "2"
    assert event["inputs"][0]["name"] == str(few)
    assert event["inputs"][1]["facets"]["version"]["datasetVersion"] == "1"
    run_predict(run)
    assert set(read_predictions(run)["label"].to_pylist()) == {*CLASSES, None}
    assert run_retrain(run, "unchanged") is None  # to be labelled is not to be fitted
    assert plain.published.version == 1


def test_label_says_what_it_cannot_do(tmp_path):
    path = write(tmp_path)
    run_fit(make_run(tmp_path))
    model = str(tmp_path / "models/boxes")
    for address, options, message in (
        (model, {}, "beside the features .* has class, number, truth; say --column NAME"),
        (model, {"column": "width"}, "is a feature of the model"),
        (model, {"column": "klass"}, "has no column 'klass', which labels.column names"),
        (str(tmp_path / "models/bags"), {"column": "class"}, "holds no versions of a model"),
    ):
        column = options.get("column")
        with pytest.raises((ConfigError, SchemaError, ModelError), match=message):
            label_model(address, str(path), column, 3.0, "label-1")
    with pytest.raises(InputError, match="no component has 1000 labelled rows, so all would be"):
        label_model(model, str(path), "class", 1000.0, "label-1")
    write(tmp_path, filled=False)
    with pytest.raises(InputError, match=f"{path}: no row has a label in column 'class'"):
        label_model(model, str(path), "class", 3.0, "label-1")


def test_a_label_of_hardly_more_rows_than_another_is_published_with_a_warning(tmp_path, caplog):
    path = write(tmp_path)
    run_fit(make_run(tmp_path, model__n_components=1))
    caplog.clear()
    labelled = label_model(str(tmp_path / "models/boxes"), str(path), "class", 3.0, "label-1")
    (confidence,) = labelled.labels.confidences
    assert confidence < 0.5
    (line,) = (line for line in caplog.messages if line.startswith("component 0 is labelled "))
    assert f"by only {confidence:.0%} of the labelled rows in it; such" in line


def test_an_index_of_pandas_is_no_column_of_labels(tmp_path):
    path = write(tmp_path)
    run_fit(make_run(tmp_path))
    few = pq.read_table(path).select(["width", "height", "class"]).to_pandas()
    few[few["class"].notna()].sort_values("width").to_parquet(tmp_path / "few.parquet")
    assert "__index_level_0__" in pq.read_schema(tmp_path / "few.parquet").names
    labelled = label_model(
        str(tmp_path / "models/boxes"), str(tmp_path / "few.parquet"), None, 1.5, "label-1"
    )
    assert sorted(labelled.labels.labels) == sorted(CLASSES)
