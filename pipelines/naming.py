"""Names of runs on the Prefect server: ``retrain stars 2026-11-26 v7``."""

from __future__ import annotations

import logging

from prefect import get_client
from prefect.runtime import flow_run

from gmm_dask.pipelines.trouble import model_of

logger = logging.getLogger("gmm_dask")


def run_name() -> str:
    """Name the run that this is called in: its flow, its model, and the day for which it was due.

    The day is that of UTC.
    """
    due = flow_run.scheduled_start_time
    return f"{flow_run.flow_name} {model_of(flow_run.parameters)} {due:%Y-%m-%d}"


def add_version(version: int | None) -> None:
    """Add the version that a run has published, or predicted by, to its name on the server."""
    if version is None:
        return
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_name(flow_run.id, f"{run_name()} v{version}")
    except Exception as error:  # a name is not worth a run
        logger.warning("the run keeps its name without version %d: %s", version, error)
