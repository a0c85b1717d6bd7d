"""Parts of the version before that are still right: found, and taken over by a new version."""

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
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.predictions.dataset import read_predictions
from gmm_dask.storage.predictions.parts import Part, hint_of_part, order_of, part_name
from gmm_dask.storage.predictions.verification import intact

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reusable:
    """What is used again for one input file: its parts, and what the file holds."""

    parts: tuple[Part, ...]
    content: FileContent


def reusable_parts(
    out: str | Path,
    plan: InputPlan,
    model_sha256: str,
    settings: Mapping[str, Any],
    key_columns: Sequence[str] = (),
) -> dict[str, Reusable]:
    """Parts of the current version that are still right, by input file.

    A file's parts are right if the file holds what it held (`unchanged_files`), the same model
    and settings wrote them, and all of them are there and hold what was written (`intact`).
    Reads the footers of these parts; and what has another hint than then, file or part, whole.

    Raises
    ------
    InputError
        An input file with another hint cannot be read.
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
    # The parts first: files whose parts are lost need not be read for their digests.
    known = {path: current.files[path] for path in by_file if path in current.files}
    paths = {file.path for file in plan.files}
    candidates = [part for path in known if path in paths for part in by_file[path]]
    whole = intact(current.path, candidates)
    known = {path: known[path] for path in known if all(p.name in whole for p in by_file[path])}
    return {
        path: Reusable(tuple(by_file[path]), content)
        for path, content in unchanged_files(plan, known, key_columns).items()
    }


def take_over(
    places: PredictionPlaces,
    kept: Mapping[str, Reusable],
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
    for path, reusable in kept.items():
        renamed = []
        for part in reusable.parts:
            # The new number of the file; the old one of the chunk, unique within the file.
            name = part_name(run_id, numbers[path], order_of(part.name)[1])
            stage.take(current, part.name, name)
            with storage_errors(stage.directory / name, "cannot be read"):
                hint = hint_of_part(stage.directory / name)
            renamed.append(replace(part, name=name, hint=hint))
        taken[path] = tuple(renamed)
    return taken
