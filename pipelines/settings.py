"""Prefect's settings for the command: quiet, private, and patient with a slow machine.

Prefect reads its environment once, when it is imported; so nothing here imports it at the top.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gmm_dask.errors import ConfigError

LIBRARY_LOGGER = "gmm_dask"

# docs/operations.md says what each is for; whatever the user has set stays.
DEFAULTS = {
    # Otherwise the embedded server looks up an address outside this machine.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Twenty seconds, Prefect's own limit, is too little for a first start on a busy machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # The logs of the library belong to the run.
    "PREFECT_LOGGING_EXTRA_LOGGERS": LIBRARY_LOGGER,
    # Also from threads that Prefect does not know: they reach the terminal, and that is enough.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # A run's parameters are the whole configuration; nothing else of a run is kept as a result.
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
}


def prepare_environment(debug: bool = False) -> None:
    """Set the defaults that the user has not set; call it before Prefect is imported.

    Parameters
    ----------
    debug
        Leave Prefect's own lines on the terminal, tracebacks included. Otherwise the terminal
        shows the library's lines and one readable line for an error; the run keeps everything.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not debug:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")


def require_home() -> None:
    """Check that Prefect can write its files; if it cannot, it tries for minutes.

    Raises
    ------
    ConfigError
        The directory that ``PREFECT_HOME`` names, or ``~/.prefect``, cannot be written.
    """
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise ConfigError(
            f"PREFECT_HOME = {home}: Prefect cannot write there ({error.strerror}); set "
            "PREFECT_HOME to a directory that can be written, or run with --direct"
        ) from error


def require_server(embedded: bool = True) -> str | None:
    """Check that the server the user has named answers; return its address, if one is named.

    Parameters
    ----------
    embedded
        Whether a server that Prefect starts for this command would do if none is named.

    Raises
    ------
    ConfigError
        No Prefect server answers at the address, or none is named and one is needed.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    address = PREFECT_API_URL.value()
    if address is None:
        if embedded:
            return None
        raise ConfigError(
            "PREFECT_API_URL is not set, and schedules need a server that stays: run "
            "`prefect server start` and set PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        raise ConfigError(
            f"PREFECT_API_URL = {address}: no Prefect server answers ({problem}); start it, "
            "unset the address for an embedded server, or run with --direct"
        )
    return address


@contextmanager
def starting_embedded_server() -> Iterator[None]:
    """Start the embedded server of Prefect, out of reach of Ctrl-C.

    It starts while the block runs, and has started at its end; it stops when this process exits.
    Ctrl-C interrupts every process of a command, but the server must live on to hear that the run
    was interrupted: without it Prefect tries for minutes.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_SERVER_ALLOW_EPHEMERAL_MODE

    if not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        yield  # Prefect's own error says so
        return
    problems: list[Exception] = []

    def start() -> None:
        # A process inherits the signals that are blocked where it is started. Blocking them in a
        # thread leaves this process open to interrupts while it waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            SubprocessASGIServer().start()
        except Exception as error:
            problems.append(error)

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    yield
    thread.join()
    for problem in problems:
        raise problem
