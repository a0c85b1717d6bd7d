"""The model registry: numbered versions of named models in a directory.

::

    models/stars/v000007/         a version: whole, never changed
    models/stars/v000007.pinned   it is not to be pruned
    models/stars/current.json     which version is in use
    models/stars/rejected/RUN/    a candidate that did not become a version, and why
    models/stars/.lock            held by a process that publishes, gone with it

Publishing and rolling back take the lock; reading does not. A publish takes the number after the
highest existing one and makes it current, so it only moves ``current.json`` forward; only `use`
can move it back. After a roll-back from 7 to 5 the next publish is version 8. A process killed
after writing the version but before ``current.json`` leaves a whole version that is not in use.
Publishing the same run id again puts it into use, unless a later version has been published since.
Old versions stay until they are pruned (`gmm_dask.storage.models.pruning`).

In terms of `gmm_dask.storage.files.versions`, ``current.json`` is the pointer. On an object store
there is no lock: who finds the number taken takes the next one, and a retrain that is overtaken
before it is current becomes a candidate, so its number may stay unused.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from gmm_dask.addresses import ObjectAddress, Place, place_of
from gmm_dask.errors import ConflictError, ModelError, StorageError
from gmm_dask.storage.files.atomic import storage_errors
from gmm_dask.storage.files.choice import (
    AnyVersion,
    AnyVersions,
    AnyWriter,
    names_in,
)
from gmm_dask.storage.files.objects import ObjectVersions
from gmm_dask.storage.files.pointers import FilePointer, Pointer
from gmm_dask.storage.files.sealed import unseal
from gmm_dask.storage.files.versions import Versions
from gmm_dask.storage.models.current import CURRENT, Current, use_command
from gmm_dask.storage.models.manifest import Publication
from gmm_dask.storage.models.model import RUN, StoredModel, model_files, read_model

REJECTED = "rejected"

#: Makes further files of a model that tell its version and run; called before they are stored.
Describe = Callable[[StoredModel], Mapping[str, bytes]]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
#: The name of a version's directory.
VERSION = re.compile(r"v(\d{6,})")


class Registry:
    """The versions of one model.

    Parameters
    ----------
    root
        Directory of all models; the first publish creates it. ``~``, ``file://``, ``s3://``,
        ``gs://`` and ``az://`` are understood; other schemes raise `ConfigError`.
    name
        The model's name, which is also its directory in ``root``.

    Attributes
    ----------
    store
        The versions as files, named ``v000007`` and ``rejected/RUN``.
    """

    def __init__(self, root: str | Place, name: str) -> None:
        self.root = place_of(root)
        self.name = name
        self.directory = self.root / name
        self._current_path = self.directory / CURRENT
        self.store = _versions(self.directory, f"model {name} in {root}")

    def path(self, version: int) -> Place:
        """Return the directory of a version, which need not exist."""
        return self._version(version).path

    def versions(self) -> tuple[int, ...]:
        """Return the numbers of the versions, ascending; empty if the model does not exist."""
        return _numbers(self.store.names())

    def current_version(self) -> int | None:
        """Return the number of the version in use; None if nothing has been published.

        Raises
        ------
        ModelError
            ``current.json`` is damaged.
        """
        current = self._decode(self.store.pointer())
        return None if current is None else current.version

    def load(self, version: int | None = None) -> StoredModel:
        """Read a version of the model, the current one by default.

        Raises
        ------
        ModelError
            The model or version does not exist (the message lists those that do), or it is
            damaged.
        """
        numbers = self.versions()
        if not numbers:
            raise ModelError(
                f"{self.root}: has no model {self.name!r}; {describe_models(self.root)}"
            )
        if version is not None and version not in numbers:
            raise ModelError(
                f"{self.directory}: has no version {version}; there are {list_numbers(numbers)}"
            )
        return self._load_current(numbers) if version is None else self._read(version)

    def _load_current(self, numbers: tuple[int, ...]) -> StoredModel:
        while True:
            version = self.current_version()
            if version is None:
                raise ModelError(
                    f"{self.directory}: no version is in use; there are {list_numbers(numbers)}; "
                    f"choose one with `{use_command(self.directory)}`"
                )
            try:
                return self._read(version)
            except ModelError:
                # Another has become current since, and this one may have been pruned.
                if self.current_version() == version:
                    raise

    def _read(self, number: int) -> StoredModel:
        version = self._version(number)
        with version.held():
            return read_model(version)

    def publish(
        self,
        model: StoredModel,
        *,
        run_id: str,
        based_on: int | None = None,
        based_on_log_likelihood: float | None = None,
        extra: Mapping[str, bytes] | None = None,
        describe: Describe | None = None,
        deadline: float = 60.0,
    ) -> int:
        """Store a model as the next version and make it current; returns the version's number.

        If the run has already published a version, that version is returned.

        Parameters
        ----------
        model
            The model to store; its ``run`` is replaced.
        run_id
            Id of the run that publishes; letters, digits and ``._-``.
        based_on
            The version that was current when the fit began. If another version is current now,
            the model is kept under ``rejected/`` instead. If None, any current version is
            superseded.
        based_on_log_likelihood
            Its mean log-likelihood on the rows of this model, to be recorded.
        extra
            Further files to store, by name.
        describe
            Makes still other files from the model as it is stored, which knows its version.
        deadline
            Seconds to wait while another process publishes.

        Raises
        ------
        ConflictError
            ``based_on`` is no longer current.
        StorageError
            The disk refuses, or another process holds the lock. The current version stays.
        """
        _check_name(run_id, "run id")
        give_up = time.monotonic() + deadline
        added: int | None = None
        with self._open(deadline) as writer:
            while True:
                pointer = self.store.pointer()
                current = self._decode(pointer)
                numbers = self.versions()
                number = added or self._version_of_run(run_id)
                published_up_to = 0 if current is None else current.published
                overtaken = added is not None and based_on is not None
                if number is not None and number <= published_up_to and not overtaken:
                    return number
                if based_on is not None and (current is None or current.version != based_on):
                    if added is not None:
                        writer.remove(version_name(added))
                    self._refuse(writer, model, run_id, based_on, current, extra, describe)
                try:
                    if number is None:
                        # A number is never used twice, not even one that was pruned.
                        number = max((*numbers, published_up_to)) + 1
                        publication = _publication(
                            run_id,
                            version=number,
                            based_on=based_on,
                            based_on_log_likelihood=based_on_log_likelihood,
                        )
                        published = replace(model, run=publication)
                        self._add(writer, number, run_id, _files(published, extra, describe))
                        added = number
                    writer.point(Current(number, number).encode(), expecting=pointer)
                    return number
                except StorageError as error:
                    # Under a lock only a person can be the other; on a store it is a publisher.
                    waits = writer.shared and time.monotonic() < give_up
                    if waits and isinstance(error, ConflictError):
                        continue
                    if added is not None and self.current_version() != added:
                        writer.remove(version_name(added))
                    raise

    def reject(
        self,
        model: StoredModel,
        *,
        run_id: str,
        reason: str,
        extra: Mapping[str, bytes] | None = None,
        describe: Describe | None = None,
        deadline: float = 60.0,
    ) -> Place:
        """Keep a candidate that will not be published, with the reason, for inspection.

        Returns its directory, which `load_model_at` reads; ``run.rejected`` is the reason. If the
        run has already kept a candidate, that one stays.
        """
        _check_name(run_id, "run id")
        with self._open(deadline) as writer:
            return self._keep_rejected(writer, model, run_id, reason, extra, describe)

    def use(self, version: int, deadline: float = 60.0) -> None:
        """Make any version current, after checking that it can be read.

        The next publish takes the number after the highest and becomes current.
        """
        self.load(version)
        with self._open(deadline) as writer:
            try:
                pointer = self.store.pointer()
                current = self._decode(pointer)
            except StorageError:  # this is also how a damaged current.json is repaired
                writer.replace(Current(version, max(self.versions())).encode())
                return
            published = version if current is None else max(version, current.published)
            writer.point(Current(version, published).encode(), expecting=pointer)

    def _open(self, deadline: float) -> AnyWriter:
        _check_name(self.name, "model name")
        return self.store.open(deadline)

    def _version(self, number: int) -> AnyVersion:
        return self.store.version(version_name(number))

    def _add(self, writer: AnyWriter, number: int, run_id: str, files: Mapping[str, bytes]) -> None:
        stage = writer.stage(version_name(number), run_id)
        stage.put(files)
        stage.seal()

    def _refuse(
        self,
        writer: AnyWriter,
        model: StoredModel,
        run_id: str,
        based_on: int,
        current: Current | None,
        extra: Mapping[str, bytes] | None,
        describe: Describe | None,
    ) -> NoReturn:
        now = "no version" if current is None else f"version {current.version}"
        reason = f"it is based on version {based_on}, but {now} is current now"
        kept = self._keep_rejected(writer, model, run_id, reason, extra, describe)
        raise ConflictError(
            f"model {self.name} in {self.root} was not published: {reason}; it is kept in {kept}; "
            "start the retrain again from the current version"
        )

    def _keep_rejected(
        self,
        writer: AnyWriter,
        model: StoredModel,
        run_id: str,
        reason: str,
        extra: Mapping[str, bytes] | None,
        describe: Describe | None,
    ) -> Place:
        name = f"{REJECTED}/{run_id}"
        kept = self.store.version(name)
        if not kept.exists():
            stage = writer.stage(name)
            rejected = replace(model, run=_publication(run_id, rejected=reason))
            stage.put(_files(rejected, extra, describe))
            stage.seal()
        return kept.path

    def _version_of_run(self, run_id: str) -> int | None:
        """Find the version that a run has published, searching from the latest."""
        for number in reversed(_numbers(self.store.names(owner=run_id))):
            version = self._version(number)
            try:
                content = version.read(RUN)
                if run_id.encode() not in content:
                    continue
                if unseal(content, version.path / RUN)["run"]["run_id"] == run_id:
                    return number
            except (StorageError, KeyError):  # a damaged old version does not stop a new one
                continue
        return None

    def _decode(self, pointer: Pointer | None) -> Current | None:
        return None if pointer is None else Current.decode(pointer.content, self._current_path)


def _versions(directory: Place, title: str) -> AnyVersions:
    if isinstance(directory, ObjectAddress):
        return ObjectVersions(directory, directory / CURRENT)
    return Versions(directory, FilePointer(directory / CURRENT), directory / ".lock", title)


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"{name!r} cannot be a {what}: use up to 128 letters, digits and . _ -, "
            "the first a letter or digit"
        )


def _files(
    model: StoredModel, extra: Mapping[str, bytes] | None, describe: Describe | None
) -> dict[str, bytes]:
    described = {} if describe is None else describe(model)
    return model_files(model, {**(extra or {}), **described})


def _numbers(names: Iterable[str]) -> tuple[int, ...]:
    matches = map(VERSION.fullmatch, names)
    return tuple(sorted(int(match[1]) for match in matches if match))


def version_name(number: int) -> str:
    """Return the name of a version's directory."""
    return f"v{number:06d}"


def _publication(run_id: str, **entries: Any) -> Publication:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Publication(run_id=run_id, created=created, host=platform.node(), **entries)


def list_numbers(numbers: tuple[int, ...]) -> str:
    """Write the numbers of versions for an error message, at most six of them."""
    if len(numbers) > 6:
        return f"versions {numbers[0]} … {numbers[-1]} ({len(numbers)} of them)"
    return "versions " + ", ".join(map(str, numbers)) if numbers else "no versions"


def models_in(root: Place) -> tuple[str, ...]:
    """Return the names of the models at a place; empty if it does not exist."""
    return tuple(name for name in names_in(root) if Registry(root, name).versions())


def describe_models(root: Place) -> str:
    """Describe the models at a place, or in its folder ``models``, for an error message."""
    if isinstance(root, Path):
        with storage_errors(root, "cannot be read"):
            if not root.is_dir():
                return f"there is no directory {root}; fit a model first, or give another path"
    for folder in (root, root / "models"):
        names = models_in(folder)
        if names:
            return f"models in {folder}: {', '.join(names)}"
    return f"there are no models in {root}; fit one first, or give another path"
