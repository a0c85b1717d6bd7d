"""The retrain flow: skips, refuses, publishes, predicts; and what its states say."""

import re
import socket
import sys

import numpy as np
import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from typer.testing import CliRunner

from gmm_dask.pipelines import deployed
from gmm_dask.pipelines.command import app
from gmm_dask.pipelines.retrain import retrain
from gmm_dask.storage.models.registry import Registry
from tests.pipelines.runs import read_run, write_part, write_run
from tests.steps.tables import model_files


@pytest.fixture
def run_file(tmp_path):
    return write_run(tmp_path)


def state_of(run_file, *overrides, **options):
    return retrain(read_run(run_file, *overrides), return_state=True, **options)


def test_it_publishes_skips_and_publishes_again_when_forced_or_something_is_new(
    run_file, tmp_path, prefect_server
):
    def names(**options):
        return state_of(run_file, **options).name, Registry(tmp_path / "models", "boxes").versions()

    assert names() == ("Completed", (1,))
    assert names() == ("Skipped", (1,))
    assert names(force=True) == ("Completed", (1, 2))
    write_part(tmp_path, day=4, seed=4)
    assert names() == ("Completed", (1, 2, 3))
    # Yesterday's components are today's, whatever they weigh now.
    old, new = (Registry(tmp_path / "models", "boxes").load(version) for version in (1, 3))
    place = [new.component_ids.index(identity) for identity in old.component_ids]
    np.testing.assert_allclose(new.parameters.means[place], old.parameters.means, atol=0.3)


def test_a_refused_candidate_changes_nothing_but_is_kept(run_file, tmp_path, prefect_server):
    assert state_of(run_file).is_completed()
    registry = tmp_path / "models" / "boxes"
    before = model_files(registry / "v000001"), (registry / "current.json").read_bytes()
    write_part(tmp_path, day=4, seed=4)

    state = state_of(run_file, "retrain.min_rows=5000")

    assert (state.name, state.is_failed()) == ("Refused", True)
    assert "3,960 rows were used, 5,000 are needed" in state.message
    assert before == (
        model_files(registry / "v000001"),
        (registry / "current.json").read_bytes(),
    )
    assert Registry(tmp_path / "models", "boxes").versions() == (1,)
    outcome = state.result(raise_on_failure=False)
    assert (outcome.refusal.path / "manifest.json").exists()
    # The rows of the new day are predicted all the same, by the model that stays.
    assert outcome.predictions.total_rows == 4000
    assert outcome.predictions.model.version == 1

    run_id = state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        artifacts = {a.key: a.data for a in client.read_artifacts(artifact_filter=of_run)}
    assert '"check": "rows", "found": 3960' in artifacts["decision"]
    assert "refused; version 1 is in use" in artifacts["report"]


def test_the_command_refuses_with_the_reason_and_exit_code_1(run_file, tmp_path):
    result = CliRunner().invoke(
        app, ["retrain", str(run_file), "--direct", "--set", "retrain.min_rows=5000"]
    )
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(
        "gmm-dask: the candidate was refused: 2,970 rows were used, 5,000 are needed; kept in "
    )
    assert "refused; no model is in use" in result.stdout
    assert Registry(tmp_path / "models", "boxes").current_version() is None


def test_what_has_drifted_is_said_once_in_each_place(run_file, tmp_path):
    """In the log, in the line that ends it, and in the summary."""
    runner, arguments = CliRunner(), ["retrain", str(run_file), "--direct"]
    assert runner.invoke(app, arguments).exit_code == 0
    write_part(tmp_path, day=4, seed=4, shift=1.0)
    result = runner.invoke(app, [*arguments, "--set", "retrain.on_drift=refuse"])
    assert result.exit_code == 1
    *log, last = result.stderr.splitlines()
    clauses = re.findall(r"the mean of \w+ in component \d lies [^;,]+", last)
    assert clauses
    assert last.startswith("gmm-dask: the candidate was refused: the new rows have drifted: ")
    for clause in clauses:
        counts = "\n".join(log).count(clause), last.count(clause), result.stdout.count(clause)
        assert counts == (1, 1, 1), clause
    assert "note: refused: the new rows have drifted\n" in result.stdout


def test_the_summary_says_where_the_gate_could_not_compare(run_file):
    def retrained(*sets):
        options = [option for item in sets for option in ("--set", item)]
        result = CliRunner().invoke(app, ["retrain", str(run_file), "--direct", *options])
        assert result.exit_code == 0
        return result.stdout

    assert "compared" not in retrained()
    words = " ".join(retrained('input.columns=["width"]').split())
    assert "version 1 not compared: it has other columns, or transforms for which" in words


def watchdog_processes():
    """The watchdogs that this process has started and that still run."""
    started = psutil.Process().children(recursive=True)
    return [each for each in started if "gmm_dask.pipelines.watchdog" in each.cmdline()]


def test_trouble_is_told_to_the_command_of_the_environment(
    run_file, tmp_path, prefect_server, monkeypatch
):
    told = tmp_path / "told"
    monkeypatch.setenv("GMM_DASK_ON_TROUBLE", f"tee {told}")
    run = read_run(run_file, "retrain.min_rows=5000")
    state = deployed.retrain(run, return_state=True)
    assert state.name == "Refused"
    assert watchdog_processes() == []
    run_id = state.state_details.flow_run_id
    assert re.sub(r"\d{4}-\d\d-\d\d", "DAY", told.read_text(), count=1) == (
        "Refused: 2,970 rows were used, 5,000 are needed; flow retrain; model boxes; "
        f"input {run.input.path}; host {socket.gethostname()}; "
        f"run retrain boxes DAY {run_id}; "
        f"at {prefect_server.removesuffix('/api')}/runs/flow-run/{run_id}\n"
    )


def test_a_time_limit_ends_an_unattended_run(run_file, tmp_path, prefect_server):
    run = read_run(run_file, "fit.tol=0", "fit.max_iter=100000000", "fit.search_rows=100")
    # The time limit is an exception between any two lines of this thread. If it comes while
    # coverage holds its lock, the lock is never given back, and all threads wait for ever.
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        state = deployed.retrain.with_options(timeout_seconds=2)(run, return_state=True)
    finally:
        sys.settrace(trace)
    assert (state.name, state.is_failed()) == ("TimedOut", True)
    assert Registry(tmp_path / "models", "boxes").versions() == ()
