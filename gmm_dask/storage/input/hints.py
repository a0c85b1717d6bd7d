"""Hints: what a file system says of a file unread, by which a change is suspected.

A hint proves nothing. If the hints are equal, the file is taken to be unchanged. If they differ,
it is read again, and its digest decides (`gmm_dask.storage.input.content`).
"""

from __future__ import annotations

import os
import time

import pyarrow as pa

from gmm_dask.storage.input.location import READ_ERRORS, open_file

_MILLISECOND = 1_000_000  # nanoseconds
#: Nanoseconds within which two changes of a file may get the same times: a tick of Linux is up to
#: 10 ms; some network and FAT file systems count in steps of one or two seconds.
_FINE_TICK, _COARSE_TICK = 20 * _MILLISECOND, 2_000 * _MILLISECOND


def hint_of(root: str, path: str, source: pa.NativeFile) -> str | None:
    """Return the hint of a file that was just opened; None if no hint is reliable.

    Of a local file it is the modification time, the change time and the inode. The change time
    shows a change even if the modification time was set back by hand. On an object store it is
    the entity tag and the time.

    A local file that was changed a moment ago has no hint: it could change again within the same
    tick of the clock.
    """
    return _remote_hint(source) if "://" in root else _local_hint(root, path)


def _local_hint(root: str, path: str) -> str | None:
    now = time.time_ns()
    status = os.stat(os.path.join(root, path))  # noqa: PTH116, PTH118 - of each file
    times = (status.st_mtime_ns, status.st_ctime_ns)
    coarse = all(nanoseconds % _MILLISECOND == 0 for nanoseconds in times)
    if max(times) > now - (_COARSE_TICK if coarse else _FINE_TICK):
        return None
    return f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def hint_at(root: str, path: str) -> str | None:
    """Return the hint of a file of which nothing is read; None also where it cannot be asked.

    A local file is not opened; on an object store this is one request.
    """
    try:
        if "://" not in root:
            return _local_hint(root, path)
        with open_file(root, path) as source:
            return _remote_hint(source)
    except READ_ERRORS:  # whoever reads it says what is wrong
        return None


def _remote_hint(source: pa.NativeFile) -> str | None:
    headers = {_text(name).lower(): _text(value) for name, value in source.metadata().items()}
    tag, changed = headers.get("etag"), headers.get("last-modified")
    return None if tag is None else f"{tag} {changed}"


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
