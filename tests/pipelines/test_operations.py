"""The commands of docs/operations.md, run as they stand there, one after the other."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from prefect.client.schemas.sorting import FlowRunSort

from gmm_dask.storage.models.registry import Registry
from tests.pipelines.runs import eventually
from tests.pipelines.services import prefect_server_process, running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
STAYING = "prefect worker start"
WATCHING = "--watch"


@pytest.fixture
def server(tmp_path):
    """A server of the guide's own: it begins on an empty one."""
    with prefect_server_process(tmp_path / "prefect") as (address, _):
        yield address


def call(command, output, **more):
    """Run a command of a shell and return its exit code; what it prints goes to a file."""
    # One that watches a run may wait for ever, though the run has completed: PrefectHQ/prefect,
    # issues 17817 and 19989. Its run is asked for then.
    seconds = 120 if WATCHING in command.split() else 300
    with output.open("w") as printed:
        return subprocess.run(
            ["bash", "-euc", command],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            **more,
        ).returncode


def run_begun_by(output, client):
    """The flow run that `prefect deployment run` says it created, once it has ended."""
    (identifier,) = re.findall(r"UUID: (\S+)", output)
    return eventually(
        lambda: (run := client.read_flow_run(identifier)).state.is_final() and run,
    )


def test_every_command_of_the_guide(tmp_path, client, server):
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_API_URL": server,
        "PWD": str(tmp_path),
    }
    log, output, hanging = tmp_path / "worker.log", tmp_path / "output.log", 0
    with ExitStack() as services:
        for command in "".join(BLOCKS).splitlines():
            if command.startswith(STAYING):
                services.enter_context(running(shlex.split(command), server, tmp_path, log))
                continue
            if "RUN" in command.split():
                (latest,) = client.read_flow_runs(sort=FlowRunSort.END_TIME_DESC, limit=1)
                command = command.replace("RUN", str(latest.id))
            try:
                code = call(command, output, cwd=tmp_path, env=environment)
            except subprocess.TimeoutExpired:
                print(command, output.read_text(), log.read_text() if log.exists() else "")
                if WATCHING not in command.split():
                    raise
                hanging += 1
                run = run_begun_by(output.read_text(), client)
                assert run.state.is_completed(), run.state
            else:
                assert code == 0, f"{command}: {output.read_text()}"
    assert hanging < 2, "no command that watches a run has ended"
    assert Registry(tmp_path / "demo/models", "hipparcos").versions()[:2] == (1, 2)
    assert Registry(tmp_path / "demo/models", "hipparcos").current_version() is not None
    assert (tmp_path / "demo/predictions").is_dir()
    assert (tmp_path / "backup.tar").stat().st_size > 0
