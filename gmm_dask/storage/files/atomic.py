"""The only place where storage writes: files, directories and links appear whole or not at all.

Every byte goes through `write_all`, and every file is created by `OutputFile` or `open_lock_file`.
So a test can make any write of the package fail by replacing one function.

Unfinished files have names that begin with ``.partial-``, which readers of Parquet ignore. A
process that is killed leaves such files behind; the next holder of the directory's lock removes
them (`remove_stale`).
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gmm_dask.errors import StorageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

PARTIAL = ".partial-"

_SYNC_THREADS = 16  # the disk serves simultaneous waits together

_ADVICE = {
    errno.ENOSPC: "no space is left on the disk; free some or choose another directory",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another directory",
    errno.EFBIG: "the file is larger than this process may write; raise `ulimit -f`",
    errno.EIO: "the disk reports an input/output error; check it, or choose another one",
    errno.EROFS: "the file system is read-only; choose another directory",
    errno.EACCES: "permission denied; ask for write permission or choose another directory",
    errno.EPERM: "operation not permitted; ask for write permission or choose another directory",
    errno.ENOENT: "the directory is gone; was it moved or removed while this ran?",
    errno.ENOTDIR: "a part of the path is a file, not a directory; choose another path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ELOOP: "its symbolic links lead in a circle; remove one of them",
    errno.ENXIO: "a socket or a device is in its place; move it away",
    errno.EISDIR: "a directory is in its place; move it away",
}


def storage_error(error: OSError, path: Path, doing: str = "cannot be written") -> StorageError:
    """Return an error of one line that names the path, what went wrong, and what to try."""
    reason = _ADVICE.get(error.errno or 0) or error.strerror or str(error)
    return StorageError(f"{path}: {doing}: {reason}")


@contextmanager
def storage_errors(path: Path, doing: str = "cannot be written") -> Iterator[None]:
    """Turn an ``OSError`` in the block into a `StorageError` about ``path``."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(error, path, doing) from error


def write_all(descriptor: int, block: Buffer) -> None:
    """Write every byte of ``block``; no other function of the package calls ``os.write``."""
    rest = memoryview(block).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class OutputFile(io.RawIOBase):
    """A new file being written, in the form that pyarrow and others accept.

    Parameters
    ----------
    path
        The file, which must not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)

    def writable(self) -> bool:
        """Return True: the file can be written."""
        return True

    def write(self, block: Buffer, /) -> int:
        """Write all of ``block``, or raise ``OSError``."""
        write_all(self._descriptor, block)
        return memoryview(block).nbytes

    def sync(self) -> None:
        """Wait until the bytes are on the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the descriptor, once."""
        if not self.closed:
            super().close()
            os.close(self._descriptor)


def open_lock_file(path: Path) -> int:
    """Open a file that exists only to be locked; returns its descriptor.

    Something else may be in its place: a link is not followed (``OSError`` with ELOOP), a pipe is
    not waited for, and the content of a file stays.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(path, flags, 0o666)


@contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """Open a regular file for reading; yields its descriptor.

    Raises
    ------
    OSError
        The file cannot be opened, or is a named pipe, a socket or a device, which is not waited
        for.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file; move it away")
        yield descriptor
    finally:
        os.close(descriptor)


def open_directory(path: Path) -> int:
    """Open a directory to synchronize or lock it; returns its descriptor."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    descriptor = open_directory(path)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(paths: Iterable[Path]) -> None:
    """Wait until files that were written without ``sync`` are on the disk, many at a time."""

    def wait(path: Path) -> None:
        with storage_errors(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        list(pool.map(wait, paths))


def partial_path(path: Path) -> Path:
    """Return an unused name beside ``path`` for a file that will become it."""
    return path.with_name(f"{PARTIAL}{path.name}-{secrets.token_hex(4)}")


@contextmanager
def replacement(path: Path, sync: bool = True) -> Iterator[OutputFile]:
    """Write a file that replaces ``path`` when the block ends.

    Until then ``path`` stays as it was. If anything fails, it stays so, and nothing else is left.

    Parameters
    ----------
    path
        The file to replace or create.
    sync
        Whether to wait for the disk. In a staged directory it is False: `sync_files` waits for
        all files at once.

    Raises
    ------
    StorageError
        The disk is full, read-only, broken, ...; the message names ``path``.
    """
    partial = partial_path(path)
    try:
        with storage_errors(path):
            with OutputFile(partial) as file:
                yield file
                if sync:
                    file.sync()
            partial.replace(path)
            if sync:
                sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def replace_file(path: Path, content: Buffer) -> None:
    """Replace the file ``path`` by ``content``, whole or not at all; see `replacement`."""
    with replacement(path) as file:
        file.write(content)


def write_new_files(directory: Path, contents: Mapping[str, Buffer]) -> None:
    """Write files into a directory that is still staged; the caller cleans up after errors."""
    with ExitStack() as stack:
        files = []
        for name, content in contents.items():
            with storage_errors(directory / name):
                files.append(stack.enter_context(OutputFile(directory / name)))
                files[-1].write(content)
        # Write all files before waiting for the first: the disk then has one job, not many.
        for file in files:
            with storage_errors(file.path):
                file.sync()
                file.close()


def publish_directory(staged: Path, target: Path) -> None:
    """Rename a finished directory, whose files are on the disk, to ``target``.

    Raises
    ------
    StorageError
        ``target`` exists already, or the disk refuses; then ``target`` is not created.
    """
    with storage_errors(target):
        sync_directory(staged)
        staged.rename(target)
        try:
            sync_directory(target.parent)
        except BaseException:
            remove_directory(target)
            raise


def link_in_the_making(link: Path) -> Path:
    """Return the name of a link until it takes its place: the longest name made from it."""
    return link.parent / f"{PARTIAL}link-{link.name}"


def replace_link(link: Path, target: str) -> None:
    """Make ``link`` a symbolic link to ``target`` in one step, replacing an existing link.

    Only the holder of the lock that guards ``link`` may call this. The intermediate name is
    always the same, so that a link left by a killed process is removed.
    """
    partial = link_in_the_making(link)
    with storage_errors(partial):  # something else may be in its place
        partial.unlink(missing_ok=True)
    with storage_errors(link):
        try:
            partial.symlink_to(target, target_is_directory=True)
            partial.replace(link)
            sync_directory(link.parent)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def remove_directory(path: Path) -> None:
    """Hide a directory in one step, then delete it, so that nobody reads half of it."""
    removed = partial_path(path)
    with storage_errors(path, "cannot be removed"):
        path.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def remove_stale(directory: Path) -> None:
    """Remove what killed processes left unfinished; only the holder of the lock may call this."""
    with storage_errors(directory, "cannot be cleaned up"):
        for entry in directory.glob(f"{PARTIAL}*"):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def create_directory(path: Path) -> None:
    """Create a directory with its parents, if it does not exist.

    Raises
    ------
    StorageError
        The path is a file, or permission is lacking.
    """
    with storage_errors(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise StorageError(
                f"{path}: cannot be written: it is a file, not a directory; choose another path"
            ) from None


def check_writable(path: Path) -> None:
    """Create a directory with its parents and test a write, before hours go into its content.

    Raises
    ------
    StorageError
        The path is a file or read-only, or permission or space is lacking.
    """
    create_directory(path)
    with storage_errors(path):
        _probe(path)


def _probe(directory: Path) -> None:
    """Write a nameless file, which cannot be left behind; if that is impossible, a named one."""
    content = b"can this be written?"
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        probe = partial_path(directory / "probe")
        try:
            with OutputFile(probe) as file:
                file.write(content)
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
    else:
        try:
            write_all(descriptor, content)
        finally:
            os.close(descriptor)
