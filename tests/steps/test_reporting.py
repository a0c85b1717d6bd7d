"""Every model and every prediction has its report, and no run fails for want of one."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from gmm_dask.errors import ConfigError, ModelError, StorageError
from gmm_dask.events import silent
from gmm_dask.pipelines import sequences
from gmm_dask.report.aggregates import Aggregates, is_of_search
from gmm_dask.report.page import document
from gmm_dask.steps import evaluating, reporting
from gmm_dask.steps.reporting import batches_since, subject_of, write_report
from gmm_dask.storage.files.contents import report_path
from gmm_dask.storage.files.versions import Version
from gmm_dask.storage.models.lookup import load_model_at
from gmm_dask.storage.models.model import verify_files
from gmm_dask.storage.predictions.dataset import read_predictions
from tests.steps.tables import (
    THREADS,
    make_run,
    run_fit,
    run_predict,
    run_retrain,
    write_day,
    write_days,
)

pytestmark = pytest.mark.usefixtures("drawn")


@pytest.fixture
def _no_pictures(monkeypatch):
    monkeypatch.setattr("gmm_dask.report.pictures.fit_pictures", lambda *arguments: {})


@pytest.mark.usefixtures("_no_pictures")
def test_a_version_holds_its_report_and_what_it_is_made_of(tmp_path):
    write_days(tmp_path)
    fitted = run_fit(make_run(tmp_path))
    path = fitted.published.path
    verify_files(Version(path))
    page = (path / "report.html").read_text()
    assert "boxes · version 1 ·" in page
    aggregates = Aggregates.decode((path / "report.json").read_bytes())
    assert aggregates == fitted.evaluation.aggregates
    assert aggregates.sample_rows == fitted.manifest.rows
    searched = [frame for frame in aggregates.frames if is_of_search(frame)]
    assert [frame["iteration"] for frame in searched] == list(range(len(searched)))
    polish = aggregates.frames[len(searched) :]
    iterations = [frame["iteration"] for frame in polish]
    assert searched
    assert not any(map(is_of_search, polish))
    assert iterations == list(range(fitted.manifest.n_iter + 1))
    assert aggregates.seconds["fit"] > 0.0
    # Made again it is the same, and older versions are in the history of the next.
    again = write_report(str(path), output=tmp_path / "again.html")
    assert again.read_text() == page
    later = run_fit(make_run(tmp_path), "fit-2").evaluation.aggregates
    assert [version["version"] for version in later.before] == [1]
    assert sum(later.before[0]["weights"].values()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.parametrize("broken", ["count", "draw"])
def test_a_fit_whose_report_cannot_be_made_is_published_with_a_warning(
    tmp_path, monkeypatch, caplog, broken
):
    def fail(*arguments):
        raise RuntimeError("no ink")

    if broken == "count":
        monkeypatch.setattr(reporting, "aggregate", fail)
    else:
        monkeypatch.setattr(document, "report_page", fail)
    write_days(tmp_path)
    with caplog.at_level(logging.WARNING, "gmm_dask"):
        fitted = run_fit(make_run(tmp_path))
    assert "no report was made (RuntimeError: no ink); the run is not affected" in caplog.text
    assert load_model_at(fitted.published.path).version == 1
    assert not (fitted.published.path / "report.html").exists()


@pytest.mark.usefixtures("_no_pictures")
def test_predictions_keep_the_drift_of_every_batch_of_their_model(tmp_path):
    run = make_run(tmp_path)
    write_days(tmp_path, days=2)
    run_fit(run)
    for number in (1, 2, 3):
        write_day(tmp_path, 10 + number, shift=0.1 * number)
        run_predict(run, f"predict-{number}")
    predictions = read_predictions(run.output.predictions)
    model = load_model_at(tmp_path / "models" / "boxes")
    batches = batches_since(run.output.predictions, model)
    assert len(batches) == 3
    assert [batch.rows for batch in batches] == [1_470, 490, 490]
    assert {name for batch in batches for name in batch.checks} == {
        "log-likelihood drop", "low-density share", "occupancy change",
        "mean shift", "spread change",
    }  # fmt: skip
    page = report_path(predictions.path).read_text()
    assert "3 batches predicted with this model" in page
    reports = sorted(path.name for path in predictions.path.parent.glob("*.html"))
    assert reports == ["predict-2.html", "predict-3.html"]  # of the versions that are kept
    run_predict(run, "predict-4")  # nothing is new
    assert batches_since(run.output.predictions, model) == batches
    with_drift = write_report(
        str(tmp_path / "models" / "boxes"), (), run.output.predictions, tmp_path / "x.html"
    )
    assert "3 batches predicted" in with_drift.read_text()
    # Another model has predicted none of them.
    other = replace(model, manifest=replace(model.manifest, rows=1))
    assert batches_since(run.output.predictions, other) == ()


@pytest.mark.usefixtures("_no_pictures")
def test_a_backfill_does_not_end_the_batches_of_the_current_version(tmp_path):
    write_days(tmp_path)
    run_fit(make_run(tmp_path))
    run_fit(make_run(tmp_path, fit__tol=1e-3), "fit-2")
    run = make_run(tmp_path)
    run_predict(run, "second")
    first, second = (load_model_at(tmp_path / "models" / "boxes", version) for version in (1, 2))
    of_second = batches_since(run.output.predictions, second)
    backfill = make_run(tmp_path, predict__filter="day = 1")
    sequences.predict(backfill, THREADS, sequences.directly, silent, "backfill", 1)
    assert batches_since(run.output.predictions, second) == of_second != ()
    assert [batch.rows for batch in batches_since(run.output.predictions, first)] == [490]
    write_day(tmp_path, 4)
    run_predict(make_run(tmp_path, predict__filter="day = 4"), "third")
    assert len(batches_since(run.output.predictions, second)) == 2
    assert len(batches_since(run.output.predictions, first)) == 1
    run_predict(run, "fourth")  # no row of the first is left: its batches go with the next run
    run_predict(run, "fifth")
    assert batches_since(run.output.predictions, first) == ()


def test_a_record_of_something_else_loses_its_batches_and_nothing_more(
    tmp_path, monkeypatch, caplog
):
    model = load_model_at(_published(tmp_path))
    said = SimpleNamespace(model={"sha256": model.sha256}, summary={"batches": [1]})
    monkeypatch.setattr(reporting, "read_predictions", lambda output: said)
    assert batches_since("anywhere", model) == ()
    assert "earlier batches are missing" in caplog.text


def _published(tmp_path):
    write_days(tmp_path)
    return run_fit(make_run(tmp_path)).published.path


@pytest.mark.usefixtures("_no_pictures")
def test_a_version_without_counts_has_a_report_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluating, "count_for_report", lambda *arguments: None)
    path = _published(tmp_path)
    assert not (path / "report.json").exists()
    page = write_report(str(path), output=tmp_path / "old.html").read_text()
    assert "holds no counts of its rows" in page


@pytest.mark.usefixtures("_no_pictures")
def test_damaged_counts_are_not_drawn(tmp_path):
    path = _published(tmp_path)
    content = json.loads((path / "report.json").read_bytes())
    (path / "report.json").write_text(json.dumps(content | {"sample_rows": 1}))
    assert subject_of("boxes", load_model_at(path)).known is None


@pytest.mark.usefixtures("_no_pictures")
def test_versions_stand_beside_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_days(tmp_path)
    for run_id in ("fit-1", "fit-2"):
        run_fit(make_run(tmp_path), run_id)
    page = write_report("models/boxes", (2, 1))
    assert page.name == "boxes-v2-v1.html"
    assert page.read_text().index("version 2 ·") < page.read_text().index("version 1 ·")
    monkeypatch.chdir("models/boxes/v000001")
    assert write_report(".").name == "boxes-v1.html"
    with pytest.raises(ModelError, match="has no version 7; there are versions 1, 2"):
        write_report("..", (7,))
    with pytest.raises(StorageError, match=r"nowhere/x\.html: cannot be written"):
        write_report(".", output=tmp_path / "nowhere" / "x.html")
    with pytest.raises(ConfigError, match=r"^s3://bucket/x\.html: is on a store, and a report"):
        write_report(".", output=Path("s3://bucket/x.html"))
    for directory in (Path(), tmp_path):
        with pytest.raises(ConfigError, match=r"is a directory; give the file to write"):
            write_report(".", output=directory)


def test_a_refused_candidate_has_a_report_that_says_why(tmp_path):
    run = make_run(tmp_path, retrain__min_rows=10**6)
    write_days(tmp_path)
    _, _, path = run_retrain(run, "run-7")
    page = (path / "report.html").read_text()
    assert "boxes · refused candidate ·" in page
    assert "it was refused: 1,470 rows were used, 1,000,000 are needed" in page
    assert write_report(str(path), output=tmp_path / "r.html").read_text() == page
