"""Locks on files: held by one process at a time, and gone with it, however it dies."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from gmm_dask.errors import StorageError
from gmm_dask.storage.files.atomic import open_lock_file, storage_errors, write_all

_LONGEST_PAUSE = 0.05  # seconds between two attempts


class HeldLock:
    """A lock that this process holds, until `release`, the end of a ``with`` block, or death."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._process = os.getpid()

    def release(self) -> None:
        """Let the next one in; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        # A forked child has a copy of this object; the lock is the parent's to give up.
        if self._process == os.getpid():
            # Removed while it is held; see `_is_named`.
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
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
    """Take the lock of a file, which is created for it and removed after it.

    Parameters
    ----------
    path
        The lock file, in a directory that exists.
    what
        What is locked, for the error: "model stars in models".
    deadline
        Seconds to wait for the holder; 0 tries once.

    Raises
    ------
    StorageError
        Another process still holds it (its number, host and since when are named), or the
        file cannot be created or locked.
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


def _try(path: Path) -> HeldLock | None:
    """Lock the file once; None if somebody else holds it."""
    with storage_errors(path, "cannot be locked"):
        while True:
            descriptor = open_lock_file(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                current = _is_named(descriptor, path)
            except BaseException as error:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    return None
                if isinstance(error, OSError) and error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
                    raise StorageError(
                        f"{path}: cannot be locked: the file system has no file locks (flock); "
                        "choose a directory on another one, or mount it with locks"
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
    """Whether the file that was locked is the one that the name means now.

    The last holder may have removed it between our opening and our locking: then ours is a lock
    on nothing, and somebody else may hold the one that counts.
    """
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    holder = {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    write_all(descriptor, json.dumps(holder).encode())


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # gone or not yet signed
        return "another process"
