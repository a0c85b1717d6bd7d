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

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: What a version may be called; names that begin with a dot are not versions.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Pointer:
    """The pointer as it was read; given back to `Writer.point` as what is expected there.

    An object store would keep the etag in it too.
    """

    content: bytes


@dataclass(frozen=True)
class FilePointer:
    """A pointer that is a file, of at most ``largest`` bytes."""

    path: Path
    largest: int = LARGEST_DOCUMENT

    def read(self) -> bytes | None:
        """Content of the file; None if there is none."""
        try:
            return read_whole(self.path, largest=self.largest)
        except StorageError as error:
            if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
                return None
            raise

    def replace(self, content: Buffer) -> None:
        """Put ``content`` in its place, in one step."""
        replace_file(self.path, content)


@dataclass(frozen=True)
class LinkPointer:
    """A pointer that is a link to a version: what it points to opens by the link's own path.

    Attributes
    ----------
    path
        The link.
    directory
        The versions, beside the link.
    """

    path: Path
    directory: Path

    def read(self) -> bytes | None:
        """Name of the version; None if there is no link.

        Raises
        ------
        StorageError
            A file, a directory or another link is in its place.
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
        """Let the link lead to the version named ``content``, in one step."""
        replace_link(self.path, f"{self.directory.name}/{bytes(content).decode()}")
