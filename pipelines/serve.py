"""One process that waits for schedules and events and runs the flows: ``gmm-dask serve``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from prefect import serve as serve_deployments
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.schedules import Cron, Interval, Schedule
from prefect.types.entrypoint import EntrypointType

from gmm_dask.config import ClusterKind, RunConfig
from gmm_dask.errors import ConfigError
from pipelines import deployed

PUBLISHED = "gmm-dask.model.published"


def schedule(cron: str | None, every: float | None) -> Schedule | None:
    """Make the schedule that options ask for; none means by hand and by event only.

    Raises
    ------
    ConfigError
        Both are given, or one cannot be understood.
    """
    if cron is not None and every is not None:
        raise ConfigError("--cron and --every: give one of them")
    try:
        if cron is not None:
            return Cron(cron)
        return None if every is None else Interval(timedelta(seconds=every))
    except ValueError as error:
        raise ConfigError(f"--cron {cron}: is not a cron expression such as '0 3 * * *'") from error


def serve(
    run: RunConfig,
    cluster: ClusterKind,
    retrain_schedule: Schedule | None,
    predict_schedule: Schedule | None,
) -> None:
    """Serve a retrain and a predict deployment of a run file until interrupted.

    A retrain that is due while one runs is cancelled; a predict waits its turn. A model that is
    published by a plain fit starts a predict.
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
        schedule=retrain_schedule, concurrency_limit=one("CANCEL_NEW"), **common
    )
    hourly = deployed.predict.to_deployment(
        schedule=predict_schedule, concurrency_limit=one("ENQUEUE"), triggers=[by_fit], **common
    )
    # Outside of an event loop these are no coroutines.
    serve_deployments(cast(RunnerDeployment, nightly), cast(RunnerDeployment, hourly))


def one(strategy: str) -> ConcurrencyLimitConfig:
    """At most one run at a time; what becomes of a second."""
    return ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy(strategy))
