"""Ten nights of an incremental retrain as an operator has them: a server, a schedule, a worker.

The schedule fires all the time. A night is the run that learns a new file; runs between two nights
find nothing new (Skipped), or are due while another runs (Cancelled). So it does not matter when
the schedule fires, or how often, and nothing waits for a time. The same nights are done beside
them with ``--direct``, where no worker can be killed: what these say and leave is what the nights
of the deployment must say and leave.
"""

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import EventFilter, EventResourceFilter
from typer.testing import CliRunner

from gmm_dask.pipelines.command import app
from gmm_dask.storage.models.registry import Registry
from tests.pipelines.runs import read_metrics
from tests.pipelines.services import kill_all_but_watchdogs, running
from tests.waiting import until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WORKER = ["prefect", "worker", "start", "--pool", "nights"]
NIGHTS, DRIFT, STOP = 10, 4, 6
#: Seconds from one firing to the next: less than a run takes, so some are cancelled.
EVERY = 4
#: Rows of the first file, and of each night's.
ROWS, NEW = 2000, 600
MEANS = np.array([[0.0, 0.0], [8.0, 5.0], [-8.0, 5.0]])
MODELS = ("deployed", "direct")
ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED)

RUN_FILE = """
[input]
path = "{root}/input"
columns = ["height", "width"]

[model]
n_components = 3

[retrain]
start = "{start}"

[predict]
key_columns = ["number"]

[output]
models = "{root}/{models}"
name = "nights"
predictions = "{root}/{models}.predicted"
metrics = "{root}/{models}.prom"
"""


def eventually(ask):
    """The first true answer; asking less often leaves the server to the runs."""
    return until(ask, "nothing after ten minutes", seconds=600.0, pause=0.3)


def write_night(root, night):
    """Let a file appear; from night 4 on, the heights of the second component are 1.5 σ higher."""
    random = np.random.default_rng(night)
    component = random.integers(3, size=NEW if night else ROWS)
    points = random.normal(size=(len(component), 2)) + MEANS[component]
    points[:, 0] += 1.5 * ((component == 1) & (night >= DRIFT))
    numbers = np.arange(len(points)) + 10_000 * night
    table = pa.table({"number": numbers, "height": points[:, 0], "width": points[:, 1]})
    path = root / "input" / f"night={night:02}.parquet"
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_name(f".{path.name}")  # which no run reads
    pq.write_table(table, unfinished)
    unfinished.rename(path)


def write_run_file(root, models, start):
    path = root / f"{models}.toml"
    path.write_text(RUN_FILE.format(root=root, models=models, start=start))
    return path


def command(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def deploy(run_file, root, server):
    """Deploy as the guide says: configs/prefect.yaml with a run, a schedule and a pool of its own.

    What is left out are the deployments beside the retrain.
    """
    project = yaml.safe_load((ROOT / "configs/prefect.yaml").read_text())
    del project["definitions"]  # the parser has put them in their places
    (retrain,) = (
        each for each in project["deployments"] if each["entrypoint"].endswith(".retrain")
    )
    assert retrain["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    retrain["name"] = retrain["work_pool"]["name"] = "nights"
    retrain["parameters"] = {"run": tomllib.loads(run_file.read_text())}
    retrain["schedules"] = [{"interval": EVERY}]
    environment = retrain["work_pool"]["job_variables"]["env"]
    environment["GMM_DASK_ON_TROUBLE"] = f"tee --append {root / 'told'}"
    path = root / "prefect.yaml"
    path.write_text(yaml.safe_dump({**project, "deployments": [retrain]}))
    arguments = ["--no-prompt", "deploy", "--prefect-file", path, "--all"]
    subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        env={**os.environ, "PREFECT_API_URL": server, "PWD": str(root)},
        cwd=root,
        check=True,
    )


@dataclass
class Deployment:
    """What a person sees of the deployed retrain, and the nights so far."""

    client: SyncPrefectClient
    root: Path
    nights: list[FlowRun] = field(default_factory=list)

    def runs(self, *types):
        """Runs in such states, as they began."""
        this = self.client.read_deployment_by_name("retrain/nights").id
        states = FlowRunFilterState(type=FlowRunFilterStateType(any_=types))
        return self.client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[this])),
            flow_run_filter=FlowRunFilter(state=states),
            sort=FlowRunSort.START_TIME_ASC,
        )

    def next_night(self):
        """The run that has learned what is new, or should have, once it has ended.

        One that has never begun is none: Prefect gives it up where the server has no time for the
        worker, and the next one is due.
        """
        known = {run.id for run in self.nights}

        def ended():
            runs = [run for run in self.runs(*ENDED) if run.id not in known]
            return [run for run in runs if run.run_count and run.state.name != "Skipped"]

        (night,) = eventually(ended)
        self.nights.append(night)
        return night

    def publishing(self):
        """The run that is about to publish."""
        for run in self.runs(StateType.RUNNING):
            tasks = self.client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            )
            if any(task.name == "publish nights" and task.state.is_running() for task in tasks):
                return run
        return None

    def artifacts(self, run):
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        return {each.key: each for each in self.client.read_artifacts(artifact_filter=of_run)}

    def events(self, run, number):
        """Payloads of the events about the model by this run, once there are so many."""
        of_model = EventFilter(resource=EventResourceFilter(id=["gmm-dask.model.nights"]))

        def emitted():
            events = self.client.read_events(of_model, limit=50).events
            by_run = {each.event: each.payload for each in events if str(run.id) in str(each)}
            return len(by_run) == number and by_run

        return eventually(emitted)

    def log_says(self, run, words):
        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
        return any(words in line.message for line in self.client.read_logs(of_run, limit=200))

    def told(self):
        path = self.root / "told"
        return path.read_text().splitlines() if path.exists() else []

    def told_of(self, run):
        return [line for line in self.told() if f" {run.id}; at http" in line]


