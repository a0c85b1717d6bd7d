"""Which of the files at a path are read: those at rest, without those that cannot be used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pyarrow import fs

from gmm_dask.config import InputSection
from gmm_dask.config.section import seconds_of
from gmm_dask.errors import InputError, TooFewRowsError
from gmm_dask.storage.input.bad_files import BadFile, left_out
from gmm_dask.storage.input.input_file import FileSchema, read_schemas
from gmm_dask.storage.input.location import READ_ERRORS, open_filesystem, reason
from gmm_dask.storage.input.partitions import partition_types
from gmm_dask.storage.input.schemas import Schemas

_THREADS = 16
_PER_TURN = 64


@dataclass(frozen=True)
class UsableFiles:
    """The files that are read, and those that are left out.

    Attributes
    ----------
    file_schemas, schemas
        The files that are read, and their schemas compared.
    skipped
        Files that cannot be used.
    unsettled
        Files that were written less than ``settled_for`` ago.
    """

    file_schemas: Sequence[FileSchema]
    schemas: Schemas
    skipped: tuple[BadFile, ...]
    unsettled: tuple[str, ...]


def usable_files(
    section: InputSection,
    root: str,
    paths: Sequence[str],
    filtered: Sequence[str],
    keys: Sequence[str],
    known: Sequence[BadFile],
    labels: str | None = None,
) -> UsableFiles:
    """Read the footers of the files at rest, and leave out those that cannot be used.

    Parameters
    ----------
    paths
        Relative to ``root``.
    filtered
        Columns that the filter names.
    keys
        Key columns of predictions.
    known
        Files in which an earlier scan of this run found what cannot be decoded.
    labels
        The column of labels, if any.

    Raises
    ------
    InputError
        More files cannot be used than may be skipped (`left_out`), or a disk does not answer.
    SchemaError
        No file can be used for one of the columns.
    TooFewRowsError
        No file is at rest.
    """
    settled, unsettled = _settled(section, root, paths)
    known_paths = {file.path for file in known}
    read = read_schemas(root, [path for path in settled if path not in known_paths], filtered)
    file_schemas = [file for file in read if isinstance(file, FileSchema)]
    bad = [file for file in known if file.path in settled]
    bad += [file for file in read if isinstance(file, BadFile)]
    schemas = _compared(file_schemas)
    if file_schemas:
        wanted = [*section.columns, *([section.sample_weight] if section.sample_weight else [])]
        dated = None if section.weight_halflife is None else section.weight_halflife.column
        conversions = {name: section.convert.get(name) for name in wanted}
        bad += schemas.unfit(conversions, filtered, keys, dated, labels)
    skipped = left_out(section, sorted(bad, key=lambda file: file.path), len(settled))
    if skipped:
        left = {file.path for file in skipped}
        file_schemas = [each for each in file_schemas if each.file.path not in left]
        schemas = _compared(file_schemas)
    without_causes = tuple(replace(file, cause=None) for file in skipped)
    return UsableFiles(file_schemas, schemas, without_causes, unsettled)


def _compared(file_schemas: Sequence[FileSchema]) -> Schemas:
    return Schemas(file_schemas, partition_types(each.file.path for each in file_schemas))


def _settled(
    section: InputSection, root: str, paths: Sequence[str]
) -> tuple[Sequence[str], tuple[str, ...]]:
    """Tell the files at rest from those that were written a moment ago.

    A time in the future, of a clock that is ahead, counts as a moment ago.
    """
    if section.settled_for is None:
        return paths, ()
    since = time.time() - seconds_of(section.settled_for)
    times = _modified(root, paths)
    settled = [path for path, modified in zip(paths, times, strict=True) if modified <= since]
    if not settled:
        raise TooFewRowsError(
            f"{section.path}: no file is at rest: all {len(paths):,} were written less than "
            f"input.settled_for = {section.settled_for} ago; start later, or shorten it"
        )
    return settled, tuple(sorted({*paths} - {*settled}))


def _modified(root: str, paths: Sequence[str]) -> list[float]:
    """Return when each file was written last, in seconds since 1970.

    A file that is not there was written long ago: reading its footer will say what is wrong.
    """
    filesystem, base = open_filesystem(root)

    def of_turn(start: int) -> list[float]:
        turn = paths[start : start + _PER_TURN]
        if isinstance(filesystem, fs.LocalFileSystem):
            return [_modified_locally(Path(base, path)) for path in turn]
        infos = filesystem.get_file_info([f"{base.rstrip('/')}/{path}" for path in turn])
        return [(info.mtime_ns or 0) / 1e9 for info in infos]

    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            turns = pool.map(of_turn, range(0, len(paths), _PER_TURN))
            return [modified for turn in turns for modified in turn]
    except READ_ERRORS as error:
        raise InputError(
            f"{root}: the times of its files cannot be read ({reason(error)})"
        ) from error


def _modified_locally(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
