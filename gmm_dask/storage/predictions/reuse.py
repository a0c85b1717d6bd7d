"""Reuse of parts: finding those of the current version that are valid, and taking them over."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gmm_dask.addresses import Place
from gmm_dask.errors import StorageError
from gmm_dask.storage.files.choice import AnyStage, AnyVersion, version_at
from gmm_dask.storage.files.contents import Version
from gmm_dask.storage.files.object_contents import ObjectVersion, StagedObjects
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.files.sealed import plain
from gmm_dask.storage.input.content import FileContent, unchanged_files
from gmm_dask.storage.input.filters.predicate import text_of
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.predictions.dataset import read_predictions
from gmm_dask.storage.predictions.parts import Part, order_of, part_name
from gmm_dask.storage.predictions.verification import first_fault, intact

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reusable:
    """The parts that are reused for an input file, and the content of that file."""

    parts: tuple[Part, ...]
    content: FileContent


def reusable_parts(
    out: str | Place,
    plan: InputPlan,
    model_sha256: str,
    settings: Mapping[str, Any],
    key_columns: Sequence[str] = (),
) -> dict[str, Reusable]:
    """Find the parts of the current version that are still valid, by input file.

    A file's parts are valid if the file has not changed (`unchanged_files`), the filter asks the
    same of its rows, the same model and settings wrote the parts, and all of them exist and hold
    what was written (`intact`). So a window over partitions that moves on keeps the parts of the
    files that stay inside. Reads
    the footers of these parts, and the whole of each file or part whose hint has changed.

    Raises
    ------
    InputError
        An input file whose hint has changed cannot be read.
    """
    try:
        current = read_predictions(out)
    except StorageError as error:
        logger.warning("no parts are reused: %s", error)
        return {}
    if current is None or current.model.get("sha256") != model_sha256:
        return {}
    if dict(current.settings) != plain(settings):
        return {}
    by_file: dict[str, list[Part]] = {}
    for part in current.parts:
        by_file.setdefault(part.input_file, []).append(part)
    # Parts first: if a file's parts are lost, its digest need not be computed.
    filters = filters_of(plan)
    paths = {
        file.path
        for file in plan.files
        if current.filters.get(file.path) == filters.get(file.path)
        and first_fault(file, by_file.get(file.path, ())) is None
    }
    known = {path: current.files[path] for path in by_file if path in current.files}
    candidates = [part for path in known if path in paths for part in by_file[path]]
    names = intact(version_at(current.path), candidates)
    known = {
        path: content
        for path, content in known.items()
        if path in paths and all(part.name in names for part in by_file[path])
    }
    return {
        path: Reusable(tuple(by_file[path]), content)
        for path, content in unchanged_files(plan, known, key_columns).items()
    }


def filters_of(plan: InputPlan) -> dict[str, str]:
    """Return what the filter asks of the rows of each file, by path; nothing where of none."""
    residuals = ((file.path, plan.residual(file)) for file in plan.files)
    return {path: text_of(residual) for path, residual in residuals if residual is not None}


def take_over(
    places: PredictionPlaces,
    kept: Mapping[str, Reusable],
    stage: AnyStage,
    run_id: str,
    plan: InputPlan,
) -> dict[str, tuple[Part, ...]]:
    """Take reusable parts of the current version into the staged one, under new names."""
    current_run = places.current_run()
    if current_run is None:
        return {}
    current = places.store.version(current_run)
    numbers = {file.path: number for number, file in enumerate(plan.files)}
    names = {
        # The file gets its new number; the chunk keeps its own, unique within the file.
        part.name: part_name(run_id, numbers[path], order_of(part.name)[1])
        for path, reusable in kept.items()
        for part in reusable.parts
    }
    _take(stage, current, names)
    return {
        path: tuple(
            replace(part, name=names[part.name], hint=stage.hint(names[part.name]))
            for part in reusable.parts
        )
        for path, reusable in kept.items()
    }


def _take(stage: AnyStage, current: AnyVersion, names: Mapping[str, str]) -> None:
    # The stage and the version before it are of one dataset, so of one kind.
    if isinstance(stage, StagedObjects):
        assert isinstance(current, ObjectVersion)
        stage.take(current, names)
    else:
        assert isinstance(current, Version)
        stage.take(current, names)
