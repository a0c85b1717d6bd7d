"""Reuse of parts: finding those of the current version that are valid, and linking to them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gmm_dask.errors import StorageError
from gmm_dask.storage.files.atomic import storage_errors
from gmm_dask.storage.files.contents import StagedVersion
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.files.sealed import plain
from gmm_dask.storage.input.content import FileContent, unchanged_files
from gmm_dask.storage.input.filters.predicate import text_of
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.predictions.dataset import read_predictions
from gmm_dask.storage.predictions.part_files import hint_of_part
from gmm_dask.storage.predictions.parts import Part, order_of, part_name
from gmm_dask.storage.predictions.verification import first_fault, intact

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reusable:
    """The parts that are reused for an input file, and the content of that file."""

    parts: tuple[Part, ...]
    content: FileContent


def reusable_parts(
    out: str | Path,
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
    names = intact(current.path, candidates)
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
    stage: StagedVersion,
    run_id: str,
    plan: InputPlan,
) -> dict[str, tuple[Part, ...]]:
    """Link to reusable parts of the current version from the staged one, under new names."""
    current_run = places.current_run()
    if current_run is None:
        return {}
    current = places.store.version(current_run)
    numbers = {file.path: number for number, file in enumerate(plan.files)}
    taken: dict[str, tuple[Part, ...]] = {}
    for path, reusable in kept.items():
        renamed = []
        for part in reusable.parts:
            # The file gets its new number; the chunk keeps its own, unique within the file.
            name = part_name(run_id, numbers[path], order_of(part.name)[1])
            stage.take(current, part.name, name)
            with storage_errors(stage.directory / name, "cannot be read"):
                hint = hint_of_part(stage.directory / name)
            renamed.append(replace(part, name=name, hint=hint))
        taken[path] = tuple(renamed)
    return taken
