"""Immutable versions and one pointer on an object store: the idea of `versions`, with keys.

A key is written once, and there is no lock and no rename::

    DIRECTORY/NAME.TOKEN/   the files of a version, under the mark and token of its writer
    DIRECTORY/NAME.json     its seal: created if there is none. It names the folder and its files
                            and holds the record, where a version has one
    DIRECTORY/NAME.html     its report, where it has one beside it
    POINTER                 replaced if it is still the one that was read

A version exists once its seal does. Two writers may stage at the same time, even the same name:
the second to seal gets a `ConflictError`, and so does the second to point. A reader reads the
pointer, the seal, and the files, and finds the old version or the new one, whole.

What a killed writer leaves is a folder without a seal. It is removed when nothing was written to
it for a week: a writer that lives writes more often. If it did not, it would miss its files when
it seals, and publish nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Container, Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from gmm_dask.addresses import ObjectAddress
from gmm_dask.errors import ConflictError, StorageError
from gmm_dask.storage.files.contents import pin_path
from gmm_dask.storage.files.object_contents import (
    FOLDER,
    REPORT,
    SEAL,
    ObjectVersion,
    StagedObjects,
    beside,
    mark_of,
)
from gmm_dask.storage.files.pointers import NAME, Pointer
from gmm_dask.storage.files.retention import Pruned
from gmm_dask.storage.files.sealed import LARGEST_DOCUMENT, Document, seal, unseal
from gmm_dask.storage.files.stores import (
    Tag,
    delete,
    delete_all,
    entries_under,
    find,
    look_up,
    names_under,
    put,
    put_if,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Age in seconds of the last object at which a folder without a seal counts as abandoned.
ABANDONED = 7 * 24 * 3600.0
#: Seconds for which a reader may go on with a version after the next one was sealed.
GRACE = 24 * 3600.0


class ObjectVersions:
    """The versions of one thing and their pointer, for reading; `open` makes an `ObjectWriter`.

    Parameters
    ----------
    directory
        The address below which the versions lie.
    pointer
        The object that says which version is meant.
    names_version
        Whether the content of the pointer is the name of a version. Then the object is a document
        that names the folder too, relative to the pointer, for other readers.
    largest
        Bytes that the pointer has at most.
    """

    def __init__(
        self,
        directory: ObjectAddress,
        pointer: ObjectAddress,
        names_version: bool = False,
        largest: int = LARGEST_DOCUMENT,
    ) -> None:
        self.directory = directory
        self.pointer_address = pointer
        self._names_version = names_version
        self._largest = largest

    def names(self, folder: str = "", owner: str | None = None) -> tuple[str, ...]:
        """Return the names of the sealed versions, directly below the address or in a folder.

        Parameters
        ----------
        owner
            Leave out versions that others have staged.
        """
        return tuple(sorted(self.sealed_times(folder, owner)))

    def sealed_times(self, folder: str = "", owner: str | None = None) -> dict[str, float]:
        """Return when each of `names` was sealed, in seconds since 1970; one listing."""
        directory = self.directory / folder if folder else self.directory
        folders, objects = names_under(directory)
        times = {
            name.removesuffix(SEAL): written
            for name, written in objects.items()
            if name.endswith(SEAL) and directory / name != self.pointer_address
        }
        names = {name for name in times if NAME.fullmatch(name)}
        if owner is not None:
            matches = [FOLDER.fullmatch(folder) for folder in folders]
            mark = mark_of(owner)
            names &= {match[1] for match in matches if match and match[2].startswith(mark)}
        prefix = f"{folder}/" if folder else ""
        return {prefix + name: times[name] for name in names}

    def consists_of(self, name: str, files: re.Pattern[str]) -> bool:
        """Whether all files of a version have such names; here nobody else writes into one."""
        return True

    def version(self, name: str) -> ObjectVersion:
        """Return the sealed version of this name, which need not exist."""
        return ObjectVersion(self.directory / name)

    def record(self, name: str) -> Document:
        """Read the record of a version; raises `StorageError` if it is damaged or missing."""
        record: Document | None = self.version(name).sealed().get("record")
        if record is None:
            raise StorageError(f"{self.directory / name}: has no record; use another version")
        return dict(record)

    def is_pinned(self, name: str) -> bool:
        """Whether a version is pinned."""
        return look_up(pin_path(self.version(name).path)) is not None

    def prunable(self, names: Iterable[str]) -> Pruned:
        """Return what `ObjectWriter.prune` would do with these versions now."""
        names = tuple(names)
        in_grace = self._in_grace(names)
        others = [name for name in names if name not in in_grace]
        paths = {name: str(self.version(name).path) for name in names}
        return Pruned(
            tuple(paths[name] for name in others),
            self.bytes_of(others),
            in_grace=tuple(paths[name] for name in names if name in in_grace),
        )

    def _in_grace(self, names: Collection[str]) -> set[str]:
        """Return those after which the next version was sealed less than `GRACE` ago."""
        folders = {name.rpartition("/")[0] for name in names}
        sealed = {folder: self.sealed_times(folder) for folder in folders}
        now = time.time()
        in_grace = set()
        for name in names:
            times = sealed[name.rpartition("/")[0]]
            later = [when for when in times.values() if when > times.get(name, 0.0)]
            if now - min(later, default=now) < GRACE:
                in_grace.add(name)
        return in_grace

    def bytes_of(self, names: Iterable[str]) -> int:
        """Return what removing these versions frees."""
        versions = (self.version(name) for name in names)
        return sum(sum(version.sizes().values()) for version in versions if version.exists())

    def pointer(self) -> Pointer | None:
        """Read the pointer; None if it does not exist."""
        stored = find(self.pointer_address, self._largest)
        if stored is None:
            return None
        content, tag = stored
        if self._names_version:
            name = unseal(content, self.pointer_address).get("version")
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise StorageError(
                    f"{self.pointer_address}: does not name a version, so gmm-dask did not write "
                    "it; remove it, or choose another output"
                )
            content = name.encode()
        return Pointer(content, tag)

    def pointed_at(self) -> float | None:
        """Return when the pointer was last replaced, in seconds since 1970; None without one."""
        entry = look_up(self.pointer_address)
        return None if entry is None else entry.written

    def open(self, deadline: float = 0.0) -> ObjectWriter:
        """Become a writer, of which there may be several, so no deadline is waited for.

        What killed writers left over a week ago is removed.

        Raises
        ------
        StorageError
            The store refuses, or does not answer.
        """
        remove_abandoned(self.directory)
        entry = look_up(self.pointer_address)
        return ObjectWriter(self, None if entry is None else entry.tag)

    def encode(self, content: bytes) -> bytes:
        """Return the pointer's object for a content."""
        if not self._names_version:
            return content
        version = self.version(content.decode())
        folder = version.folder
        return seal({"version": version.name, "folder": f"{folder.parent.name}/{folder.name}"})


