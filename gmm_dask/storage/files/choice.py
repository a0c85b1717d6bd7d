"""The choice by address: files of this machine, or objects of a store."""

from __future__ import annotations

import os
import secrets
from typing import TypeAlias

from gmm_dask.addresses import ObjectAddress, Place
from gmm_dask.storage.files import versions
from gmm_dask.storage.files.atomic import check_writable, storage_errors
from gmm_dask.storage.files.contents import StagedVersion, Version
from gmm_dask.storage.files.object_contents import ObjectVersion, StagedObjects
from gmm_dask.storage.files.objects import ObjectVersions, ObjectWriter
from gmm_dask.storage.files.pointers import NAME
from gmm_dask.storage.files.stores import check_store, look_up, names_under
from gmm_dask.storage.files.versions import Versions, Writer

# The two implementations have the same methods; a type checker compares them at every use.
AnyVersions: TypeAlias = Versions | ObjectVersions
AnyVersion: TypeAlias = Version | ObjectVersion
AnyWriter: TypeAlias = Writer | ObjectWriter
AnyStage: TypeAlias = StagedVersion | StagedObjects


def version_at(path: Place) -> AnyVersion:
    """Return the version at a place, which need not exist."""
    return ObjectVersion(path) if isinstance(path, ObjectAddress) else Version(path)


def names_in(place: Place) -> tuple[str, ...]:
    """Return the names at a place that versions, models or checkpoints may have."""
    if not isinstance(place, ObjectAddress):
        return versions.names_in(place)
    folders, _ = names_under(place)
    return tuple(sorted(name for name in folders if NAME.fullmatch(name)))


def exists(place: Place) -> bool:
    """Whether there is a file, a directory or an object at a place."""
    if isinstance(place, ObjectAddress):
        return look_up(place) is not None
    with storage_errors(place, "cannot be read"):
        return place.exists()


def check_output(place: Place) -> None:
    """Check that a place can be written, or could be created; leaves nothing there.

    Raises
    ------
    StorageError
        It cannot; the message says what to try.
    """
    if isinstance(place, ObjectAddress):
        check_store(place, f".probe-{secrets.token_hex(8)}")
        return
    path = place.absolute()
    while not os.path.lexists(path):
        path = path.parent
    check_writable(path)
