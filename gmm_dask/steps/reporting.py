"""Reports of fits and predictions: made on top of a run, and never the reason why it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np

from gmm_dask.addresses import ObjectAddress, Place, absolute, place_of
from gmm_dask.chunked.fit_records import FitResult
from gmm_dask.chunked.replay import SearchStep, climb_again
from gmm_dask.errors import ConfigError, GmmDaskError, ModelError, StorageError
from gmm_dask.mixture.spec import MixtureSpec
from gmm_dask.report.aggregates import AGGREGATES, Aggregates, Json, aggregate
from gmm_dask.report.page.subject import REPORT, Batch, Subject
from gmm_dask.steps.drift import Drift
from gmm_dask.storage.files.atomic import replace_file, storage_errors
from gmm_dask.storage.files.choice import version_at
from gmm_dask.storage.models.drift_history import DriftRecord, join_nights, read_drift
from gmm_dask.storage.models.lookup import load_model_at
from gmm_dask.storage.models.model import StoredModel, read_file
from gmm_dask.storage.models.registry import Registry
from gmm_dask.storage.predictions.dataset import read_predictions
from gmm_dask.versions import compare_stored, nights_predicted

logger = logging.getLogger("gmm_dask")

#: Earlier versions whose components' weights a report shows.
VERSIONS_BEFORE = 12
#: Most batches whose drift is kept.
MOST_BATCHES = 400
#: Most components of each, the heaviest.
COMPONENTS_BEFORE = 200


def count_for_report(
    result: FitResult, spec: MixtureSpec, registry: Registry, seconds: dict[str, float]
) -> Aggregates | None:
    """Count the survey's sample for a report; None with a warning where that fails.

    EM runs again from the start that won the search, on at most 8,192 rows of the sample.
    """
    try:
        way: tuple[SearchStep, ...] = ()
        if result.first is not None:
            survey = result.survey
            way = climb_again(result.first, survey.sample, spec, survey.transforms)
        return aggregate(
            result.survey.look.X.astype(np.float64),
            result.parameters,
            result.replay,
            versions_before(registry),
            seconds,
            [(step.parameters, step.log_likelihood) for step in way],
        )
    except Exception as error:
        _warn(error)
        return None


def describe_by_report(
    name: str, aggregates: Aggregates | None, nights: tuple[DriftRecord, ...] = ()
) -> Callable[[StoredModel], dict[str, bytes]]:
    """Return the function that makes the files of the report on a model when it is stored."""

    def describe(model: StoredModel) -> dict[str, bytes]:
        if aggregates is None:
            return {}
        try:
            # Imported here: workers, and whoever only reads, need not wait for it.
            from gmm_dask.report.page.document import report_page

            page = report_page([Subject(name, model, aggregates, nights=nights)])
            return {AGGREGATES: aggregates.encode(), REPORT: page}
        except Exception as error:
            _warn(error)
            return {}

    return describe


def versions_before(registry: Registry) -> tuple[Json, ...]:
    """Return the weights of the components of the latest versions, the oldest first.

    Versions that cannot be read are left out.
    """
    before = []
    for number in registry.versions()[-VERSIONS_BEFORE:]:
        try:
            model = registry.load(number)
        except GmmDaskError as error:
            logger.debug("version %d is left out of the report: %s", number, error)
            continue
        weights = model.parameters.weights
        heaviest = np.argsort(-weights, kind="stable")[:COMPONENTS_BEFORE]
        before.append(
            {
                "version": number,
                "created": model.run.created if model.run else None,
                "rows": model.manifest.rows,
                "weights": {
                    str(model.component_ids[component]): round(float(weights[component]), 6)
                    for component in heaviest
                },
            }
        )
    return tuple(before)


def batch_of(drift: Drift, rows: int) -> Batch:
    """Return the drift of rows that were predicted now, as later reports show it."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    values = {check.name: (check.value, check.limit) for check in drift.checks}
    lucky = (check for check in drift.checks if check.passed and check.value > check.limit)
    return Batch(created, rows, values, tuple(check.name for check in lucky))


