"""The steps of a prediction: open, predict, verify, publish."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from gmm_dask.addresses import Place
from gmm_dask.chunked.scan import Scanner
from gmm_dask.config import ClusterKind, RunConfig
from gmm_dask.errors import ConfigError, DriftError, ModelError, TooFewRowsError
from gmm_dask.events import Notify, Stage
from gmm_dask.steps.drift import (
    LEAST_SQUARED_WEIGHT,
    Drift,
    NewRows,
    measure_drift,
    measure_new_rows,
    with_new_rows,
)
from gmm_dask.steps.identities import same_features
from gmm_dask.steps.inputs import open_executor
from gmm_dask.steps.new_rows import new_to_predictions, noise_of
from gmm_dask.steps.openlineage import predictions_event
from gmm_dask.steps.predicted_rows import PredictRequest, predict_rows
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
from gmm_dask.storage.input.reader import parquet_chunks
from gmm_dask.storage.models.clusters import name_clusters
from gmm_dask.storage.models.drift_history import join_nights
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.predictions.beginning import begin
from gmm_dask.storage.predictions.dataset import Predictions, read_predictions
from gmm_dask.storage.predictions.parts import Part
from gmm_dask.storage.predictions.staging import StagedPredictions
from gmm_dask.versions import nights_predicted

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
    new_files
        Indices of the remaining files whose rows are new (`new_to_predictions`).
    """

    staged: StagedPredictions | Predictions
    scanner: Scanner | None
    model: StoredModel
    new_files: frozenset[int] = frozenset()


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
    _check_features(run, plan, model)
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
        with _scanner_of_parts(run, staged.remaining, cluster, notify) as scanner:
            new_files = frozenset() if backfill else new_to_predictions(run, staged, model)
            yield Prediction(staged, scanner, model, new_files)


@contextmanager
def _scanner_of_parts(
    run: RunConfig, plan: InputPlan, cluster: ClusterKind, notify: Notify
) -> Iterator[Scanner]:
    """Open a scanner whose chunks become parts: of one file each, with the key columns."""
    chunks = parquet_chunks(
        plan, split_files=True, key_columns=run.predict.key_columns, least_rows=PART_ROWS
    )
    with (
        open_executor(cluster) as executor,
        Scanner(chunks, executor, notify, once=True) as scanner,
    ):
        yield scanner


def _check_features(run: RunConfig, plan: InputPlan, model: StoredModel) -> None:
    """Refuse a model of other columns; warn of one with other transforms, which are applied."""
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


def predict(run: RunConfig, prediction: Prediction, measured: Drift | None = None) -> Predicted:
    """Predict the rows of every new or changed file and write them: one scan of these files.

    Parameters
    ----------
    measured
        What a retrain has found of its new rows, under the model that was in use before it. They
        are not measured again.

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
    new_files = prediction.new_files if measured is None else frozenset()
    request = PredictRequest(model.parameters, staged.writer, model.transforms, new_files)
    result = scanner.reduce(predict_rows, request, Stage.PREDICT, run.input.nulls)
    if not result.inside and not staged.reused:
        raise TooFewRowsError(
            f"{run.input.path}: no row is inside the filter {condition}; widen it, or check "
            "that its values are written as the columns have them; nothing was published"
        )
    densities = result.densities
    drift = None
    if result.squared_weight >= LEAST_SQUARED_WEIGHT:
        drift = measure_drift(run.predict, model, densities, result.squared_weight)
        seen = 0.0 if result.new is None else result.new.deviations.squared_weight
        if result.new is not None and seen >= LEAST_SQUARED_WEIGHT:
            new = NewRows("predict", staged.run_id, len(new_files), result.new)
            drift = with_new_rows(drift, measure_new_rows(run.predict, model, new, noise_of(model)))
        elif measured is not None and measured.is_of(model):
            drift = replace(with_new_rows(drift, measured), record=None)
        _report_drift(run, drift, measured)
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
    nights = nights_predicted(staged.places.out)
    if predicted.drift is not None and predicted.drift.record is not None:
        nights = join_nights(nights, (predicted.drift.record,))
    summary = {
        "rows": predicted.rows,
        "dropped": predicted.dropped,
        "lost": predicted.lost,
        "drift": predicted.drift and asdict(replace(predicted.drift, record=None)),
        "nights": [record.to_json() for record in nights],
        "batches": [batch.to_json() for batch in batches],
        "batches_of_others": batches_of_others(staged.places.out, prediction.model),
        "lineage": predictions_event(run, kind, staged.run_id, prediction.model),
        "skipped": {file.path: file.reason for file in staged.plan.skipped},
    }
    report = report_on_batches(run.output.name, prediction.model, batches, nights)
    path = staged.publish(predicted.parts, summary, predicted.digests, report, keep_of(run))
    logger.info("published predictions in %s", run.output.predictions)
    return path


def _report_drift(run: RunConfig, drift: Drift, measured: Drift | None) -> None:
    """Warn of drift, or raise where the run file says so; a retrain has warned of its new rows."""
    if not drift.drifted:
        return
    if run.predict.on_drift == "fail":
        raise DriftError(
            f"{run.input.path} is not like what model {run.output.name} was fitted to: "
            f"{drift.words}; nothing was published: look at the data, retrain, or widen the limits "
            "of [predict]"
        )
    if measured is None:
        logger.warning("drift: %s; consider a retrain", drift.words)
        return
    unsaid = [clause for clause in drift.clauses if clause not in measured.clauses]
    if unsaid:
        logger.warning("drift: %s", "; ".join(unsaid))
