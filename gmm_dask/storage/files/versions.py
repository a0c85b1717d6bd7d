"""Immutable versions and one pointer: the idea under models, predictions and checkpoints.

A writer *stages* a version, *puts* files into it, *seals* it, *points* to it, and *prunes* old
versions. A sealed version never changes; only the pointer does, and it is small. A reader reads
the pointer, then the version that it names. It needs no lock, and finds either the old version or
the new one, whole. A checkpoint is the simplest case: a pointer that holds the content itself.

Here they are directories and files of a POSIX file system::

    DIRECTORY/NAME/       a version: appears by a rename, whole
    DIRECTORY/NAME.json   its record, where it has one beside it
    DIRECTORY/NAME.html   its report, likewise
    DIRECTORY/NAME.pinned an empty file: the version is not to be pruned
    POINTER               a file that is replaced (`FilePointer`), or a link (`LinkPointer`)
    LOCK                  held by the writer, gone with its process

A version is pruned only while nobody holds it (`Version.held`). A version is held by a shared lock
on its directory, which other machines do not see.

On an object store they are keys: `gmm_dask.storage.files.objects` has the same methods. Which of
the two an address means is chosen in `gmm_dask.storage.files.choice`.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from gmm_dask.errors import ConflictError, StorageError
from gmm_dask.storage.files.atomic import (
    check_writable,
    create_directory,
    remove_directory,
    remove_stale,
    replace_file,
    storage_error,
    storage_errors,
)
from gmm_dask.storage.files.contents import (
    StagedVersion,
    Version,
    pin_path,
    record_path,
    report_path,
)
from gmm_dask.storage.files.locks import HeldLock, acquire, unless_read
from gmm_dask.storage.files.pointers import NAME, FilePointer, LinkPointer, Pointer
from gmm_dask.storage.files.retention import Pruned
from gmm_dask.storage.files.sealed import Document, read_sealed

if TYPE_CHECKING:
    from typing_extensions import Buffer

_logger = logging.getLogger(__name__)


class Versions:
    """The versions of one thing and their pointer, for reading; `open` makes a `Writer`.

    Parameters
    ----------
    directory
        The directory that holds the versions.
    pointer
        The file or link that says which version is meant.
    lock
        The lock file that the writer holds.
    title
        The thing that is locked, for the error: "model stars in models".
    """

    def __init__(
        self, directory: Path, pointer: FilePointer | LinkPointer, lock: Path, title: str
    ) -> None:
        self.directory = directory
        self._pointer = pointer
        self._lock = lock
        self._title = title

    def names(self, folder: str = "", owner: str | None = None) -> tuple[str, ...]:
        """Return all names in the directory, or in a folder of it, that a version may have.

        Parameters
        ----------
        owner
            Leave out versions that others have staged, where the storage tells; a disk does not.
        """
        prefix = f"{folder}/" if folder else ""
        return tuple(prefix + name for name in names_in(self.directory / folder))

    def version(self, name: str) -> Version:
        """Return the sealed version of this name, which need not exist."""
        return Version(self.directory / name)

    def sealed_times(self, folder: str = "") -> dict[str, float]:
        """Return when each of `names` was sealed that is a version, in seconds since 1970."""
        times = {}
        for name in self.names(folder):
            path = self.version(name).path
            with storage_errors(path, "cannot be read"), suppress(FileNotFoundError):
                status = path.stat()
                if stat.S_ISDIR(status.st_mode):
                    times[name] = status.st_mtime
        return times

    def consists_of(self, name: str, files: re.Pattern[str]) -> bool:
        """Whether all files of a version have such names; else somebody has put others there."""
        return all(files.fullmatch(file) for file in self.version(name).names())

    def is_pinned(self, name: str) -> bool:
        """Whether a version is pinned."""
        path = pin_path(self.version(name).path)
        with storage_errors(path, "cannot be read"):
            return os.path.lexists(path)

    def prunable(self, names: Iterable[str]) -> Pruned:
        """Return what `Writer.prune` would do with these versions now."""
        names = tuple(names)
        read = {name for name in names if self._is_read(name)}
        unread = [name for name in names if name not in read]
        paths = {name: str(self.version(name).path) for name in names}
        return Pruned(
            tuple(paths[name] for name in unread),
            self.bytes_of(unread),
            tuple(paths[name] for name in names if name in read),
        )

    def _is_read(self, name: str) -> bool:
        with unless_read(self.version(name).path) as unread:
            return not unread

    def bytes_of(self, names: Iterable[str]) -> int:
        """Return what removing these versions frees; files that others share are not counted."""
        links: dict[tuple[int, int], int] = {}  # of each file, those that would go
        freed = 0
        for path in self._paths_of(names):
            with (
                storage_errors(path, "cannot be read"),
                suppress(FileNotFoundError, NotADirectoryError),
            ):
                status = path.lstat()
                file = (status.st_dev, status.st_ino)
                links[file] = links.get(file, 0) + 1
                freed += status.st_size * (links[file] == status.st_nlink)
        return freed

    def _paths_of(self, names: Iterable[str]) -> Iterator[Path]:
        for name in names:
            version = self.version(name)
            yield from (version.path / file for file in version.names())
            yield from (record_path(version.path), report_path(version.path))

    def record(self, name: str) -> Document:
        """Read the record beside a version; raises `StorageError` if it is damaged or missing."""
        return read_sealed(record_path(self.directory / name))

    def pointer(self) -> Pointer | None:
        """Read the pointer; None if it does not exist."""
        content = self._pointer.read()
        return None if content is None else Pointer(content)

    def pointed_at(self) -> float | None:
        """Return when the pointer was last replaced, in seconds since 1970; None without one."""
        path = self._pointer.path
        with (
            storage_errors(path, "cannot be read"),
            suppress(FileNotFoundError, NotADirectoryError),
        ):
            return path.lstat().st_mtime
        return None

    def open(self, deadline: float = 0.0) -> Writer:
        """Become the writer, and create the directory if it does not exist.

        What killed writers left is removed. Only `Writer.stage` asks whether there is space, so
        that old versions can be removed from a full disk.

        Parameters
        ----------
        deadline
            Seconds to wait for another writer; 0 tries once.

        Raises
        ------
        StorageError
            Another process is the writer (the message names it), or the directory cannot be
            written.
        """
        create_directory(self._lock.parent)
        writer = Writer(self, self._pointer, acquire(self._lock, self._title, deadline))
        try:
            create_directory(self.directory)
            remove_stale(self.directory)
        except BaseException:
            writer.close()
            raise
        return writer


class Writer:
    """The right to change versions and pointer, until `close` or the end of a ``with`` block."""

    #: Whether others may write at the same time.
    shared = False

    def __init__(
        self, versions: Versions, pointer: FilePointer | LinkPointer, lock: HeldLock
    ) -> None:
        self._versions = versions
        self._pointer = pointer
        self._lock = lock
        self._stages: list[StagedVersion] = []
        self._closed = False

    def stage(self, name: str, owner: str = "") -> StagedVersion:
        """Begin a version; its name may put it into a folder: "rejected/NAME".

        If it is not sealed when the writer closes, it is discarded.

        Parameters
        ----------
        owner
            Who stages it, by which `Versions.names` finds it; a disk does not note it.
        """
        target = self._versions.directory / name
        check_writable(target.parent)
        if target.parent != self._versions.directory:
            remove_stale(target.parent)
        self._stages.append(StagedVersion(target))
        return self._stages[-1]

    def point(self, content: Buffer, expecting: Pointer | None) -> None:
        """Replace the pointer in one step, if it is still the expected one.

        Parameters
        ----------
        content
            The new content of the pointer.
        expecting
            The pointer as it was read; None if it did not exist.

        Raises
        ------
        ConflictError
            The pointer has changed; it stays.
        StorageError
            The disk refuses; the pointer stays as it was.
        """
        # The lock keeps other writers out, but not a person who edits the pointer by hand.
        if self._versions.pointer() != expecting:
            raise ConflictError(
                f"{self._pointer.path}: was changed by somebody else in the meantime; "
                "check what it says now, and run again"
            )
        self.replace(content)

    def replace(self, content: Buffer) -> None:
        """Replace the pointer whatever its content, to repair it or where any may be replaced."""
        try:
            self._pointer.replace(content)
        except StorageError as error:
            # After the rename only the wait for the disk can fail: readers see the new pointer.
            if self._versions.pointer() != Pointer(bytes(content)):
                raise
            _logger.warning(
                "%s; the new content is in use, but a power failure now could undo it", error
            )

    def clear(self) -> None:
        """Remove the pointer."""
        with storage_errors(self._pointer.path, "cannot be removed"):
            self._pointer.path.unlink(missing_ok=True)

    def put_report(self, name: str, content: Buffer) -> None:
        """Keep a report beside a version, for people."""
        replace_file(report_path(self._versions.directory / name), content)

    def remove(self, name: str) -> None:
        """Remove a version that nothing points to, in one step; does nothing without one."""
        version = self._versions.version(name)
        # The record first: a version left without its record is pruned by the next writer.
        with storage_errors(version.path, "cannot be removed"):
            record_path(version.path).unlink(missing_ok=True)
            report_path(version.path).unlink(missing_ok=True)
        if version.exists():
            remove_directory(version.path)

    def prune(self, names: Iterable[str]) -> Pruned:
        """Remove versions that nobody reads; those that somebody reads stay.

        Each goes in one step. What a killed process leaves of it is removed by the next prune.

        Parameters
        ----------
        names
            Of versions that nothing points to and that the caller knows to be old.
        """
        pruned, names = Pruned(), tuple(names)
        paths = {name: self._versions.version(name).path for name in names}
        for folder in {path.parent for path in paths.values()}:
            remove_stale(folder)
        for name, path in paths.items():
            with unless_read(path) as unread:
                if unread:
                    freed = self._versions.bytes_of([name])  # shared files count with the last
                    self.remove(name)
                    pruned += Pruned((str(path),), freed)
                else:
                    pruned += Pruned(read=(str(path),))
        return pruned

    def pin(self, name: str) -> None:
        """Keep a version from being pruned, until `unpin`."""
        replace_file(pin_path(self._versions.version(name).path), b"")

    def unpin(self, name: str) -> None:
        """Let a version be pruned again."""
        path = pin_path(self._versions.version(name).path)
        with storage_errors(path, "cannot be removed"):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Discard what is not sealed, remove the directory if it is empty, release the lock."""
        if self._closed:
            return
        self._closed = True
        for stage in self._stages:
            stage.discard()
        # While the lock is still held; the next writer creates the directory again.
        with suppress(OSError):  # not empty
            self._versions.directory.rmdir()
        self._lock.release()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def names_in(directory: Path) -> tuple[str, ...]:
    """Return the names in a directory that versions may have; empty if it does not exist."""
    try:
        names = [entry.name for entry in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise storage_error(error, directory, "cannot be read") from error
    return tuple(sorted(name for name in names if NAME.fullmatch(name)))
