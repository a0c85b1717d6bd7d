"""Runs that are ended from outside: nothing half written, no process left, the next goes on."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml
from prefect.automations import Automation
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from gmm_dask.storage.models.registry import Registry
from tests.pipelines.runs import eventually, read_run, write_run
from tests.pipelines.services import prefect_server_process, running

pytestmark = pytest.mark.slow

AUTOMATIONS = Path(__file__).parents[2] / "configs" / "automations.yaml"
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


def endless_run(client, run_file):
    """Let a service work on a run without an end; it and its deployment, once it has begun."""
    deployment = eventually(lambda: deployment_named(client, "retrain/boxes"))
    endless = read_run(run_file, *ENDLESS).model_dump(mode="json")
    run = client.create_flow_run_from_deployment(deployment.id, parameters={"run": endless})
    checkpoints = run_file.parent / "models" / "boxes" / ".checkpoints"
    eventually(lambda: checkpoints.is_dir() and list(checkpoints.iterdir()))
    return deployment, run


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
    tmp_path, client, server, number
):
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


def test_the_automation_marks_a_run_whose_process_and_worker_were_killed(tmp_path, client, server):
    (tables,) = yaml.safe_load(AUTOMATIONS.read_text())["automations"]
    tables["trigger"]["within"] = 10
    automation = Automation.model_validate(tables).create()
    run_file = write_run(tmp_path)
    arguments = ["gmm_dask.pipelines", "serve", run_file]
    for override in ENDLESS:
        arguments += ["--set", override]
    with running(arguments, server, tmp_path, tmp_path / "serve.log") as service:
        deployment = eventually(lambda: deployment_named(client, "retrain/boxes"))
        run = client.create_flow_run_from_deployment(deployment.id)
        eventually(lambda: client.read_flow_run(run.id).state.is_running())
        os.killpg(service.pid, signal.SIGKILL)
        service.wait()
    state = eventually(lambda: (now := client.read_flow_run(run.id).state).is_final() and now)
    automation.delete()
    assert (state.name, state.type.value) == ("Crashed", "CRASHED")
    assert "No heartbeat for five minutes" in state.message


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
