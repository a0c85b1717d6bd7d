"""The flows on a real Prefect server: what they write, and what the server shows of them."""

import base64
import errno
import os
import re

import pyarrow.dataset as ds
import pytest
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)

from gmm_dask import steps
from gmm_dask.config import ThreadsCluster
from gmm_dask.errors import InputError, StorageError
from gmm_dask.events import silent
from gmm_dask.pipelines import artifacts, sequences
from gmm_dask.pipelines.fit import fit
from gmm_dask.pipelines.predict import predict
from gmm_dask.pipelines.selecting import select
from gmm_dask.pipelines.summary import predict_summary
from gmm_dask.pipelines.tasks import TASKS
from gmm_dask.storage.files import atomic
from gmm_dask.storage.models.paths import load_model_at
from gmm_dask.storage.models.registry import Registry
from tests.pipelines.runs import ROWS, eventually, read_run, write_run
from tests.steps.tables import model_files


@pytest.fixture
def run(tmp_path):
    return read_run(write_run(tmp_path))


def directly(name, run, run_id="direct"):
    sequence = getattr(sequences, name)
    return sequence(run, ThreadsCluster(), sequences.directly, silent, run_id)


def test_a_flow_and_a_direct_run_write_the_same_model(run, prefect_server):
    outcome = fit(run)
    plain = directly("fit", run)
    assert (outcome.published.version, plain.published.version) == (1, 2)
    assert model_files(outcome.published.path) == model_files(plain.published.path)
    assert load_model_at(outcome.published.path).manifest.rows == ROWS - 30


def test_a_server_that_is_too_busy_to_show_a_run_does_not_fail_it(
    run, prefect_server, monkeypatch, caplog
):
    def too_busy(*arguments, **options):
        raise RuntimeError("503 Service Unavailable")

    monkeypatch.setattr(artifacts, "create_markdown_artifact", too_busy)
    assert fit(run).published.version == 1
    assert [line for line in caplog.messages if "503" in line] == [
        "the server does not show all that this run did (RuntimeError: 503 Service Unavailable); "
        "the run is not affected"
    ]


@pytest.fixture
def selecting_run(tmp_path):
    return read_run(write_run(tmp_path), "select.n_components=[2, 4]")


def test_a_select_flow_and_a_direct_selection_write_the_same_model(selecting_run, client):
    state = select(selecting_run, return_state=True)
    outcome, run_id = state.result(), state.state_details.flow_run_id
    plain = directly("select", selecting_run)
    assert (outcome.published.version, plain.published.version) == (1, 2)
    assert model_files(outcome.published.path) == model_files(plain.published.path)
    assert client.read_flow_run(run_id).name == f"select boxes {state.timestamp:%Y-%m-%d} v1"
    of_run = ArtifactFilterFlowRunId(any_=[run_id])
    found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=of_run))
    (report,) = (artifact.data for artifact in found if artifact.key == "report")
    table = [line.split("|") for line in report.splitlines() if line.startswith("| ")]
    assert [cell.strip() for cell in table[0][1:-1]] == ["k", "full", "tied", "diag", "spherical"]
    assert [row[1].strip() for row in table[2:5]] == ["2", "3", "4"]
    marked = [cell.split() for row in table[2:5] for cell in row if "\\*" in cell]
    assert sorted(mark for _, mark in marked) == ["\\*1", "\\*2", "\\*3"]
    assert "| component | weight | height | width | state |" in report


def test_predictions_are_row_for_row_with_the_input(run, prefect_server):
    directly("fit", run)
    outcome = predict(run)
    found = ds.dataset(run.output.predictions).to_table().sort_by("number")
    given = ds.dataset(run.input.path).to_table().sort_by("number")
    assert found["number"].equals(given["number"])
    assert found["component"].null_count == given["height"].null_count == outcome.predicted.dropped
    assert outcome.total_rows == ROWS


def test_a_flow_predicts_by_a_version_what_the_filter_says(run, prefect_server):
    directly("fit", run)
    predict(run)
    some = {"predict": run.predict.model_copy(update={"filter": "day = 2"})}
    outcome = predict(run.model_copy(update=some), model_version=1)
    assert outcome.model.version == 1
    assert (outcome.predicted.kept, outcome.total_rows) == (2, ROWS)
    state = predict(run, model_version=3, return_state=True)
    assert state.is_failed()
    assert "has no version 3; there are versions 1" in state.message


