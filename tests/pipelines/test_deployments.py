"""Schedules that really fire, on a real server, by a served process and by a worker."""

import os
import subprocess
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.exceptions import ObjectNotFound

from gmm_dask.config import RunConfig, read_config
from gmm_dask.storage.models.registry import Registry
from tests.pipelines.runs import eventually, write_run
from tests.pipelines.services import running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def runs_of(client, name):
    """Runs of a deployment that have ended, but for those that were cancelled."""
    try:
        deployment = client.read_deployment_by_name(name)
    except ObjectNotFound:
        return []
    this = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    runs = client.read_flow_runs(deployment_filter=this)
    return [run for run in runs if run.state.is_final() and not run.state.is_cancelled()]


def test_a_served_schedule_fires_again_and_again(tmp_path, client, server):
    run_file = write_run(tmp_path)
    log = tmp_path / "serve.log"
    arguments = [
        "gmm_dask.pipelines",
        "serve",
        run_file,
        "--every",
        3,
        "--set",
        "output.name=often",
    ]
    with running(arguments, server, tmp_path, log):
        runs = eventually(lambda: len(found := runs_of(client, "retrain/often")) >= 2 and found)
    names = {run.state.name for run in runs}
    assert names == {"Completed", "Skipped"}, log.read_text()
    assert Registry(tmp_path / "models", "often").versions() == (1,)
    assert (tmp_path / "predictions").is_dir()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A directory as `make demo` leaves it before the first fit."""
    directory = tmp_path_factory.mktemp("project")
    subprocess.run(
        [sys.executable, ROOT / "examples/hipparcos.py", directory / "demo/hipparcos"], check=True
    )
    return directory


def prefect(*arguments, server, cwd):
    environment = {**os.environ, "PREFECT_API_URL": server, "PWD": str(cwd)}
    command = [sys.executable, "-m", "prefect", "--no-prompt", *map(str, arguments)]
    run = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_deployments_of_the_repository_run_on_a_worker(project, client, server):
    """Commands of the guide; then a schedule, a run by hand, and a chain by event."""
    prefect("work-pool", "create", "gmm-dask", "--type", "process", server=server, cwd=project)
    deployments = ROOT / "configs/prefect.yaml"
    prefect("deploy", "--prefect-file", deployments, "--all", server=server, cwd=project)

    for name in ("retrain", "predict"):  # or their own hour may come while this runs
        deployment = client.read_deployment_by_name(f"{name}/hipparcos")
        for schedule in deployment.schedules:
            client.update_deployment_schedule(deployment.id, schedule.id, active=False)

    retrain = client.read_deployment_by_name("retrain/hipparcos")
    written = read_config(RunConfig, ROOT / "configs/hipparcos.toml")
    assert RunConfig.model_validate(retrain.parameters["run"]) == written
    every = IntervalSchedule(interval=timedelta(seconds=3))
    client.create_deployment_schedules(retrain.id, [(every, True)])
    worker = ["prefect", "worker", "start", "--pool", "gmm-dask"]
    with running(worker, server, project, project / "worker.log"):
        eventually(lambda: len(runs_of(client, "retrain/hipparcos")) >= 2)
        client.pause_deployment(retrain.id)
        fit = client.read_deployment_by_name("fit/hipparcos")
        client.create_flow_run_from_deployment(fit.id)
        chained = eventually(lambda: runs_of(client, "predict/hipparcos"))

    states = [run.state.name for run in runs_of(client, "retrain/hipparcos")]
    assert sorted(set(states)) == ["Completed", "Skipped"], states
    assert Registry(project / "demo/models", "hipparcos").versions() == (1, 2)
    assert [run.created_by.type for run in chained] == ["AUTOMATION"]
    assert [run.state.name for run in chained] == ["Completed"]
    assert not overlapping(runs_of(client, "retrain/hipparcos"))


def overlapping(runs):
    """Pairs of runs of which one began before the other had ended."""
    runs = sorted(runs, key=lambda run: run.start_time)
    return [(a, b) for a, b in pairwise(runs) if b.start_time < a.end_time]
