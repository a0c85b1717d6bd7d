"""Run events of OpenLineage: what a run read and what it wrote, for catalogues of data.

An event is plain JSON as https://openlineage.io/spec/2-0-2/OpenLineage.json asks for. A dataset is
named by its place: ``file`` and an absolute path, or a bucket and a key. A model is the dataset of
its directory, and its version is a facet.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from gmm_dask.addresses import (
    ObjectAddress,
    Place,
    local_path,
    place_of,
    without_credentials,
)
from gmm_dask.config import RunConfig
from gmm_dask.errors import ConfigError
from gmm_dask.report.aggregates import Aggregates
from gmm_dask.steps.manifest import version_of
from gmm_dask.steps.reporting import describe_by_report
from gmm_dask.steps.resuming import registry_of
from gmm_dask.storage.models.drift_history import DriftRecord
from gmm_dask.storage.models.model import StoredModel

#: The file of the event beside a model.
LINEAGE = "lineage.json"

_SPEC = "https://openlineage.io/spec"
_FACETS = {
    "errorMessage": "1-0-1/ErrorMessageRunFacet",
    "inputStatistics": "1-0-0/InputStatisticsInputDatasetFacet",
    "jobType": "2-0-4/JobTypeJobFacet",
    "outputStatistics": "1-0-2/OutputStatisticsOutputDatasetFacet",
    "processing_engine": "1-1-1/ProcessingEngineRunFacet",
    "schema": "1-2-0/SchemaDatasetFacet",
    "version": "1-0-1/DatasetVersionDatasetFacet",
}

Json: TypeAlias = dict[str, Any]


def run_event(
    state: str,
    run: RunConfig,
    kind: str,
    run_id: str,
    inputs: Sequence[Json],
    outputs: Sequence[Json] = (),
    error: str | None = None,
) -> Json:
    """Return the event of a run.

    Parameters
    ----------
    state
        START, RUNNING, COMPLETE, ABORT or FAIL.
    kind
        ``fit``, ``select``, ``predict`` or ``retrain``. The job is named by it and the model.
    run_id
        One that is no UUID is made one, always the same.
    inputs, outputs
        Datasets (`input_dataset`, `model_dataset`, `predictions_dataset`).
    error
        Why a run failed.
    """
    return _event(state, run.output.name, kind, run_id, inputs, outputs, error)


def _event(
    state: str,
    name: str,
    kind: str,
    run_id: str,
    inputs: Sequence[Json],
    outputs: Sequence[Json],
    error: str | None = None,
) -> Json:
    """Return the event of a run, or of a command, about the model of this name."""
    engine = {
        "version": version_of("gmm-dask"),
        "name": "gmm-dask",
        "openlineageAdapterVersion": version_of("gmm-dask"),
    }
    facets = _facets(processing_engine=engine)
    if error is not None:
        facets |= _facets(errorMessage={"message": error, "programmingLanguage": "python"})
    job_type = {"processingType": "BATCH", "integration": "GMM_DASK", "jobType": kind.upper()}
    return {
        "eventType": state,
        "eventTime": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "run": {"runId": _as_uuid(run_id), "facets": facets},
        "job": {
            "namespace": os.environ.get("OPENLINEAGE_NAMESPACE") or "default",
            "name": f"{name}.{kind}",
            "facets": _facets(jobType=job_type),
        },
        "inputs": list(inputs),
        "outputs": list(outputs),
        "producer": _producer(),
        "schemaURL": f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
    }


def input_dataset(run: RunConfig, model: StoredModel | None = None) -> Json:
    """Return the input of a run as a dataset; with what a model says that was fitted to it."""
    dataset = _dataset(_input_place(run.input.path))
    if model is not None:
        manifest = model.manifest
        rows = manifest.rows + manifest.rows_dropped + manifest.rows_outside
        dataset["facets"] = _facets(schema={"fields": [{"name": name} for name in model.columns]})
        dataset["inputFacets"] = _facets(
            inputStatistics={"rowCount": rows, "fileCount": manifest.files}
        )
    return dataset


def model_dataset(run: RunConfig, version: int) -> Json:
    """Return a version of the model that a run file names as a dataset."""
    return _version_dataset(registry_of(run).directory, version)


def _version_dataset(directory: Place, version: int) -> Json:
    dataset = _dataset(directory)
    return {**dataset, "facets": _facets(version={"datasetVersion": str(version)})}


def predictions_dataset(run: RunConfig, run_id: str, rows: int | None = None) -> Json:
    """Return the predictions that a run published as a dataset, with the number of all rows."""
    assert run.output.predictions is not None
    dataset = _dataset(place_of(run.output.predictions))
    dataset["facets"] = _facets(version={"datasetVersion": run_id})
    if rows is not None:
        dataset["outputFacets"] = _facets(outputStatistics={"rowCount": rows})
    return dataset


def predictions_event(run: RunConfig, kind: str, run_id: str, model: StoredModel) -> Json:
    """Return the event that is kept in the record of predictions by a version of the model."""
    assert model.version is not None
    inputs = [input_dataset(run), model_dataset(run, model.version)]
    return run_event("RUNNING", run, kind, run_id, inputs, [predictions_dataset(run, run_id)])


def describe_version(
    run: RunConfig,
    kind: str,
    aggregates: Aggregates | None,
    nights: tuple[DriftRecord, ...] = (),
) -> Callable[[StoredModel], dict[str, bytes]]:
    """Return the function that makes lineage and report of a model when it is stored.

    ``nights`` is the history of drift that the report draws.
    """
    describe_report = describe_by_report(run.output.name, aggregates, nights)

    def describe(model: StoredModel) -> dict[str, bytes]:
        files = describe_report(model)
        if model.run is None or model.version is None:  # a candidate that was overtaken
            return files
        inputs, outputs = [input_dataset(run, model)], [model_dataset(run, model.version)]
        # Not complete: predictions may follow.
        event = run_event("RUNNING", run, kind, model.run.run_id, inputs, outputs)
        return {**files, LINEAGE: json.dumps(event, indent=2).encode() + b"\n"}

    return describe


def describe_labelled(
    directory: Place, path: str, aggregates: Aggregates | None
) -> Callable[[StoredModel], dict[str, bytes]]:
    """Return the function that makes lineage and report of a version that was labelled.

    Parameters
    ----------
    directory
        Of the model, ``models/NAME``.
    path
        Address of the labelled rows.
    """
    describe_report = describe_by_report(directory.name, aggregates)

    def describe(model: StoredModel) -> dict[str, bytes]:
        files = describe_report(model)
        if model.run is None or model.version is None or model.run.based_on is None:
            return files
        before = _version_dataset(directory, model.run.based_on)
        inputs = [_dataset(_input_place(path)), before]
        outputs = [_version_dataset(directory, model.version)]
        event = _event("COMPLETE", directory.name, "label", model.run.run_id, inputs, outputs)
        return {**files, LINEAGE: json.dumps(event, indent=2).encode() + b"\n"}

    return describe


def _facets(**contents: Json) -> Json:
    """Return facets by name, each with the version of its schema."""
    return {
        name: {
            "_producer": _producer(),
            "_schemaURL": f"{_SPEC}/facets/{_FACETS[name]}.json#/$defs/"
            f"{_FACETS[name].partition('/')[2]}",
            **content,
        }
        for name, content in contents.items()
    }


def _producer() -> str:
    return f"https://github.com/gmm-dask/gmm-dask/tree/v{version_of('gmm-dask')}"


def _dataset(place: Place) -> Json:
    if isinstance(place, ObjectAddress):
        return {"namespace": place.bucket, "name": place.key or "/"}
    # As it is written: the link to the current predictions is their name, not where it leads.
    return {"namespace": "file", "name": os.path.normpath(place.absolute())}


def _input_place(address: str) -> Place:
    """Return the place of an input, without its options; a glob stays one."""
    try:
        return place_of(without_credentials(address) if "://" in address else address)
    except ConfigError:  # another scheme, which the plan refuses by itself
        return local_path(f"./{address}")


def _as_uuid(run_id: str) -> str:
    try:
        return str(uuid.UUID(run_id))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, run_id))
