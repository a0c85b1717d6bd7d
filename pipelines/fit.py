"""The fit flow: inspect the input, fit, evaluate, publish a new version of the model."""

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


@flow(name="fit", flow_run_name=run_name)
def fit(
    run: RunConfig,
    cluster: ClusterKind = ThreadsCluster(),  # noqa: B008
) -> State[Any] | sequences.FitOutcome:
    """Fit the model of a run file and publish it as a new version.

    Parameters
    ----------
    run
        What to fit: input, model, fit, output.
    cluster
        Where to run; default: threads of this process.
    """
    with watched() as notify:
        run_id = str(flow_run.id)
        outcome = recorded(
            "fit", run, run_id, lambda: sequences.fit(run, cluster, as_task, notify, run_id)
        )
    return conclude_fit(run, outcome)
