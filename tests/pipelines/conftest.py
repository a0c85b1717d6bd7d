"""A real Prefect server for the session, on loopback, with a home of its own."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest

from pipelines.settings import prepare_environment

# Prefect reads its environment when it is imported: nothing of the user's own may be seen.
HOME = tempfile.TemporaryDirectory(prefix="prefect-home-", ignore_cleanup_errors=True)
for name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[name]
os.environ["PREFECT_HOME"] = HOME.name
os.environ["PREFECT_LOGGING_TO_API_BATCH_INTERVAL"] = "0.1"
prepare_environment()

DEADLINE = 120.0


@pytest.fixture(scope="session")
def server():
    """The address of a Prefect server as an operator would start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    quick = {
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
        "PREFECT_SERVER_UI_ENABLED": "false",
    }
    with (Path(HOME.name) / "server.log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *arguments],
            env={**os.environ, **quick},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        address = f"http://127.0.0.1:{port}/api"
        try:
            _wait_until_it_answers(address, process, log)
            yield address
            _send_what_is_left(address)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _send_what_is_left(address):
    """Logs and events wait in threads of this process, which would look for the server."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: address}):
        APILogWorker.instance().drain()
        EventsWorker.drain_all()


def _wait_until_it_answers(address, process, log):
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            if httpx.get(f"{address}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            pytest.fail(f"the Prefect server did not start: {log.read()}")


@pytest.fixture
def prefect_server(server):
    """Flows called in this process run on the session's server."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    # The heartbeat's thread costs each run a second at its end.
    with temporary_settings({PREFECT_API_URL: server, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield server
