r"""The checkpoint of a fit: its last state on disk, from which an interrupted run resumes.

One file, ``models/NAME/.checkpoints/FIT_KEY/state``, replaced whole after each iteration::

    gmm-dask checkpoint 1 <sha256 of the rest>\n
    safetensors: the arrays, and as its metadata {"fit_key": ..., "meta": JSON}

The fit key is the digest of everything that determines the result, so a checkpoint of other data
or another configuration lies elsewhere and is never read. In terms of
`gmm_dask.storage.files.versions` a checkpoint is a pointer without versions; a lock beside it is
held while the fit runs. On an object store there is no lock: each state replaces exactly the one
before it, so of two runs of the same fit the older one ends when the younger one has saved.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from gmm_dask.addresses import ObjectAddress
from gmm_dask.arrays import NamedArrays
from gmm_dask.errors import StorageError
from gmm_dask.storage.files.choice import AnyVersions, AnyWriter, names_in
from gmm_dask.storage.files.objects import ObjectVersions
from gmm_dask.storage.files.pointers import FilePointer
from gmm_dask.storage.files.sealed import plain
from gmm_dask.storage.files.versions import Versions
from gmm_dask.storage.models.registry import Registry

logger = logging.getLogger(__name__)

CHECKPOINTS, STATE = ".checkpoints", "state"
#: Age in seconds at which a checkpoint counts as forgotten and is removed.
FORGOTTEN = 30 * 24 * 3600.0


_FIRST_LINE = re.compile(rb"gmm-dask checkpoint 1 ([0-9a-f]{64})\n")
_FIRST_BYTES = len(b"gmm-dask checkpoint 1 \n") + 64
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Checkpoint:
    """The checkpoint of one fit key, held by this process; make one with `open_checkpoint`."""

    def __init__(self, versions: AnyVersions, fit_key: str, writer: AnyWriter) -> None:
        self.path = versions.directory / STATE
        self.fit_key = fit_key
        self._versions = versions
        self._writer = writer

    def save(self, arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]) -> None:
        """Replace the checkpoint; the new one is on the disk when this returns.

        Parameters
        ----------
        arrays
            Arrays of numbers or booleans by name, of any shape.
        meta
            Values that JSON can hold; a float that is not finite comes back as None.

        Raises
        ------
        StorageError
            The storage refuses; the previous checkpoint stays.
        ConflictError
            On a store, another process runs the same fit and has saved since.
        """
        metadata = {"fit_key": self.fit_key, "meta": plain(meta)}
        contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        # A single entry: several could be written in any order, in different bytes each time.
        content = safetensors.numpy.save(contiguous, {"checkpoint": json.dumps(metadata)})
        sha256 = hashlib.sha256(content).hexdigest()
        # Any state on the disk belongs to this fit, so replacing it loses nothing.
        self._writer.replace(f"gmm-dask checkpoint 1 {sha256}\n".encode() + content)

    def load(self) -> tuple[NamedArrays, dict[str, Any]] | None:
        """Return the arrays and metadata saved last; None if no usable checkpoint exists.

        A checkpoint that is damaged or belongs to another fit is not used; a warning names it.
        The arrays are read-only.
        """
        try:
            pointer = self._versions.pointer()
            return None if pointer is None else _decode(pointer.content, self.fit_key)
        except StorageError as error:
            problem = str(error)
        except ValueError as error:
            problem = f"{self.path}: {error}"
        logger.warning("%s; it is not used, the fit starts from the beginning", problem)
        return None

    def clear(self) -> None:
        """Remove the checkpoint, because the fit is done."""
        self._writer.clear()

    def close(self) -> None:
        """Release the lock, and remove the directory if it holds no checkpoint."""
        self._writer.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _decode(text: bytes, key: str) -> tuple[NamedArrays, dict[str, Any]]:
    """Decode the content of a file; raises ``ValueError`` if it cannot be used."""
    first = _FIRST_LINE.fullmatch(text[:_FIRST_BYTES])
    content = text[_FIRST_BYTES:]
    if first is None:
        raise ValueError("is not a checkpoint of this version of gmm-dask")
    if hashlib.sha256(content).hexdigest().encode() != first[1]:
        raise ValueError("is damaged (its sha256 does not fit)")
    try:
        header = int.from_bytes(content[:8], "little")
        encoded = json.loads(content[8 : 8 + header])["__metadata__"]["checkpoint"]
        metadata = json.loads(encoded)
        fit_key, meta = metadata["fit_key"], metadata["meta"]
        arrays = safetensors.numpy.load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"cannot be understood ({type(error).__name__}: {error})") from error
    if fit_key != key:
        raise ValueError(f"belongs to another fit ({fit_key})")
    return arrays, meta


def open_checkpoint(registry: Registry, fit_key: str, deadline: float = 0.0) -> Checkpoint:
    """Lock the checkpoint of a fit, before its first scan; on a store, begin to replace it.

    Parameters
    ----------
    registry
        The registry of the model.
    fit_key
        Digest of the model, fit and column configuration, the snapshot and the package version.
    deadline
        Seconds to wait for another process that runs the same fit.

    Raises
    ------
    StorageError
        Another process runs the same fit (the message names it), or the directory cannot be
        written.
    """
    versions = _versions(registry, fit_key)
    return Checkpoint(versions, fit_key, versions.open(deadline))


def interrupted_fits(registry: Registry) -> list[Mapping[str, Any]]:
    """Return the metadata of the checkpoints of a model, the newest first; takes no lock.

    A checkpoint that is damaged, or replaced just now, is left out.
    """
    fits: list[tuple[float, Mapping[str, Any]]] = []
    for key in names_in(registry.directory / CHECKPOINTS):
        with suppress(StorageError, ValueError):
            versions = _versions(registry, key)
            saved, pointer = versions.pointed_at(), versions.pointer()
            if saved is not None and pointer is not None:
                fits.append((saved, _decode(pointer.content, key)[1]))
    return [meta for _, meta in sorted(fits, key=lambda fit: -fit[0])]


def remove_forgotten(registry: Registry) -> None:
    """Remove the checkpoints of a model that are over a month old: their data have changed.

    A checkpoint stays if a process holds it or the disk refuses to remove it.
    """
    for key in names_in(registry.directory / CHECKPOINTS):
        with suppress(StorageError):
            saved = _versions(registry, key).pointed_at()
            if saved is not None and time.time() - saved > FORGOTTEN:
                with open_checkpoint(registry, key) as old:
                    old.clear()
                    logger.info("removed %s, left by a fit interrupted over a month ago", old.path)


def _versions(registry: Registry, fit_key: str) -> AnyVersions:
    if not _KEY.fullmatch(fit_key):
        raise StorageError(f"fit key {fit_key!r} cannot be the name of a directory")
    directory = registry.directory / CHECKPOINTS / fit_key
    if isinstance(directory, ObjectAddress):
        return ObjectVersions(directory, directory / STATE, largest=sys.maxsize)
    return Versions(
        directory,
        FilePointer(directory / STATE, largest=sys.maxsize),
        # Beside the directory, which is removed when it is empty.
        directory.with_name(f"{fit_key}.lock"),
        f"the fit {fit_key} of model {registry.name}",
    )
