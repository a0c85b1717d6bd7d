"""Runs that are ended from outside: nothing half written, no process left, the next goes on."""

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml
from prefect import get_client
from prefect.automations import Automation
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling
from prefect.types.entrypoint import EntrypointType

from gmm_dask.pipelines import deployed
from gmm_dask.pipelines.serve import one_at_a_time
from gmm_dask.storage.models.registry import Registry
from tests.pipelines.runs import eventually, read_run, write_run
from tests.pipelines.services import (
    free_port,
    kill_all,
    kill_all_but_watchdogs,
    prefect_server_process,
    running,
    watchdogs,
)
from tests.waiting import until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
AUTOMATIONS = ROOT / "configs" / "automations.yaml"
GUIDE = ROOT / "docs" / "operations.md"
ENDLESS = ("fit.tol=0", "fit.max_iter=100000000", "fit.search_rows=100")


@pytest.fixture
def run_file(tmp_path):
    return write_run(tmp_path)


def command(name, run_file, *arguments, overrides=()):
    options = [option for override in overrides for option in ("--set", override)]
    return [sys.executable, "-m", "gmm_dask.pipelines", name, str(run_file), *options, *arguments]


@contextmanager
def fitting(arguments, **environment):
    """A fit without an end, once it has begun."""
    process = subprocess.Popen(
        arguments,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        for line in process.stderr:
            if "iteration 3:" in line:
                break
        yield process


def nothing_is_left(root, process):
    eventually(lambda: not there(process.pid))  # the system takes a moment to bury the dead
    assert not [path for path in root.rglob("*") if ".partial-" in path.name]
    assert Registry(root / "models", "boxes").versions() == ()


def there(group):
    """Whether a process group has any process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("how", "number", "code", "word"),
    [
        (["--direct"], signal.SIGTERM, 143, "terminated"),
        (["--direct"], signal.SIGINT, 130, "interrupted"),
        ([], signal.SIGTERM, 143, "terminated"),
    ],
    ids=["SIGTERM", "SIGINT", "SIGTERM with an embedded server"],
)
def test_a_signal_ends_a_run_and_all_that_it_started(run_file, tmp_path, how, number, code, word):
    with fitting(command("fit", run_file, *how, overrides=ENDLESS)) as process:
        process.send_signal(number)
        said = process.stderr.read()  # ends when the last process that could write has ended
        assert process.wait() == code, said
    assert f"gmm-dask: {word}; run the same command again" in said
    nothing_is_left(tmp_path, process)


def test_ctrl_c_interrupts_a_run_but_not_the_server_that_hears_of_it(run_file, tmp_path):
    """A terminal sends SIGINT to every process of the command."""
    with fitting(command("fit", run_file, overrides=ENDLESS)) as process:
        os.killpg(process.pid, signal.SIGINT)
        said = process.stderr.read()
        assert process.wait() == 130, said
    assert said.splitlines()[-1].startswith("gmm-dask: interrupted; run the same command again")
    nothing_is_left(tmp_path, process)


def test_ctrl_c_does_not_make_local_workers_complain(run_file, tmp_path):
    cluster = tmp_path / "cluster.toml"
    cluster.write_text('[cluster]\nkind = "local"\nworkers = 2\nmemory_limit = "1GiB"\n')
    arguments = command("fit", run_file, "--direct", "--cluster", cluster, overrides=ENDLESS)
    with fitting(list(map(str, arguments))) as process:
        os.killpg(process.pid, signal.SIGINT)
        said = process.stderr.read()
        assert process.wait() == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("gmm-dask: interrupted; run the same command again")
    nothing_is_left(tmp_path, process)


def begin_endless_run(client, deployment, run_file):
    """Let a service or a worker work on a run without an end, until it has a checkpoint."""
    endless = read_run(run_file, *ENDLESS).model_dump(mode="json")
    run = client.create_flow_run_from_deployment(deployment.id, parameters={"run": endless})
    checkpoints = run_file.parent / "models" / "boxes" / ".checkpoints"
    eventually(lambda: checkpoints.is_dir() and list(checkpoints.iterdir()))
    return run


def endless_run(client, run_file):
    """A run without an end of a service, once it has begun, and its deployment."""
    deployment = eventually(lambda: deployment_named(client, "retrain/boxes"))
    return deployment, begin_endless_run(client, deployment, run_file)


def test_a_cancelled_run_leaves_nothing_and_the_next_one_works(tmp_path, client, server):
    run_file = write_run(tmp_path)
    arguments = ["gmm_dask.pipelines", "serve", run_file]
    with running(arguments, server, tmp_path, tmp_path / "serve.log") as service:
        deployment, run = endless_run(client, run_file)

        client.set_flow_run_state(run.id, Cancelling())
        eventually(lambda: client.read_flow_run(run.id).state.is_cancelled())
        eventually(lambda: not psutil.Process(service.pid).children(recursive=True))
        assert Registry(tmp_path / "models", "boxes").versions() == ()

        run = client.create_flow_run_from_deployment(deployment.id)
        eventually(lambda: client.read_flow_run(run.id).state.is_final())
    assert client.read_flow_run(run.id).state.name == "Completed"
    assert Registry(tmp_path / "models", "boxes").versions() == (1,)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_that_is_stopped_cancels_its_run_and_blocks_no_later_one(
    tmp_path, client, server, number, monkeypatch
):
    told = tmp_path / "told"
    monkeypatch.setenv("GMM_DASK_ON_TROUBLE", f"tee --append {told}")
    run_file = write_run(tmp_path)
    arguments = ["gmm_dask.pipelines", "serve", run_file]
    with running(arguments, server, tmp_path, tmp_path / "serve.log") as service:
        deployment, run = endless_run(client, run_file)
        service.send_signal(number)
        assert service.wait(timeout=60) == 0
    state = client.read_flow_run(run.id).state
    assert (state.name, state.message) == ("Cancelled", "Runner is shutting down.")
    nothing_is_left(tmp_path, service)

    with running(arguments, server, tmp_path, tmp_path / "serve.log"):
        run = client.create_flow_run_from_deployment(deployment.id)
        eventually(lambda: client.read_flow_run(run.id).state.is_final())
    assert client.read_flow_run(run.id).state.name == "Completed"
    (text,) = told.read_text().splitlines()
    assert text.startswith("Cancelling: Runner is shutting down; flow retrain; deployment boxes; ")


def deploy(client, run_file, tmp_path):
    """Deploy a retrain for a worker, one run at a time, that tells of trouble in a file."""
    if "stopped" not in {pool.name for pool in client.read_work_pools()}:
        client.create_work_pool(WorkPoolCreate(name="stopped", type="process"))
    made = deployed.retrain.to_deployment(
        name="stopped",
        parameters={"run": read_run(run_file).model_dump(mode="json")},
        entrypoint_type=EntrypointType.MODULE_PATH,
        concurrency_limit=one_at_a_time("CANCEL_NEW"),
        work_pool_name="stopped",
        job_variables={"env": {"GMM_DASK_ON_TROUBLE": f"tee --append {tmp_path / 'told'}"}},
    )
    made.apply()
    return client.read_deployment_by_name("retrain/stopped")


@pytest.fixture
def deployment(tmp_path, client, run_file):
    return deploy(client, run_file, tmp_path)


WORKER = ["prefect", "worker", "start", "--pool", "stopped"]


@pytest.mark.parametrize(
    "stop",
    [
        lambda worker: worker.send_signal(signal.SIGTERM),
        lambda worker: worker.send_signal(signal.SIGINT),
        # What systemd does: every process of the service gets it.
        lambda worker: (
            [each.terminate() for each in psutil.Process(worker.pid).children(True)]
            + [worker.terminate()]
        ),
        kill_all_but_watchdogs,
    ],
    ids=["SIGTERM", "SIGINT", "SIGTERM to all", "SIGKILL to all but the watchdog"],
)
def test_a_worker_that_is_stopped_leaves_no_ghost(
    run_file, tmp_path, client, server, deployment, stop
):
    """The run ends within seconds, the operator is told once, and the next run has its place."""
    with running(WORKER, server, tmp_path, tmp_path / "worker.log") as worker:
        run = begin_endless_run(client, deployment, run_file)
        stop(worker)
        state = until(
            lambda: (now := client.read_flow_run(run.id).state).is_final() and now,
            "the run is a ghost",
            seconds=60,
            pause=0.2,
        )
        assert state.type.value in {"CRASHED", "CANCELLED"}
        told = eventually(lambda: (tmp_path / "told").exists() and (tmp_path / "told").read_text())
    assert told.startswith(
        f"Crashed: {state.message.rstrip('.')}; flow retrain; deployment stopped; "
    )
    assert f" {run.id}; at http" in told

    with running(WORKER, server, tmp_path, tmp_path / "worker.log"):
        run = client.create_flow_run_from_deployment(deployment.id)
        eventually(lambda: client.read_flow_run(run.id).state.is_final())
    assert client.read_flow_run(run.id).state.name == "Completed"
    assert (tmp_path / "told").read_text() == told
    assert told.count("\n") == 1


def test_the_repair_of_the_guide_frees_the_place_of_a_ghost(
    run_file, tmp_path, client, server, deployment
):
    with running(WORKER, server, tmp_path, tmp_path / "worker.log") as worker:
        run = begin_endless_run(client, deployment, run_file)
        kill_all(worker)
    assert client.read_flow_run(run.id).state.is_running()
    (repair,) = re.findall(r"^prefect api .*$", GUIDE.read_text(), re.MULTILINE)
    command = [sys.executable, "-m", *shlex.split(repair.replace("RUN", str(run.id)))]
    subprocess.run(command, env={**os.environ, "PREFECT_API_URL": server}, check=True)
    assert client.read_flow_run(run.id).state.is_crashed()

    with running(WORKER, server, tmp_path, tmp_path / "worker.log"):
        run = client.create_flow_run_from_deployment(deployment.id)
        eventually(lambda: client.read_flow_run(run.id).state.is_final())
    assert client.read_flow_run(run.id).state.name == "Completed"


def test_a_server_that_is_started_again_and_one_that_is_stopped_with_the_worker(run_file, tmp_path):
    """With the setting of the guide, a run keeps its place; a ghost waits for the server to end."""
    setting = re.search(r"(PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE)=(\S+)", GUIDE.read_text())
    home, told = tmp_path / "prefect", tmp_path / "told"
    server = partial(prefect_server_process, home, free_port(), **dict([setting.groups()]))
    with ExitStack() as services:
        with server() as (address, process):
            services.enter_context(temporary_settings({PREFECT_API_URL: address}))
            client = services.enter_context(get_client(sync_client=True))
            deployment = deploy(client, run_file, tmp_path)
            log = tmp_path / "worker.log"
            worker = services.enter_context(running(WORKER, address, tmp_path, log))
            run = begin_endless_run(client, deployment, run_file)
            kill_all(process)  # it would wait for the worker
        with server() as (_, process):
            # What the run asks for every 225 seconds; if it is refused, Prefect ends the run.
            lease = client.read_flow_run(run.id).state.state_details.deployment_concurrency_lease_id
            client.renew_concurrency_lease(lease_id=lease, lease_duration=300)
            worker.send_signal(signal.SIGTERM)
            kill_all(process)
        text = eventually(lambda: told.exists() and told.read_text())
        assert text.startswith("Crashed: The process of the run was killed; its worker was stopped")
        with server() as (_, process):
            eventually(lambda: client.read_flow_run(run.id).state.is_crashed())
            worker = services.enter_context(running(WORKER, address, tmp_path, log))
            run = client.create_flow_run_from_deployment(deployment.id)
            eventually(lambda: client.read_flow_run(run.id).state.is_final())
            assert client.read_flow_run(run.id).state.name == "Completed"
            worker.send_signal(signal.SIGTERM)
            worker.wait()
            kill_all(process)
    assert told.read_text() == text


def test_the_automation_marks_a_run_of_which_nothing_is_left(tmp_path, client, server, monkeypatch):
    """A run that was skipped long ago stays as it is. Whoever serves next tells of the lost one."""
    told = tmp_path / "told"
    monkeypatch.setenv("GMM_DASK_ON_TROUBLE", f"tee --append {told}")
    (tables,) = yaml.safe_load(AUTOMATIONS.read_text())["automations"]
    tables["trigger"]["within"] = 45  # longer than a run that is skipped takes
    automation = Automation.model_validate(tables).create()
    run_file = write_run(tmp_path)
    arguments = ["gmm_dask.pipelines", "serve", run_file]
    with running(arguments, server, tmp_path, tmp_path / "serve.log") as service:
        deployment = eventually(lambda: deployment_named(client, "retrain/boxes"))
        for name in ("Completed", "Skipped"):
            skipped = client.create_flow_run_from_deployment(deployment.id)
            eventually(lambda run=skipped: client.read_flow_run(run.id).state.is_final())
            assert client.read_flow_run(skipped.id).state.name == name
        endless = {"run": read_run(run_file, *ENDLESS).model_dump(mode="json")}
        endless["force"] = True
        run = client.create_flow_run_from_deployment(deployment.id, parameters=endless)
        eventually(lambda: watchdogs(service))
        kill_all(service)
    state = eventually(lambda: (now := client.read_flow_run(run.id).state).is_final() and now)
    assert (state.name, state.type.value) == ("Crashed", "CRASHED")
    assert "No heartbeat for five minutes" in state.message
    assert client.read_flow_run(skipped.id).state.name == "Skipped"
    assert not told.exists()

    with running(arguments, server, tmp_path, tmp_path / "serve.log"):
        text = eventually(lambda: told.exists() and told.read_text())
    telling = client.read_deployment_by_name("tell/boxes")
    runs = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[telling.id]))
    )
    assert [each.parameters for each in runs] == [{"lost": f"prefect.flow-run.{run.id}"}]
    automation.delete()
    assert text.startswith("Crashed: No heartbeat for five minutes")
    assert f" {run.id}; at http" in text


def deployment_named(client, name):
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def test_a_server_lost_in_the_middle_does_not_lose_the_model(run_file, tmp_path):
    """The fit goes on and publishes; only then the run says that nobody could be told."""
    overrides = ("fit.tol=0", "fit.max_iter=500", "fit.search_rows=100")
    with prefect_server_process(tmp_path / "prefect") as (address, server):
        environment = {"PREFECT_API_URL": address, "PREFECT_CLIENT_MAX_RETRIES": "1"}
        with fitting(command("fit", run_file, overrides=overrides), **environment) as process:
            server.kill()
            said = process.stderr.read()
            assert process.wait() == 1, said
    assert Registry(tmp_path / "models", "boxes").versions() == (1,)
    assert "published" in said
    assert "gmm-dask: the Prefect server did not answer (ConnectError: " in said
