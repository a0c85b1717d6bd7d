"""``--json``: one object on stdout, whatever became of the run, with the same keys always."""

import json
from dataclasses import fields
from typing import get_args, get_type_hints

import pytest
from typer.testing import CliRunner

from gmm_dask import steps
from gmm_dask.pipelines import run_record, sequences
from gmm_dask.pipelines.command import app
from gmm_dask.pipelines.exits import Terminated
from tests.pipelines.runs import write_part, write_run

KEYS = {
    *("format", "kind", "name", "input", "run_id", "began", "seconds", "state", "message"),
    *("exit_code", "error", "files_skipped", "files_unsettled", "model", "published", "refused"),
    *("decision", "predictions", "drift"),
}


@pytest.fixture
def run_file(tmp_path):
    return write_run(tmp_path)


def call(*arguments):
    """The object that a command prints, which is all that it prints to stdout."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    printed = json.loads(result.stdout)
    if isinstance(printed, dict) and "exit_code" in printed:
        assert printed["exit_code"] == result.exit_code
    return printed


def run(kind, run_file, *overrides):
    options = [option for override in overrides for option in ("--set", override)]
    record = call(kind, run_file, "--direct", *options)
    assert set(record) == KEYS
    assert (record["format"], record["kind"]) == (1, kind)
    return record


def test_each_kind_of_run_says_what_it_left(run_file, tmp_path):
    fitted = run("fit", run_file)
    assert (fitted["state"], fitted["exit_code"], fitted["published"]) == ("Completed", 0, 1)
    model = fitted["model"]
    assert (model["version"], model["rows"], model["n_components"]) == (1, 2970, 3)
    assert model["path"] == f"{tmp_path}/models/boxes/v000001"
    assert len(fitted["run_id"]) == 36

    write_part(tmp_path, day=4, seed=4, shift=100.0)
    predicted = run("predict", run_file)
    assert predicted["state"] == "Drifted"
    assert predicted["message"].startswith("new rows differ: ")
    assert not all(check["passed"] for check in predicted["drift"])
    assert predicted["predictions"]["total_rows"] == 4000
    assert predicted["model"]["version"] == 1
    assert predicted["published"] is None

    refused = run("retrain", run_file, "retrain.min_rows=5000")
    assert (refused["state"], refused["exit_code"]) == ("Refused", 1)
    assert refused["message"].startswith(
        "3,960 rows were used, 5,000 are needed; new rows differ: mean log-likelihood "
    )
    assert not refused["decision"][0]["passed"]
    assert "/rejected/" in refused["refused"]["path"]
    assert (refused["refused"]["version"], refused["model"]["version"]) == (None, 1)

    only_full = ("select.n_components=[2, 3]", 'select.covariance_types=["full"]')
    selected = run("select", run_file, *only_full)
    assert (selected["state"], selected["published"]) == ("Completed", 2)
    skipped = run("retrain", run_file, *only_full)
    assert (skipped["state"], skipped["message"]) == ("Skipped", "nothing is new")
    assert (skipped["decision"], skipped["model"]["version"]) == (None, 2)

    failed = run("retrain", run_file, 'predict.key_columns=["colour"]', "retrain.min_rows=1")
    assert (failed["state"], failed["exit_code"], failed["published"]) == ("Failed", 1, 3)
    assert failed["error"]["type"] == "ConfigError"
    assert failed["error"]["message"] in failed["message"]


def test_a_run_that_fails_says_why_in_the_same_object(run_file, tmp_path):
    failed = run("predict", run_file)
    assert (failed["state"], failed["exit_code"]) == ("Failed", 2)
    assert failed["error"]["type"] == "ModelError"
    assert failed["message"] == failed["error"]["message"]
    assert (failed["name"], failed["input"]) == ("boxes", f"{tmp_path}/input")
    unread = run("fit", tmp_path / "nothing.toml")
    assert (unread["state"], unread["exit_code"], unread["name"]) == ("Failed", 2, None)
    assert unread["error"]["type"] == "ConfigError"


def raising(error):
    """What stands for a step in the middle of which the command is ended from outside."""

    def step(*arguments, **options):
        raise error

    return step


@pytest.mark.parametrize(
    ("kind", "step", "error", "code", "words"),
    [
        # Before anything is worth a checkpoint, and after it.
        ("fit", "fit", KeyboardInterrupt(), 130, "interrupted; {}: it begins from the start"),
        (
            "fit",
            "evaluate",
            KeyboardInterrupt(),
            130,
            "interrupted; {}: the fit goes on from its checkpoint",
        ),
        ("predict", "predict", Terminated(143), 143, "terminated; {}: it begins from the start"),
    ],
)
def test_an_interrupted_run_says_so_and_what_the_next_one_does(
    run_file, monkeypatch, kind, step, error, code, words
):
    assert call("fit", run_file, "--direct")["published"] == 1
    monkeypatch.setattr(steps.resuming, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(steps, step, raising(error))
    interrupted = run(kind, run_file)
    assert (interrupted["state"], interrupted["exit_code"]) == ("Interrupted", code)
    message = words.format("run the same command again")
    assert interrupted["message"] == message
    assert interrupted["error"] == {"type": type(error).__name__, "message": message}


def test_a_run_that_is_interrupted_once_its_model_is_stored_has_no_checkpoint(
    run_file, monkeypatch
):
    monkeypatch.setattr(steps.resuming, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(steps, "read_model", raising(KeyboardInterrupt()))  # to predict with
    interrupted = run("retrain", run_file)
    assert len(call("list", run_file.parent / "models")) == 1
    words = "interrupted; run the same command again: it begins from the start"
    assert interrupted["message"] == words


def test_an_interrupted_flow_says_which_run_it_was(run_file, monkeypatch, prefect_server, client):
    monkeypatch.setattr(sequences, "predict", raising(KeyboardInterrupt()))
    interrupted = call("predict", run_file)
    assert interrupted["state"] == "Interrupted"
    assert client.read_flow_run(interrupted["run_id"]).name


def test_versions_are_listed_compared_and_pruned_for_other_programs(
    run_file, tmp_path, monkeypatch
):
    for _ in range(3):
        run("fit", run_file)
    models = tmp_path / "models"
    pruned = call("prune", models, "--keep-versions", 1, "--dry-run")
    assert [path.rpartition("/")[2] for path in pruned["paths"]] == ["v000001", "v000002"]
    assert pruned["dry_run"] is True
    assert pruned["bytes"] > 0
    assert [model["version"] for model in call("list", models)] == [1, 2, 3]
    for command in (("prune", models), ("list", "nowhere"), ("diff", models / "boxes", 9)):
        failed = call(*command)
        assert (failed["exit_code"], set(failed["error"])) == (2, {"type", "message"})
    monkeypatch.setattr("gmm_dask.steps.pruning.prune", raising(KeyboardInterrupt()))
    interrupted = call("prune", models, "--keep-versions", 1)
    assert interrupted["exit_code"] == 130
    words = "interrupted; run the same command again: it removes the rest"
    assert interrupted["error"]["message"] == words


def test_the_promised_keys_are_those_of_the_records():
    """Whoever changes a record sees that others rely on it: docs/operations.md lists the keys."""
    record = run_record.RunRecord
    assert {"format", *(field.name for field in fields(record))} == KEYS
    hints = get_type_hints(record)
    assert run_record.ModelRecord in get_args(hints["model"])