def check_metrics(root, said):
    """The metrics are those of the night, also if a run that found nothing new has followed."""
    metrics, model = read_metrics(root / "deployed.prom", "retrain", "nights"), said["model"]
    (state,) = (key[1] for key in metrics if key[0] == "last_run_state" and metrics[key])
    assert state in {said["state"], "Skipped"}
    assert metrics["last_run_succeeded",] == 1
    assert metrics["model_version",] == model["version"]
    assert metrics.get(("model_bound",)) == model["bound"]
    assert metrics.get(("model_log_likelihood",)) == model["log_likelihood"]
    assert metrics["drifted",] == (said["state"] == "Drifted")


def check_night(deployment, number, said):
    """What a person is told of a night, by each way of telling."""
    run, drifted = deployment.nights[-1], number >= DRIFT
    version, words = number + 1, said["message"]
    assert (run.state.name, run.state.message or "") == (said["state"], words)
    assert run.state.name == ("Drifted" if drifted else "Completed")
    assert run.name == f"retrain nights {run.expected_start_time:%Y-%m-%d} v{version}"
    artifacts = deployment.artifacts(run)
    assert {"report", "decision", "model", "predictions", "report-page"} <= artifacts.keys()
    assert artifacts["decision"].description == "accepted"
    assert f"v{version:06}" in artifacts["model"].data
    drift = words.removeprefix("new rows differ: ") or "none"
    new = f"{NEW} new rows in 1 file, compared with version {version - 1}: {drift}"
    assert f"- **drift**: {new}\n" in artifacts["report"].data

    events = deployment.events(run, 1 + drifted)
    assert events["gmm-dask.model.published"]["version"] == version
    if drifted:
        assert events["gmm-dask.model.drifted"] == {"message": words}
    begun = "all rows are read: version 1 was fitted with another retrain.start"
    if number > 1:
        rows, read = said["model"]["rows"], said["model"]["rows_read"]
        begun = f" units, {read:,} of {rows:,} rows; 0 changed, 0 gone, "
    eventually(lambda: deployment.log_says(run, begun))
    if drifted:
        assert "the mean of height in component 1 lies " in words
        (told,) = eventually(lambda: deployment.told_of(run))
        assert told.startswith(f"Drifted: {words}; flow retrain; ")


def stop_the_worker(deployment, worker, models):
    """Kill a worker and its run, which waits to publish; the run ends by its watchdog."""
    run = eventually(deployment.publishing)
    kill_all_but_watchdogs(worker)
    crashed = deployment.next_night()
    assert crashed.id == run.id
    assert (crashed.state.type, crashed.state.name) == (StateType.CRASHED, "Crashed")
    why = "The process of the run was killed; its worker was stopped or died"
    assert crashed.state.message == f"{why}."
    (told,) = eventually(lambda: deployment.told_of(run))
    assert told.startswith(f"Crashed: {why}; flow retrain; ")
    assert models.current_version() == STOP
    assert not [path for path in deployment.root.rglob("*") if ".partial-" in path.name]


