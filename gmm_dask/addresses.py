"""Addresses as people write them: a path, ``~/…``, ``file://…``, or a place on an object store.

A place on this machine becomes a `Path`, one on an object store an `ObjectAddress`. Both can be
joined by ``/``, and have a name and a parent. Which inputs can be read is said in
`gmm_dask.storage.input.location`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote

from gmm_dask.errors import ConfigError

# One slash is enough: a `Path` made of "s3://bucket" is "s3:/bucket", a directory named "s3:".
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_CREDENTIALS = re.compile(r"//[^/@]*@")

#: Object stores on which models and predictions may lie.
STORES = ("s3", "gs", "az")


@dataclass(frozen=True)
class ObjectAddress:
    """The address of an object, or of all objects below it; it holds no credentials.

    Attributes
    ----------
    bucket
        Scheme and bucket: ``s3://bucket``.
    key
        The key of the object, without ``/`` at its ends; empty for the bucket itself.
    """

    bucket: str
    key: str = ""

    def __truediv__(self, name: str) -> ObjectAddress:
        return ObjectAddress(self.bucket, f"{self.key}/{name}" if self.key else name)

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> ObjectAddress:
        """The address above; of a bucket, the bucket."""
        return ObjectAddress(self.bucket, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> ObjectAddress:
        """Return the address with another last part."""
        return self.parent / name


#: Where a file or an object is.
Place: TypeAlias = Path | ObjectAddress


def place_of(address: str | Place) -> Place:
    """Return the place that an address names: a path of this machine, or objects of a store.

    Parameters
    ----------
    address
        As `local_path` takes it; or ``s3://bucket/key``, ``gs://…``, ``az://…``, without options.
        A `Path` made of one has lost a slash, and is understood.

    Raises
    ------
    ConfigError
        It has another scheme, holds credentials or options, or cannot be a key.
    """
    if isinstance(address, ObjectAddress):
        return address
    text = os.fspath(address)
    scheme = _SCHEME.match(text)
    if scheme is None or scheme[1] not in STORES:
        return local_path(address)
    rest = text[scheme.end() - 1 :]
    if not rest.startswith("//"):
        if not isinstance(address, Path):
            raise ConfigError(f"{text}: has one slash after {scheme[1]}:, where two belong")
        rest = "/" + rest
    shown = without_credentials(f"{scheme[1]}:{rest}")
    if "?" in rest or "@" in rest[2:].partition("/")[0]:
        raise ConfigError(
            f"{shown}: has options or credentials in it, and addresses are logged and stored; "
            "give them by the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, AWS_REGION, …)"
        )
    bucket, _, key = rest[2:].partition("/")
    parts = key.rstrip("/").split("/") if key else []
    if not bucket or any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise ConfigError(
            f"{shown}: is no place on a store; write {scheme[1]}://BUCKET/KEY, without empty "
            "parts, dots alone or control characters"
        )
    return ObjectAddress(f"{scheme[1]}://{bucket}", "/".join(parts))


def local_path(address: str | Path) -> Path:
    """Path of a local address; relative ones stay so.

    Parameters
    ----------
    address
        A path, in which ``~`` is a home directory, or ``file:///…``, in which ``%20`` is a blank.

    Raises
    ------
    ConfigError
        It has another scheme, names another machine or an unknown user, or holds a NUL character.
    """
    text = os.fspath(address)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return _expanded(text)
    if scheme[1].lower() != "file":
        raise ConfigError(
            f"{without_credentials(text)}: {scheme[1]}:// is no place for models or predictions; "
            "give a path of this machine, s3://, gs:// or az://"
        )
    rest = text[scheme.end() - 1 :]
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        if host not in ("", "localhost") or not slash:
            raise ConfigError(
                f"{text}: names the machine {host!r}, not a path; write file:/// and an absolute "
                "path, or a path alone"
            )
        rest = "/" + rest
    return Path(_without_nul(unquote(rest)))


def resolved(path: str | Path) -> Path:
    """Absolute path without links, as far as they can be followed.

    `Path.resolve` raises a RuntimeError where links lead in a circle.
    """
    return Path(os.path.realpath(path))


def resolved_files(paths: Iterable[str]) -> list[str]:
    """Resolve files as `resolved` does, of thousands of paths; each directory is resolved once."""
    directories: dict[str, str] = {}
    files = []
    for path in paths:
        directory, name = os.path.split(path)
        if name in ("", ".", "..") or os.path.islink(path):  # noqa: PTH114
            files.append(os.path.realpath(path))
            continue
        if directory not in directories:
            directories[directory] = os.path.realpath(directory)
        files.append(os.path.join(directories[directory], name))  # noqa: PTH118
    return files


def absolute(place: Place) -> Place:
    """Absolute path without links; the address of an object is absolute already."""
    return resolved(place) if isinstance(place, Path) else place


def without_credentials(address: str) -> str:
    """Address as it may be shown: without user, password and options."""
    return _CREDENTIALS.sub("//", address.partition("?")[0], count=1)


def _expanded(text: str) -> Path:
    try:
        return Path(_without_nul(text)).expanduser()
    except RuntimeError as error:  # no such user, or one without a home
        raise ConfigError(
            f"{text}: {error}; write the path out, or ./~… where ~ is part of a name"
        ) from error


def _without_nul(path: str) -> str:
    if "\0" in path:
        raise ConfigError(f"{path!r}: holds a NUL character, which no path can; remove it")
    return path
