"""A real Prefect server for the session, on loopback, with a home of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gmm_dask.pipelines.settings import prepare_environment
from tests.pipelines.services import prefect_server_process

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# Prefect reads its environment when it is imported: nothing of the user's own may be seen.
HOME = tempfile.TemporaryDirectory(prefix="prefect-home-", ignore_cleanup_errors=True)
for name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[name]
os.environ["PREFECT_HOME"] = HOME.name
os.environ["PREFECT_LOGGING_TO_API_BATCH_INTERVAL"] = "0.1"
prepare_environment()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a Prefect server."""
    with prefect_server_process(Path(HOME.name) / "server") as (address, _):
        yield address
        _send_what_is_left(address)


def _send_what_is_left(address: str) -> None:
    """Logs and events wait in threads of this process, which would look for the server."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: address}):
        APILogWorker.instance().drain()
        EventsWorker.drain_all()


@pytest.fixture
def prefect_server(server: str) -> Iterator[str]:
    """Flows called in this process run on the session's server."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    # The heartbeat's thread costs each run a second at its end.
    with temporary_settings({PREFECT_API_URL: server, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield server


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    """What the server knows."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client
        # A schedule that a failed test leaves would keep the server busy for all that follow.
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)
