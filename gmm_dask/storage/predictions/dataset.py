"""Prediction datasets on disk: what lies where, and which version is the current one.

::

    OUT                     link to OUT.versions/RUN: what readers open, as plain Parquet
    OUT.versions/RUN/       part-RUN-FILE-CHUNK.parquet, and nothing else
    OUT.versions/RUN.json   which part speaks of which input file, by which model
    .OUT.lock               while a run writes; gone with its process

``row`` is the number of the row within ``input_file``, counted from 0 with every row of the file:
(input_file, row) joins predictions with the input, one to one. Names of parts hold the run id, so
a reader that is overtaken by a new version finds that a file is gone, never a mixture. The version
before the current one is kept, for readers that began with it; older ones are removed.

The record lies beside the parts, not among them, because some readers (Polars) refuse a directory
with any other file in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmm_dask.errors import StorageError
from gmm_dask.storage.files.atomic import remove_directory, storage_errors
from gmm_dask.storage.files.sealed import read_sealed
from gmm_dask.storage.input.overlap import place_of
from gmm_dask.storage.predictions.parts import Part

FORMAT = 1
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_PART = re.compile(r"part-.*\.parquet")


@dataclass(frozen=True)
class Predictions:
    """A published version of a prediction dataset, as its record tells.

    Attributes
    ----------
    path
        ``OUT.versions/RUN``.
    run_id, created, host
        Of the run that wrote it.
    model
        ``name``, ``version`` and ``sha256`` of the model.
    snapshot
        Digest of the input plan.
    settings
        Choices, besides the model, that decide what the parts hold.
    files
        Size and footer digest of each input file, by its path.
    parts
        In the order of the input.
    reused
        How many of the parts were taken over from the version before.
    summary
        What the run wanted to be kept: counts, drift.
    """

    path: Path
    run_id: str
    created: str
    host: str
    model: Mapping[str, Any]
    snapshot: str
    settings: Mapping[str, Any]
    files: Mapping[str, tuple[int, str]]
    parts: tuple[Part, ...]
    reused: int
    summary: Mapping[str, Any]

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows for part in self.parts)


def check_output(out: str | Path) -> None:
    """Refuse to replace what gmm-dask did not make.

    Raises
    ------
    StorageError
        ``out`` is a file, a directory, or a link to somewhere else.
    """
    out = Path(out)
    if not os.path.lexists(out):
        return
    if not out.is_symlink():
        kind = "directory" if out.is_dir() else "file"
        raise StorageError(
            f"{out}: is a {kind} that gmm-dask did not write; move it away, or choose another "
            "output"
        )
    if linked_run(out) is None:
        raise StorageError(
            f"{out}: is a link to {out.readlink()}, which gmm-dask did not make; remove it, or "
            "choose another output"
        )


def read_predictions(out: str | Path) -> Predictions | None:
    """Read the record of the version that ``OUT`` means; None if there is none.

    Raises
    ------
    StorageError
        The record is missing or damaged; names it.
    """
    out = place_of(out)
    run_id = linked_run(out)
    if run_id is None:
        return None
    path = versions_path(out) / run_id
    record = read_sealed(record_path(path))
    try:
        if record.pop("format") != FORMAT:
            raise ValueError("another format; upgrade gmm-dask")
        files = {name: (size, footer) for name, (size, footer) in record.pop("files").items()}
        parts = tuple(Part(*values) for values in record.pop("parts"))
        return Predictions(path=path, files=files, parts=parts, **record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{record_path(path)}: is not the record of predictions ({error}); "
            "remove the link and predict again"
        ) from error


def versions_path(out: Path) -> Path:
    """Directory of the versions of a dataset."""
    return out.with_name(f"{out.name}.versions")


def record_path(version: Path) -> Path:
    """Record of a version."""
    return version.with_name(f"{version.name}.json")


def linked_run(out: Path) -> str | None:
    """Run id of the version that ``OUT`` means; None if it is no link of ours."""
    try:
        target = str(out.readlink())
    except OSError:
        return None
    directory, _, run_id = target.partition("/")
    ours = directory == versions_path(out).name and RUN_ID.fullmatch(run_id)
    return run_id if ours else None


def prune(versions: Path, keep: Container[str | None]) -> None:
    """Remove versions, each in one step; what does not look like one is left alone."""
    with storage_errors(versions, "cannot be cleaned up"):
        entries = list(versions.iterdir())
    for entry in entries:
        if entry.name in keep or not entry.is_dir():
            continue
        if all(_PART.fullmatch(part.name) for part in entry.iterdir()):
            # A version without its record is removed by the next one that comes by.
            with storage_errors(entry, "cannot be removed"):
                record_path(entry).unlink(missing_ok=True)
            remove_directory(entry)
