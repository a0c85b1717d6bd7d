"""The files of a version: sealed, or being written."""

from __future__ import annotations

import errno
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gmm_dask.errors import StorageError
from gmm_dask.storage.files.atomic import (
    OutputFile,
    partial_path,
    publish_directory,
    remove_stale,
    replace_file,
    replacement,
    storage_errors,
    sync_files,
    write_new_files,
)
from gmm_dask.storage.files.sealed import (
    LARGEST_DOCUMENT,
    Document,
    read_error,
    read_sealed,
    read_whole,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer


@dataclass(frozen=True)
class Version:
    """A sealed version: files by name, which never change.

    Attributes
    ----------
    path
        Its directory, which tools that read by path may open.
    """

    path: Path

    def exists(self) -> bool:
        """Whether there is such a version."""
        with storage_errors(self.path, "cannot be read"):
            return self.path.is_dir()

    def names(self) -> tuple[str, ...]:
        """Names of its files."""
        with storage_errors(self.path, "cannot be read"):
            return tuple(sorted(entry.name for entry in self.path.iterdir()))

    def size(self, name: str, error: type[StorageError] = StorageError) -> int:
        """Bytes of a file; see `read`."""
        path = self.path / name
        try:
            return path.stat().st_size
        except OSError as problem:
            raise read_error(problem, path, error) from problem

    def read(
        self,
        name: str,
        error: type[StorageError] = StorageError,
        largest: int = LARGEST_DOCUMENT,
    ) -> bytes:
        """Content of a file.

        Raises
        ------
        StorageError
            (of the class ``error``) It is missing, cannot be read, or has more than ``largest``
            bytes, and is then not read at all.
        """
        return read_whole(self.path / name, error, largest)

    def document(self, name: str, error: type[StorageError] = StorageError) -> Document:
        """Content of a sealed JSON file; raises as `read` does, and where it is damaged."""
        return read_sealed(self.path / name, error)


class StagedVersion:
    """A version that is being written; made by `Writer.stage`, picklable for workers.

    A worker that has a copy calls `writing`; the rest is for the process that made it.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._partial = partial_path(target)
        self._sealed = False
        with storage_errors(target):
            self._partial.mkdir()

    @property
    def directory(self) -> Path:
        """Where the files are: for tools that read them by path before they are sealed.

        An object store has no such place; there a footer is read by its key.
        """
        return self._target if self._sealed else self._partial

    def put(self, contents: Mapping[str, Buffer]) -> None:
        """Write whole files; they are on the disk when this returns."""
        write_new_files(self.directory, contents)

    @contextmanager
    def writing(self, name: str) -> Iterator[OutputFile]:
        """Write a file piece by piece, in any process; `seal` waits for the disk.

        Written again, it takes the place of the first, which must have been the same.
        """
        with replacement(self.directory / name, sync=False) as file:
            yield file

    def take(self, version: Version, name: str, new_name: str) -> None:
        """Take over a file of a sealed version: a hard link, or a copy where there are none.

        Raises
        ------
        StorageError
            There is no such file in the version itself, or the disk refuses.
        """
        source, target = version.path / name, self.directory / new_name
        with storage_errors(target):
            if source.parent != version.path or not stat.S_ISREG(source.lstat().st_mode):
                raise StorageError(
                    f"{source}: is not a file of the version {version.path.name}; remove the "
                    "version, and predict again"
                )
            try:
                target.hardlink_to(source)
            except OSError as error:
                # File systems without hard links, or with too many links to one file already.
                if error.errno not in (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                with source.open("rb") as old, self.writing(new_name) as new:
                    shutil.copyfileobj(old, new)

    def written(self) -> tuple[str, ...]:
        """Names of the files that are whole; what dead workers left of others is removed."""
        remove_stale(self.directory)
        return Version(self.directory).names()

    def seal(self, names: Iterable[str] = (), record: Buffer | None = None) -> None:
        """Let the version appear, whole; nothing is written to it any more.

        May be called again after a failure: what was done is not done twice.

        Parameters
        ----------
        names
            Files that were written by `writing` or taken over, to be waited for.
        record
            What is kept beside the version (`Versions.record`).

        Raises
        ------
        StorageError
            The disk refuses, or there is a version of this name.
        """
        if not self._sealed:
            waiting = [self._partial / name for name in names]
            if waiting:  # else all was waited for by `put`, and no thread is needed
                sync_files(waiting)
            publish_directory(self._partial, self._target)
            self._sealed = True
        if record is not None:
            replace_file(record_path(self._target), record)

    def discard(self) -> None:
        """Remove what was staged, unless it was sealed."""
        shutil.rmtree(self._partial, ignore_errors=True)


def record_path(version: Path) -> Path:
    """Where the record beside a version lies."""
    return version.with_name(f"{version.name}.json")
