"""The retrain flow: fit if anything is new, pass the gate or be refused, publish, predict."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from gmm_dask.config import ClusterKind, RunConfig, ThreadsCluster
from gmm_dask.pipelines import sequences
from gmm_dask.pipelines.artifacts import (
    announce,
    final_state,
    name_place,
    report,
    report_decision,
    show_model,
    show_published,
    showing,
)
from gmm_dask.pipelines.naming import add_version, run_name
from gmm_dask.pipelines.recording import recorded
from gmm_dask.pipelines.summary import retrain_summary
from gmm_dask.pipelines.tasks import as_task
from gmm_dask.pipelines.watching.artifact import watched


@flow(name="retrain", flow_run_name=run_name)
def retrain(
    run: RunConfig,
    cluster: ClusterKind = ThreadsCluster(),  # noqa: B008
    force: bool = False,
) -> State[Any] | sequences.RetrainOutcome:
    """Fit again, hold the candidate to the gate, publish or refuse it, and predict.

    A refused candidate ends the run as "Refused", which is a failure, after the model that stays
    in use has predicted. If nothing is new, nothing is fitted and the run ends as "Skipped". A run
    whose new rows have drifted ends as "Drifted", one that left out files because they cannot be
    used as "Partial". Where predictions fail after the model was published, the run fails and says
    both.

    Parameters
    ----------
    run
        What to fit, what the candidate must pass, where predictions go.
    cluster
        Where to run; default: threads of this process.
    force
        Fit even if neither the data nor the configuration is new.
    """
    with watched() as notify:
        run_id = str(flow_run.id)
        outcome = recorded(
            "retrain",
            run,
            run_id,
            lambda: sequences.retrain(run, cluster, as_task, notify, run_id, force),
        )
    add_version(None if outcome.published is None else outcome.published.version)
    with showing():
        report(retrain_summary(outcome))
        if outcome.published is not None:
            show_published(outcome.published)
        if outcome.refusal is not None:
            show_model(outcome.refusal.path)
        if outcome.predictions is not None:
            name_place("predictions", outcome.predictions.path)
        if outcome.decision is not None:
            report_decision(outcome.decision)
    if outcome.published is not None:
        announce(run, "retrain", outcome.published)
    return final_state(run, outcome)
