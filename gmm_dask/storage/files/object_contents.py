"""The files of a version on an object store that is sealed, or is being written.

The layout is described in `gmm_dask.storage.files.objects`.
"""

from __future__ import annotations

import hashlib
import io
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gmm_dask.addresses import ObjectAddress
from gmm_dask.errors import ConflictError, StorageError
from gmm_dask.storage.files.sealed import LARGEST_DOCUMENT, Document, seal, unseal
from gmm_dask.storage.files.stores import (
    ObjectFile,
    Tag,
    at_once,
    copy,
    delete_all,
    entries_under,
    find,
    look_up,
    put,
    put_if,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Endings of the objects beside the folder of a version.
SEAL, REPORT = ".json", ".html"
#: The folder of a version: its name, then the mark of its owner and a token of its writer.
FOLDER = re.compile(r"(.+)\.([0-9a-f]{24})")

_READ_AHEAD = 8 << 20  # bytes; a footer is less, and ends with the object


class ObjectVersion:
    """A sealed version: files by name, which never change.

    Parameters
    ----------
    path
        Its address, ``DIRECTORY/NAME``, by which it is named; the files are in `folder`.
    """

    #: The same etag means the same bytes.
    hints_are_proof = True

    def __init__(self, path: ObjectAddress) -> None:
        self.path = path
        self._seal: Document | None = None
        self._hints: dict[str, str | None] | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self.path.name

    @property
    def folder(self) -> ObjectAddress:
        """The address below which its files are."""
        folder = self.sealed()["folder"]
        match = FOLDER.fullmatch(folder) if isinstance(folder, str) else None
        if match is None or match[1] != self.name:
            raise StorageError(f"{self.path}{SEAL}: names a folder of another version")
        return self.path.with_name(folder)

    def exists(self) -> bool:
        """Whether the version exists."""
        return self._seal is not None or look_up(beside(self.path, SEAL)) is not None

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Read the version while the block runs; yields whether it exists.

        On a store nobody sees that it is read: it stays for a time after it is no longer current.
        """
        yield self.exists()

    def holds(self, name: str) -> bool:
        """Whether the version exists and has a file of this name."""
        return self.exists() and name in self.sealed()["files"]

    def address(self, name: str) -> ObjectAddress:
        """Return where a file is, for people and other programs."""
        return self.folder / name

    def names(self) -> tuple[str, ...]:
        """Return the names of its files, sorted."""
        return tuple(sorted(self.sizes()))

    def sizes(self) -> dict[str, int]:
        """Return the sizes of its files in bytes, by name; from the seal."""
        return dict(self.sealed()["files"])

    def hint(self, name: str) -> str | None:
        """Return the hint of a file: its etag; all are asked for once.

        Raises
        ------
        FileNotFoundError
            The version has no such file.
        """
        if self._hints is None:
            entries = entries_under(self.folder)
            self._hints = {key: _hint(entry.tag) for key, entry in entries.items()}
        if name not in self._hints:
            raise FileNotFoundError(f"{self.path / name} is missing")
        return self._hints[name]

    def size(self, name: str, error: type[StorageError] = StorageError) -> int:
        """Return the size of a file in bytes; raises as `read` does."""
        size: int | None = self.sealed(error)["files"].get(name)
        if size is None:
            raise error(f"{self.path / name}: is missing; restore it, or use another version")
        return size

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
        self.size(name, error)
        stored = find(self.folder / name, largest, error)
        if stored is None:
            raise error(f"{self.folder / name}: is missing; restore it, or use another version")
        return stored[0]

    def document(self, name: str, error: type[StorageError] = StorageError) -> Document:
        """Return the content of a sealed JSON file; raises as `read` does, and on damage."""
        content = self.read(name, error)
        return unseal(content, self.path / name, error)

    def opened(self, name: str) -> io.BufferedReader:
        """Open a file for reading at any position; raises `FileNotFoundError` without one."""
        return _open(self.folder / name, self.sealed()["files"].get(name))

    def sealed(self, error: type[StorageError] = StorageError) -> Document:
        """Return the content of the seal, which is read once."""
        if self._seal is None:
            address = beside(self.path, SEAL)
            stored = find(address, kind=error)
            if stored is None:
                raise error(f"{self.path}: is missing; use another version")
            document = unseal(stored[0], address, error)
            if not isinstance(document.get("files"), dict) or "folder" not in document:
                raise error(f"{address}: is not the seal of a version; use another version")
            self._seal = document
        return self._seal


class StagedObjects:
    """A version that is being written; made by `ObjectWriter.stage`, picklable for workers.

    A worker with a copy may call `writing` and `hint`; the other methods are for the process that
    made it.
    """

    def __init__(self, target: ObjectAddress, owner: str) -> None:
        self._target = target
        self.folder = target.with_name(f"{target.name}.{mark_of(owner)}{secrets.token_hex(8)}")
        self._hints: dict[str, str | None] = {}
        self._sizes: dict[str, int] = {}
        self._sealed = False

    @property
    def directory(self) -> ObjectAddress:
        """The address of the files, as messages name it."""
        return self.folder

    def put(self, contents: Mapping[str, Buffer]) -> None:
        """Write whole files by name."""
        at_once(self._put, list(contents), list(contents.values()))

    @contextmanager
    def writing(self, name: str) -> Iterator[io.BytesIO]:
        """Write a file piece by piece, in any process; it is sent at the end of the block.

        A file that is written again replaces the first, and must have the same content.
        """
        file = io.BytesIO()
        yield file
        self._put(name, file.getbuffer())

    def hint(self, name: str) -> str | None:
        """Return the hint of a file: by what it is recognized, as long as it is not changed."""
        if name not in self._hints:
            entry = look_up(self.folder / name)
            if entry is None:
                raise StorageError(f"{self.folder / name}: is missing; predict again")
            self._hints[name] = _hint(entry.tag)
        return self._hints[name]

    def take(self, version: ObjectVersion, names: Mapping[str, str]) -> None:
        """Take over files of a sealed version under new names; the store copies them.

        Raises
        ------
        StorageError
            The version itself has no such file, or the store refuses.
        """
        sizes, folder = version.sizes(), version.folder
        for name in names:
            if name not in sizes:
                raise StorageError(
                    f"{version.path / name}: is not a file of the version {version.name}; remove "
                    "the version, and predict again"
                )
        sources = [folder / name for name in names]
        at_once(copy, sources, [self.folder / name for name in names.values()])
        if names:  # of a copy the store says the same, or not: it is asked once for all
            self._hints |= {
                name: _hint(entry.tag) for name, entry in entries_under(self.folder).items()
            }

    def written(self) -> dict[str, int]:
        """Return the sizes of the files by name."""
        entries = entries_under(self.folder)
        self._sizes = {name: entry.size for name, entry in entries.items()}
        return dict(self._sizes)

    def opened(self, name: str) -> io.BufferedReader:
        """Open a file that `written` has named, for reading at any position.

        Raises
        ------
        FileNotFoundError
            There was no such file.
        """
        return _open(self.folder / name, self._sizes.get(name))

    def seal(self, names: Iterable[str] = (), record: Buffer | None = None) -> None:
        """Make the version appear, whole; after that nothing is written to it.

        May be called again after a failure: finished steps are not repeated.

        Parameters
        ----------
        names
            Files from `writing` or `take`, which must be there.
        record
            Content of the record of the version (`ObjectVersions.record`).

        Raises
        ------
        ConflictError
            A version of this name exists.
        StorageError
            A file is missing, or the store refuses.
        """
        if self._sealed:
            return
        files = self.written()
        missing = sorted(set(names) - files.keys())
        if missing:
            raise StorageError(f"{self.folder / missing[0]}: is missing; it was removed; run again")
        document: Document = {"folder": self.folder.name, "files": files}
        if record is not None:
            document["record"] = unseal(bytes(record), self._target)
        try:
            put_if(beside(self._target, SEAL), seal(document), None)
        except ConflictError:
            raise ConflictError(
                f"{self._target}: cannot be written: a version of this name exists"
            ) from None
        self._sealed = True

    def discard(self) -> None:
        """Remove the staged files, unless the version was sealed."""
        if not self._sealed:
            delete_all(self.folder, entries_under(self.folder))

    def _put(self, name: str, content: Buffer) -> None:
        self._hints[name] = _hint(put(self.folder / name, content))


def _open(address: ObjectAddress, size: int | None) -> io.BufferedReader:
    if size is None:
        raise FileNotFoundError(f"{address} is missing")
    return io.BufferedReader(ObjectFile(address, size), _READ_AHEAD)


def mark_of(owner: str) -> str:
    """Return the digits by which the folders of an owner are known."""
    return hashlib.blake2b(owner.encode(), digest_size=4).hexdigest()


def beside(path: ObjectAddress, ending: str) -> ObjectAddress:
    """Return the address of an object beside the folder of a version."""
    return path.with_name(f"{path.name}{ending}")


def _hint(tag: Tag) -> str | None:
    return tag.etag or tag.version
