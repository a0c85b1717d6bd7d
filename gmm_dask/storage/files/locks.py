"""Locks on files: one process at a time holds a lock, and it ends with the process.

A directory is locked the other way round: by any number of readers, so that nobody removes it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from gmm_dask.errors import StorageError
from gmm_dask.storage.files.atomic import (
    open_directory,
    open_lock_file,
    open_regular,
    storage_errors,
    write_all,
)

# A lock file is empty or begins with this, which a dead process may have left.
_SIGNATURE = b'{"pid": '
_LONGEST_SIGNATURE = 4096  # bytes
_LONGEST_PAUSE = 0.05  # seconds between two attempts


class HeldLock:
    """A lock that this process holds until `release`, the end of a ``with`` block, or its death."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._process = os.getpid()

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        # A forked child has a copy of this object, but only the parent may give up the lock.
        if self._process == os.getpid():
            # Remove the file while the lock is held; see `_is_named`.
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        # The guarded work is done, so an error of a network disk no longer matters.
        with suppress(OSError):
            os.close(descriptor)

    def __enter__(self) -> HeldLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def acquire(path: Path, what: str, deadline: float = 60.0) -> HeldLock:
    """Lock a file, which is created for the lock and removed after it.

    Parameters
    ----------
    path
        The lock file, in a directory that exists.
    what
        The thing that is locked, for the error: "model stars in models".
    deadline
        Seconds to wait for the current holder; 0 tries once.

    Raises
    ------
    StorageError
        Another process still holds the lock (the message names its number, host and start time);
        or the file cannot be created or locked; or something else is in its place, which stays.
    """
    end = time.monotonic() + deadline
    pause = 0.001
    while True:
        lock = _try(path)
        if lock is not None:
            return lock
        if time.monotonic() + pause > end:
            raise StorageError(
                f"{what} is in use by {_holder(path)} (lock {path}); "
                "wait until that run has ended, or stop it, then run again"
            )
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


@contextmanager
def reading(directory: Path) -> Iterator[bool]:
    """Keep a directory from being removed under `unless_read` while the block runs.

    Yields whether the directory exists. The lock is shared, is known on this machine only, and
    ends with the process. Where a file system has no such locks, reading goes on without.
    """
    try:
        descriptor = open_directory(directory)
    except OSError as error:
        yield error.errno not in (errno.ENOENT, errno.ENOTDIR)
        return
    process = os.getpid()
    try:
        with suppress(OSError):
            # Who removes a directory holds it until it is gone.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield _is_named(descriptor, directory)
    finally:
        _unlock(descriptor, process)


@contextmanager
def unless_read(directory: Path) -> Iterator[bool]:
    """Keep readers from beginning with a directory; yields False if somebody reads it already."""
    with storage_errors(directory, "cannot be locked"):
        descriptor = open_directory(directory)
    process = os.getpid()
    try:
        try:
            with storage_errors(directory, "cannot be locked"):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except StorageError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            yield False
        else:
            yield True
    finally:
        _unlock(descriptor, process)


def _unlock(descriptor: int, process: int) -> None:
    """Give up the lock of a process; a forked child has a copy of the descriptor, and may not."""
    if process == os.getpid():
        # Closing is not enough while a child lives on.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _try(path: Path) -> HeldLock | None:
    """Try once to lock the file; None if another process holds it."""
    with storage_errors(path, "cannot be locked"):
        while True:
            descriptor = _open(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                current = _is_named(descriptor, path)
                if current:
                    _require_lock_file(descriptor, path)
            except BaseException as error:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    return None
                if isinstance(error, OSError) and error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
                    raise StorageError(
                        f"{path}: cannot be locked: the file system has no file locks (flock); "
                        "choose a directory on another file system, or mount it with locks"
                    ) from error
                raise
            if current:
                lock = HeldLock(path, descriptor)
                try:
                    _sign(descriptor)
                except BaseException:
                    lock.release()
                    raise
                return lock
            os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether the locked file is still the file at ``path``.

    The last holder may have removed it after we opened it and before we locked it. Then our lock
    guards nothing, and another process may hold the lock on a new file at ``path``.
    """
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _open(path: Path) -> int:
    try:
        return open_lock_file(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _foreign(path, "is a symbolic link") from error
        raise


def _require_lock_file(descriptor: int, path: Path) -> None:
    """Refuse a file that is not a lock file, because signing it would destroy it."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise _foreign(path, "is not a regular file")
    if status.st_nlink > 1:
        raise _foreign(path, "has a second name (a hard link)")
    if status.st_size and not os.pread(descriptor, len(_SIGNATURE), 0) == _SIGNATURE:
        raise _foreign(path, "holds content that gmm-dask did not write")


def _foreign(path: Path, what: str) -> StorageError:
    return StorageError(
        f"{path}: cannot be locked: it {what}; move it away if no run needs it, then run again"
    )


def _sign(descriptor: int) -> None:
    """Write who holds the lock; on a full disk it holds unsigned, so that `prune` can free some."""
    holder = {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    try:
        write_all(descriptor, json.dumps(holder).encode())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.ftruncate(descriptor, 0)  # half a signature would be taken for somebody's content


def _holder(path: Path) -> str:
    try:
        with open_regular(path) as descriptor:
            holder = json.loads(os.pread(descriptor, _LONGEST_SIGNATURE, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # gone or not yet signed
        return "another process"
