"""What an operator is told of a run that went wrong, and how it is told."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.utilities.urls import url_for

log = logging.getLogger("gmm_dask.trouble")

#: Seconds for the operator's command; less than a watchdog waits for the worker.
SECONDS = 30.0
#: How a message writes a time.
MOMENT = "%Y-%m-%d %H:%M UTC"


def describe(flow_run: FlowRun) -> str:
    """Name a run: flow, deployment, model, input, host, run, its id, and its address.

    What the server is asked for and does not answer is left out.
    """
    flow = deployment = None
    name = flow_run.name
    try:
        with get_client(sync_client=True) as client:
            flow = client.read_flow(flow_run.flow_id).name
            if flow_run.deployment_id is not None:
                deployment = client.read_deployment(flow_run.deployment_id).name
            name = client.read_flow_run(flow_run.id).name  # it is renamed when it ends
    except Exception as error:  # the message must go out, also without these
        log.debug("flow and deployment of %s are not known: %s", flow_run.id, error)
    address = url_for("flow-run", obj_id=flow_run.id, url_type="ui") or url_for(
        "flow-run", obj_id=flow_run.id, url_type="api"
    )
    subject = subject_of(flow, deployment, flow_run.parameters)
    return "; ".join(filter(None, (subject, f"run {name} {flow_run.id}", f"at {address}")))


def subject_of(flow: str | None, deployment: str | None, parameters: dict[str, Any]) -> str:
    """Name what runs: flow, deployment, model, input and host, as far as they are known."""
    run = parameters.get("run")
    parts = {
        "flow": flow,
        "deployment": deployment,
        "model": model_of(parameters),
        "input": _key(run, "input", "path"),
        "host": socket.gethostname(),
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items() if value)


def model_of(parameters: dict[str, Any]) -> str | None:
    """Return the name of the model that a run with these parameters is about."""
    return _key(parameters.get("run"), "output", "name")


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


def late(flow_run: FlowRun) -> State[Any]:
    """Return the state to tell of a run that did not begin in time, whatever it does by now."""
    due = flow_run.expected_start_time
    words = "was due" if due is None else f"was due at {due:{MOMENT}}"
    if flow_run.start_time is None:
        words += " and has not begun; is a worker running?"
    else:
        words += f" and began at {flow_run.start_time:{MOMENT}}"
    return State(type=StateType.SCHEDULED, name="Late", message=words)


def silence(client: SyncPrefectClient, deployment: UUID, hours: float) -> State[Any] | None:
    """Return the state to tell of a deployment without success for so many hours; None if it had.

    Parameters
    ----------
    deployment
        Its id.
    """
    this = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    last, success = (
        next(iter(_last_run(client, this, types)), None)
        for types in (list(TERMINAL_STATES), [StateType.COMPLETED])
    )
    since = datetime.now(UTC) - timedelta(hours=hours)
    if success is not None and success.end_time is not None and success.end_time > since:
        log.info("run %s has succeeded meanwhile", success.name)
        return None
    words = [f"no run has succeeded for {hours:g} hours"]
    if success is not None and success.end_time is not None:
        words.append(f"the last that did, {success.name}, ended at {success.end_time:{MOMENT}}")
    if last is not None and last.state is not None and last != success:
        message = f": {last.state.message}" if last.state.message else ""
        words.append(f"the last run, {last.name}, ended as {last.state.name}{message}")
    return State(type=StateType.FAILED, name="Silent", message="; ".join(words))


def _last_run(
    client: SyncPrefectClient, deployment: DeploymentFilter, types: list[StateType]
) -> list[FlowRun]:
    """Return the run that ended last in a state of such a type, if there is one."""
    in_state = FlowRunFilterState(type=FlowRunFilterStateType(any_=types))
    return client.read_flow_runs(
        deployment_filter=deployment,
        flow_run_filter=FlowRunFilter(state=in_state),
        sort=FlowRunSort.END_TIME_DESC,
        limit=1,
    )
