"""Listing the files of an input: of directories, by the rule of membership, and of globs.

The rule is stated in `gmm_dask.storage.input.location`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from pyarrow import fs

from gmm_dask.addresses import resolved, resolved_files
from gmm_dask.storage.input.tables import METADATA, Tables

SUFFIXES = (".parquet", ".parq", ".pq")
MAGIC = re.compile(r"[*?[]")


def _ignored(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


class Listing:
    """Lists the files of one input, and notes the tables that it comes across.

    Attributes
    ----------
    tables
        Tables of other formats, whose files must not be read as plain Parquet.
    """

    def __init__(self, filesystem: fs.FileSystem) -> None:
        self._filesystem = filesystem
        self._local = isinstance(filesystem, fs.LocalFileSystem)
        self.tables = Tables(filesystem)

    def below(self, base: str) -> list[str]:
        """List the files below a directory that belong to an input."""
        self.tables.look_above(base)
        return list(self._members(base))

    def glob(self, pattern: str) -> tuple[str, list[str]]:
        """Return the directory above the first wildcard, and the files that a pattern matches."""
        parts = PurePosixPath(pattern).parts
        fixed = next(i for i, part in enumerate(parts) if MAGIC.search(part))
        root = str(PurePosixPath(*parts[:fixed]))
        self.tables.look_above(root)
        paths: list[str] = []
        for path, is_directory in self._expand(root, True, parts[fixed:]):
            paths.extend(self._members(path) if is_directory else [path])
        return root, list(dict.fromkeys(paths))

    def _members(self, base: str) -> Iterator[str]:
        for path, is_directory in self._walk(base):
            if not is_directory and path.lower().endswith(SUFFIXES):
                yield path

    def _walk(self, base: str) -> Iterator[tuple[str, bool]]:
        """Yield a directory and all below it that is not ignored; True marks directories."""
        if self._local:
            yield from self._walk_local(base)
            return
        yield base, True
        for info in self._filesystem.get_file_info(fs.FileSelector(base, recursive=True)):
            is_directory = info.type == fs.FileType.Directory
            self.tables.notice(info.path.rpartition("/")[0], info.base_name, is_directory)
            if not any(map(_ignored, PurePosixPath(info.path).relative_to(base).parts)):
                yield info.path, is_directory

    def _walk_local(self, base: str) -> Iterator[tuple[str, bool]]:
        pending, links = [base], list[str]()
        seen: set[Path] = set()
        while pending or links:
            # Links come last, so that a file is listed by its real path where there is one.
            directory = pending.pop() if pending else links.pop(links.index(min(links)))
            real = resolved(directory)
            if real in seen:
                continue
            seen.add(real)
            yield directory, True
            with os.scandir(directory) as entries:
                for entry in entries:
                    is_directory = _is_directory(entry)
                    self.tables.notice(directory, entry.name, is_directory)
                    if _ignored(entry.name):
                        continue
                    if not is_directory:
                        yield entry.path, False
                    elif entry.is_symlink():
                        self._follow(entry.path)
                        links.append(entry.path)
                    else:
                        pending.append(entry.path)

    def _expand(
        self, base: str, is_directory: bool, parts: tuple[str, ...]
    ) -> Iterator[tuple[str, bool]]:
        """Match the parts of a pattern, directory by directory."""
        if not parts:
            yield base, is_directory
        elif not is_directory:
            return
        elif parts[0] == "**":
            for path, is_branch in self._walk(base):
                if is_branch:
                    yield from self._expand(path, True, parts[1:])
        else:
            for path, is_branch in self._entries(base):
                name = path.rpartition("/")[2]
                self.tables.notice(base, name, is_branch)
                if is_branch and name == METADATA:
                    self.tables.look_into(path)
                if fnmatchcase(name, parts[0]) and (parts[0][0] in "._" or not _ignored(name)):
                    if is_branch:
                        self._follow(path)
                    yield from self._expand(path, is_branch, parts[1:])

    def _entries(self, directory: str) -> list[tuple[str, bool]]:
        """List a directory, broken links included; empty if the directory does not exist."""
        if self._local:
            with suppress(FileNotFoundError), os.scandir(directory) as entries:
                return [(entry.path, _is_directory(entry)) for entry in entries]
            return []
        selector = fs.FileSelector(directory, allow_not_found=True)
        infos = self._filesystem.get_file_info(selector)
        return [(info.path, info.type == fs.FileType.Directory) for info in infos]

    def _follow(self, directory: str) -> None:
        """Check whether a link leads into a table."""
        if self._local and os.path.islink(directory):  # noqa: PTH114 - of each directory of a glob
            self.tables.look_above(resolved(directory).as_posix(), directory)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links: opening it will raise the error
        return False


def each_once(paths: Iterable[str]) -> list[str]:
    """Return one path for each real file, its real path rather than a link to it."""
    paths = list(paths)
    real = dict(zip(paths, resolved_files(paths), strict=True))
    real_first = sorted(real, key=lambda path: (path != real[path], path))
    return list({real[path]: path for path in reversed(real_first)}.values())
