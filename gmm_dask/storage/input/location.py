"""Where an input lies, and which files belong to it: the rule of membership.

* A **file** is taken as named, whatever its ending.
* A **directory** stands for the files below it, at any depth, that end in ``.parquet``, ``.parq``
  or ``.pq``. Names that begin with ``.`` or ``_`` are ignored at every level, except partition
  directories (``_key=value``). So ``_temporary/``, ``_SUCCESS``, ``x.parquet.tmp`` and notes
  beside the data are no part of it.
* A **glob** (``*``, ``?``, ``[…]``, ``**``) stands for the files it matches, as named, and for the
  directories it matches, by the rule for directories. ``.`` and ``_`` names are ignored unless a
  part of the pattern begins so too.
* Each real file counts once, however many symbolic links lead to it; loops of links are harmless.
* Files are read in the order of their names, compared as text: ``part-10`` before ``part-2``.

An address is a path, ``file://…`` or ``s3://bucket/…``, where ``?`` begins options
(``?endpoint_override=…&scheme=http``) and credentials come from the environment only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from gmm_dask.addresses import local_path, resolved, without_credentials
from gmm_dask.errors import ConfigError, InputError
from gmm_dask.storage.input.listing import MAGIC, SUFFIXES, below, each_once, glob

#: What pyarrow raises on files that are absent, forbidden, damaged or of another format.
READ_ERRORS = (OSError, ValueError, MemoryError, NotImplementedError, pa.ArrowException)


def find_files(address: str) -> tuple[str, tuple[str, ...]]:
    """List the files of an input.

    Parameters
    ----------
    address
        File, directory, glob or ``s3://`` address.

    Returns
    -------
    root
        Absolute address of the directory that all files are below, links resolved; never inside
        a partition directory.
    files
        Paths below ``root``, with ``/``, in the order in which they are read.

    Raises
    ------
    InputError
        Nothing is there, nothing matches, it may not be read, or credentials are in the address.
    """
    try:
        location, options = _absolute(address)
        filesystem, base = open_filesystem(location + options)
        kind = filesystem.get_file_info(base).type
        if kind == fs.FileType.File:
            root, found = str(PurePosixPath(base).parent), [base]
        elif kind == fs.FileType.Directory:
            root, found = base, list(below(filesystem, base))
        elif MAGIC.search(base):
            root, found = glob(filesystem, base)
        else:
            raise InputError(f"{address}: no such file or directory{_neighbour(filesystem, base)}")
    except InputError:
        raise
    except READ_ERRORS as error:
        raise InputError(f"{address}: cannot be listed ({reason(error)})") from error
    if not found:
        raise InputError(_nothing(address, kind))
    while "=" in PurePosixPath(root).name:  # keys of partitions belong to the files
        root = str(PurePosixPath(root).parent)
    if isinstance(filesystem, fs.LocalFileSystem):
        found = each_once(found)
    prefix = root.rstrip("/") + "/"
    scheme = "s3://" if location.startswith("s3://") else ""
    return scheme + root + options, tuple(sorted(path.removeprefix(prefix) for path in found))


def open_filesystem(root: str) -> tuple[fs.FileSystem, str]:
    """Filesystem of an address and the path in it; one per process, never sent anywhere."""
    if not root.startswith("s3://"):
        return fs.LocalFileSystem(), root
    location, mark, options = root.removeprefix("s3://").partition("?")
    bucket = location.partition("/")[0]
    return _s3(f"s3://{bucket}{mark}{options}"), location


@lru_cache(maxsize=16)
def _s3(bucket: str) -> fs.FileSystem:
    # Of the bucket alone: a key may hold characters that an address may not.
    return fs.FileSystem.from_uri(bucket)[0]


def open_file(root: str, path: str) -> pa.NativeFile:
    """Open one file of an input for reading at any position.

    Raises
    ------
    OSError
        As the filesystem has it.
    """
    filesystem, base = open_filesystem(root)
    return filesystem.open_input_file(f"{base.rstrip('/')}/{path}")


def partitions_of(path: str) -> dict[str, str | None]:
    """Keys and values of the ``key=value`` directories of a path; None for Hive's null."""
    found: dict[str, str | None] = {}
    for part in PurePosixPath(path).parts[:-1]:
        key, equals, value = part.partition("=")
        if key and equals:
            text = unquote(value)
            found[unquote(key)] = None if text == "__HIVE_DEFAULT_PARTITION__" else text
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?", or what there is when no known name is close."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(name.lower(), by_lower, n=1)
    if close:
        return f"; did you mean {by_lower[close[0]]!r}?"
    names = [*by_lower.values()]
    more = f", … ({len(names)} in all)" if len(names) > 12 else ""
    return f"; there are {', '.join(names[:12])}{more}" if names else ""


def reason(error: BaseException) -> str:
    """First line of a library's error, without what follows from it."""
    if isinstance(error, OSError) and error.strerror and error.errno:
        return os.strerror(error.errno).lower()
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _absolute(address: str) -> tuple[str, str]:
    """Absolute path or ``s3://bucket/key``, and the options that follow it."""
    scheme = address.partition("://")[0] if "://" in address else ""
    if scheme == "s3":
        parts = urlsplit(address)
        options = [name.lower() for name in parse_qs(parts.query, keep_blank_values=True)]
        if "@" in parts.netloc or any(
            word in name for name in options for word in ("key", "secret", "token", "password")
        ):
            raise InputError(
                "s3:// address with credentials in it: give them by the environment "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), addresses are logged and stored"
            )
        location, mark, query = address.partition("?")
        return location.rstrip("/"), mark + query
    if scheme.lower() not in ("", "file"):
        shown = without_credentials(address)
        raise InputError(f"{shown}: {scheme}:// cannot be read; give a local path or s3://")
    try:
        path = local_path(address)
    except ConfigError as error:
        raise InputError(str(error)) from error
    # Links are followed now: a link that is moved to a newer version does not move the plan.
    named = resolved(path.parent) / path.name if path.is_file() else resolved(path)
    return named.as_posix(), ""


def _neighbour(filesystem: fs.FileSystem, base: str) -> str:
    """Suggest a name from the directory that was meant."""
    path = PurePosixPath(base)
    selector = fs.FileSelector(str(path.parent), allow_not_found=True)
    names = sorted(info.base_name for info in filesystem.get_file_info(selector))
    return did_you_mean(path.name, names)


def _nothing(address: str, kind: fs.FileType) -> str:
    endings = ", ".join(SUFFIXES)
    if kind == fs.FileType.Directory:
        return (
            f"{address}: the directory holds no file that ends in {endings} (names that begin "
            "with . or _ are ignored); name other files by a glob"
        )
    return f"{address}: no file matches the pattern; check it, and quote it in a shell"
