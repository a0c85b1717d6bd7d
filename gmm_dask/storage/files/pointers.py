"""The pointer to a version: a file or a link, replaced in one step."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gmm_dask.errors import StorageError
from gmm_dask.storage.files.atomic import replace_file, replace_link, storage_errors
from gmm_dask.storage.files.sealed import LARGEST_DOCUMENT, read_whole
from gmm_dask.storage.files.stores import Tag

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Names that a version may have; a name that begins with a dot is not a version.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Pointer:
    """The content of a pointer as it was read; `Writer.point` expects to find it unchanged.

    Attributes
    ----------
    content
        What it says.
    tag
        Of the object that it was read from, on a store.
    """

    content: bytes
    tag: Tag | None = None


@dataclass(frozen=True)
class FilePointer:
    """A pointer that is a file, of at most ``largest`` bytes."""

    path: Path
    largest: int = LARGEST_DOCUMENT

    def read(self) -> bytes | None:
        """Return the content of the file; None if it does not exist."""
        try:
            return read_whole(self.path, largest=self.largest)
        except StorageError as error:
            if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
                return None
            raise

    def replace(self, content: Buffer) -> None:
        """Replace the file by ``content``, in one step."""
        replace_file(self.path, content)


@dataclass(frozen=True)
class LinkPointer:
    """A pointer that is a link to a version, so that the link's path opens that version.

    Attributes
    ----------
    path
        The link.
    directory
        The directory of the versions, beside the link.
    """

    path: Path
    directory: Path

    def read(self) -> bytes | None:
        """Return the name of the version; None if the link does not exist.

        Raises
        ------
        StorageError
            A file, a directory or a foreign link is in its place.
        """
        with storage_errors(self.path, "cannot be read"):
            if self.path.is_symlink():
                target = str(self.path.readlink())
            elif os.path.lexists(self.path):
                kind = "directory" if self.path.is_dir() else "file"
                raise StorageError(
                    f"{self.path}: is a {kind} that gmm-dask did not write; move it away, or "
                    "choose another output"
                )
            else:
                return None
        directory, _, name = target.partition("/")
        if directory != self.directory.name or not NAME.fullmatch(name):
            raise StorageError(
                f"{self.path}: is a link to {target}, which gmm-dask did not make; remove it, or "
                "choose another output"
            )
        return name.encode()

    def replace(self, content: Buffer) -> None:
        """Make the link lead to the version named ``content``, in one step."""
        replace_link(self.path, f"{self.directory.name}/{bytes(content).decode()}")
