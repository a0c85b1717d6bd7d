"""``[output] metrics``: what Prometheus' own parser reads of the file after each run."""

import gc

import pytest
from typer.testing import CliRunner

from gmm_dask.errors import ConfigError, InputError, ModelError
from gmm_dask.pipelines.command import app
from gmm_dask.pipelines.fit import fit
from gmm_dask.pipelines.garbage import importing
from gmm_dask.pipelines.recording import recorded
from tests.pipelines.runs import read_metrics, read_run, write_part, write_run

COLLECTED = "collected/gmm.prom"


@pytest.fixture
def run_file(tmp_path):
    path = write_run(tmp_path)
    path.write_text(f'{path.read_text()}metrics = "{tmp_path}/{COLLECTED}"\n')
    return path


def run(kind, run_file, *overrides, code=0):
    options = [option for override in overrides for option in ("--set", override)]
    result = CliRunner().invoke(app, [kind, str(run_file), "--direct", *options])
    assert result.exit_code == code, result.output
    return result


def test_each_run_leaves_what_it_knows_and_a_failed_one_forgets_nothing(run_file, tmp_path):
    run("retrain", run_file, "retrain.min_rows=5000", code=1)
    refused = read_metrics(tmp_path / COLLECTED, "retrain")
    assert (refused["last_run_succeeded",], refused["last_run_state", "Refused"]) == (0, 1)
    assert ("last_success_timestamp_seconds",) not in refused
    assert ("model_rows",) not in refused

    run("fit", run_file)
    fitted = read_metrics(tmp_path / COLLECTED, "fit")
    assert fitted["last_run_state", "Completed"] == 1
    assert sum(value for key, value in fitted.items() if key[0] == "last_run_state") == 1
    assert (fitted["model_rows",], fitted["model_version",]) == (2970, 1)
    assert fitted["last_success_timestamp_seconds",] == fitted["last_run_timestamp_seconds",]
    assert read_metrics(tmp_path / COLLECTED, "retrain") == refused

    write_part(tmp_path, day=4, seed=4, shift=100.0)
    run("predict", run_file)
    drifted = read_metrics(tmp_path / COLLECTED, "predict")
    assert (drifted["drifted",], drifted["last_run_state", "Drifted"]) == (1, 1)
    assert drifted["drift", "low-density share"] > drifted["drift_limit", "low-density share"]
    assert (drifted["predicted_rows",], drifted["prediction_rows",]) == (3960, 4000)

    run("predict", run_file, "input.path=nowhere", code=2)
    failed = read_metrics(tmp_path / COLLECTED, "predict")
    assert (failed["last_run_succeeded",], failed["last_run_state", "Failed"]) == (0, 1)
    assert failed["last_success_timestamp_seconds",] < failed["last_run_timestamp_seconds",]
    kept = ("last_success_timestamp_seconds", "drifted", "drift", "model_rows")
    assert [failed[key] for key in failed if key[0] in kept] == [
        drifted[key] for key in drifted if key[0] in kept
    ]
    assert not list((tmp_path / "collected").glob(".*"))


def test_what_a_night_does_not_know_is_not_that_of_an_earlier_model(run_file, tmp_path):
    incremental = ("retrain.start=incremental", "retrain.on_drift=warn")
    run("retrain", run_file, *incremental)
    full = read_metrics(tmp_path / COLLECTED, "retrain")
    assert ("model_bound",) not in full
    write_part(tmp_path, day=4, seed=4)
    run("retrain", run_file, *incremental)
    night = read_metrics(tmp_path / COLLECTED, "retrain")
    assert night["model_version",] == full["model_version",] + 1
    assert ("model_log_likelihood",) in full
    assert ("model_log_likelihood",) not in night
    assert night["model_bound",] < 0
    assert night["model_rows_read",] < night["model_rows",]
    assert "model_log_likelihood" not in (tmp_path / COLLECTED).read_text()


def test_a_run_that_never_began_is_told_of_too(run_file, tmp_path):
    missing = ["--cluster", str(tmp_path / "nothing.toml")]
    result = CliRunner().invoke(app, ["fit", str(run_file), *missing])
    assert result.exit_code == 2
    assert read_metrics(tmp_path / COLLECTED, "fit")["last_run_succeeded",] == 0


def test_a_flow_writes_the_same(run_file, tmp_path, prefect_server):
    fit(read_run(run_file))
    assert read_metrics(tmp_path / COLLECTED, "fit")["model_rows",] == 2970


def test_a_run_that_has_published_does_not_fail_because_it_cannot_be_told(
    run_file, tmp_path, monkeypatch, caplog
):
    def unreadable(*arguments):
        raise ModelError("version 1 is damaged")

    monkeypatch.setattr("gmm_dask.pipelines.recording.record_outcome", unreadable)
    result = CliRunner().invoke(app, ["fit", str(run_file), "--direct"])
    assert result.exit_code == 0
    assert "what became of this run is not told: version 1 is damaged" in caplog.text


def test_what_is_no_metrics_file_stays_and_the_run_goes_on(run_file, tmp_path):
    path = tmp_path / COLLECTED
    path.parent.mkdir()
    path.write_text("a letter to somebody\n")
    result = run("fit", run_file)
    assert f"the metrics of this run are not written: {path}: holds no metrics" in result.stderr
    assert path.read_text() == "a letter to somebody\n"


@pytest.mark.parametrize("address", ["s3://bucket/gmm.prom", "gmm.txt"])
def test_a_place_that_no_collector_reads_is_refused(run_file, address):
    with pytest.raises(ConfigError, match=r"output.metrics.*the collector reads"):
        read_run(run_file, f"output.metrics={address}")


def test_a_run_sets_aside_what_was_imported(run_file):
    """A search for garbage, of which a deployed run has several, need not pass over it."""
    frozen = []

    def execute():
        frozen.append(gc.get_freeze_count())
        raise InputError("nothing to do")

    with pytest.raises(InputError):
        recorded("fit", read_run(run_file), "run", execute)
    assert frozen[0] > 10_000
    assert gc.get_freeze_count() == 0  # whoever calls a flow has garbage of their own among it


def test_whoever_searches_for_no_garbage_is_left_to_it():
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
