"""Listing the files of an input: directories by the rule of membership, and globs.

The rule stands in `gmm_dask.storage.input.location`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from pyarrow import fs

from gmm_dask.addresses import resolved

SUFFIXES = (".parquet", ".parq", ".pq")
MAGIC = re.compile(r"[*?[]")


def _ignored(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def below(filesystem: fs.FileSystem, base: str) -> Iterator[str]:
    """List the files below a directory that belong to an input."""
    for path, is_directory in _walk(filesystem, base):
        if not is_directory and path.lower().endswith(SUFFIXES):
            yield path


def _walk(filesystem: fs.FileSystem, base: str) -> Iterator[tuple[str, bool]]:
    """Everything below a directory that is not ignored, itself first; True for directories."""
    if isinstance(filesystem, fs.LocalFileSystem):
        yield from _walk_local(base)
        return
    yield base, True
    for info in filesystem.get_file_info(fs.FileSelector(base, recursive=True)):
        if not any(map(_ignored, PurePosixPath(info.path).relative_to(base).parts)):
            yield info.path, info.type == fs.FileType.Directory


def _walk_local(base: str) -> Iterator[tuple[str, bool]]:
    pending, links = [base], list[str]()
    seen: set[Path] = set()
    while pending or links:
        # Links come last, so that a file goes by its own name where it has one.
        directory = pending.pop() if pending else links.pop(links.index(min(links)))
        real = resolved(directory)
        if real in seen:
            continue
        seen.add(real)
        yield directory, True
        with os.scandir(directory) as entries:
            for entry in entries:
                if _ignored(entry.name):
                    continue
                if entry.is_dir():
                    (links if entry.is_symlink() else pending).append(entry.path)
                else:
                    yield entry.path, False


def glob(filesystem: fs.FileSystem, pattern: str) -> tuple[str, list[str]]:
    """Return the directory above the first wildcard, and the files that a pattern stands for."""
    parts = PurePosixPath(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if MAGIC.search(part))
    root = str(PurePosixPath(*parts[:fixed]))
    found: list[str] = []
    for path, is_directory in _expand(filesystem, root, True, parts[fixed:]):
        found.extend(below(filesystem, path) if is_directory else [path])
    return root, list(dict.fromkeys(found))


def _expand(
    filesystem: fs.FileSystem, at: str, is_directory: bool, parts: tuple[str, ...]
) -> Iterator[tuple[str, bool]]:
    """Match the parts of a pattern, directory by directory."""
    if not parts:
        yield at, is_directory
    elif not is_directory:
        return
    elif parts[0] == "**":
        for path, below in _walk(filesystem, at):
            if below:
                yield from _expand(filesystem, path, True, parts[1:])
    else:
        for info in filesystem.get_file_info(fs.FileSelector(at, allow_not_found=True)):
            name, hidden = info.base_name, _ignored(info.base_name)
            if fnmatchcase(name, parts[0]) and (parts[0][0] in "._" or not hidden):
                below = info.type == fs.FileType.Directory
                yield from _expand(filesystem, info.path, below, parts[1:])


def each_once(found: Iterable[str]) -> list[str]:
    """One path for each real file, its own name before those of links to it."""
    real = {path: resolved(path).as_posix() for path in found}
    own_first = sorted(real, key=lambda path: (path != real[path], path))
    return list({real[path]: path for path in reversed(own_first)}.values())
