"""The files of an input as their footers describe them: sizes, rows, types, statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from gmm_dask.errors import BadFileError, InputError
from gmm_dask.storage.input.bad_files import BadFile, is_unanswered
from gmm_dask.storage.input.filters.outcomes import Domain
from gmm_dask.storage.input.filters.statistics import row_group_domains
from gmm_dask.storage.input.footer import read_footer
from gmm_dask.storage.input.hints import hint_of
from gmm_dask.storage.input.location import READ_ERRORS, open_file, partitions_of, reason

_FOOTER_THREADS = 16
_FOOTERS_PER_TURN = 16  # handing out one at a time costs more than reading a local footer


@dataclass(frozen=True)
class InputFile:
    """One file of an input.

    Attributes
    ----------
    path
        Path relative to the plan's root, with ``/``.
    size
        Bytes.
    row_groups
        Rows of each row group.
    footer
        Digest of the footer.
    hint
        What the file system said of the file when the plan was made
        (`gmm_dask.storage.input.hints`). It does not belong to the snapshot, and is None in a
        plan that was stored or sent.
    left
        Numbers of the row groups in which a row may be inside the filter; None: of all.
    inside
        Whether all rows of these row groups are known to be inside the filter.
    """

    path: str
    size: int
    row_groups: tuple[int, ...]
    footer: str
    hint: str | None = field(default=None, compare=False, repr=False)
    left: tuple[int, ...] | None = None
    inside: bool = False

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """Number and rows of each row group that is read: with rows, and left by the filter."""
        left = range(len(self.row_groups)) if self.left is None else self.left
        return tuple((index, self.row_groups[index]) for index in left if self.row_groups[index])

    @property
    def rows(self) -> int:
        """Rows of the row groups that are read."""
        return sum(rows for _, rows in self.groups)

    @property
    def partitions(self) -> dict[str, str | None]:
        """Keys and values of the Hive partitions that the file lies in."""
        return partitions_of(self.path)


@dataclass(frozen=True)
class FileSchema:
    """A file of the input, from its footer.

    Attributes
    ----------
    file, schema
        The file, and the types of its columns.
    domains
        What its statistics say of the columns of a filter, for each row group; empty without one.
    """

    file: InputFile
    schema: pa.Schema
    domains: tuple[Mapping[str, Domain], ...] = ()


def read_schemas(
    root: str, paths: Sequence[str], filtered: Sequence[str] = ()
) -> list[FileSchema | BadFile]:
    """Read all footers, many at a time: most of the time is spent waiting for a remote disk.

    Parameters
    ----------
    filtered
        Columns whose statistics are wanted.

    Raises
    ------
    InputError
        The disk or the network does not answer.
    """

    def read_turn(start: int) -> list[FileSchema | BadFile]:
        turn = paths[start : start + _FOOTERS_PER_TURN]
        return [_read_schema(root, path, filtered) for path in turn]

    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        turns = pool.map(read_turn, range(0, len(paths), _FOOTERS_PER_TURN))
        return [file for turn in turns for file in turn]


def _read_schema(root: str, path: str, filtered: Sequence[str]) -> FileSchema | BadFile:
    try:
        with open_file(root, path) as source:
            hint = hint_of(root, path, source)
            footer = read_footer(source, path)
        metadata = footer.parse(path)
        schema = footer.schema(metadata)
        # A partition key counts, even where the file stores a column of its name.
        names = [name for name in filtered if name not in partitions_of(path)]
        domains = row_group_domains(footer.raw, metadata, schema, names) if names else ()
    except BadFileError as error:
        return BadFile.of(error)
    except READ_ERRORS as error:
        why = f"cannot be read ({reason(error)}); check that it exists and may be read"
        if is_unanswered(error):
            raise InputError(f"{path}: {why}") from error
        bad = BadFileError(path, why)
        bad.__cause__ = error
        return BadFile.of(bad)
    groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    file = InputFile(path, footer.size, groups, footer.digest, hint)
    return FileSchema(file, schema, tuple(domains))
