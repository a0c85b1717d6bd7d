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

In terms of `gmm_dask.storage.files.versions`, ``current.json`` is the pointer.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from gmm_dask.addresses import local_path
from gmm_dask.errors import ConflictError, ModelError, StorageError
from gmm_dask.storage.files.atomic import storage_errors
from gmm_dask.storage.files.contents import Version
from gmm_dask.storage.files.pointers import FilePointer, Pointer
from gmm_dask.storage.files.sealed import unseal
from gmm_dask.storage.files.versions import Versions, Writer, names_in
from gmm_dask.storage.models.current import CURRENT, Current, use_command
from gmm_dask.storage.models.manifest import Publication
from gmm_dask.storage.models.model import MANIFEST, RUN, StoredModel, model_files, read_model

REJECTED = "rejected"

#: Makes further files of a model that tell its version and run; called before they are stored.
Describe = Callable[[StoredModel], Mapping[str, bytes]]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"v(\d{6,})")


class Registry:
    """The versions of one model.

    Parameters
    ----------
    root
        Directory of all models; the first publish creates it. ``~`` and ``file://`` are
        understood; other schemes raise `ConfigError`.
    name
        The model's name, which is also its directory in ``root``.

    Attributes
    ----------
    store
        The versions as files, named ``v000007`` and ``rejected/RUN``.
    """

    def __init__(self, root: str | Path, name: str) -> None:
        self.root = local_path(root)
        self.name = name
        self.directory = self.root / name
        self._current_path = self.directory / CURRENT
        self.store = Versions(
            self.directory,
            FilePointer(self._current_path),
            self.directory / ".lock",
            f"model {name} in {root}",
        )

    def path(self, version: int) -> Path:
        """Return the directory of a version, which need not exist."""
        return self._version(version).path

    def versions(self) -> tuple[int, ...]:
        """Return the numbers of the versions, ascending; empty if the model does not exist."""
        matches = map(_VERSION.fullmatch, self.store.names())
        return tuple(sorted(int(match[1]) for match in matches if match))

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
                f"{self.directory}: has no version {version}; there are {_listed(numbers)}"
            )
        return self._load_current(numbers) if version is None else self._read(version)

    def _load_current(self, numbers: tuple[int, ...]) -> StoredModel:
        while True:
            version = self.current_version()
            if version is None:
                raise ModelError(
                    f"{self.directory}: no version is in use; there are {_listed(numbers)}; "
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
        with self._open(deadline) as writer:
            pointer = self.store.pointer()
            current = self._decode(pointer)
            numbers = self.versions()
            number = self._version_of_run(run_id, numbers)
            if number is not None and current is not None and current.published >= number:
                return number
            if based_on is not None and (current is None or current.version != based_on):
                self._refuse(writer, model, run_id, based_on, current, extra, describe)
            if number is not None:
                writer.point(Current(number, number).encode(), expecting=pointer)
                return number
            # A number is never used twice, even if somebody has removed the last version by hand.
            number = max((*numbers, current.published if current else 0)) + 1
            published = replace(
                model,
                run=_publication(
                    run_id,
                    version=number,
                    based_on=based_on,
                    based_on_log_likelihood=based_on_log_likelihood,
                ),
            )
            self._add(writer, number, _files(published, extra, describe), pointer)
            return number

    def reject(
        self,
        model: StoredModel,
        *,
        run_id: str,
        reason: str,
        extra: Mapping[str, bytes] | None = None,
        describe: Describe | None = None,
        deadline: float = 60.0,
    ) -> Path:
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

    def _open(self, deadline: float) -> Writer:
        _check_name(self.name, "model name")
        return self.store.open(deadline)

    def _version(self, number: int) -> Version:
        return self.store.version(version_name(number))

    def _add(
        self, writer: Writer, number: int, files: Mapping[str, bytes], pointer: Pointer | None
    ) -> None:
        """Store a version and make it current; withdraw it if it cannot be made current."""
        stage = writer.stage(version_name(number))
        stage.put(files)
        stage.seal()
        try:
            writer.point(Current(number, number).encode(), expecting=pointer)
        except StorageError:
            if self.current_version() != number:
                writer.remove(version_name(number))
            raise

    def _refuse(
        self,
        writer: Writer,
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
        writer: Writer,
        model: StoredModel,
        run_id: str,
        reason: str,
        extra: Mapping[str, bytes] | None,
        describe: Describe | None,
    ) -> Path:
        name = f"{REJECTED}/{run_id}"
        kept = self.store.version(name)
        if not kept.exists():
            stage = writer.stage(name)
            rejected = replace(model, run=_publication(run_id, rejected=reason))
            stage.put(_files(rejected, extra, describe))
            stage.seal()
        return kept.path

    def _version_of_run(self, run_id: str, numbers: tuple[int, ...]) -> int | None:
        """Find the version that a run has published, searching from the latest."""
        for number in reversed(numbers):
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


def load_model_at(path: str | Path, version: int | None = None) -> StoredModel:
    """Read a model by its path.

    Parameters
    ----------
    path
        ``models/NAME`` (its current version), ``models/NAME/v000003``, or
        ``models/NAME/rejected/RUN``. ``~`` and ``file://`` are understood.
    version
        Version of ``models/NAME``; the current one by default.

    Raises
    ------
    ModelError
        The path holds no model (the message lists the models nearby), or the model is damaged.
    ConfigError
        The path is not local.
    """
    path = local_path(path)
    registry = Registry(path.parent, path.name)
    if version is not None:
        return registry.load(version)
    with storage_errors(path, "cannot be read"):
        is_version = (path / MANIFEST).exists() or (path / RUN).exists()
        is_model = (path / CURRENT).exists() or bool(registry.versions())
    if is_version:
        return read_model(Version(path))
    if is_model:
        return registry.load()
    siblings = Registry(path.parent.parent, path.parent.name).versions()
    if _VERSION.fullmatch(path.name) and siblings:
        raise ModelError(f"{path}: is missing; there are {_listed(siblings)}")
    root = path if path.is_dir() else path.parent
    raise ModelError(f"{path}: holds no model; {describe_models(root)}")


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


def version_name(number: int) -> str:
    """Return the name of a version's directory."""
    return f"v{number:06d}"


def _publication(run_id: str, **entries: Any) -> Publication:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Publication(run_id=run_id, created=created, host=platform.node(), **entries)


def _listed(numbers: tuple[int, ...]) -> str:
    if len(numbers) > 6:
        return f"versions {numbers[0]} … {numbers[-1]} ({len(numbers)} of them)"
    return "versions " + ", ".join(map(str, numbers)) if numbers else "no versions"


def models_in(root: Path) -> tuple[str, ...]:
    """Return the names of the models in a directory; empty if it does not exist."""
    return tuple(name for name in names_in(root) if Registry(root, name).versions())


def describe_models(root: Path) -> str:
    """Describe the models in a directory, for an error message."""
    with storage_errors(root, "cannot be read"):
        if not root.is_dir():
            return f"there is no directory {root}; fit a model first, or give another path"
        names = models_in(root)
    if not names:
        return f"there are no models in {root}; fit one first, or give another path"
    return f"models in {root}: {', '.join(names)}"
