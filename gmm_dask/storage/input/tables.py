"""Directories of table formats, which must not be read as plain Parquet files.

Delta Lake, Hudi and Iceberg leave files in place that are no longer part of the table, and list
the current files in a log. Read as plain files, deleted rows would count, and rewritten rows would
count twice.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import PurePosixPath

import pyarrow as pa
from pyarrow import fs

from gmm_dask.errors import InputError

#: Directories by which a table is recognized, and its format.
_MARKS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}
#: The directory in an Iceberg table that holds files with these endings.
METADATA = "metadata"
_ENDINGS = (".metadata.json", ".metadata.json.gz")


class Tables:
    """The tables noticed while an input was listed: their directories and formats."""

    def __init__(self, filesystem: fs.FileSystem) -> None:
        self._filesystem = filesystem
        self._formats: dict[str, str] = {}

    def notice(self, directory: str, name: str, is_directory: bool) -> None:
        """Note an entry of a directory that shows the directory to be a table."""
        if is_directory:
            if name in _MARKS:
                self._formats[directory] = _MARKS[name]
        elif name.endswith(_ENDINGS):
            table, _, metadata = directory.rpartition("/")
            if metadata == METADATA:
                self._formats[table] = "Iceberg"

    def look_into(self, directory: str) -> None:
        """Look at the entries of another directory, which need not exist."""
        selector = fs.FileSelector(directory, allow_not_found=True)
        for info in self._filesystem.get_file_info(selector):
            self.notice(directory, info.base_name, info.type == fs.FileType.Directory)

    def look_above(self, path: str, named: str | None = None) -> None:
        """Look at a directory and those above it, as far as permissions allow.

        Parameters
        ----------
        path
            Absolute, without links.
        named
            The link by which the input reaches ``path``, if any; then the link is refused.
        """
        for parent in (PurePosixPath(path), *PurePosixPath(path).parents):
            if str(parent) == ".":  # above a bucket
                return
            above = Tables(self._filesystem)
            # Permission to read a part of a bucket need not include the rest of it.
            with suppress(OSError, pa.ArrowException):
                marks = [str(parent / name) for name in (*_MARKS, METADATA)]
                for info in self._filesystem.get_file_info(marks):
                    if info.type == fs.FileType.Directory:
                        above.notice(str(parent), info.base_name, True)
                        if info.base_name == METADATA:
                            above.look_into(info.path)
            for table, kind in above._formats.items():
                self._formats[named or table] = kind

    def refuse(self, address: str, paths: list[str]) -> None:
        """Refuse an input if any of its files lie in a table.

        Raises
        ------
        InputError
            A file lies in a table; the message names it, and what to do instead.
        """
        for table, kind in sorted(self._formats.items()):
            if any(path.startswith(table.rstrip("/") + "/") for path in paths):
                raise InputError(
                    f"{address}: {table} is a {kind} table, which also holds files and rows that "
                    "are deleted; export its current version as Parquet, or link the files that "
                    f"{kind} lists as current, if no row of them is deleted, into a directory, "
                    "and give that"
                )