def test_a_cluster_is_written_beside_each_component(tmp_path, prefect_server):
    run = read_run(write_run(tmp_path), "model.n_components=5", "predict.cluster=true")
    directly("fit", run)
    outcome = predict(run)
    table = ds.dataset(run.output.predictions).to_table()
    assert table["cluster"].null_count == table["component"].null_count == 30
    assert set(table["cluster"].drop_null().to_pylist()) == set(
        outcome.model.manifest.clusters.cluster_ids
    )
    assert dict(predict_summary(outcome).facts)["clusters"] == "3, in the column cluster"
    again = predict(run)
    assert (again.predicted.reused, again.total_rows) == (3, ROWS)


def test_the_server_shows_what_ran_on_what(run, client):
    state = fit(run, return_state=True)
    run_id = state.state_details.flow_run_id
    flow_run = client.read_flow_run(run_id)
    assert flow_run.name == f"fit boxes {state.timestamp:%Y-%m-%d} v1"
    assert flow_run.parameters["run"] == run.model_dump(mode="json")

    this = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    names = [f"inspect {run.input.path}", "fit 3 components", "evaluate boxes", "publish boxes"]
    wanted = dict.fromkeys(names, "Completed")

    def tasks():
        return {task.name: task.state_name for task in client.read_task_runs(flow_run_filter=this)}

    eventually(lambda: tasks() == wanted)


def test_the_run_holds_its_report_progress_and_the_librarys_log(run, client):
    run_id = fit(run, return_state=True).state_details.flow_run_id
    of_run = ArtifactFilterFlowRunId(any_=[run_id])
    found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=of_run))
    artifacts = {artifact.key: artifact for artifact in found if artifact.key}
    assert artifacts["progress"].data == 100.0
    assert "| component | weight | height | width | state |" in artifacts["report"].data
    assert "converged" in artifacts["report"].data
    assert f"{run.output.models}/boxes/v000001/report.html" in artifacts["report-page"].data
    assert f"\n{run.output.models}/boxes/v000001\n" in artifacts["model"].data
    held = re.findall(r"!\[(.+)\]\(data:image/png;base64,(.+)\)", artifacts["pictures"].data)
    assert [title for title, _ in held] == [
        "components",
        "entropy",
        "log likelihood",
        "responsibilities",
    ]
    for title, content in held:
        picture = f"{title.replace(' ', '_')}.png"
        path = Registry(run.output.models, "boxes").path(1) / picture
        assert base64.b64decode(content, validate=True) == path.read_bytes()
    # A browser opens neither from the server's pages.
    assert not [a for a in found if "file://" in str(a.data) or a.type == "link"]

    log = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))

    def lines():
        return [line.message for line in client.read_logs(log)]

    eventually(lambda: any(line.startswith("published ") for line in lines()))
    assert any(line.startswith("survey: 3,000 rows at") for line in lines())
    assert any(line.startswith("iteration 1: log-likelihood -") for line in lines())


def test_a_refused_input_fails_the_run_with_its_own_error(run, tmp_path, prefect_server):
    run = run.model_copy(
        update={"input": run.input.model_copy(update={"path": str(tmp_path / "nothing")})}
    )
    state = fit(run, return_state=True)
    assert state.is_failed()
    with pytest.raises(InputError, match="nothing"):
        state.result()
    assert Registry(run.output.models, run.output.name).current_version() is None


def test_invalid_parameters_fail_before_the_run_with_the_dotted_key(run, prefect_server):
    from prefect.exceptions import ParameterTypeError

    tables = run.model_dump()
    tables["model"]["n_component"] = 3
    with pytest.raises(ParameterTypeError, match=r"run\.model\.n_component: Extra inputs"):
        fit(tables)


def failing_writes(monkeypatch, number, times):
    """Let the first writes of storage fail; returns the list of those that did."""
    failed, write = [], atomic.write_all

    def write_or_fail(descriptor, block):
        if len(failed) < times:
            failed.append(number)
            raise OSError(number, os.strerror(number))
        write(descriptor, block)

    monkeypatch.setattr(atomic, "write_all", write_or_fail)
    at_once = TASKS[steps.publish].with_options(retry_delay_seconds=0)
    monkeypatch.setitem(TASKS, steps.publish, at_once)
    return failed


def test_a_passing_fault_of_the_disk_is_tried_again_and_published_once(
    run, prefect_server, monkeypatch
):
    failed = failing_writes(monkeypatch, errno.EIO, times=2)
    outcome = fit(run)
    assert failed == [errno.EIO] * 2
    assert Registry(run.output.models, run.output.name).versions() == (1,)
    assert load_model_at(outcome.published.path).version == 1


def test_a_missing_permission_is_not_tried_again(run, prefect_server, monkeypatch):
    failed = failing_writes(monkeypatch, errno.EACCES, times=2)
    with pytest.raises(StorageError, match="permission denied"):
        fit(run)
    assert failed == [errno.EACCES]
    assert Registry(run.output.models, run.output.name).versions() == ()
