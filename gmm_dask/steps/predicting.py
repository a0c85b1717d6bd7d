"""The steps of a prediction: open, predict, verify, publish."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import cast

import numpy as np

from gmm_dask.addresses import Place
from gmm_dask.chunked.defects import bad_weights, require_usable
from gmm_dask.chunked.evaluation import DensitySummary, density_ceiling, summarize_densities
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.transforming import transform_values
from gmm_dask.config import ClusterKind, RunConfig
from gmm_dask.errors import ConfigError, DriftError, ModelError, TooFewRowsError
from gmm_dask.events import Notify, Stage
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.imputation import fill_holes
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import complete_rows
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.nulls import NullPolicy
from gmm_dask.steps.drift import Drift, measure_drift
from gmm_dask.steps.fitting import same_features
from gmm_dask.steps.inputs import open_executor
from gmm_dask.steps.openlineage import predictions_event
from gmm_dask.steps.pruning import keep_of
from gmm_dask.steps.reporting import (
    MOST_BATCHES,
    batch_of,
    batches_of_others,
    batches_since,
    report_on_batches,
)
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.input.reader import ParquetRows, parquet_chunks
from gmm_dask.storage.models.clusters import name_clusters
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.predictions.beginning import begin
from gmm_dask.storage.predictions.dataset import Predictions, read_predictions
from gmm_dask.storage.predictions.part_writer import PartWriter
from gmm_dask.storage.predictions.parts import Part
from gmm_dask.storage.predictions.staging import StagedPredictions

logger = logging.getLogger("gmm_dask")

#: Rows of a part, where file and memory allow: at 32,768 a fifth of the encoding is overhead.
PART_ROWS = 1 << 17


@dataclass(frozen=True, eq=False)
class Prediction:
    """A prediction that is under way.

    Attributes
    ----------
    staged
        The version that is being written; its ``remaining`` files are to be read. Or the
        predictions that this run has published already, if it was killed afterwards and is
        tried again.
    scanner
        Scans the remaining files; None if nothing remains.
    model
        The model that predicts.
    """

    staged: StagedPredictions | Predictions
    scanner: Scanner | None
    model: StoredModel


@dataclass(frozen=True, eq=False)
class Predicted:
    """The result of a prediction: written, but not yet published.

    Attributes
    ----------
    parts
        The parts that this run wrote.
    rows, dropped
        Rows that this run predicted, and rows inside the filter that it did not predict because
        they hold nulls, or under ``marginalize`` nothing else; their predictions are null.
    reused
        Number of input files inside the filter whose parts come from the version before.
    kept
        Number of input files outside the filter whose predictions stay.
    lost
        Files whose predictions outside the filter could not be kept.
    filter
        The resolved filter; None: every row of the input is predicted.
    drift
        How the predicted rows differ from the training rows; None if no row was predicted, or
        only rows of weight 0.
    digests
        Of the row groups that were read: what the input files held.
    """

    parts: tuple[Part, ...]
    rows: int
    dropped: int
    reused: int
    drift: Drift | None
    digests: tuple[str, ...] = ()
    kept: int = 0
    lost: tuple[str, ...] = ()
    filter: str | None = None


@dataclass(frozen=True, eq=False)
class PredictRequest:
    """What a scan needs to predict; it is sent to the workers."""

    parameters: MixtureParameters
    writer: PartWriter
    transforms: Transforms | None = None


@dataclass(frozen=True, eq=False)
class PredictedRows:
    """Parts written, the densities of used rows, and the number of rows inside the filter.

    Rows that are kept beside these are not among them.
    """

    parts: tuple[Part, ...]
    densities: DensitySummary
    inside: int

    def __add__(self, other: PredictedRows) -> PredictedRows:
        return PredictedRows(
            self.parts + other.parts,
            self.densities + other.densities,
            self.inside + other.inside,
        )


def predict_rows(rows: Rows, request: PredictRequest) -> PredictedRows:
    """Assign the rows of a chunk to components and write them as a part.

    Raises
    ------
    NonFiniteError
        A value is infinite, or null where nulls are errors; names file, row and column.
    InputError
        A sample weight is negative or not finite, or a value is outside of the domain of its
        transform; names file and row.
    """
    chunk = cast(ParquetRows, rows)
    parameters, plan = request.parameters, request.writer.plan
    patterns, transforms = chunk.patterns or (), request.transforms

    def place(row: int) -> str:
        return _place(chunk, row, plan)

    # Here, not by the scanner: what is written has the values as they were.
    values = transform_values(chunk.values, transforms, plan.names, place)
    assigned = assign(
        parameters,
        values,
        responsibilities=request.writer.needs_responsibilities,
        certainties=True,
        patterns=patterns,
        transforms=transforms,
    )
    if not assigned.finite:
        # Rows with nulls have been dropped by now, or they have patterns.
        nulls = NullPolicy.MARGINALIZE if patterns else NullPolicy.ERROR
        require_usable(chunk.values, plan.names, nulls, place)
    _refuse_bad_weights(chunk, plan)
    filled = None
    if request.writer.impute:
        filled = fill_holes(parameters, chunk.values, transforms, values)
    part = request.writer.write(
        chunk, assigned.labels, assigned.log_densities, assigned.responsibilities, filled
    )
    densities = summarize_densities(
        assigned,
        chunk.sample_weight,
        parameters.n_components,
        density_ceiling(parameters, transforms),
        complete_rows(patterns, len(chunk.values)),
    )
    return PredictedRows((part,), densities, chunk.source_rows - chunk.outside)


@contextmanager
def open_predictions(
    run: RunConfig,
    plan: InputPlan,
    model: StoredModel,
    cluster: ClusterKind,
    notify: Notify,
    run_id: str,
    backfill: bool = False,
) -> Iterator[Prediction]:
    """Begin a version of the predictions; if it is not published by the end, it is removed.

    Input files that hold the same values as for the version before are not predicted again, if
    the model and the settings are the same, or under ``predict.refresh = "changed"`` an earlier
    version of the model has predicted them. Predictions outside the filter stay as they are. A run
    that has published its predictions does nothing when it is tried again.

    Parameters
    ----------
    plan
        The input inside the filter of the prediction (`inspect_input` with ``for_fit=False``).
    backfill
        Whether this very model is to predict all rows inside the filter, whatever
        ``predict.refresh`` says.

    Raises
    ------
    ConfigError
        ``output.predictions`` is missing, a key column cannot be used, more clusters are asked
        for than the model has components, or predictions outside the filter cannot stay beside
        new ones.
    ModelError
        The model has other columns than the input, or no clusters although they are asked for.
    StorageError
        Another run writes there, or nothing can be written there.
    InputError
        A file that may have changed cannot be read to see whether it has.
    """
    if run.output.predictions is None:
        raise ConfigError("output.predictions is missing: say where predictions are to be written")
    if model.columns != plan.names:
        raise ModelError(
            f"model {run.output.name} was fitted to columns {', '.join(model.columns)}, but "
            f"input.columns are {', '.join(plan.names)}; name the same columns in the same order"
        )
    if not same_features(plan, model):
        logger.warning(
            "the transforms of model %s, version %s, are applied (%s), not those of the run file; "
            "fit again to change them",
            run.output.name,
            model.version,
            model.transforms.words(model.columns) if model.transforms else "none",
        )
    cluster_ids = choose_clusters(run, model)
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
        cluster=run.predict.cluster,
        cluster_ids=cluster_ids,
        refresh="all" if backfill else run.predict.refresh,
        impute=run.predict.impute,
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


def choose_clusters(run: RunConfig, model: StoredModel) -> tuple[int, ...] | None:
    """Return the id of each component's cluster, (k,), as ``predict.cluster`` asks; None without.

    Raises
    ------
    ConfigError
        More clusters are asked for than the model has components.
    ModelError
        An older gmm-dask stored the model, without clusters.
    """
    asked, clusters = run.predict.cluster, model.manifest.clusters
    if asked is False:
        return None
    if clusters is None:
        raise ModelError(
            f"version {model.version} of model {run.output.name} has no clusters, because an older "
            "gmm-dask stored it: fit again, retrain with --force, or set predict.cluster = false"
        )
    if asked is True:
        return clusters.cluster_ids
    try:
        cut = clusters.tree(model.component_ids).cut(asked)
    except ConfigError as error:
        raise ConfigError(f"predict.cluster = {asked}: {error}") from error
    return name_clusters(cut, model.component_ids)


def predict(run: RunConfig, prediction: Prediction) -> Predicted:
    """Predict the rows of every new or changed file and write them: one scan of these files.

    Raises
    ------
    DriftError
        The rows exceed a limit of ``[predict]`` and ``on_drift`` is "fail".
    TooFewRowsError
        No row is inside the filter.
    InputError, StorageError, ClusterError
        The rows cannot be read or used, the parts cannot be written, or the workers are lost.
    """
    staged, scanner, model = prediction.staged, prediction.scanner, prediction.model
    if isinstance(staged, Predictions):
        logger.info("this run has published its predictions already")
        return Predicted((), 0, 0, len(staged.files), None, filter=staged.filter)
    condition = None if staged.plan.filter is None else staged.plan.filter.text
    nothing = Predicted(
        (), 0, 0, len(staged.reused), None, (), len(staged.kept), staged.lost, condition
    )
    if scanner is None:
        logger.info("no input file is new or changed; all predictions are kept")
        return nothing
    request = PredictRequest(model.parameters, staged.writer, model.transforms)
    result = scanner.reduce(predict_rows, request, Stage.PREDICT, run.input.nulls)
    if not result.inside and not staged.reused:
        raise TooFewRowsError(
            f"{run.input.path}: no row is inside the filter {condition}; widen it, or check "
            "that its values are written as the columns have them; nothing was published"
        )
    densities = result.densities
    drift = None
    if densities.weight > 0:
        drift = measure_drift(run.predict, prediction.model, densities)
        _report_drift(run, drift)
    return replace(
        nothing,
        parts=result.parts,
        rows=densities.rows,
        dropped=result.inside - densities.rows,
        drift=drift,
        digests=scanner.digests,
    )


def verify_predictions(run: RunConfig, prediction: Prediction, predicted: Predicted) -> int:
    """Check that every row inside the filter has one prediction; return how many rows there are.

    Predictions that are kept outside the filter count too. Only footers of the parts are read.

    Raises
    ------
    StorageError
        A part is missing, or the rows are not those of the input.
    """
    staged = prediction.staged
    if isinstance(staged, Predictions):
        return staged.rows
    return sum(part.rows for part in staged.verify(predicted.parts))


def publish_predictions(
    run: RunConfig, prediction: Prediction, predicted: Predicted, kind: str = "predict"
) -> Place:
    """Publish the predictions of a ``kind`` of run, whole, and return their path."""
    staged = prediction.staged
    if isinstance(staged, Predictions):
        return staged.path
    batches = batches_since(staged.places.out, prediction.model)
    if predicted.drift is not None:
        batches = (*batches, batch_of(predicted.drift, predicted.rows))[-MOST_BATCHES:]
    summary = {
        "rows": predicted.rows,
        "dropped": predicted.dropped,
        "lost": predicted.lost,
        "drift": predicted.drift and asdict(predicted.drift),
        "batches": [batch.to_json() for batch in batches],
        "batches_of_others": batches_of_others(staged.places.out, prediction.model),
        "lineage": predictions_event(run, kind, staged.run_id, prediction.model),
        "skipped": {file.path: file.reason for file in staged.plan.skipped},
    }
    report = report_on_batches(run.output.name, prediction.model, batches)
    path = staged.publish(predicted.parts, summary, predicted.digests, report, keep_of(run))
    logger.info("published predictions in %s", run.output.predictions)
    return path


def _report_drift(run: RunConfig, drift: Drift) -> None:
    """Warn of drift, or raise where the run file says so."""
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
    """Return the file of a used row and its number in that file, for a message."""
    assert rows.file is not None  # chunks of a prediction are split by file
    assert rows.first_in_file is not None
    return f"{plan.files[rows.file].path} row {rows.first_in_file + rows.source_row(row):,}"
