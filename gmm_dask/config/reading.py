"""Run files and cluster files, read and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from gmm_dask.config.problems import describe_problem
from gmm_dask.config.section import Section
from gmm_dask.errors import ConfigError

Config = TypeVar("Config", bound=Section)


def read_config(kind: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a TOML file, with ``section.key=value`` overrides on top.

    The value of an override is read as TOML (``8``, ``true``, ``["a", "b"]``), or as a string if
    it is not TOML.

    Raises
    ------
    ConfigError
        The file is missing or is not TOML, a key is missing or unknown, or a value cannot be
        used; the message is one line that names the file and the dotted key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a path that holds a NUL character
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read ({reason}); give a TOML file") from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    except RecursionError as error:
        raise _too_deep(path) from error
    for override in overrides:
        _set(tables, override)
    return check_config(kind, tables, str(path))


def check_config(kind: type[Config], tables: dict[str, Any], where: str) -> Config:
    """Check the tables of a file, which messages call ``where``.

    Raises
    ------
    ConfigError
        A key is missing or unknown, or a value cannot be used; the message is one line with the
        dotted path of every such key.
    """
    try:
        return kind.model_validate(tables)
    except ValidationError as error:
        try:
            problems = [describe_problem(detail, tables) for detail in error.errors()]
        except RecursionError:
            raise _too_deep(where) from None
        raise ConfigError(f"{where}: " + "; ".join(problems)) from error
    except RecursionError as error:
        raise _too_deep(where) from error


def _too_deep(where: str | Path) -> ConfigError:
    return ConfigError(
        f"{where}: is nested too deeply; no key needs more than arrays of arrays of arrays"
    )


def _set(tables: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or len(path) < 2 or not all(path):
        raise ConfigError(f"--set {override}: write section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    except RecursionError as error:
        raise _too_deep(f"--set {key}") from error
    table = tables
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {part} is a value, not a section")
    table[path[-1]] = value
