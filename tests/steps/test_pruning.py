"""What goes after a publish: old versions, unless something goes by them; and never the run."""

import logging

import pytest

from gmm_dask import steps
from gmm_dask.errors import ConflictError, ModelError
from gmm_dask.pipelines.sequences import directly, predict, retrain
from gmm_dask.steps import pruning
from gmm_dask.storage.files.retention import Keep
from gmm_dask.storage.models.pruning import prune_models, rejected_runs
from gmm_dask.storage.models.registry import Registry
from tests.steps.tables import THREADS, make_run, run_fit, write_day, write_days


@pytest.fixture
def run(tmp_path):
    write_days(tmp_path, days=1)
    return make_run(tmp_path, output__keep={"versions": 1})


def versions(run):
    return Registry(run.output.models, run.output.name).versions()


def predict_all(run, run_id):
    return predict(run, THREADS, directly, lambda event: None, run_id)


def test_a_publish_removes_what_is_old_but_not_what_predicted(run, tmp_path):
    run_fit(run, "fit-1")
    predict_all(run, "predict-1")
    write_day(tmp_path, 2)  # else the next models are the same, and use its predictions again
    assert run_fit(run, "fit-2").published.pruned.paths == ()
    removed = run_fit(run, "fit-3").published.pruned
    assert removed.paths == (f"{run.output.models}/boxes/v000002",)
    assert removed.bytes > 1000
    assert versions(run) == (1, 3)
    predict_all(run, "predict-2")
    run_fit(run, "fit-4")
    assert versions(run) == (3, 4)


def test_without_keep_every_version_stays(tmp_path, run):
    for number in (1, 2, 3):
        run_fit(make_run(tmp_path), f"fit-{number}")
    assert versions(run) == (1, 2, 3)


def test_a_prune_that_fails_is_told_and_fails_no_run(run, monkeypatch, caplog):
    run_fit(run, "fit-1")

    def fail(*arguments):
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(pruning, "prune_models", fail)
    with caplog.at_level(logging.WARNING, "gmm_dask"):
        published = run_fit(run, "fit-2").published
    assert caplog.messages == ["old versions of model boxes were not removed: the disk is gone"]
    assert (published.version, versions(run)) == (2, (1, 2))


def test_predictions_that_cannot_be_read_keep_every_version(run, tmp_path, caplog):
    run_fit(run, "fit-1")
    predict_all(run, "predict-1")
    (tmp_path / "predictions.versions" / "predict-1.json").write_text("{}")
    run_fit(run, "fit-2")
    run_fit(run, "fit-3")
    assert versions(run) == (1, 2, 3)
    assert "old versions of model boxes were not removed" in caplog.text
    assert "predict-1.json: is damaged" in caplog.text


def test_a_version_that_predicts_stays_while_others_are_published(run, monkeypatch):
    """While a prediction runs, another process publishes twice and prunes."""
    run_fit(run, "fit-1")
    predict_rows = steps.predict

    def publish_meanwhile(run, prediction, measured):
        run_fit(run, "fit-2")
        run_fit(run, "fit-3")
        assert versions(run) == (1, 3)
        return predict_rows(run, prediction, measured)

    monkeypatch.setattr(steps, "predict", publish_meanwhile)
    assert predict_all(run, "predict-1").model.version == 1
    prune_models(Registry(run.output.models, "boxes"), Keep(versions=1))
    assert versions(run) == (3,)


def test_a_retrain_holds_the_version_that_it_goes_by(run, monkeypatch, tmp_path):
    run_fit(run, "fit-1")
    write_day(tmp_path, 2)
    evaluate = steps.evaluate

    def publish_meanwhile(*arguments):
        monkeypatch.setattr(steps, "evaluate", evaluate)
        evaluation = evaluate(*arguments)
        run_fit(run, "fit-2")
        run_fit(run, "fit-3")
        assert versions(run) == (1, 3)
        return evaluation

    monkeypatch.setattr(steps, "evaluate", publish_meanwhile)
    with pytest.raises(
        ConflictError, match="it is based on version 1, but version 3 is current now"
    ):
        retrain(run, THREADS, directly, lambda event: None, "retrain-1")


def test_a_version_that_went_before_it_was_held_is_named(run):
    run_fit(run, "fit-1")
    model = steps.read_model(run)
    run_fit(run, "fit-2")
    removed = pytest.raises(ModelError, match=r"v000001: was removed while this run began.*again$")
    with removed, steps.hold(model):
        pass
    with steps.hold(None):
        pass


def test_a_refused_candidate_removes_older_ones(run, tmp_path):
    run_fit(run, "fit-1")
    strict = make_run(tmp_path, output__keep={"versions": 2}, retrain__min_rows=10**6)
    for number in range(4):
        retrain(strict, THREADS, directly, lambda event: None, f"retrain-{number}", force=True)
    registry = Registry(run.output.models, "boxes")
    assert rejected_runs(registry) == ("retrain-2", "retrain-3")


def test_predictions_are_kept_as_the_run_file_says(run, tmp_path):
    run_fit(run, "fit-1")
    three = make_run(tmp_path, output__keep={"versions": 3})
    for number in range(4):
        predict_all(three, f"predict-{number}")
    kept = sorted(path.name for path in (tmp_path / "predictions.versions").iterdir())
    assert [name for name in kept if "." not in name] == ["predict-1", "predict-2", "predict-3"]


def test_a_version_whose_predictions_were_kept_stays(run, tmp_path):
    run_fit(run, "fit-1")
    keeping = make_run(tmp_path, output__keep={"versions": 1}, predict__refresh="changed")
    predict_all(keeping, "predict-1")
    write_day(tmp_path, 2)
    run_fit(run, "fit-2")
    predict_all(keeping, "predict-2")  # day 1 by version 1, day 2 by version 2
    for number in (3, 4, 5):
        run_fit(run, f"fit-{number}")
    assert versions(run) == (1, 2, 5)
