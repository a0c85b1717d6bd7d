"""The files of a version that is sealed, or is being written."""

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
from gmm_dask.storage.files.locks import reading
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
        Its directory, for tools that read by path.
    """

    path: Path

    def exists(self) -> bool:
        """Whether the version exists."""
        with storage_errors(self.path, "cannot be read"):
            return self.path.is_dir()

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Keep the version from being pruned while the block runs; yields whether it exists.

        Other processes of this machine see that it is held. Whoever knows a version's name from a
        pointer holds it first, and then looks whether it exists.
        """
        with reading(self.path) as exists:
            yield exists

    def names(self) -> tuple[str, ...]:
        """Return the names of its files, sorted."""
        with storage_errors(self.path, "cannot be read"):
            return tuple(sorted(entry.name for entry in self.path.iterdir()))

    def size(self, name: str, error: type[StorageError] = StorageError) -> int:
        """Return the size of a file in bytes; raises as `read` does."""
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
        """Return the content of a file.

        Raises
        ------
        StorageError
            (of the class ``error``) The file is missing or cannot be read, or it has more than
            ``largest`` bytes; then nothing is read.
        """
        return read_whole(self.path / name, error, largest)

    def document(self, name: str, error: type[StorageError] = StorageError) -> Document:
        """Return the content of a sealed JSON file; raises as `read` does, and on damage."""
        return read_sealed(self.path / name, error)


class StagedVersion:
    """A version that is being written; made by `Writer.stage`, picklable for workers.

    A worker with a copy may call `writing`; the other methods are for the process that made it.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._partial = partial_path(target)
        self._sealed = False
        with storage_errors(target):
            self._partial.mkdir()

    @property
    def directory(self) -> Path:
        """Directory of the files, for tools that read them by path before they are sealed.

        An object store has no such directory; a footer would be read by its key.
        """
        return self._target if self._sealed else self._partial

    def put(self, contents: Mapping[str, Buffer]) -> None:
        """Write whole files by name; they are on the disk when this returns."""
        write_new_files(self.directory, contents)

    @contextmanager
    def writing(self, name: str) -> Iterator[OutputFile]:
        """Write a file piece by piece, in any process; `seal` waits for the disk.

        A file that is written again replaces the first, and must have the same content.
        """
        with replacement(self.directory / name, sync=False) as file:
            yield file

    def take(self, version: Version, name: str, new_name: str) -> None:
        """Take over a file of a sealed version by a hard link, or a copy if links are impossible.

        Raises
        ------
        StorageError
            The version itself has no such file, or the disk refuses.
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
                # The file system has no hard links, or the file has too many already.
                if error.errno not in (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                with source.open("rb") as old, self.writing(new_name) as new:
                    shutil.copyfileobj(old, new)

    def written(self) -> tuple[str, ...]:
        """Return the names of the whole files; removes what dead workers left unfinished."""
        remove_stale(self.directory)
        return Version(self.directory).names()

    def seal(self, names: Iterable[str] = (), record: Buffer | None = None) -> None:
        """Make the version appear, whole; after that nothing is written to it.

        May be called again after a failure: finished steps are not repeated.

        Parameters
        ----------
        names
            Files from `writing` or `take`, to wait for until they are on the disk.
        record
            Content of the record beside the version (`Versions.record`).

        Raises
        ------
        StorageError
            The disk refuses, or a version of this name exists.
        """
        if not self._sealed:
            waiting = [self._partial / name for name in names]
            if waiting:  # else `put` has waited for all files, and no thread is needed
                sync_files(waiting)
            publish_directory(self._partial, self._target)
            self._sealed = True
        if record is not None:
            replace_file(record_path(self._target), record)

    def discard(self) -> None:
        """Remove the staged files, unless the version was sealed."""
        shutil.rmtree(self._partial, ignore_errors=True)


def pin_path(version: Path) -> Path:
    """Return the path of the empty file beside a version that keeps it from being pruned."""
    return version.with_name(f"{version.name}.pinned")


def record_path(version: Path) -> Path:
    """Return the path of the record beside a version."""
    return version.with_name(f"{version.name}.json")


def report_path(version: Path) -> Path:
    """Return the path of the report beside a version, where a version has one there."""
    return version.with_name(f"{version.name}.html")
