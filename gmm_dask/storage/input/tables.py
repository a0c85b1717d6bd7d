"""Directories of table formats, which must not be read as plain Parquet files.

Delta Lake, Hudi and Iceberg leave files in place that are no longer part of the table, and list
the current ones in a log of their own. Read as plain files, rows would count that were deleted,
and those that were rewritten would count twice.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import PurePosixPath

import pyarrow as pa
from pyarrow import fs

from gmm_dask.errors import InputError

#: Directories in a table that give it away, and what it is then.
_MARKS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}
#: The directory in an Iceberg table that holds files with these endings.
METADATA = "metadata"
_ENDINGS = (".metadata.json", ".metadata.json.gz")


class Tables:
    """Tables that were noticed while an input was listed: their directories, and their format."""

    def __init__(self, filesystem: fs.FileSystem) -> None:
        self._filesystem = filesystem
        self._formats: dict[str, str] = {}

    def notice(self, directory: str, name: str, is_directory: bool) -> None:
        """Look at one entry of a directory: it may show that the directory is a table."""
        if is_directory:
            if name in _MARKS:
                self._formats[directory] = _MARKS[name]
        elif name.endswith(_ENDINGS):
            table, _, metadata = directory.rpartition("/")
            if metadata == METADATA:
                self._formats[table] = "Iceberg"

    def look_into(self, directory: str) -> None:
        """Look at the entries of one more directory, which may not be there."""
        selector = fs.FileSelector(directory, allow_not_found=True)
        for info in self._filesystem.get_file_info(selector):
            self.notice(directory, info.base_name, info.type == fs.FileType.Directory)

    def look_above(self, path: str, named: str | None = None) -> None:
        """Look at a directory and those above it, as far as they may be looked at.

        Parameters
        ----------
        path
            Absolute, without links.
        named
            The link by which the input reaches it; then that is what is refused.
        """
        for parent in (PurePosixPath(path), *PurePosixPath(path).parents):
            if str(parent) == ".":  # above a bucket
                return
            above = Tables(self._filesystem)
            # Who may read a part of a bucket need not be allowed to look at the rest.
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
        """Refuse an input some of whose files lie in a table.

        Raises
        ------
        InputError
            Names the table and what to do instead.
        """
        for table, kind in sorted(self._formats.items()):
            if any(path.startswith(table.rstrip("/") + "/") for path in paths):
                raise InputError(
                    f"{address}: {table} is a {kind} table, which also holds files and rows that "
                    "are deleted; export its current version as Parquet, or link the files that "
                    f"{kind} lists as current, if no row of them is deleted, into a directory, "
                    "and give that"
                )
