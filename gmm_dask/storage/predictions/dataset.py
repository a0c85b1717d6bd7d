"""Prediction datasets on disk: their layout, and the record of the current version.

::

    OUT                     link to OUT.versions/RUN: what readers open, as plain Parquet
    OUT.versions/RUN/       part-RUN-FILE-ROW.parquet, and nothing else
    OUT.versions/RUN.json   the record: the input file and the origin of each part, and more
    OUT.versions/RUN.html   the report, for people
    .OUT.lock               held while a run writes, gone with its process

``row`` is the number of the row within ``input_file``, counted from 0 over all rows of the file:
(input_file, row) joins predictions to the input, one to one. A run predicts the rows inside its
filter; predictions of other rows stay as they are. ``model_version`` says for each row which
version of the model has predicted it. The names of parts contain the run
id, so a reader that is overtaken by a new version finds a file missing, never a mixture of
versions. The version before the current one is kept for readers that began with it; older ones
are removed, unless the run file says how long to keep them (`pruning`).

The record lies beside the parts, not among them, because some readers (Polars) refuse a directory
with any other file in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gmm_dask.errors import StorageError
from gmm_dask.storage.files.contents import record_path
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.input.content import Contents, FileContent
from gmm_dask.storage.predictions.parts import Part

#: The format written, and those read. Format 1 has no digests, so its parts are not used again;
#: format 2 knows no filters; formats up to 3 have one origin, and no column ``model_version``.
FORMAT, READABLE = 4, (1, 2, 3, 4)
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

#: Names of the files of a version.
PART = re.compile(r"part-[A-Za-z0-9][A-Za-z0-9._-]*-\d{5,}-\d{6,}\.parquet")


@dataclass(frozen=True)
class Origin:
    """How predictions came about: the run that made them, by which model, of which input.

    Attributes
    ----------
    run_id, created
        The run, and when it began.
    model
        ``name``, ``version`` and ``sha256`` of the model.
    snapshot
        Digest of the input plan.
    filter
        The resolved filter; None: all rows of the input were predicted.
    settings
        Choices, besides the model, that determine the content of a part.
    cluster
        ``predict.cluster`` as it was asked for; None in a record of an older format.
    """

    run_id: str
    created: str
    model: Mapping[str, Any]
    snapshot: str
    filter: str | None
    settings: Mapping[str, Any]
    cluster: bool | int | None = None


@dataclass(frozen=True)
class Predictions:
    """A published version of a prediction dataset, as described by its record.

    Attributes
    ----------
    path
        ``OUT.versions/RUN``.
    run_id, created, host
        Id, time and host of the run that wrote it.
    model, snapshot, settings, filter
        Of that run, as in an `Origin`. Parts that it did not write may have others.
    files
        Content of each input file that is predicted now or has kept predictions, by path.
    parts
        The parts, in the order of the input.
    reused
        Number of parts taken over from the version before.
    summary
        Values that the run asked to keep, such as counts and drift.
    filters
        What the filter asked of the rows of a file when the file was last predicted, by path; no
        entry where it asked nothing of them.
    origins
        The origins of the parts; `Part.origins` counts in these.
    """

    path: Path
    run_id: str
    created: str
    host: str
    model: Mapping[str, Any]
    snapshot: str
    settings: Mapping[str, Any]
    files: Contents
    parts: tuple[Part, ...]
    reused: int
    summary: Mapping[str, Any]
    filter: str | None = None
    filters: Mapping[str, str] = field(default_factory=dict)
    origins: tuple[Origin, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows for part in self.parts)


def read_predictions(out: str | Path) -> Predictions | None:
    """Read the record of the version that ``OUT`` links to; None if no version exists.

    Raises
    ------
    StorageError
        The record is missing or damaged, or gmm-dask did not make ``OUT``; the message names it.
    """
    places = PredictionPlaces.of(out)
    run_id = places.current_run()
    if run_id is None:
        return None
    path = places.store.version(run_id).path
    record = places.store.record(run_id)
    try:
        if record.pop("format") not in READABLE:
            raise ValueError("unknown format; upgrade gmm-dask")
        files = {name: FileContent(*content) for name, content in record.pop("files").items()}
        parts = tuple(map(_decode_part, record.pop("parts")))
        origins = tuple(Origin(**origin) for origin in record.pop("origins", [_origin(record)]))
        for origin in origins:
            _check_origin(origin)
        for part in parts:
            _check_part(part, len(origins))
        return Predictions(path=path, files=files, parts=parts, origins=origins, **record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{record_path(path)}: is not the record of predictions ({error}); "
            "remove the link and predict again"
        ) from error


def _origin(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the one origin that all parts of an older record have."""
    names = ("run_id", "created", "model", "snapshot", "settings")
    return {name: record[name] for name in names} | {"filter": record.get("filter")}


def _decode_part(values: list[Any]) -> Part:
    part = Part(*values)
    return replace(part, origins=tuple(part.origins))


def _check_origin(origin: Origin) -> None:
    """Refuse an origin that does not say what decides whether its parts are taken over."""
    missing = {"name", "version", "sha256"} - origin.model.keys()
    if missing or "key_columns" not in origin.settings:
        raise ValueError(f"run {origin.run_id} does not say its model or its key columns")


def _check_part(part: Part, origins: int) -> None:
    """Refuse an invalid part, because the next version will link to the file of its name."""
    if not PART.fullmatch(part.name):
        raise ValueError(f"{part.name!r} is not the name of a part")
    numbers = (part.first, part.rows, part.size, part.outside)
    if not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"first, rows, size and outside of {part.name} are not whole numbers")
    if not part.origins or not all(origin in range(origins) for origin in part.origins):
        raise ValueError(f"{part.name} has an origin that is not in the record")
