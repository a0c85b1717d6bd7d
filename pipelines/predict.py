"""The predict flow: inspect the input, predict the rows asked for, verify, publish."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from gmm_dask.config import ClusterKind, RunConfig, ThreadsCluster
from gmm_dask.pipelines import sequences
from gmm_dask.pipelines.artifacts import final_state, link_page, name_place, report, showing
from gmm_dask.pipelines.naming import add_version, run_name
from gmm_dask.pipelines.recording import recorded
from gmm_dask.pipelines.summary import predict_summary
from gmm_dask.pipelines.tasks import as_task
from gmm_dask.pipelines.watching.artifact import watched
from gmm_dask.storage.files.contents import report_path


@flow(name="predict", flow_run_name=run_name)
def predict(
    run: RunConfig,
    cluster: ClusterKind = ThreadsCluster(),  # noqa: B008
    model_version: Annotated[int, Field(ge=1)] | None = None,
) -> State[Any] | sequences.PredictOutcome:
    """Assign the rows inside the filter to components of the model; others keep what they have.

    Parameters
    ----------
    run
        What to predict: input, predict, output.
    cluster
        Where to run; default: threads of this process.
    model_version
        The version of the model that predicts all rows inside the filter; default: the current
        one, which keeps what ``predict.refresh`` lets it.
    """
    with watched() as notify:
        run_id = str(flow_run.id)
        outcome = recorded(
            "predict",
            run,
            run_id,
            lambda: sequences.predict(run, cluster, as_task, notify, run_id, model_version),
        )
    add_version(outcome.model.version)
    with showing():
        report(predict_summary(outcome))
        name_place("predictions", outcome.path)
        link_page(report_path(outcome.path))
    return final_state(run, outcome)
