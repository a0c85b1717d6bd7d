"""The location of an input, and the files that belong to it: the rule of membership.

* A **file** that is named is read, whatever its ending.
* A **directory** stands for the files below it, at any depth, that end in ``.parquet``, ``.parq``
  or ``.pq``. Names that begin with ``.`` or ``_`` are ignored at every level, except partition
  directories (``_key=value``). So ``_temporary/``, ``_SUCCESS``, ``x.parquet.tmp`` and notes
  beside the data do not belong to it.
* A **glob** (``*``, ``?``, ``[…]``, ``**``) stands for the files that it matches, whatever their
  endings, and for the directories that it matches, by the rule for directories. Names that begin
  with ``.`` or ``_`` are ignored unless a part of the pattern begins the same way.
* Only regular files are read: a pipe, a socket or a device is refused, not waited for.
* A **table** of Delta Lake, Iceberg or Hudi is refused, above the input or in it: its directory
  also holds deleted rows. A single file of it that is named, or linked to, is read.
* Each real file counts once, however many symbolic links lead to it; loops of links are harmless.
* Files are read in the order of their names, compared as text: ``part-10`` before ``part-2``.

An address is a path, ``file://…`` or ``s3://bucket/…``, where ``?`` begins options
(``?endpoint_override=…&scheme=http``) and credentials come from the environment only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from gmm_dask.addresses import local_path, resolved, without_credentials
from gmm_dask.errors import BadFileError, ConfigError, InputError
from gmm_dask.storage.files.store_errors import remedy_of
from gmm_dask.storage.input.listing import MAGIC, SUFFIXES, Listing, each_once

#: Errors that pyarrow raises for files that are absent, forbidden, damaged or not Parquet.
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
        Absolute address of the directory above all files, links resolved; never inside a
        partition directory.
    files
        Paths relative to ``root``, with ``/``, in the order in which they are read.

    Raises
    ------
    InputError
        The address does not exist, matches nothing, cannot be read, contains credentials, or
        leads to a table of another format (`gmm_dask.storage.input.tables`).
    """
    try:
        location, options = _absolute(address)
        filesystem, base = open_filesystem(location + options)
        kind = filesystem.get_file_info(base).type
        listing = Listing(filesystem)
        if kind == fs.FileType.File:
            root, paths = str(PurePosixPath(base).parent), [base]
        elif kind == fs.FileType.Directory:
            root, paths = base, listing.below(base)
        elif MAGIC.search(base):
            root, paths = listing.glob(base)
        else:
            _require_bucket(address, filesystem, base)
            raise InputError(f"{address}: {_absence(filesystem, base, kind)}")
        listing.tables.refuse(address, paths)
        if not paths:
            _require_bucket(address, filesystem, base)
    except InputError:
        raise
    except READ_ERRORS as error:
        raise InputError(f"{address}: cannot be listed ({reason(error)})") from error
    if not paths:
        raise InputError(_nothing(address, kind))
    while "=" in PurePosixPath(root).name:  # partition keys belong to the paths of the files
        root = str(PurePosixPath(root).parent)
    if isinstance(filesystem, fs.LocalFileSystem):
        paths = each_once(paths)
    prefix = root.rstrip("/") + "/"
    scheme = "s3://" if location.startswith("s3://") else ""
    return scheme + root + options, tuple(sorted(path.removeprefix(prefix) for path in paths))


