"""Parts of the version before that are still right: found, and taken over by a new version."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gmm_dask.errors import StorageError
from gmm_dask.storage.files.contents import StagedVersion
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.files.sealed import plain
from gmm_dask.storage.input.plan import InputFile, InputPlan
from gmm_dask.storage.predictions.dataset import read_predictions
from gmm_dask.storage.predictions.parts import Part, order_of, part_name
from gmm_dask.storage.predictions.verification import readable

logger = logging.getLogger(__name__)


def reusable_parts(
    out: str | Path, plan: InputPlan, model_sha256: str, settings: Mapping[str, Any]
) -> dict[str, tuple[Part, ...]]:
    """Parts of the current version that are still right, by input file.

    A file's parts are right if the file has the same path, size and footer, and the same model
    and settings wrote them; and if all of them are there, whole by their footers. Reads the
    footers of these parts.
    """
    try:
        current = read_predictions(out)
    except StorageError as error:
        logger.warning("no parts are used again: %s", error)
        return {}
    if current is None or current.model.get("sha256") != model_sha256:
        return {}
    if dict(current.settings) != plain(settings):
        return {}
    by_file: dict[str, list[Part]] = {}
    for part in current.parts:
        by_file.setdefault(part.input_file, []).append(part)
    unchanged = {
        file.path: tuple(by_file.get(file.path, ()))
        for file in plan.files
        if current.files.get(file.path) == _identity(file)
    }
    whole = readable(current.path, [part for parts in unchanged.values() for part in parts])
    return {
        path: parts
        for path, parts in unchanged.items()
        if parts and all(part.name in whole for part in parts)
    }


def _identity(file: InputFile) -> tuple[int, str]:
    return file.size, file.footer


def take_over(
    places: PredictionPlaces,
    kept: Mapping[str, Sequence[Part]],
    stage: StagedVersion,
    run_id: str,
    plan: InputPlan,
) -> dict[str, tuple[Part, ...]]:
    """Give parts of the current version a second name in the staged one."""
    run = places.current_run()
    if run is None:
        return {}
    current = places.store.version(run)
    numbers = {file.path: number for number, file in enumerate(plan.files)}
    taken: dict[str, tuple[Part, ...]] = {}
    for path, parts in kept.items():
        renamed = []
        for part in parts:
            # The new number of the file; the old one of the chunk, unique within the file.
            name = part_name(run_id, numbers[path], order_of(part.name)[1])
            stage.take(current, part.name, name)
            renamed.append(replace(part, name=name))
        taken[path] = tuple(renamed)
    return taken