@pytest.fixture
def deployment(tmp_path, client, server, monkeypatch):
    """A model of one file under both roofs; then both are switched to incremental nights."""
    # Or a worker takes all runs of the next ten seconds at once, most of them to cancel them.
    monkeypatch.setenv("PREFECT_WORKER_PREFETCH_SECONDS", "1")
    write_night(tmp_path, 0)
    for models in MODELS:
        command("fit", write_run_file(tmp_path, models, "current"), "--direct")
        run_file = write_run_file(tmp_path, models, "incremental")
        if models == "deployed":
            client.create_work_pool(WorkPoolCreate(name="nights", type="process"))
            deploy(run_file, tmp_path, server)
    deployment = Deployment(client, tmp_path)
    yield deployment
    # What a failed test shows of it.
    for run in deployment.runs(*ENDED, StateType.CANCELLED, StateType.PENDING, StateType.RUNNING):
        print(run.name, run.state.name, run.state.message, run.start_time, run.end_time, sep="; ")
    for log in tmp_path.glob("*.log"):
        print(log.read_text())


def test_ten_nights_of_which_the_fourth_drifts_and_the_sixth_loses_its_worker(deployment, server):
    root, said = deployment.root, []
    models = Registry(root / "deployed", "nights")

    def learn_directly():
        said.append(json.loads(command("retrain", root / "direct.toml", "--direct", "--json")))

    def begin_night(number):
        write_night(root, number)
        learn_directly()

    def end_night(number):
        deployment.next_night()
        assert models.current_version() == number + 1
        check_metrics(root, said[-1])
        if number < NIGHTS and number + 1 != STOP:
            begin_night(number + 1)  # the next firing finds it while this night is looked at
        check_night(deployment, number, said[number - 1])

    begin_night(1)
    with running(WORKER, server, root, root / "worker.log") as worker:
        for number in range(1, STOP):
            end_night(number)
        with models.store.open():  # as somebody has who prunes by hand; the run waits for a minute
            write_night(root, STOP)
            stop_the_worker(deployment, worker, models)
    learn_directly()
    with running(WORKER, server, root, root / "second-worker.log"):
        for number in range(STOP, NIGHTS + 1):
            end_night(number)
        deployment.client.pause_deployment(deployment.nights[0].deployment_id)
        # Or the end of the worker would kill a run.
        eventually(lambda: not deployment.runs(StateType.PENDING, StateType.RUNNING))
    check_what_is_left(deployment)


def check_what_is_left(deployment):
    """The nights of the deployment have left what the same nights left that nothing stopped."""
    root, nights = deployment.root, deployment.nights
    assert len(nights) == NIGHTS + 1
    for number in range(2, NIGHTS + 2):
        for name in ("parameters.safetensors", "statistics.safetensors"):
            left = [root / models / "nights" / f"v{number:06}" / name for models in MODELS]
            assert left[0].read_bytes() == left[1].read_bytes(), left
    predicted, wanted = (pq.read_table(root / f"{models}.predicted") for models in MODELS)
    assert predicted.equals(wanted)

    drift = json.loads(command("drift", root / "deployed/nights", "--json"))
    assert [night["run_id"] for night in drift["nights"]] == [
        str(run.id) for run in nights if run.state.name != "Crashed"
    ]
    (since,) = (each for each in drift["since"] if each["kind"] == "mean")
    assert (since["component"], since["feature"]) == (1, "height")
    assert since["nights"] == NIGHTS + 1 - DRIFT
    assert since["since"] == drift["nights"][DRIFT - 1]["created"]
    seen = "the mean of height in component 1: seen 7 nights in a row, since 20"
    assert seen in command("drift", root / "deployed/nights")

    runs = [run for run in deployment.runs(*ENDED) if run.run_count]
    assert not [(a, b) for a, b in pairwise(runs) if b.start_time < a.end_time]
    known = {run.id for run in nights}
    others = [run for run in runs if run.id not in known] + deployment.runs(StateType.CANCELLED)
    assert {(run.state.name, run.state.message) for run in others} <= {
        ("Skipped", "nothing is new"),
        ("Cancelled", "Deployment concurrency limit reached."),
    }
    assert len(deployment.told()) == NIGHTS + 1 - DRIFT + 1
