"""What a run leaves of itself for other programs when it ends, however it ends.

None of it may end or fail a run: what cannot be written is a warning in the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gmm_dask.config import RunConfig
from gmm_dask.errors import GmmDaskError
from gmm_dask.pipelines.garbage import imports_set_aside
from gmm_dask.pipelines.lineage_post import post_end, post_start
from gmm_dask.pipelines.run_record import RunRecord, RunStart, record_failure, record_outcome
from gmm_dask.pipelines.sequences import OutcomeT

logger = logging.getLogger("gmm_dask")


def recorded(kind: str, run: RunConfig, run_id: str, execute: Callable[[], OutcomeT]) -> OutcomeT:
    """Do a run and return its outcome; what it leaves is written and sent, also of an error.

    Parameters
    ----------
    kind
        ``fit``, ``select``, ``predict`` or ``retrain``.
    execute
        Does it.
    """
    start = RunStart(kind, run, run_id, time.time())
    post_start(run, kind, run_id)
    try:
        # A search for garbage that passes over all imports, of which a deployed run has several,
        # takes a tenth of a second each time.
        with imports_set_aside():
            outcome = execute()
    except BaseException as error:
        record = record_failure(start, error)
        leave_metrics(run, record)
        post_end(run, record, None)
        raise
    try:
        record = record_outcome(start, outcome)
        leave_metrics(run, record)
        post_end(run, record, outcome)
    except GmmDaskError as error:  # the run has done what was asked
        logger.warning("what became of this run is not told: %s", error)
    return outcome


def leave_metrics(run: RunConfig, record: RunRecord) -> None:
    """Write the metrics file of a run, if its run file names one."""
    if run.output.metrics is None:
        return
    # Imported here: few runs need it.
    from gmm_dask.pipelines.metrics import write_metrics

    try:
        write_metrics(run.output.metrics, record)
    except GmmDaskError as error:
        logger.warning("the metrics of this run are not written: %s", error)
