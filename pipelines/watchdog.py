"""A process that outlives the process of a run, and reports what that one no longer can.

Prefect's worker kills a run's process (SIGKILL) when it is stopped itself, and says nothing to the
server: the run stays "Running" and holds its deployment's only place. So a deployed run starts a
watchdog, a process in a session of its own that waits at the end of a pipe. If the pipe ends
before the run has said that all is told, the watchdog asks the server. A run that is still
unfinished there is marked as crashed, and ``GMM_DASK_ON_TROUBLE`` is told.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from os import getppid
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psutil

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

TOLD = "told\n"
#: Seconds in which a worker that lives reports by itself how its run ended, or never does. systemd
#: leaves 90 to a service that it stops.
WORKER = 45.0
#: Seconds after which the operator is told though the server does not answer.
SILENCE = 30.0
#: Seconds after which a server that does not answer is given up; the automation does the rest.
SERVER = 3600.0
LOOK = 0.5

_watchdogs: dict[UUID, subprocess.Popen[str]] = {}


def watch(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Start a watchdog of the run of this process, which has entered ``state``, "Running".

    The names of the parameters are Prefect's.
    """
    from gmm_dask.pipelines.trouble import describe

    dismiss(flow_run)  # of an earlier attempt
    order = {
        "run": str(flow_run.id),
        "state": str(state.id),
        "launcher": getppid(),
        "described": describe(flow_run),
    }
    watchdog = subprocess.Popen(
        [sys.executable, "-m", "gmm_dask.pipelines.watchdog"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # the worker reads a run's output until nobody can write it
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert watchdog.stdin is not None
    watchdog.stdin.write(json.dumps(order) + "\n")
    watchdog.stdin.flush()
    _watchdogs[flow_run.id] = watchdog


def dismiss(flow_run: FlowRun) -> None:
    """End the watchdog of a run, if it has one here: the run has ended, and who must know does."""
    watchdog = _watchdogs.pop(flow_run.id, None)
    if watchdog is not None:
        watchdog.communicate(TOLD)


def main() -> None:
    """Wait for the end of the pipe on standard input; then report what nobody has reported."""
    # A service that is stopped sends these to all its processes; this one has work to do then.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    order = json.loads(sys.stdin.readline())
    try:
        launcher = psutil.Process(order["launcher"])
    except psutil.NoSuchProcess:
        launcher = None
    if sys.stdin.read() != TOLD:
        _report(UUID(order["run"]), UUID(order["state"]), launcher, order["described"])


def _report(run: UUID, running: UUID, launcher: psutil.Process | None, described: str) -> None:
    """See to it that a run whose process is gone ends, and that its end is told."""
    from prefect.client.schemas.objects import State, StateType
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    from gmm_dask.pipelines.trouble import tell

    start, told = time.monotonic(), False
    why = "The process of the run was killed; its worker was stopped or died."
    crashed: State[Any] = Crashed(message=why)
    while (waited := time.monotonic() - start) < SERVER:
        try:
            state = _state(run)
            worker_is_gone = _is_gone(launcher)
            if state.is_completed() or state.is_scheduled():
                return
            if state.is_final():
                # A worker that lives runs Prefect's hooks, and these tell; for a cancelled run it
                # has done so before that state was set.
                if worker_is_gone and not state.is_cancelled() and not told:
                    tell(state, described)
                return
            if state.type is not StateType.CANCELLING and state.id != running:
                return  # another process has begun the run again
            if worker_is_gone or waited > WORKER:
                _set_state(run, crashed)
                if not told:
                    tell(crashed, described)
                return
        except ObjectNotFound:
            return
        except Exception as error:
            if waited > SILENCE and not told:
                silent = f"{why} The server does not answer ({type(error).__name__})."
                tell(State(type=StateType.CRASHED, name="Crashed", message=silent), described)
                told = True
        time.sleep(LOOK)


def _is_gone(process: psutil.Process | None) -> bool:
    try:
        return process is None or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _state(run: UUID) -> State[Any]:
    from prefect import get_client

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
    assert state is not None
    return state


def _set_state(run: UUID, state: State[Any]) -> None:
    from prefect import get_client

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, state, force=True)


if __name__ == "__main__":
    main()
