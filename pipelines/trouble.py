"""What an operator is told of a run that went wrong, and how it is told."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess
from typing import Any

from prefect import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.utilities.urls import url_for

log = logging.getLogger("gmm_dask.trouble")

#: Seconds for the operator's command; less than a watchdog waits for the worker.
SECONDS = 30.0


def describe(flow_run: FlowRun) -> str:
    """Name a run: flow, deployment, model, input, host, run, its id, and its address.

    What the server is asked for and does not answer is left out.
    """
    run = flow_run.parameters.get("run")
    parts = {
        "flow": None,
        "deployment": None,
        "model": _key(run, "output", "name"),
        "input": _key(run, "input", "path"),
        "host": socket.gethostname(),
        "run": f"{flow_run.name} {flow_run.id}",
        "at": url_for("flow-run", obj_id=flow_run.id, url_type="ui")
        or url_for("flow-run", obj_id=flow_run.id, url_type="api"),
    }
    try:
        with get_client(sync_client=True) as client:
            parts["flow"] = client.read_flow(flow_run.flow_id).name
            if flow_run.deployment_id is not None:
                parts["deployment"] = client.read_deployment(flow_run.deployment_id).name
    except Exception as error:  # the message must go out, also without these two
        log.debug("flow and deployment of %s are not known: %s", flow_run.id, error)
    return "; ".join(f"{name} {value}" for name, value in parts.items() if value)


def _key(tables: Any, section: str, key: str) -> str | None:
    """A value of a run file, as parameters of a run hold it: tables or a `RunConfig`."""
    if not isinstance(tables, dict):
        return getattr(getattr(tables, section, None), key, None)
    table = tables.get(section)
    return table.get(key) if isinstance(table, dict) else None


def tell(state: State[Any], described: str) -> None:
    """Log how a run ended, and pass that to the command of ``GMM_DASK_ON_TROUBLE``.

    Parameters
    ----------
    state
        The state in which the run ended.
    described
        The run, as `describe` names it.
    """
    reason = (state.message or "the reason is not known").strip().rstrip(".")
    words = " ".join(f"{state.name}: {reason}; {described}".split())
    # Paths and errors can hold anything, and the operator reads this in a terminal.
    message = "".join(letter if letter.isprintable() else "?" for letter in words)
    log.error("%s", message)
    command = os.environ.get("GMM_DASK_ON_TROUBLE")
    if not command:
        return
    try:
        subprocess.run(
            shlex.split(command), input=f"{message}\n", text=True, check=True, timeout=SECONDS
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        log.error("GMM_DASK_ON_TROUBLE failed: %s", error)
