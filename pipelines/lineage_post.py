"""Events of OpenLineage sent to the address in the environment, by the client's usual variables.

``OPENLINEAGE_URL`` is the address of the receiver; without it nothing is sent.
``OPENLINEAGE_ENDPOINT`` (api/v1/lineage) is the path there, ``OPENLINEAGE_API_KEY`` goes along as a
bearer token, and ``OPENLINEAGE_DISABLED=true`` sends nothing.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

from gmm_dask.addresses import without_credentials
from gmm_dask.config import RunConfig
from gmm_dask.errors import GmmDaskError
from gmm_dask.pipelines.run_record import INTERRUPTED, RunRecord
from gmm_dask.pipelines.sequences import FitOutcome, Outcome, PredictOutcome, RetrainOutcome
from gmm_dask.steps import openlineage
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.models.paths import load_model_at

logger = logging.getLogger("gmm_dask")

#: Seconds that a receiver may take.
SECONDS = 5.0


def is_wanted() -> bool:
    """Whether events are to be sent."""
    disabled = os.environ.get("OPENLINEAGE_DISABLED", "").lower() == "true"
    return bool(os.environ.get("OPENLINEAGE_URL")) and not disabled


def post_start(run: RunConfig, kind: str, run_id: str) -> None:
    """Send that a run begins."""
    if is_wanted():
        _post(openlineage.run_event("START", run, kind, run_id, [openlineage.input_dataset(run)]))


def post_end(run: RunConfig, record: RunRecord, outcome: Outcome | None) -> None:
    """Send how a run ended, what it read, and what it wrote.

    Parameters
    ----------
    outcome
        None of a run that ended by an error or from outside.
    """
    if not is_wanted() or record.run_id is None:
        return
    state = "COMPLETE" if record.succeeded else "FAIL"
    if record.state == INTERRUPTED:
        state = "ABORT"
    inputs, outputs = _datasets(run, record.run_id, outcome)
    error = None if record.succeeded else record.message
    _post(openlineage.run_event(state, run, record.kind, record.run_id, inputs, outputs, error))


def _datasets(
    run: RunConfig, run_id: str, outcome: Outcome | None
) -> tuple[Sequence[openlineage.Json], Sequence[openlineage.Json]]:
    """Return what a run read and what it wrote."""
    fitted: StoredModel | None = None
    inputs, outputs = [], []
    if isinstance(outcome, FitOutcome | RetrainOutcome) and outcome.published is not None:
        fitted = load_model_at(outcome.published.path)
        outputs.append(openlineage.model_dataset(run, outcome.published.version))
    inputs.append(openlineage.input_dataset(run, fitted))
    predictions = getattr(outcome, "predictions", outcome)
    if isinstance(predictions, PredictOutcome):
        rows = predictions.total_rows
        outputs.append(openlineage.predictions_dataset(run, run_id, rows))
        if isinstance(outcome, PredictOutcome) and outcome.model.version is not None:
            inputs.append(openlineage.model_dataset(run, outcome.model.version))
    return inputs, outputs


def _post(event: dict[str, Any]) -> None:
    """Send an event; what goes wrong is a warning."""
    import urllib.request  # few runs send any

    url = os.environ["OPENLINEAGE_URL"].rstrip("/")
    path = os.environ.get("OPENLINEAGE_ENDPOINT") or "api/v1/lineage"
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENLINEAGE_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    try:
        if not url.startswith(("http://", "https://")):
            raise ValueError("it must begin with http:// or https://")
        request = urllib.request.Request(
            f"{url}/{path.lstrip('/')}", json.dumps(event).encode(), headers, method="POST"
        )
        with urllib.request.urlopen(request, timeout=SECONDS):
            pass
    except (OSError, ValueError, GmmDaskError) as error:
        logger.warning(
            "OPENLINEAGE_URL = %s: the %s event of this run was not taken (%s)",
            without_credentials(url),
            event["eventType"],
            error,
        )
