"""Addresses of files on this machine, as people write them: a path, ``~/…`` or ``file://…``.

Inputs may lie elsewhere too (`gmm_dask.storage.input.location`); models and predictions may not.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from gmm_dask.errors import ConfigError

# One slash is enough: a `Path` made of "s3://bucket" is "s3:/bucket", a directory named "s3:".
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_CREDENTIALS = re.compile(r"//[^/@]*@")


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
            f"{without_credentials(text)}: {scheme[1]}:// is no place for models or predictions, "
            "which lie in local directories; give a path, and copy what is published"
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
