"""The flows as they run unattended: with a time limit, and with a message when one goes wrong.

Deployments name these (``gmm_dask.pipelines.deployed.retrain``). Two environment variables of the
worker change them: ``GMM_DASK_TIME_LIMIT``, seconds that a run may take, and
``GMM_DASK_ON_TROUBLE``, a command that is given the message on its standard input, for example
``mail -s gmm-dask ops``.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State

from gmm_dask.pipelines.fit import fit as fit_flow
from gmm_dask.pipelines.predict import predict as predict_flow
from gmm_dask.pipelines.retrain import retrain as retrain_flow

log = logging.getLogger("gmm_dask.trouble")

DAY = 24 * 3600.0


def report_trouble(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Log how a run ended, and pass that to the command of ``GMM_DASK_ON_TROUBLE``.

    The names of the parameters are Prefect's.
    """
    message = f"{flow_run.name}: {state.name}: {state.message or 'the reason is not known'}"
    log.error("%s", message)
    command = os.environ.get("GMM_DASK_ON_TROUBLE")
    if command:
        try:
            subprocess.run(shlex.split(command), input=message, text=True, check=True, timeout=60)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            log.error("GMM_DASK_ON_TROUBLE failed: %s", error)


UNATTENDED: dict[str, Any] = {
    "timeout_seconds": float(os.environ.get("GMM_DASK_TIME_LIMIT", DAY)),
    "on_failure": [report_trouble],
    "on_crashed": [report_trouble],
    "on_cancellation": [report_trouble],
}

fit = fit_flow.with_options(**UNATTENDED)
predict = predict_flow.with_options(**UNATTENDED)
retrain = retrain_flow.with_options(**UNATTENDED)
