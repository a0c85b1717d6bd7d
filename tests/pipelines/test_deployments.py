"""Schedules that really fire, on a real server, by a served process and by a worker."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.exceptions import ObjectNotFound
from runs import eventually, write_run

from gmm_dask.storage.registry import versions


@pytest.fixture
def client(prefect_server):
    with get_client(sync_client=True) as client:
        yield client


@contextmanager
def running(arguments, server, cwd, log):
    """A service started as from a shell, and stopped as by an operator: with SIGTERM."""
    quick = {
        "PREFECT_API_URL": server,
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            env={**os.environ, **quick},
            cwd=cwd,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def runs_of(client, name):
    """Final runs of a deployment, by the name of their state."""
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
    with running(["pipelines", "serve", run_file, "--every", 3], server, tmp_path, log):
        runs = eventually(lambda: len(found := runs_of(client, "retrain/boxes")) >= 2 and found)
    names = {run.state.name for run in runs}
    assert names == {"Completed", "Skipped"}, log.read_text()
    assert versions(tmp_path / "models", "boxes") == (1,)
    assert (tmp_path / "predictions").is_dir()
