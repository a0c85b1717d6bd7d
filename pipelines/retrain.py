"""The retrain flow: fit if anything is new, pass the gate or be refused, publish, predict."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from gmm_dask.config import ClusterKind, RunConfig, ThreadsCluster
from gmm_dask.pipelines import sequences
from gmm_dask.pipelines.artifacts import announce, link, report, report_decision
from gmm_dask.pipelines.summary import retrain_summary
from gmm_dask.pipelines.tasks import as_task
from gmm_dask.pipelines.watching.artifact import watched


@flow(name="retrain", flow_run_name="retrain {run.output.name} on {run.input.path}")
def retrain(
    run: RunConfig,
    cluster: ClusterKind = ThreadsCluster(),  # noqa: B008
    force: bool = False,
) -> State[Any] | sequences.RetrainOutcome:
    """Fit anew, hold the candidate to the gate, publish or refuse it, and predict.

    A refused candidate fails the run, by a state of its own, after the predictions are made by
    the model that stays in use. Where nothing is new, nothing is fitted and the state says so.

    Parameters
    ----------
    run
        What to fit, what the candidate must pass, where predictions go.
    cluster
        Where: threads of this process unless told otherwise.
    force
        Fit even if neither the data nor the configuration is new.
    """
    with watched() as notify:
        run_id = str(flow_run.id)
        outcome = sequences.retrain(run, cluster, as_task, notify, run_id, force)
    report(retrain_summary(outcome))
    if outcome.published is not None:
        link("model", outcome.published.path)
    if outcome.predictions is not None:
        link("predictions", outcome.predictions.path)
    if outcome.decision is None:
        return Completed(name="Skipped", message="nothing is new", data=outcome)
    report_decision(outcome.decision)
    if outcome.refusal is not None:
        return Failed(name="Refused", message=outcome.refusal.reason, data=outcome)
    announce(run, "retrain", outcome.published)
    return outcome