def batches_since(output: str | Place | None, model: StoredModel) -> tuple[Batch, ...]:
    """Return the batches that a model has predicted so far; none where their record says nothing.

    Parameters
    ----------
    output
        Where the predictions are; None: there are none.
    """
    if output is None:
        return ()
    try:
        predictions = read_predictions(output)
        if predictions is None:
            return ()
        batches = predictions.summary.get("batches", ())
        if predictions.model["sha256"] != model.sha256:
            batches = predictions.summary.get("batches_of_others", {}).get(model.sha256, ())
        return tuple(map(Batch.from_json, batches))
    except (StorageError, LookupError, TypeError, ValueError, AttributeError) as error:
        logger.warning("earlier batches are missing in the report: %s", error)
        return ()


def batches_of_others(output: str | Place, model: StoredModel) -> dict[str, Json]:
    """Return the batches of other models that have predicted rows of a dataset, by their sha256.

    So a backfill by an earlier version does not end the history of the current one.
    """
    try:
        predictions = read_predictions(output)
    except StorageError:  # `batches_since` warns
        return {}
    if predictions is None:
        return {}
    known = dict(predictions.summary.get("batches_of_others", {}))
    known[predictions.model["sha256"]] = predictions.summary.get("batches", [])
    others = {origin.model["sha256"] for origin in predictions.origins} - {model.sha256}
    return {sha256: known[sha256] for sha256 in sorted(others & known.keys())}


def report_on_batches(
    name: str,
    model: StoredModel,
    batches: tuple[Batch, ...],
    nights: tuple[DriftRecord, ...] = (),
) -> bytes | None:
    """Make the report on a model with the batches it has predicted; None where that fails.

    ``nights`` is the history that the predictions keep.
    """
    try:
        from gmm_dask.report.page.document import report_page

        return report_page([subject_of(name, model, batches, nights)])
    except Exception as error:
        _warn(error)
        return None


def subject_of(
    name: str,
    model: StoredModel,
    batches: tuple[Batch, ...] = (),
    nights: tuple[DriftRecord, ...] = (),
) -> Subject:
    """Read what the report on a stored model draws; an older model has no aggregates.

    ``nights`` is the history that its predictions keep, beside that of the model.
    """
    known = None
    if model.path is not None:
        try:
            known = Aggregates.decode(read_file(version_at(model.path), AGGREGATES))
        except (ModelError, LookupError, TypeError, ValueError) as error:
            logger.info("the report on %s is made without counts: %s", model.path, error)
    try:
        _, of_model = read_drift(model)
    except ModelError as error:
        logger.warning("the history of drift is missing in the report: %s", error)
        of_model = ()
    return Subject(name, model, known, batches, join_nights(of_model, nights))


def write_report(
    address: str,
    versions: Sequence[int] = (),
    predictions: str | None = None,
    output: Path | None = None,
) -> Path:
    """Write the report on any versions of a model, beside each other, and return its path.

    Parameters
    ----------
    address
        ``models/NAME``, or the path of one version of it.
    versions
        Of ``models/NAME``; none: the current one, or that of the path.
    predictions
        Where the model's predictions are, for the drift of its batches.
    output
        The file to write; None: ``NAME-vN.html`` in the working directory.

    Raises
    ------
    ModelError
        There is no such model or version, or it is damaged.
    ConfigError
        The file would be on a store, or is a directory.
    StorageError
        The file cannot be written.
    """
    from gmm_dask.report.page.document import report_page

    place = None if output is None else place_of(output)
    if isinstance(place, ObjectAddress):
        raise ConfigError(
            f"{place}: is on a store, and a report is written to this machine, to be opened; give "
            "a path of it, and copy the file there"
        )
    if place is not None and place.is_dir():
        raise ConfigError(f"{place}: is a directory; give the file to write, as in NAME.html")
    models = [load_model_at(address, version) for version in versions or (None,)]
    subjects = [
        subject_of(
            model_name(model),
            model,
            batches_since(predictions, model),
            nights_predicted(predictions),
        )
        for model in models
    ]
    comparisons = [compare_stored(first, second) for first, second in pairwise(models)]
    if place is None:
        labels = [subject.label.replace("version ", "v").replace(" ", "-") for subject in subjects]
        place = Path("-".join([subjects[0].name, *labels]) + ".html")
    with storage_errors(place):
        replace_file(place, report_page(subjects, comparisons))
    return place


def model_name(model: StoredModel) -> str:
    """Return the name of a stored model, from its path."""
    assert model.path is not None
    path = absolute(model.path)  # "." and the like have no name
    return path.parent.name if model.version is not None else path.parent.parent.name


def _warn(error: Exception) -> None:
    logger.warning(
        "no report was made (%s: %s); the run is not affected", type(error).__name__, error
    )
