"""The select flow: fit every number of components and covariance type, publish the best.

A module named ``select`` would hide the standard library's from a script in this folder.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from gmm_dask.config import ClusterKind, RunConfig, ThreadsCluster
from gmm_dask.pipelines import sequences
from gmm_dask.pipelines.artifacts import conclude_fit
from gmm_dask.pipelines.naming import run_name
from gmm_dask.pipelines.recording import recorded
from gmm_dask.pipelines.tasks import as_task
from gmm_dask.pipelines.watching.artifact import watched


@flow(name="select", flow_run_name=run_name)
def select(
    run: RunConfig,
    cluster: ClusterKind = ThreadsCluster(),  # noqa: B008
) -> State[Any] | sequences.FitOutcome:
    """Choose number of components and covariance type, and publish the model as a new version.

    Parameters
    ----------
    run
        What to choose from and what to fit: input, select, fit, output.
    cluster
        Where to run; default: threads of this process.
    """
    with watched() as notify:
        run_id = str(flow_run.id)
        outcome = recorded(
            "select", run, run_id, lambda: sequences.select(run, cluster, as_task, notify, run_id)
        )
    return conclude_fit(run, outcome)
