"""The check that a run does not write over its own input, however the paths are spelled."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path

from gmm_dask.addresses import ObjectAddress, Place, local_path, place_of, resolved, resolved_files
from gmm_dask.errors import ConfigError
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.input.plan import InputPlan

_MAGIC = frozenset("*?[")


def refuse_overlap(output: str | Place, address: str, plan: InputPlan | None = None) -> None:
    """Refuse an output that is the input, lies in it, holds it, or would become part of it.

    Paths are compared by the places that they lead to, through ``..``, symbolic links, other
    mounts of a directory, and other spellings on a file system that ignores case. A glob is also
    matched against the files that the output will hold: ``data/**/*.parquet`` would read them
    tomorrow.

    Parameters
    ----------
    output
        Where a dataset is to be written; its versions lie beside it, in ``OUTPUT.versions``.
    address
        The input as configured: file, directory, glob or address. Only a local one can overlap.
    plan
        The input plan of the address, if it has been made.

    Raises
    ------
    ConfigError
        They overlap; the message names both, and what to try.
    """
    place = place_of(output)
    if isinstance(place, ObjectAddress):
        _refuse_overlap_on_store(place, address)
        return
    local = _local(address)
    if local is None:
        return
    out = PredictionPlaces.of(output).out
    assert isinstance(out, Path)
    taken = [out, out.parent / f"{out.name}.versions"]
    is_glob = bool(_MAGIC & set(local)) and not os.path.lexists(local)
    sources = set() if is_glob else {resolved(local)}
    if plan is not None:
        real = {*resolved_files(os.path.join(plan.root, file.path) for file in plan.files)}  # noqa: PTH118 - of thousands of files
        # Directories instead of files: ten thousand files lie in few directories.
        outputs = {*map(str, taken)}
        used = {file if file in outputs else os.path.dirname(file) for file in real}  # noqa: PTH120
        sources |= {*map(Path, used)}
    if any(_is_inside(source, place) for source in sources for place in taken):
        _refuse(output, address, "the input lies in it")
    if not is_glob:
        if Path(local).is_dir() and any(_is_inside(place, resolved(local)) for place in taken):
            _refuse(output, address, "it lies in the input")
    else:
        pattern = _pattern(local)
        for part in (taken[0] / "part-x.parquet", taken[1] / "run" / "part-x.parquet"):
            if _matches(pattern, part.parts):
                _refuse(output, address, "the input's pattern matches it")


def _refuse_overlap_on_store(output: ObjectAddress, address: str) -> None:
    location = address.partition("?")[0].rstrip("/")
    bucket, _, key = location.removeprefix("s3://").partition("/")
    if not location.startswith("s3://") or f"s3://{bucket}" != output.bucket:
        return
    source = tuple(part for part in key.split("/") if part)
    fixed = tuple(takewhile(lambda part: not _MAGIC & set(part), source))
    taken = tuple(output.key.split("/")) if output.key else ()
    if fixed[: len(taken)] == taken:
        _refuse(output, address, "the input lies in it")
    if fixed == source and taken[: len(source)] == source:
        _refuse(output, address, "it lies in the input")
    if fixed != source and _matches(source, (*taken, "_versions", "run.0", "part-x.parquet")):
        _refuse(output, address, "the input's pattern matches it")


def _refuse(output: str | Place, address: str, how: str) -> None:
    raise ConfigError(
        f"output {output} and input {address} overlap: {how}; "
        "choose an output beside the input, not in it or around it"
    )


def _local(address: str) -> str | None:
    return None if address.startswith("s3://") else str(local_path(address))


def _is_inside(path: Path, place: Path) -> bool:
    """Whether ``path`` is ``place`` or below it; both are resolved, neither need exist yet."""
    if path == place or place in path.parents:
        return True
    try:
        place_status = place.stat()
    except OSError:
        return False
    for ancestor in (path, *path.parents):
        try:
            if os.path.samestat(ancestor.stat(), place_status):
                return True
        except OSError:  # does not exist yet
            continue
    return False


def _pattern(glob: str) -> tuple[str, ...]:
    """Return the parts of a glob; those before the first wildcard are resolved."""
    parts = Path(glob).absolute().parts
    fixed = next(i for i, part in enumerate(parts) if _MAGIC & set(part))
    return (*resolved(Path(*parts[:fixed])).parts, *parts[fixed:])


def _matches(pattern: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """Whether a glob matches a path, or a directory above it and so all that it holds."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(pattern[1:], path[start:]) for start in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _matches(pattern[1:], path[1:])
