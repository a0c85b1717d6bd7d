"""The process behind ``gmm-dask serve``: waits for schedules and events, and runs the flows."""

from __future__ import annotations

import asyncio
import signal
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import (
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
    StateType,
)
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.runner import Runner
from prefect.schedules import Cron, Interval, Schedule
from prefect.types.entrypoint import EntrypointType
from rich.console import Console

from gmm_dask.config import ClusterKind, RunConfig
from gmm_dask.errors import ConfigError
from gmm_dask.pipelines import deployed
from gmm_dask.pipelines.alarms import longest_silence, lost_runs, silence

PUBLISHED = "gmm-dask.model.published"
UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


class _Service(Runner):
    """A runner that cancels its runs when it is stopped; a second signal ends it at once.

    Prefect's own handler ends the process before the runs are cancelled: they stay "Running" on
    the server and hold their deployment's only place, so the runs that follow are cancelled too.
    """

    serving: tuple[UUID, ...] = ()
    stopping_runs: asyncio.Task[None] | None = None

    def handle_sigterm(self, *args: Any, **kwargs: Any) -> None:
        if self.stopping_runs is not None:
            super().handle_sigterm(*args, **kwargs)
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(self._stop, loop)  # wakes the loop, create_task does not

    def _stop(self, loop: asyncio.AbstractEventLoop) -> None:
        self.stopping_runs = loop.create_task(self.astop())

    async def cancel_all(self) -> None:
        """Cancel the runs that the server calls unfinished.

        A run that has ended keeps its process for a moment, and Prefect would call it cancelled.
        """
        unfinished = FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=list(self.serving)),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED)),
        )
        async with get_client() as client:
            answers = await client.api_healthcheck() is None
            if answers and not await client.read_flow_runs(flow_run_filter=unfinished):
                return
        await super().cancel_all()


def schedule(cron: str | None, every: float | None) -> Schedule | None:
    """Make the schedule that the options ask for; without one, runs start by hand or by event.

    Raises
    ------
    ConfigError
        Both are given, or the cron expression cannot be read.
    """
    if cron is not None and every is not None:
        raise ConfigError("--cron and --every exclude each other; give one of them")
    try:
        if cron is not None:
            return Cron(cron)
        return None if every is None else Interval(timedelta(seconds=every))
    except ValueError as error:
        raise ConfigError(
            f"--cron {cron}: not a cron expression; an example is '0 3 * * *'"
        ) from error


def serve(
    run: RunConfig,
    cluster: ClusterKind,
    retrain_schedule: Schedule | None,
    predict_schedule: Schedule | None,
) -> None:
    """Serve a retrain and a predict deployment of a run file until SIGTERM or SIGINT.

    A retrain that is due while another runs is cancelled; a predict waits for its turn. A model
    published by a plain fit starts a predict. A run in progress when the service stops is
    cancelled. What no run can tell itself is told of (`gmm_dask.pipelines.alarms`).
    """
    parameters = {"run": run.model_dump(mode="json"), "cluster": cluster.model_dump(mode="json")}
    common: dict[str, Any] = {
        "name": run.output.name,
        "parameters": parameters,
        "tags": ["gmm-dask"],
        "entrypoint_type": EntrypointType.MODULE_PATH,
    }
    by_fit = DeploymentEventTrigger(
        expect={PUBLISHED},
        match={
            "prefect.resource.id": f"gmm-dask.model.{run.output.name}",
            "gmm-dask.flow": "fit",
        },
    )
    nightly = deployed.retrain.to_deployment(
        schedule=retrain_schedule, concurrency_limit=one_at_a_time("CANCEL_NEW"), **common
    )
    hourly = deployed.predict.to_deployment(
        schedule=predict_schedule,
        concurrency_limit=one_at_a_time("ENQUEUE"),
        triggers=[by_fit],
        **common,
    )
    telling = deployed.tell_of.to_deployment(
        name=run.output.name,
        entrypoint_type=EntrypointType.MODULE_PATH,
        triggers=lost_runs(run.output.name),
    )
    deployments = [nightly, hourly, telling]
    if retrain_schedule is not None:
        deployments.append(_silence_deployment(run.output.name, retrain_schedule))
    service = _Service(pause_on_shutdown=True)
    # Outside of an event loop, Prefect returns values here and no coroutines.
    for deployment in cast(list[RunnerDeployment], deployments):
        service.serving += (cast(UUID, service.add_deployment(deployment)),)
        Console().print(f"serving {deployment.full_name}", highlight=False)
    # asyncio keeps a handler of SIGINT that is not Python's default. Prefect sets SIGTERM's.
    signal.signal(signal.SIGINT, service.handle_sigterm)
    asyncio.run(service.start())


def _silence_deployment(name: str, schedule: Schedule) -> Any:
    """Return the deployment that tells of a schedule under which no retrain succeeds."""
    within = asyncio.run(longest_silence(schedule))
    return deployed.tell_of_silence.to_deployment(
        name=name,
        entrypoint_type=EntrypointType.MODULE_PATH,
        parameters={"deployment": f"retrain/{name}", "hours": within.total_seconds() / 3600},
        triggers=[silence("retrain", name, within)],
    )


def one_at_a_time(strategy: str) -> ConcurrencyLimitConfig:
    """Limit a deployment to one run at a time; ``strategy`` says what becomes of a second."""
    return ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy(strategy))
