"""Beginning a version of a prediction dataset: what is taken over, and what is to be read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from gmm_dask.addresses import Place
from gmm_dask.errors import ConflictError, StorageError
from gmm_dask.storage.files.choice import AnyStage, AnyWriter
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.predictions.dataset import (
    FORMAT,
    RUN_ID,
    Origin,
    Predictions,
    read_predictions,
)
from gmm_dask.storage.predictions.keeping import KeptRows, take_over
from gmm_dask.storage.predictions.origins import shifted
from gmm_dask.storage.predictions.part_writer import PartWriter, check_key_columns
from gmm_dask.storage.predictions.parts import Part
from gmm_dask.storage.predictions.reuse import Carried, Question, Refresh, carry_over, widened
from gmm_dask.storage.predictions.staging import StagedPredictions

logger = logging.getLogger(__name__)


def begin(
    out: str | Place,
    plan: InputPlan,
    model: StoredModel,
    *,
    model_name: str,
    run_id: str,
    key_columns: Sequence[str] = (),
    probabilities: bool = False,
    cluster: bool | int = False,
    cluster_ids: tuple[int, ...] | None = None,
    impute: bool = False,
    refresh: Refresh = "all",
    reuse: bool = True,
    deadline: float = 0.0,
) -> StagedPredictions:
    """Begin a version of a prediction dataset; ``OUT`` stays as it is until publication.

    Parameters
    ----------
    out
        The link that readers open; it is created if it does not exist.
    plan
        The input inside the filter.
    model, model_name
        The model that predicts, and the name to record for it.
    run_id
        Id of the run, part of all names; letters, digits and ``._-``.
    key_columns
        Columns of the input to copy.
    probabilities
        Whether to write responsibilities.
    cluster, cluster_ids
        The clusters that were asked for, and the id of the cluster of each component, (k,), to
        write them; None: not to.
    impute
        Whether to write the conditional means of missing features.
    refresh
        Whether parts that an earlier version of the model has written are predicted again
        ("all"), or only new and changed files ("changed").
    reuse
        Whether anything is taken over from the current version (`carry_over`).
    deadline
        Seconds to wait while another run writes to ``out``.

    Raises
    ------
    ConfigError
        A key column is missing in the input, or predictions use its name; or predictions outside
        the filter cannot stay beside new ones.
    ConflictError
        This run id is already published (`read_predictions` reads it).
    StorageError
        ``out`` is not a link that gmm-dask made, another run writes to it, or the disk refuses; or
        its record is damaged, and there may be predictions outside the filter to be kept.
    """
    places = PredictionPlaces.of(out)
    if not RUN_ID.fullmatch(run_id):
        raise StorageError(f"run id {run_id!r}: use up to 100 letters, digits and . _ -")
    clusters, labels = cluster_ids is not None, model.manifest.labels is not None
    check_key_columns(plan, key_columns, clusters, impute, labels)
    places.current_run()  # refuses what gmm-dask did not write, before anything is created
    origin = Origin(
        run_id,
        datetime.now(UTC).isoformat(timespec="seconds"),
        {"name": model_name, "version": model.version, "sha256": model.sha256},
        plan.digest,
        None if plan.filter is None else plan.filter.text,
        _settings(plan, key_columns, probabilities, cluster_ids, impute),
        cluster,
    )
    version_writer = places.store.open(deadline)
    try:
        stage = _stage(places, version_writer, run_id)
        writer = PartWriter(
            stage,
            run_id,
            plan,
            (),
            model.component_ids,
            model.manifest.low_density_threshold,
            probabilities,
            cluster_ids,
            impute,
            model.version,
            labels=model.manifest.labels,
        )
        current = _read_current(places, plan) if reuse else None
        question = Question(origin, writer.columns(key_columns), refresh)
        carried, origins = _carried(current, plan, question)
        numbers = _numbers(plan)
        taken = _take_over(places, stage, carried, origins, run_id, numbers)
        writer = _for_remaining(writer, places, carried, origins, numbers)
        record = {"format": FORMAT, **_of_run(origin), "origins": origins}
        return StagedPredictions(places, plan, carried, taken, writer, record, version_writer)
    except BaseException:
        version_writer.close()
        raise


def _carried(
    current: Predictions | None, plan: InputPlan, question: Question
) -> tuple[Carried, list[Origin]]:
    """Return what is taken over from the current version, and the origins of all parts."""
    if current is None:
        return Carried(), [question.origin]
    return carry_over(current, plan, question), [question.origin, *current.origins]


def _stage(places: PredictionPlaces, version_writer: AnyWriter, run_id: str) -> AnyStage:
    if places.current_run() == run_id:
        raise ConflictError(
            f"{places.out}: run {run_id} is already published; give another run id, or read it"
        )
    version_writer.remove(run_id)  # left by a run that died before it pointed to its version
    return version_writer.stage(run_id)


def _read_current(places: PredictionPlaces, plan: InputPlan) -> Predictions | None:
    """Read the record of the current version; a damaged one only matters if rows lie outside."""
    try:
        return read_predictions(places.out)
    except StorageError as error:
        if plan.partial:
            raise StorageError(
                f"what lies outside the filter cannot be kept: {error}; or predict every row with "
                'predict.filter = "true"'
            ) from error
        logger.warning("no parts are reused: %s", error)
        return None


def _numbers(plan: InputPlan) -> dict[str, int]:
    """Number all files of an input, those outside the filter too, in their order."""
    paths = dict.fromkeys((*plan.listing, *(file.path for file in plan.files)))
    return {path: number for number, path in enumerate(paths)}


def _take_over(
    places: PredictionPlaces,
    stage: AnyStage,
    carried: Carried,
    origins: Sequence[Origin],
    run_id: str,
    numbers: Mapping[str, int],
) -> dict[str, tuple[Part, ...]]:
    """Take the parts of reused and kept files over into the stage."""
    files = {**carried.reused, **carried.kept}
    current_run = places.current_run()
    if not files or current_run is None:
        return {}
    current = places.store.version(current_run)
    versions = [origin.model["version"] for origin in origins]
    return {
        path: take_over(
            stage,
            current,
            shifted(held.parts),
            run_id,
            numbers[path],
            versions,
            carried.complete[path],
        )
        for path, held in files.items()
    }


def _for_remaining(
    writer: PartWriter,
    places: PredictionPlaces,
    carried: Carried,
    origins: Sequence[Origin],
    numbers: Mapping[str, int],
) -> PartWriter:
    """Return the writer for the files that are predicted, with the rows to be kept beside them."""
    files = tuple(
        widened(file, carried.beside[file.path]) if file.path in carried.beside else file
        for file in writer.plan.files
        if file.rows and file.path not in carried.reused
    )
    kept = None
    current_run = places.current_run()
    if carried.beside and current_run is not None:
        kept = KeptRows(
            places.store.version(current_run),
            {path: shifted(held.parts) for path, held in carried.beside.items()},
            [origin.model["version"] for origin in origins],
        )
    plan = replace(writer.plan, files=files)
    return replace(
        writer, plan=plan, numbers=tuple(numbers[file.path] for file in files), kept=kept
    )


def _of_run(origin: Origin) -> dict[str, Any]:
    """Return what a record says of the run that writes it."""
    names = ("run_id", "model", "snapshot", "filter", "settings")
    return {name: getattr(origin, name) for name in names}


def _settings(
    plan: InputPlan,
    key_columns: Sequence[str],
    probabilities: bool,
    cluster_ids: tuple[int, ...] | None,
    impute: bool,
) -> dict[str, Any]:
    """Return everything besides model and file that determines the content of a part."""
    settings = {
        "columns": [[column.name, column.type] for column in plan.columns],
        "nulls": plan.nulls,
        "convert": dict(plan.convert),
        "key_columns": [[name, plan.types[name]] for name in key_columns],
        "probabilities": probabilities,
    }
    # Left out where they are not written, so that parts of older versions are reused.
    if cluster_ids is not None:
        settings["cluster_ids"] = list(cluster_ids)
    if impute:
        settings["impute"] = True
    return settings
