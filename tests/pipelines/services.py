"""Prefect servers, workers and served flows as processes of their own."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import httpx
import psutil
import pytest

DEADLINE = 180.0


#: Below those from which a system takes the ports of outgoing connections, as Linux is set.
PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A port of loopback on which nobody listens.

    Servers take seconds until they bind it. Of the ports that the system would choose, it could
    meanwhile give this one to a connection of any process.
    """
    while True:
        port = secrets.choice(PORTS)
        with suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port


@contextmanager
def prefect_server_process(
    home: Path, port: int | None = None, **more: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Prefect server as an operator would start it; yields its address and its process.

    A server of the same home and port is the one before, started again; ``more`` are settings.
    """
    port = port or free_port()
    settings = {
        **more,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
        # An hour of a schedule of seconds is a hundred runs, written again and again: on a busy
        # machine the database is locked for so long that requests fail.
        "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_SCHEDULED_TIME": "PT20S",
        "PREFECT_SERVER_UI_ENABLED": "false",
    }
    if "GMM_DASK_TEST_DATABASE" in os.environ:  # postgres.sh
        settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = os.environ["GMM_DASK_TEST_DATABASE"]
    home.mkdir(exist_ok=True)
    with (home / "server.log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            env={**os.environ, **settings},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        address = f"http://127.0.0.1:{port}/api"
        try:
            _wait_until_it_answers(address, process, log)
            yield address, process
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_until_it_answers(address: str, process: subprocess.Popen[bytes], log: IO[str]) -> None:
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


@contextmanager
def running(
    arguments: Sequence[str | Path], server: str, cwd: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
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
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            if arguments[:2] == ["prefect", "worker"]:
                _end_worker(process)
            else:
                process.wait(timeout=60)


def _end_worker(process: subprocess.Popen[bytes]) -> None:
    """Wait for a worker that is being stopped, and kill it where it hangs.

    Prefect's own now and then waits for ever once it is being closed, though it has no run left
    (3.8.8: its observer of cancellations is ended and takes that for a failure; 3.9.1: without a
    word). One with runs has a minute to end them.
    """
    without_runs = 0
    for _ in range(60):
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
            return
        without_runs = 0 if psutil.Process(process.pid).children() else without_runs + 1
        if without_runs == 10:
            process.kill()
            process.wait()
            return
    pytest.fail("a Prefect worker that was told to stop still has runs after a minute")


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of a service: neither what it started nor what watches over that."""
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()
    process.wait()


def watchdogs(service: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Find the watchdogs of a service's runs."""
    watching = []
    for each in psutil.Process(service.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # one that has ended meanwhile has no words
            if "gmm_dask.pipelines.watchdog" in each.cmdline():
                watching.append(each)
    return watching


def kill_all_but_watchdogs(service: subprocess.Popen[bytes]) -> None:
    """Kill a service and its runs, as when memory runs out; what watches over these stays."""
    kept = watchdogs(service)
    runs = psutil.Process(service.pid).children(recursive=True)
    for each in [service, *runs]:  # or the service would see its run die, and say so itself
        if each not in kept:
            each.kill()
