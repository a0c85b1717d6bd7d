"""Prediction datasets on disk: their layout, and the record of the current version.

::

    OUT                     link to OUT.versions/RUN: what readers open, as plain Parquet
    OUT.versions/RUN/       part-RUN-FILE-CHUNK.parquet, and nothing else
    OUT.versions/RUN.json   the record: the input file of each part, the model, and more
    OUT.versions/RUN.html   the report, for people
    .OUT.lock               held while a run writes, gone with its process

``row`` is the number of the row within ``input_file``, counted from 0 over all rows of the file:
(input_file, row) joins predictions to the input, one to one. Rows outside the filter have no
prediction; the others keep their numbers. The names of parts contain the run
id, so a reader that is overtaken by a new version finds a file missing, never a mixture of
versions. The version before the current one is kept for readers that began with it; older ones
are removed.

The record lies beside the parts, not among them, because some readers (Polars) refuse a directory
with any other file in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gmm_dask.addresses import Place
from gmm_dask.errors import StorageError
from gmm_dask.storage.files.contents import record_path
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.input.content import Contents, FileContent
from gmm_dask.storage.predictions.parts import Part

#: The format written, and those read. Format 1 has no digests, so its parts are not reused;
#: format 2 knows no filters.
FORMAT, READABLE = 3, (1, 2, 3)
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

#: Names of the files of a version.
PART = re.compile(r"part-[A-Za-z0-9][A-Za-z0-9._-]*-\d{5,}-\d{6,}\.parquet")


@dataclass(frozen=True)
class Predictions:
    """A published version of a prediction dataset, as described by its record.

    Attributes
    ----------
    path
        ``OUT.versions/RUN``.
    run_id, created, host
        Id, time and host of the run that wrote it.
    model
        ``name``, ``version`` and ``sha256`` of the model.
    snapshot
        Digest of the input plan.
    settings
        Choices, besides the model, that determine the content of the parts.
    files
        Content of each input file, by path.
    parts
        The parts, in the order of the input.
    reused
        Number of parts taken over from the version before.
    summary
        Values that the run asked to keep, such as counts and drift.
    filter
        The resolved filter; None: all rows of the input are predicted.
    filters
        What it asks of the rows of each file that it does not take whole, by path.
    """

    path: Place
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

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows for part in self.parts)


def read_predictions(out: str | Place) -> Predictions | None:
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
        parts = tuple(Part(*values) for values in record.pop("parts"))
        for part in parts:
            _check_part(part)
        return Predictions(path=path, files=files, parts=parts, **record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{record_path(path)}: is not the record of predictions ({error}); "
            "remove the link and predict again"
        ) from error


def _check_part(part: Part) -> None:
    """Refuse an invalid part, because the next version will link to the file of its name."""
    if not PART.fullmatch(part.name):
        raise ValueError(f"{part.name!r} is not the name of a part")
    numbers = (part.first, part.rows, part.size, part.outside)
    if not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"first, rows, size and outside of {part.name} are not whole numbers")
