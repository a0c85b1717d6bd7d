"""The steps of a prediction: open, predict, verify, publish."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np

from gmm_dask.chunked.defects import bad_weights, require_usable
from gmm_dask.chunked.evaluation import DensitySummary, density_ceiling, summarize_densities
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.scan import Scanner
from gmm_dask.config import ClusterKind, RunConfig
from gmm_dask.errors import ConfigError, DriftError, ModelError
from gmm_dask.events import Notify, Stage
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.nulls import NullPolicy
from gmm_dask.steps.drift import Drift, measure_drift
from gmm_dask.steps.inputs import open_executor
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.input.reader import ParquetRows, parquet_chunks
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.predictions.dataset import Predictions, read_predictions
from gmm_dask.storage.predictions.parts import Part, PartWriter
from gmm_dask.storage.predictions.staging import StagedPredictions, begin

logger = logging.getLogger("gmm_dask")

#: Rows of a part, where file and memory allow: with 32,768 a fifth of the encoding is overhead.
PART_ROWS = 1 << 17


@dataclass(frozen=True, eq=False)
class Prediction:
    """A prediction that is under way.

    Attributes
    ----------
    staged
        The dataset that is being written; its ``remaining`` files are to be read. Or what this
        very run has published already: it was killed afterwards, and is tried again.
    scanner
        Over the remaining files; None when there are none.
    model
        Who predicts.
    """

    staged: StagedPredictions | Predictions
    scanner: Scanner | None
    model: StoredModel


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a prediction found, written but not yet published.

    Attributes
    ----------
    parts
        The files that were written by this run.
    rows, dropped
        Rows predicted by this run, and rows with nulls among those read, whose predictions are
        null.
    reused
        Input files whose parts were taken over from the version before.
    drift
        The rows predicted against the training record; None when there were none.
    """

    parts: tuple[Part, ...]
    rows: int
    dropped: int
    reused: int
    drift: Drift | None


@dataclass(frozen=True, eq=False)
class PredictRequest:
    """What the scan of a prediction needs to know; travels to the workers."""

    parameters: MixtureParameters
    writer: PartWriter


@dataclass(frozen=True, eq=False)
class PredictedRows:
    """Parts written and densities seen; adds in the order of the groups."""

    parts: tuple[Part, ...]
    record: DensitySummary
    source_rows: int

    def __add__(self, other: PredictedRows) -> PredictedRows:
        return PredictedRows(
            self.parts + other.parts,
            self.record + other.record,
            self.source_rows + other.source_rows,
        )


def predict_rows(rows: Rows, request: PredictRequest) -> PredictedRows:
    """Decode, assign and encode in one go: the rows of a chunk become a part.

    Raises
    ------
    NonFiniteError
        A value is infinite, or null where nulls are errors; names file, row and column.
    InputError
        A sample weight is negative or not finite; names file and row.
    """
    read = cast(ParquetRows, rows)
    parameters = request.parameters
    assigned = assign(parameters, read.values, responsibilities=request.writer.probabilities)
    if not assigned.finite:
        names = request.writer.plan.names
        require_usable(
            read.values, names, NullPolicy.ERROR, lambda row: _place(read, row, request.writer.plan)
        )
    _refuse_bad_weights(read, request.writer.plan)
    part = request.writer.write(
        read, assigned.labels, assigned.log_densities, assigned.responsibilities
    )
    weights = read.sample_weight
    record = summarize_densities(
        assigned, weights, parameters.n_components, density_ceiling(parameters)
    )
    return PredictedRows((part,), record, read.source_rows)


