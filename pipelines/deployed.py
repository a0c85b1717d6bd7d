"""The flows as they run unattended: with a time limit, and with a message when one goes wrong.

Deployments name these (``gmm_dask.pipelines.deployed.retrain``). Three environment variables of
the worker change them: ``GMM_DASK_TIME_LIMIT``, seconds that a run may take, ``GMM_DASK_RETRIES``,
how often it begins again (`gmm_dask.pipelines.attempts`), and ``GMM_DASK_ON_TROUBLE``, a command
that is given the message on its standard input, for example ``mail -s gmm-dask ops``.
"""

from __future__ import annotations

import os
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import Flow, flow, get_client
from prefect.client.schemas.objects import FlowRun, State

from gmm_dask.pipelines import watchdog
from gmm_dask.pipelines.artifacts import emit
from gmm_dask.pipelines.endings import TOLD
from gmm_dask.pipelines.fit import fit as fit_flow
from gmm_dask.pipelines.predict import predict as predict_flow
from gmm_dask.pipelines.retrain import retrain as retrain_flow
from gmm_dask.pipelines.selecting import select as select_flow
from gmm_dask.pipelines.trouble import describe, late, model_of, silence, subject_of, tell

P = ParamSpec("P")
R = TypeVar("R")

DAY = 24 * 3600.0


def report_trouble(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Tell how a run ended; then its watchdog need not.

    The names of the parameters are Prefect's.
    """
    tell(state, describe(flow_run))
    watchdog.dismiss(flow_run)


def report_success(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Tell of a run that left bad files out or met drift, and end the watchdog.

    The names of the parameters are Prefect's.
    """
    if state.name in TOLD:
        tell(state, describe(flow_run))
    watchdog.dismiss(flow_run)


UNATTENDED: dict[str, Any] = {
    "timeout_seconds": float(os.environ.get("GMM_DASK_TIME_LIMIT", DAY)),
    "on_running": [watchdog.watch],
    "on_completion": [report_success],
    "on_failure": [report_trouble],
    "on_crashed": [report_trouble],
    "on_cancellation": [report_trouble],
}


def _unattended(flow: Flow[P, R]) -> Flow[P, R]:
    unattended = flow.with_options(**UNATTENDED)
    # A deployment names its flow by this; without it, `serve` would run the flow without options.
    unattended.__module__ = __name__
    return unattended


fit = _unattended(fit_flow)
select = _unattended(select_flow)
predict = _unattended(predict_flow)
retrain = _unattended(retrain_flow)


@flow(name="tell", flow_run_name="tell of {lost}")
def tell_of(lost: str) -> None:
    """Tell of a run that could not tell itself, because no process of it is left, or ever was.

    Parameters
    ----------
    lost
        A run that configs/automations.yaml has marked as crashed, that was cancelled because
        another one had its place, or that did not begin in time: its id, or the name of it as a
        resource of events, ``prefect.flow-run.ID``.
    """
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(UUID(lost.removeprefix("prefect.flow-run.")))
    state = flow_run.state
    assert state is not None
    if not (state.is_crashed() or state.is_cancelled()):
        state = late(flow_run)
    _tell(state, describe(flow_run), flow_run.parameters)


@flow(name="tell-silence", flow_run_name="tell of no success of {deployment}")
def tell_of_silence(deployment: str, hours: float = 26.0) -> None:
    """Tell that no run of a deployment has succeeded for a while, if that is still so.

    Parameters
    ----------
    deployment
        Flow and name: ``retrain/stars``.
    hours
        For how long.
    """
    with get_client(sync_client=True) as client:
        silent = client.read_deployment_by_name(deployment)
        state = silence(client, silent.id, hours)
    if state is not None:
        flow_name, _, name = deployment.partition("/")
        _tell(state, subject_of(flow_name, name, silent.parameters), silent.parameters)


def _tell(state: State[Any], described: str, parameters: dict[str, Any]) -> None:
    """Tell, and emit the event of it."""
    tell(state, described)
    model = model_of(parameters)
    if model is not None:
        emit(str(state.name).lower(), model, {"message": state.message, "about": described})
