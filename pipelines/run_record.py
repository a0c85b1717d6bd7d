"""The record of a run for machines: what it was, how it ended, and what it left.

``--json`` prints it; metrics and lineage are made of it. Its keys are a promise: a later version
may add some, and whoever reads them ignores what it does not know. `FORMAT` rises when a key goes
or changes its meaning.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from gmm_dask.config import RunConfig
from gmm_dask.pipelines.endings import FAILED, ending_of
from gmm_dask.pipelines.sequences import FitOutcome, Outcome, PredictOutcome, RetrainOutcome
from gmm_dask.steps import Check
from gmm_dask.storage.files.sealed import plain
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.models.paths import load_model_at

FORMAT = 1
#: The states of runs that were ended from outside, beside those of `endings.STATES`.
TIMED_OUT, INTERRUPTED = "TimedOut", "Interrupted"


@dataclass(frozen=True)
class ErrorRecord:
    """What ended a run that has no outcome, or why the predictions of a retrain failed."""

    type: str
    message: str


@dataclass(frozen=True)
class ModelRecord:
    """A fitted model, as its manifest says.

    Attributes
    ----------
    version
        None for a candidate that was refused.
    path
        Where its files are.
    rows, log_likelihood, bic
        The rows that it was fitted to, and how it does on them; the log-likelihood is the mean,
        nats per row. None where that is not known of all rows.
    status, n_iter, scans
        How its polish ended, after how many iterations, and how often all rows were read.
    bound, rows_read
        After an incremental fit: what the mean log-likelihood is at least, nats per row, and the
        rows that were read; None after a full one.
    """

    version: int | None
    path: str
    n_components: int
    covariance_type: str
    rows: int
    log_likelihood: float | None
    bic: float | None
    status: str
    n_iter: int
    scans: int
    bound: float | None = None
    rows_read: int | None = None


@dataclass(frozen=True)
class PredictionRecord:
    """Predictions that a run published.

    Attributes
    ----------
    rows, dropped
        Rows that it predicted, and those that it left null.
    total_rows
        Rows of the dataset that are now current.
    files_reused, files_kept
        Input files whose predictions were taken over: unchanged ones, and those outside the filter.
    lost_rows
        Predictions of before that went with files left out.
    """

    path: str
    rows: int
    dropped: int
    total_rows: int
    files_reused: int
    files_kept: int
    lost_rows: int


@dataclass(frozen=True)
class CheckRecord:
    """A check of the gate or of drift: what was found, and the limit that it was held to."""

    name: str
    value: float
    limit: float
    passed: bool
    explanation: str


@dataclass(frozen=True)
class RunRecord:
    """A run that has ended.

    Attributes
    ----------
    kind
        ``fit``, ``select``, ``predict`` or ``retrain``.
    name, input
        The model's name, and the address of the input; None where the run file could not be read.
    run_id
        None if the run was refused before it had one.
    began, seconds
        When it began, seconds since 1970, and how long it took.
    state, message
        One of `endings.STATES`, or "TimedOut" or "Interrupted", and why.
    exit_code
        That of the command: 0 done, 1 failed, 2 refused before it started, 130 interrupted, 143
        terminated.
    error
        The error of a run that failed.
    files_skipped, files_unsettled
        Input files that were left out: which cannot be used and why, and how many were not at
        rest.
    model
        The model in use at the end; of a prediction, the one that predicted.
    published
        The version that this run published.
    refused
        The candidate that the gate refused.
    decision
        The checks of the gate; None if there was no candidate to decide on.
    drift
        The checks of drift; None if it was not measured.
    """

    kind: str
    name: str | None
    input: str | None
    run_id: str | None
    began: float
    seconds: float
    state: str
    message: str
    exit_code: int
    error: ErrorRecord | None = None
    files_skipped: Mapping[str, str] = field(default_factory=dict)
    files_unsettled: int = 0
    model: ModelRecord | None = None
    published: int | None = None
    refused: ModelRecord | None = None
    decision: tuple[CheckRecord, ...] | None = None
    predictions: PredictionRecord | None = None
    drift: tuple[CheckRecord, ...] | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the run did what was asked."""
        return self.exit_code == 0

    @property
    def drifted(self) -> bool:
        """Whether a check of drift failed."""
        return not all(check.passed for check in self.drift or ())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, whose keys are the same for every kind and every ending."""
        fields = asdict(self)
        fields["began"] = datetime.fromtimestamp(self.began, UTC).isoformat(timespec="seconds")
        return dict(plain({"format": FORMAT, **fields}))


@dataclass(frozen=True)
class RunStart:
    """What is known of a run when it begins: its kind, run file, id, and time since 1970."""

    kind: str
    run: RunConfig | None
    run_id: str | None
    began: float

    def fields(self) -> dict[str, Any]:
        """Return what the record of the run says of this; it ends now."""
        return {
            "kind": self.kind,
            "name": None if self.run is None else self.run.output.name,
            "input": None if self.run is None else self.run.input.path,
            "run_id": self.run_id,
            "began": self.began,
            "seconds": time.time() - self.began,
        }


def record_outcome(start: RunStart, outcome: Outcome) -> RunRecord:
    """Record a run that ends now and has an outcome."""
    ending = ending_of(outcome)
    decision = getattr(outcome, "decision", None)
    published = getattr(outcome, "published", None)
    refusal, failure, drift = outcome.refusal, outcome.failure, outcome.drift
    return RunRecord(
        **start.fields(),
        state=ending.state,
        message=ending.message,
        exit_code=int(ending.failed),
        error=None if failure is None else record_error(failure),
        files_skipped={file.path: file.reason for file in outcome.skipped},
        files_unsettled=outcome.unsettled,
        model=_model_in_use(outcome),
        published=None if published is None else published.version,
        refused=None if refusal is None else _record(load_model_at(refusal.path)),
        decision=None if decision is None else _checks(decision.checks),
        predictions=_predictions(getattr(outcome, "predictions", outcome)),
        drift=None if drift is None else _checks(drift.checks),
    )


def record_failure(
    start: RunStart, error: BaseException, exit_code: int = 1, reason: str = "interrupted"
) -> RunRecord:
    """Record a run that ends now by an error, or from outside.

    Parameters
    ----------
    reason
        Why it was ended from outside. What does that says nothing of itself.
    """
    state = FAILED if isinstance(error, Exception) else INTERRUPTED
    if isinstance(error, TimeoutError):  # a disk's is a StorageError by now
        state = TIMED_OUT
    described = record_error(error)
    if state == INTERRUPTED:
        described = replace(described, message=reason)
    return RunRecord(
        **start.fields(),
        state=state,
        message=described.message,
        exit_code=exit_code,
        error=described,
    )


def record_error(error: BaseException) -> ErrorRecord:
    """Record an error in one line."""
    return ErrorRecord(type(error).__name__, " ".join(str(error).split()))


def _model_in_use(outcome: Outcome) -> ModelRecord | None:
    """Return the model that is in use at the end of a run."""
    if isinstance(outcome, PredictOutcome):
        return _record(outcome.model)
    if isinstance(outcome, FitOutcome | RetrainOutcome) and outcome.published is not None:
        return _record(load_model_at(outcome.published.path))
    current = getattr(outcome, "current", None)
    return None if current is None else _record(current)


def _record(model: StoredModel) -> ModelRecord:
    manifest, parameters, refit = model.manifest, model.parameters, model.manifest.refit
    return ModelRecord(
        model.version,
        str(model.path),
        parameters.n_components,
        parameters.covariance_type,
        manifest.rows,
        manifest.log_likelihood,
        manifest.bic,
        manifest.status,
        manifest.n_iter,
        manifest.scans,
        None if refit is None else refit.bound,
        None if refit is None else refit.rows_read,
    )


def _checks(checks: Iterable[Check]) -> tuple[CheckRecord, ...]:
    return tuple(
        CheckRecord(
            check.name,
            float(check.value),
            float(check.limit),
            bool(check.passed),
            check.explanation,
        )
        for check in checks
    )


def _predictions(outcome: Any) -> PredictionRecord | None:
    if not isinstance(outcome, PredictOutcome):
        return None
    predicted = outcome.predicted
    return PredictionRecord(
        str(outcome.path),
        predicted.rows,
        predicted.dropped,
        outcome.total_rows,
        predicted.reused,
        predicted.kept,
        outcome.lost_rows,
    )
