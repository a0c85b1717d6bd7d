"""The model registry: numbered versions of named models in a directory.

::

    models/stars/v000007/         a version: whole, never changed, never removed
    models/stars/current.json     which version is in use
    models/stars/rejected/RUN/    a candidate that did not become a version, and why
    models/stars/.lock            while somebody publishes; gone with its process

Who publishes or rolls back holds the lock; readers need none. A publish takes the number after
the highest there is and makes it current, so a publish moves ``current.json`` forward only; `use`
alone can move it back. After a roll-back from 7 to 5 the next publish is version 8. A process
killed between the version and ``current.json`` leaves a whole version that is not in use; its run
id published again puts it into use, unless a later version has been published since.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gmm_dask.errors import ConflictError, ModelError, StorageError
from gmm_dask.storage.files.atomic import (
    check_writable,
    publication,
    remove_directory,
    remove_stale,
    replace_file,
    storage_error,
    storage_errors,
)
from gmm_dask.storage.files.locks import HeldLock, acquire
from gmm_dask.storage.files.sealed import read_sealed, seal
from gmm_dask.storage.models.model import MANIFEST, RUN, StoredModel, read_model, write_model

CURRENT, REJECTED = "current.json", "rejected"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"v(\d{6,})")


@dataclass(frozen=True)
class _Current:
    """Content of ``current.json``: the version in use, and the highest that ever was."""

    version: int
    published: int


def publish(
    root: str | Path,
    name: str,
    model: StoredModel,
    *,
    run_id: str,
    based_on: int | None = None,
    extra: Mapping[str, bytes] | None = None,
    deadline: float = 60.0,
) -> int:
    """Store a model as the next version and make it current; returns the version's number.

    Publishing again with a ``run_id`` that has a version already returns that version.

    Parameters
    ----------
    root, name
        Directory of the registry, and the model's name in it; both are created.
    model
        What to store. ``version``, ``run_id``, ``created``, ``host`` and ``based_on`` are added
        to its ``run``.
    run_id
        Of the run that publishes; letters, digits and ``._-``.
    based_on
        The version that was current when the fit began: if another is current now, the model is
        kept under ``rejected/`` instead. None: whatever is current is superseded.
    extra
        Files to store along, by name.
    deadline
        Seconds to wait while another process publishes.

    Raises
    ------
    ConflictError
        ``based_on`` is no longer current.
    StorageError
        The disk refuses, or the lock is not to be had. The current model is what it was.
    """
    directory = _directory(root, name)
    _check_name(run_id, "run id")
    with _locked(directory, deadline):
        current = _read_current(directory)
        numbers = _numbers(directory)
        mine = _version_of_run(directory, numbers, run_id)
        if mine is not None and current is not None and current.published >= mine:
            return mine
        if based_on is not None and (current is None or current.version != based_on):
            now = "none" if current is None else f"version {current.version}"
            reason = f"it is based on version {based_on}, but {now} is current now"
            kept = _reject(directory, model, run_id, reason, extra)
            raise ConflictError(
                f"model {name} in {root} was not published: {reason}; it is kept in {kept}; "
                "start the retrain again from the current version"
            )
        if mine is not None:
            _write_current(directory, _Current(mine, mine))
            return mine
        number = max(numbers, default=0) + 1
        entries = {**_stamp(run_id), "version": number, "based_on": based_on}
        with publication(_version_path(directory, number)) as staged:
            write_model(model.with_run(**entries), staged, extra)
        try:
            _write_current(directory, _Current(number, number))
        except StorageError:
            if current_version(root, name) != number:
                remove_directory(_version_path(directory, number))
            raise
        return number


def reject(
    root: str | Path,
    name: str,
    model: StoredModel,
    *,
    run_id: str,
    reason: str,
    extra: Mapping[str, bytes] | None = None,
    deadline: float = 60.0,
) -> Path:
    """Keep a candidate that is not to be published, with the reason, for inspection.

    Returns its directory, which `load_model_at` reads; ``run["rejected"]`` is the reason. The
    first candidate that is kept for a run id stays.
    """
    directory = _directory(root, name)
    _check_name(run_id, "run id")
    with _locked(directory, deadline):
        return _reject(directory, model, run_id, reason, extra)


def load(root: str | Path, name: str, version: int | None = None) -> StoredModel:
    """Read a version of a model, the current one by default.

    Raises
    ------
    ModelError
        There is no such model or version (the message lists what there is), or it is damaged.
    """
    directory = _existing(root, name)
    if version is None:
        version = _require_current(directory)
    elif version not in _numbers(directory):
        raise ModelError(
            f"{directory}: has no version {version}; there are {_listed(_numbers(directory))}"
        )
    return read_model(_version_path(directory, version))


def load_model_at(path: str | Path, version: int | None = None) -> StoredModel:
    """Read a model by its path.

    Parameters
    ----------
    path
        ``models/NAME`` (its current version), ``models/NAME/v000003``, or
        ``models/NAME/rejected/RUN``.
    version
        Which version of ``models/NAME``; default: the current one.

    Raises
    ------
    ModelError
        There is no model there (the message lists what there is), or it is damaged.
    """
    path = Path(path)
    if version is not None:
        # Made absolute so that "." has a name; the name of a link is kept.
        path = path.absolute()
        return load(path.parent, path.name, version)
    if (path / MANIFEST).exists() or (path / RUN).exists():
        return read_model(path)
    if (path / CURRENT).exists() or _numbers(path):
        return read_model(_version_path(path, _require_current(path)))
    if _VERSION.fullmatch(path.name) and _numbers(path.parent):
        raise ModelError(f"{path}: is missing; there are {_listed(_numbers(path.parent))}")
    raise ModelError(f"{path}: holds no model; {_there_is(path if path.is_dir() else path.parent)}")


def versions(root: str | Path, name: str) -> tuple[int, ...]:
    """Numbers of the versions of a model, ascending; none if there is no such model."""
    return _numbers(_directory(root, name))


def current_version(root: str | Path, name: str) -> int | None:
    """Return the version in use; None if nothing was published yet."""
    current = _read_current(_directory(root, name))
    return None if current is None else current.version


def use(root: str | Path, name: str, version: int, deadline: float = 60.0) -> None:
    """Make a version current, an earlier one too, after checking that it can be read.

    The next publish takes the next free number and becomes current.
    """
    directory = _existing(root, name)
    load(root, name, version)
    with _locked(directory, deadline):
        try:
            current = _read_current(directory)
        except StorageError:  # this is also how a damaged current.json is repaired
            current = _Current(version, max(_numbers(directory)))
        published = version if current is None else max(version, current.published)
        _write_current(directory, _Current(version, published))


def _directory(root: str | Path, name: str) -> Path:
    _check_name(name, "model name")
    return Path(root) / name


def _existing(root: str | Path, name: str) -> Path:
    directory = _directory(root, name)
    if not _numbers(directory):
        raise ModelError(f"{root}: has no model {name!r}; {_there_is(Path(root))}")
    return directory


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"{name!r} cannot be a {what}: use up to 128 letters, digits and . _ -, "
            "the first a letter or digit"
        )


def _locked(directory: Path, deadline: float) -> HeldLock:
    check_writable(directory)
    lock = acquire(directory / ".lock", f"model {directory.name} in {directory.parent}", deadline)
    try:
        remove_stale(directory)
    except BaseException:
        lock.release()
        raise
    return lock


def _reject(
    directory: Path,
    model: StoredModel,
    run_id: str,
    reason: str,
    extra: Mapping[str, bytes] | None,
) -> Path:
    kept = directory / REJECTED / run_id
    check_writable(kept.parent)
    remove_stale(kept.parent)
    if not kept.exists():
        with publication(kept) as staged:
            write_model(model.with_run(**_stamp(run_id), rejected=reason), staged, extra)
    return kept


def _stamp(run_id: str) -> dict[str, str]:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return {"run_id": run_id, "created": created, "host": platform.node()}


def _version_path(directory: Path, version: int) -> Path:
    return directory / f"v{version:06d}"


def _numbers(directory: Path) -> tuple[int, ...]:
    try:
        names = [entry.name for entry in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise ModelError(str(storage_error(error, directory, "cannot be read"))) from error
    return tuple(sorted(int(match[1]) for match in map(_VERSION.fullmatch, names) if match))


def _version_of_run(directory: Path, numbers: tuple[int, ...], run_id: str) -> int | None:
    """Find the version that a run has published, the latest first."""
    for number in reversed(numbers):
        path = _version_path(directory, number) / RUN
        try:
            if run_id.encode() not in path.read_bytes():
                continue
            if read_sealed(path)["run"]["run_id"] == run_id:
                return number
        except (OSError, KeyError):  # a damaged old version does not stop a new one
            continue
    return None


def _read_current(directory: Path) -> _Current | None:
    path = directory / CURRENT
    if not path.exists():
        return None
    document = read_sealed(path, ModelError)
    try:
        return _Current(int(document["version"]), int(document["published"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: does not name a version; write it anew with "
            f"`gmm-dask use {directory.name} VERSION`"
        ) from error


def _write_current(directory: Path, current: _Current) -> None:
    document = {"version": current.version, "published": current.published}
    replace_file(directory / CURRENT, seal(document))


def _require_current(directory: Path) -> int:
    current = _read_current(directory)
    if current is None:
        raise ModelError(
            f"{directory}: no version is in use; there are {_listed(_numbers(directory))}; "
            f"choose one with `gmm-dask use {directory.name} VERSION`"
        )
    return current.version


def _listed(numbers: tuple[int, ...]) -> str:
    if len(numbers) > 6:
        return f"versions {numbers[0]} … {numbers[-1]} ({len(numbers)} of them)"
    return "versions " + ", ".join(map(str, numbers)) if numbers else "no versions"


def _there_is(root: Path) -> str:
    """Tell which models a registry has."""
    with storage_errors(root, "cannot be read"):
        if not root.is_dir():
            return f"there is no directory {root}; fit a model first, or give another path"
        names = sorted(entry.name for entry in root.iterdir() if _numbers(entry))
    if not names:
        return f"there are no models in {root}; fit one first, or give another path"
    return f"models in {root}: {', '.join(names)}"