def open_filesystem(root: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem of an address, and the path in it.

    A filesystem is made once per process and never sent to another.
    """
    if not root.startswith("s3://"):
        return _local(), root
    location, mark, options = root.removeprefix("s3://").partition("?")
    bucket = location.partition("/")[0]
    return _s3(f"s3://{bucket}{mark}{options}"), location


@cache
def _local() -> fs.FileSystem:
    return fs.LocalFileSystem()


@lru_cache(maxsize=16)
def _s3(bucket: str) -> fs.FileSystem:
    # From the bucket alone: a key may hold characters that an address may not.
    return fs.FileSystem.from_uri(bucket)[0]


def open_file(root: str, path: str) -> pa.NativeFile:
    """Open one file of an input for reading at any position.

    Raises
    ------
    BadFileError
        The file is a named pipe, a socket or a device, which is not waited for.
    OSError
        The file cannot be opened.
    """
    filesystem, base = open_filesystem(root)
    whole = f"{base.rstrip('/')}/{path}"
    if isinstance(filesystem, fs.LocalFileSystem) and not stat.S_ISREG(os.stat(whole).st_mode):  # noqa: PTH116 - of each file
        raise BadFileError(
            path,
            "is not a regular file (but a pipe, a socket, a device or a directory); remove it, or "
            "name the others by a glob",
        )
    return filesystem.open_input_file(whole)


def partitions_of(path: str) -> dict[str, str | None]:
    """Return the keys and values of a path's ``key=value`` directories; None is Hive's null."""
    keys: dict[str, str | None] = {}
    for part in PurePosixPath(path).parts[:-1]:
        key, equals, value = part.partition("=")
        if key and equals:
            text = unquote(value)
            keys[unquote(key)] = None if text == "__HIVE_DEFAULT_PARTITION__" else text
    return keys


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?", or a list of the known names if none is close."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(name.lower(), by_lower, n=1)
    if close:
        return f"; did you mean {by_lower[close[0]]!r}?"
    names = [*by_lower.values()]
    more = f", … ({len(names)} in all)" if len(names) > 12 else ""
    return f"; there are {', '.join(names[:12])}{more}" if names else ""


def reason(error: BaseException) -> str:
    """Return the first line of a library's error, or the system's text for its number.

    Of an error of a store, what it means and what to try.
    """
    if isinstance(error, OSError) and error.strerror and error.errno:
        return os.strerror(error.errno).lower()
    remedy = remedy_of(str(error)) if "AWS Error" in str(error) else None
    if remedy is not None:
        return remedy
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _absolute(address: str) -> tuple[str, str]:
    """Return the absolute path or ``s3://bucket/key``, and the options that follow it."""
    scheme = address.partition("://")[0] if "://" in address else ""
    if scheme == "s3":
        parts = urlsplit(address)
        options = [name.lower() for name in parse_qs(parts.query, keep_blank_values=True)]
        if "@" in parts.netloc or any(
            word in name for name in options for word in ("key", "secret", "token", "password")
        ):
            raise InputError(
                "s3:// address with credentials in it: addresses are logged and stored; give them "
                "by the environment instead (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
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
    # Links are followed now: if one is later moved to a newer version, the plan stays the same.
    named = resolved(path.parent) / path.name if path.is_file() else resolved(path)
    return named.as_posix(), ""


def _require_bucket(address: str, filesystem: fs.FileSystem, base: str) -> None:
    """Refuse the address of a bucket that does not exist: nothing in it would be found."""
    if isinstance(filesystem, fs.LocalFileSystem):
        return
    bucket = base.partition("/")[0]
    if filesystem.get_file_info(bucket).type == fs.FileType.NotFound:
        raise InputError(
            f"{address}: there is no bucket {bucket}; correct the address, or check "
            "AWS_ENDPOINT_URL"
        )


def _absence(filesystem: fs.FileSystem, base: str, kind: fs.FileType) -> str:
    """Say why a path is neither a file nor a directory."""
    if kind == fs.FileType.Unknown:
        return "is neither a regular file nor a directory; give one of these"
    # Links have been followed: one that is left leads back to itself.
    if isinstance(filesystem, fs.LocalFileSystem) and any(
        path.is_symlink() for path in (Path(base), *Path(base).parents)
    ):
        return "its symbolic links lead in a circle; remove one of them"
    return f"no such file or directory{_neighbour(filesystem, base)}"


def _neighbour(filesystem: fs.FileSystem, base: str) -> str:
    """Suggest a name from the directory that the path points into."""
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
