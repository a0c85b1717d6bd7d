"""Refusing to write over what is being read, however the two paths are spelled."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path

from gmm_dask.addresses import local_path, resolved
from gmm_dask.errors import ConfigError
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.input.plan import InputPlan

_MAGIC = frozenset("*?[")


def refuse_overlap(output: str | Path, address: str, plan: InputPlan | None = None) -> None:
    """Refuse an output that lies in the input, is it, holds it, or would become part of it.

    Paths are compared as the places that they lead to (``..``, symbolic links, other mounts of
    a directory, other spellings on a file system that ignores case). A glob is also held against
    the files that the output will consist of: ``data/**/*.parquet`` would read them tomorrow.

    Parameters
    ----------
    output
        Where a dataset is to be written; its versions lie beside it, in ``OUTPUT.versions``.
    address
        The input as configured: file, directory, glob or address. Only local ones can overlap.
    plan
        What the address led to, where that is known.

    Raises
    ------
    ConfigError
        Names both and what to try.
    """
    local = _local(address)
    if local is None:
        return
    places = PredictionPlaces.of(output)
    taken = [places.out, places.versions]
    is_glob = bool(_MAGIC & set(local)) and not os.path.lexists(local)
    sources = set() if is_glob else {resolved(local)}
    if plan is not None:
        real = {resolved(Path(plan.root, file.path)) for file in plan.files}
        # Directories instead of files: of ten thousand files, few places.
        sources |= {file if file in taken else file.parent for file in real}
    if any(_is_inside(source, mine) for source in sources for mine in taken):
        _refuse(output, address, "the input lies in it")
    if not is_glob:
        if Path(local).is_dir() and any(_is_inside(mine, resolved(local)) for mine in taken):
            _refuse(output, address, "it lies in the input")
    else:
        parts = _pattern(local)
        for mine in (taken[0] / "part-x.parquet", taken[1] / "run" / "part-x.parquet"):
            if _matches(parts, mine.parts):
                _refuse(output, address, "the input's pattern matches it")


def _refuse(output: str | Path, address: str, how: str) -> None:
    raise ConfigError(
        f"output {output} and input {address} overlap: {how}; "
        "choose an output beside the input, not in it or around it"
    )


def _local(address: str) -> str | None:
    return None if address.startswith("s3://") else str(local_path(address))


def _is_inside(path: Path, place: Path) -> bool:
    """Whether ``path`` is ``place`` or below it; both resolved, either may not exist yet."""
    if path == place or place in path.parents:
        return True
    try:
        there = place.stat()
    except OSError:
        return False
    for one in (path, *path.parents):
        try:
            if os.path.samestat(one.stat(), there):
                return True
        except OSError:  # does not exist yet
            continue
    return False


def _pattern(glob: str) -> tuple[str, ...]:
    """Parts of a glob, the ones before its first wildcard resolved."""
    parts = Path(glob).absolute().parts
    fixed = next(i for i, part in enumerate(parts) if _MAGIC & set(part))
    return (*resolved(Path(*parts[:fixed])).parts, *parts[fixed:])


def _matches(pattern: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """Whether a glob matches a path or a directory above it, which stands for all in it."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(pattern[1:], path[start:]) for start in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _matches(pattern[1:], path[1:])
