"""Checks that a prediction dataset is whole, by the footers and digests of its parts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from gmm_dask.addresses import Place
from gmm_dask.errors import StorageError
from gmm_dask.storage.files.choice import AnyStage, AnyVersion
from gmm_dask.storage.input.location import READ_ERRORS
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.input.schemas import InputFile
from gmm_dask.storage.predictions.parts import Part

_FOOTER_THREADS = 8


def check_coverage(plan: InputPlan, parts: Iterable[Part], out: Place) -> None:
    """Check that the parts of each input file describe the rows that are read once, without a gap.

    Raises
    ------
    StorageError
        They do not; the message names the input file and the row.
    """
    by_file: dict[str, list[Part]] = {file.path: [] for file in plan.files}
    for part in parts:
        if part.input_file not in by_file:
            raise StorageError(
                f"{out}: {part.name} describes {part.input_file}, which is not an input file"
            )
        by_file[part.input_file].append(part)
    for file in plan.files:
        fault = first_fault(file, by_file[file.path])
        if fault is not None:
            raise StorageError(
                f"{out}: predictions of {file.path} do not hold its {file.rows:,} rows once each; "
                f"the first fault is at row {fault:,}; nothing was published, predict again"
            )


def first_fault(file: InputFile, parts: Iterable[Part]) -> int | None:
    """Return the first row of an input file that parts describe wrongly; None if all is right.

    The parts must describe each row of the row groups that are read once, and no other.
    """
    runs = _runs_read(file)
    row = runs[0][0] if runs else 0
    for part in sorted(parts, key=lambda part: part.first):
        stops = [stop for first, stop in runs if first <= row < stop]
        if part.first != row or not stops or part.stop > stops[0]:
            return row
        row = part.stop
        if row == stops[0]:  # go on at the next run, if there is one
            row = next((first for first, _ in runs if first > row), row)
    return row if any(first <= row < stop for first, stop in runs) else None


def _runs_read(file: InputFile) -> list[tuple[int, int]]:
    """Return the runs of rows that are read of a file: first, and last + 1."""
    firsts = [0, *accumulate(file.row_groups)]
    runs: list[tuple[int, int]] = []
    for index, _ in file.groups:
        first, stop = firsts[index], firsts[index + 1]
        if runs and runs[-1][1] == first:
            first = runs.pop()[0]
        runs.append((first, stop))
    return runs


def check_parts(stage: AnyStage, parts: Sequence[Part]) -> None:
    """Check that a stage holds exactly these parts, all readable and with the same schema.

    Files that dead workers left unfinished are removed.

    Raises
    ------
    StorageError
        It does not; the message names the part.
    """
    directory, written = stage.directory, stage.written()
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        schemas = list(pool.map(lambda part: _schema(stage, part), parts))
    for part, schema in zip(parts, schemas, strict=True):
        if isinstance(schema, str):
            raise StorageError(f"{directory / part.name}: {schema}; predict again")
        assert isinstance(schemas[0], pa.Schema)
        if not schema.equals(schemas[0]):
            raise StorageError(
                f"{directory / part.name}: its columns differ from those of {parts[0].name}; "
                "does a key column change its type between input files?"
            )
    strangers = sorted(written.keys() - {part.name for part in parts})
    if strangers:
        raise StorageError(
            f"{directory / strangers[0]}: is not a part of this run; remove it, predict again"
        )


def intact(version: AnyVersion, parts: Sequence[Part]) -> set[str]:
    """Return the names of the parts that exist and hold what was written.

    Reads the footer of each part, and all bytes of parts whose hints differ. Where the storage
    itself proves what a part holds, and it is what was written, nothing is read.
    """
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        checks = pool.map(lambda part: _is_intact(version, part), parts)
        return {part.name for part, is_intact in zip(parts, checks, strict=True) if is_intact}


def _is_intact(version: AnyVersion, part: Part) -> bool:
    if part.digest is None:
        return False
    try:
        same = part.hint is not None and part.hint == version.hint(part.name)
        if same and version.hints_are_proof:
            return True
        if isinstance(_schema(version, part), str):
            return False
        if same:
            return True
        with version.opened(part.name) as file:
            return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest() == part.digest
    except OSError:  # gone or unreadable: the part is written again
        return False


def _schema(files: AnyStage | AnyVersion, part: Part) -> pa.Schema | str:
    """Return the schema in a part's footer, or a phrase that says what is wrong with it."""
    try:
        with files.opened(part.name) as source:
            size = source.seek(0, os.SEEK_END)
            with pq.ParquetFile(source) as file:
                rows, schema = file.metadata.num_rows, file.schema_arrow
    except FileNotFoundError:
        return "is missing"
    except READ_ERRORS as error:
        return f"cannot be read ({error})"
    if (size, rows) != (part.size, part.rows):
        return f"has {size:,} bytes and {rows:,} rows, not {part.size:,} and {part.rows:,}"
    return schema