@contextmanager
def open_predictions(
    run: RunConfig,
    plan: InputPlan,
    model: StoredModel,
    cluster: ClusterKind,
    notify: Notify,
    run_id: str,
) -> Iterator[Prediction]:
    """Begin a version of the predictions; what is not published by the end is removed.

    Input files that have not changed since the version before, with the same model, are not
    read again. A run that has published its predictions does nothing when it is tried again.

    Raises
    ------
    ConfigError
        ``output.predictions`` is missing, or a key column cannot be had.
    ModelError
        The model has other columns than the input.
    StorageError
        Another run writes there, or the disk refuses.
    """
    if run.output.predictions is None:
        raise ConfigError("output.predictions is missing: say where predictions are to be written")
    if model.columns != plan.names:
        raise ModelError(
            f"model {run.output.name} was fitted to columns {', '.join(model.columns)}, but "
            f"input.columns are {', '.join(plan.names)}; name the same columns in the same order"
        )
    if PredictionPlaces.of(run.output.predictions).current_run() == run_id:
        published = read_predictions(run.output.predictions)
        assert published is not None
        yield Prediction(published, None, model)
        return
    with begin(
        run.output.predictions,
        plan,
        model,
        model_name=run.output.name,
        run_id=run_id,
        key_columns=run.predict.key_columns,
        probabilities=run.predict.probabilities,
    ) as staged:
        if not staged.remaining.files:
            yield Prediction(staged, None, model)
            return
        chunks = parquet_chunks(
            staged.remaining,
            split_files=True,
            key_columns=run.predict.key_columns,
            least_rows=PART_ROWS,
        )
        with (
            open_executor(cluster) as executor,
            Scanner(chunks, executor, notify, once=True) as scanner,
        ):
            yield Prediction(staged, scanner, model)


def predict(run: RunConfig, prediction: Prediction) -> Predicted:
    """Assign the rows of every new or changed file, and write them: one scan.

    Raises
    ------
    DriftError
        The rows passed a limit of ``[predict]`` and ``on_drift`` is "fail".
    """
    staged, scanner = prediction.staged, prediction.scanner
    if isinstance(staged, Predictions):
        logger.info("this run has published its predictions already")
        return Predicted((), 0, 0, len(staged.files), None)
    if scanner is None:
        logger.info("no input file is new or changed; all predictions are kept")
        return Predicted((), 0, 0, len(staged.reused), None)
    request = PredictRequest(prediction.model.parameters, staged.writer)
    found = scanner.reduce(predict_rows, request, Stage.PREDICT, run.input.nulls)
    drift = None
    if found.record.weight > 0:
        drift = measure_drift(run.predict, prediction.model, found.record)
        _report_drift(run, drift)
    dropped = found.source_rows - found.record.rows
    return Predicted(found.parts, found.record.rows, dropped, len(staged.reused), drift)


def verify_predictions(run: RunConfig, prediction: Prediction, predicted: Predicted) -> int:
    """See that every row of the input is there once; returns the number of rows. Reads footers."""
    staged = prediction.staged
    if isinstance(staged, Predictions):
        return staged.rows
    return sum(part.rows for part in staged.verify(predicted.parts))


def publish_predictions(run: RunConfig, prediction: Prediction, predicted: Predicted) -> Path:
    """Let ``output.predictions`` mean this version, whole; returns its path."""
    staged = prediction.staged
    if isinstance(staged, Predictions):
        return staged.path
    summary = {
        "rows": predicted.rows,
        "dropped": predicted.dropped,
        "drift": predicted.drift and asdict(predicted.drift),
    }
    path = staged.publish(predicted.parts, summary)
    logger.info("published predictions in %s", run.output.predictions)
    return path


def _report_drift(run: RunConfig, drift: Drift) -> None:
    findings = "; ".join(check.explanation for check in drift.checks if not check.passed)
    if not findings:
        return
    if run.predict.on_drift == "fail":
        raise DriftError(
            f"{run.input.path} is not like what model {run.output.name} was fitted to: {findings}; "
            "nothing was published: look at the data, retrain, or widen the limits of [predict]"
        )
    logger.warning("drift: %s; consider a retrain", findings)


def _refuse_bad_weights(rows: ParquetRows, plan: InputPlan) -> None:
    weights = rows.sample_weight
    if weights is not None:
        bad = ~(np.isfinite(weights) & (weights >= 0))  # (m,)
        if bad.any():
            raise bad_weights(int(bad.sum()), _place(rows, int(bad.argmax()), plan))


def _place(rows: ParquetRows, row: int, plan: InputPlan) -> str:
    """File, and the row's number in it."""
    source = row if rows.used is None else int(np.flatnonzero(rows.used)[row])
    assert rows.file is not None  # chunks of a prediction are split by file
    assert rows.first_in_file is not None
    return f"{plan.files[rows.file].path} row {rows.first_in_file + source:,}"