class ObjectWriter:
    """The right to change versions and pointer, until `close` or the end of a ``with`` block.

    Others may have it too: what a writer changes, it changes on conditions.
    """

    #: Whether others may write at the same time.
    shared = True

    def __init__(self, versions: ObjectVersions, tag: Tag | None) -> None:
        self._versions = versions
        self._tag = tag  # of the pointer, as this writer has last seen or written it
        self._stages: list[StagedObjects] = []
        self._closed = False

    def stage(self, name: str, owner: str = "") -> StagedObjects:
        """Begin a version; its name may put it into a folder: "rejected/NAME".

        If it is not sealed when the writer closes, it is discarded.

        Parameters
        ----------
        owner
            Who stages it, by which `ObjectVersions.names` finds it.
        """
        target = self._versions.directory / name
        if target.parent != self._versions.directory:
            remove_abandoned(target.parent)
        self._stages.append(StagedObjects(target, owner))
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
            The store refuses; the pointer stays as it was.
        """
        encoded = self._versions.encode(bytes(content))
        expected = None if expecting is None else expecting.tag
        self._tag = put_if(self._versions.pointer_address, encoded, expected)

    def replace(self, content: Buffer) -> None:
        """Replace the pointer that this writer has last seen, whatever its content.

        Raises
        ------
        ConflictError
            Another writer has replaced it: the younger one goes on.
        """
        try:
            encoded = self._versions.encode(bytes(content))
            self._tag = put_if(self._versions.pointer_address, encoded, self._tag)
        except ConflictError:
            raise ConflictError(
                f"{self._versions.pointer_address}: another process has written it, or removed it, "
                "since this one began; only one of them goes on, so look which runs do the same"
            ) from None

    def clear(self) -> None:
        """Remove the pointer, if it is the one that this writer has last seen."""
        entry = look_up(self._versions.pointer_address)
        if entry is not None and entry.tag == self._tag:
            delete(self._versions.pointer_address)
            self._tag = None

    def put_report(self, name: str, content: Buffer) -> None:
        """Keep a report beside a version, for people."""
        put(beside(self._versions.directory / name, REPORT), content)

    def remove(self, name: str) -> None:
        """Remove a version that nothing points to; does nothing without one.

        The seal goes first, in one step; what is left if this is interrupted is abandoned.
        """
        version = self._versions.version(name)
        if not version.exists():
            return
        folder = version.folder
        delete(beside(version.path, SEAL))
        delete(beside(version.path, REPORT))
        delete_all(folder, entries_under(folder))

    def prune(self, names: Iterable[str]) -> Pruned:
        """Remove old versions; those that a reader may still have open stay.

        There is no lock by which a reader could be known, so a version stays for `GRACE` after the
        next one was sealed.

        Parameters
        ----------
        names
            Of versions that nothing points to and that the caller knows to be old.
        """
        names = tuple(names)
        pruned = self._versions.prunable(names)
        kept = set(pruned.in_grace)
        for name in names:
            if str(self._versions.version(name).path) not in kept:
                self.remove(name)
        return pruned

    def pin(self, name: str) -> None:
        """Keep a version from being pruned, until `unpin`."""
        put(pin_path(self._versions.version(name).path), b"")

    def unpin(self, name: str) -> None:
        """Let a version be pruned again."""
        delete(pin_path(self._versions.version(name).path))

    def close(self) -> None:
        """Discard what is not sealed."""
        if self._closed:
            return
        self._closed = True
        for stage in self._stages:
            with suppress(StorageError):  # what is left is abandoned
                stage.discard()

    def __enter__(self) -> ObjectWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def remove_abandoned(directory: ObjectAddress) -> None:
    """Remove the folders without a seal to which nothing was written for a week.

    Costs a listing; where there are such folders, another one of all that is below.
    """
    folders, objects = names_under(directory)
    staged: dict[str, list[str]] = {}
    for folder in folders:
        match = FOLDER.fullmatch(folder)
        if match is not None:
            staged.setdefault(match[1], []).append(folder)
    unsealed: set[str] = set()
    for name, candidates in staged.items():
        if f"{name}{SEAL}" not in objects:
            unsealed.update(candidates)
        elif len(candidates) > 1:
            sealed = ObjectVersion(directory / name).folder.name
            unsealed.update(folder for folder in candidates if folder != sealed)
    if unsealed:
        _remove_old(directory, unsealed)


def _remove_old(directory: ObjectAddress, folders: Container[str]) -> None:
    latest: dict[str, float] = {}
    entries = entries_under(directory)
    for key, entry in entries.items():
        folder = key.partition("/")[0]
        latest[folder] = max(latest.get(folder, 0.0), entry.written)
    old = {
        folder
        for folder, written in latest.items()
        if folder in folders and time.time() - written > ABANDONED
    }
    delete_all(directory, [key for key in entries if key.partition("/")[0] in old])
