"""The predict flow: inspect the input, predict every row, verify, publish the predictions."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from gmm_dask.config import ClusterKind, RunConfig, ThreadsCluster
from gmm_dask.pipelines import sequences
from gmm_dask.pipelines.artifacts import final_state, link, link_page, report
from gmm_dask.pipelines.summary import predict_summary
from gmm_dask.pipelines.tasks import as_task
from gmm_dask.pipelines.watching.artifact import watched
from gmm_dask.storage.files.contents import report_path


@flow(name="predict", flow_run_name="predict {run.input.path} by {run.output.name}")
def predict(
    run: RunConfig,
    cluster: ClusterKind = ThreadsCluster(),  # noqa: B008
) -> State[Any] | sequences.PredictOutcome:
    """Assign every row of the input to a component of the current model.

    Parameters
    ----------
    run
        What to predict: input, predict, output.
    cluster
        Where to run; default: threads of this process.
    """
    with watched() as notify:
        outcome = sequences.predict(run, cluster, as_task, notify, run_id=str(flow_run.id))
    report(predict_summary(outcome))
    link("predictions", outcome.path)
    link_page(report_path(outcome.path))
    return final_state(outcome)
