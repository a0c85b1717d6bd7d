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
from tests.pipelines.services import prefect_server_process, running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
STAYING = "prefect worker start"


@pytest.fixture
def server(tmp_path):
    """A server of the guide's own: it begins on an empty one."""
    with prefect_server_process(tmp_path / "prefect") as (address, _):
        yield address


def test_every_command_of_the_guide(tmp_path, client, server):
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_API_URL": server,
        "PWD": str(tmp_path),
    }
    with ExitStack() as services:
        for command in "".join(BLOCKS).splitlines():
            if command.startswith(STAYING):
                log = tmp_path / "worker.log"
                services.enter_context(running(shlex.split(command), server, tmp_path, log))
                continue
            if "RUN" in command.split():
                (latest,) = client.read_flow_runs(sort=FlowRunSort.END_TIME_DESC, limit=1)
                command = command.replace("RUN", str(latest.id))
            run = subprocess.run(
                ["bash", "-euc", command],
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert run.returncode == 0, f"{command}: {run.stdout}{run.stderr}"
    assert Registry(tmp_path / "demo/models", "hipparcos").versions()[:2] == (1, 2)
    assert Registry(tmp_path / "demo/models", "hipparcos").current_version() is not None
    assert (tmp_path / "demo/predictions").is_dir()
    assert (tmp_path / "backup.tar").stat().st_size > 0
