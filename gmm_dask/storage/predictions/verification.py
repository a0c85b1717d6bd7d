"""Checks that a prediction dataset is whole, by the footers and digests of its parts."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from gmm_dask.errors import StorageError
from gmm_dask.storage.files.contents import StagedVersion
from gmm_dask.storage.input.input_file import InputFile
from gmm_dask.storage.input.location import READ_ERRORS
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.predictions.part_files import hint_of_part
from gmm_dask.storage.predictions.parts import Part

_FOOTER_THREADS = 8


def check_coverage(
    plan: InputPlan, parts: Iterable[Part], out: Path, taken: Container[str] = ()
) -> None:
    """Check that the parts of each input file describe the rows that are read once, without a gap.

    Parameters
    ----------
    taken
        Files whose parts are taken over from the version before. These need not be in the plan,
        and may describe rows that the plan does not read.

    Raises
    ------
    StorageError
        They do not; the message names the input file and the row.
    """
    by_file: dict[str, list[Part]] = {file.path: [] for file in plan.files}
    for part in parts:
        if part.input_file not in by_file and part.input_file not in taken:
            raise StorageError(
                f"{out}: {part.name} describes {part.input_file}, which is not an input file"
            )
        by_file.setdefault(part.input_file, []).append(part)
    for file in plan.files:
        fault = first_fault(file, by_file[file.path], exactly=file.path not in taken)
        if fault is not None:
            raise StorageError(
                f"{out}: predictions of {file.path} do not hold its {file.rows:,} rows once each; "
                f"the first fault is at row {fault:,}; nothing was published, predict again"
            )


def first_fault(file: InputFile, parts: Iterable[Part], exactly: bool = True) -> int | None:
    """Return the first row of an input file that parts describe wrongly; None if all is right.

    The parts must describe each row of the row groups that are read once.

    Parameters
    ----------
    exactly
        Whether they must describe no other row.
    """
    runs = _runs_read(file)
    end = sum(file.row_groups)
    row = 0  # the first that is not described yet
    for part in sorted(parts, key=lambda part: part.first):
        missing = _first_between(runs, row, part.first)
        if missing is not None:
            return missing
        if part.first < row or part.stop > end or (exactly and not _is_read(runs, part)):
            return row
        row = part.stop
    return _first_between(runs, row, end)


def _first_between(runs: Sequence[tuple[int, int]], start: int, stop: int) -> int | None:
    """Return the first row of ``start`` … ``stop`` − 1 that is read; None if there is none."""
    rows = (max(first, start) for first, last in runs if first < stop and last > start)
    return next(rows, None) if start < stop else None


def _is_read(runs: Sequence[tuple[int, int]], part: Part) -> bool:
    return any(first <= part.first and part.stop <= stop for first, stop in runs)


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


def check_parts(stage: StagedVersion, parts: Sequence[Part]) -> None:
    """Check that a stage holds exactly these parts, all readable and with the same schema.

    Files that dead workers left unfinished are removed.

    Raises
    ------
    StorageError
        It does not; the message names the part.
    """
    directory = stage.directory
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        schemas = list(pool.map(lambda part: _schema(directory, part), parts))
    for part, schema in zip(parts, schemas, strict=True):
        if isinstance(schema, str):
            raise StorageError(f"{directory / part.name}: {schema}; predict again")
        assert isinstance(schemas[0], pa.Schema)
        if not schema.equals(schemas[0]):
            raise StorageError(
                f"{directory / part.name}: its columns differ from those of {parts[0].name}; "
                "does a key column change its type between input files?"
            )
    strangers = sorted(set(stage.written()) - {part.name for part in parts})
    if strangers:
        raise StorageError(
            f"{directory / strangers[0]}: is not a part of this run; remove it, predict again"
        )


def intact(directory: Path, parts: Sequence[Part]) -> dict[str, tuple[str, ...]]:
    """Return the parts that exist and hold what was written: the columns of each, by name.

    Reads the footer of each part, and all bytes of parts whose hints differ.
    """
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        checks = pool.map(lambda part: _columns_if_intact(directory, part), parts)
        return {
            part.name: columns
            for part, columns in zip(parts, checks, strict=True)
            if columns is not None
        }


def _columns_if_intact(directory: Path, part: Part) -> tuple[str, ...] | None:
    if part.digest is None or isinstance(schema := _schema(directory, part), str):
        return None
    path = directory / part.name
    columns = tuple(schema.names)
    try:
        if part.hint is not None and part.hint == hint_of_part(path):
            return columns
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
    except OSError:  # gone or unreadable: the part is written again
        return None
    return columns if digest == part.digest else None


def _schema(directory: Path, part: Part) -> pa.Schema | str:
    """Return the schema in a part's footer, or a phrase that says what is wrong with it."""
    path = directory / part.name
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block, a link lead elsewhere
            return "is not a regular file"
        size = status.st_size
        with pq.ParquetFile(path) as file:
            rows, schema = file.metadata.num_rows, file.schema_arrow
    except FileNotFoundError:
        return "is missing"
    except READ_ERRORS as error:
        return f"cannot be read ({error})"
    if (size, rows) != (part.size, part.rows):
        return f"has {size:,} bytes and {rows:,} rows, not {part.size:,} and {part.rows:,}"
    return schema
