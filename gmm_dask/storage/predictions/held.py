"""What the current version holds of each input file, and whether the file is still the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

from gmm_dask.storage.input.columns import Column
from gmm_dask.storage.input.content import FileContent, unchanged_files
from gmm_dask.storage.input.filters.input_filter import InputFilter
from gmm_dask.storage.input.filters.predicate import text_of
from gmm_dask.storage.input.hints import hint_at
from gmm_dask.storage.input.input_file import FileSchema, InputFile, read_schemas
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.predictions.dataset import Predictions
from gmm_dask.storage.predictions.parts import Part

_HINT_THREADS = 16


@dataclass(frozen=True)
class Held:
    """The predictions of an input file in the current version.

    Attributes
    ----------
    parts
        In the order of the file.
    content
        What the file held when it was last predicted: the row groups that the parts describe.
    residual
        What the filter asked of its rows then; None: nothing.
    columns, key_columns
        The features and the keys that were read of it.
    """

    parts: tuple[Part, ...]
    content: FileContent
    residual: str | None
    columns: tuple[Column, ...]
    key_columns: tuple[str, ...]

    @property
    def origins(self) -> frozenset[int]:
        """Indices of the origins of all its rows."""
        return frozenset(origin for part in self.parts for origin in part.origins)


def held_by(current: Predictions) -> dict[str, Held]:
    """Return what a version holds of each file that has parts, by path."""
    by_file: dict[str, list[Part]] = {}
    for part in current.parts:
        by_file.setdefault(part.input_file, []).append(part)
    return {path: _held(current, path, tuple(parts)) for path, parts in by_file.items()}


def _held(current: Predictions, path: str, parts: tuple[Part, ...]) -> Held:
    settings = current.origins[parts[0].origins[0]].settings
    return Held(
        parts,
        current.files.get(path, FileContent(-1, "")),
        current.filters.get(path),
        tuple(Column(name, kind) for name, kind in settings["columns"]),
        tuple(name for name, _ in settings["key_columns"]),
    )


def filters_of(plan: InputPlan) -> dict[str, str]:
    """Return what the filter asks of the rows of each file, by path; nothing where of none."""
    residuals = ((file.path, plan.residual(file)) for file in plan.files)
    return {path: text_of(residual) for path, residual in residuals if residual is not None}


def described_groups(file: InputFile, parts: Sequence[Part]) -> tuple[int, ...]:
    """Return the row groups of a file of which parts describe any row."""
    bounds = pairwise((0, *accumulate(file.row_groups)))
    return tuple(
        index
        for index, (first, stop) in enumerate(bounds)
        if any(part.first < stop and first < part.stop for part in parts)
    )


def unchanged(plan: InputPlan, held: Mapping[str, Held]) -> dict[str, Held]:
    """Return the files that hold what they held when they were predicted, with today's hints.

    They may be outside the filter of the plan. Then a file is opened only where its hint differs,
    and read only where its footer is the same.

    Raises
    ------
    InputError
        The disk or the network does not answer.
    """
    same: dict[str, Held] = {}
    files = {file.path: file for file in plan.files if file.path in held}
    known = {path for path in held if held[path].content.digest is not None}
    outside = [path for path in held if path not in files and path in known]
    with ThreadPoolExecutor(_HINT_THREADS) as pool:
        hints = pool.map(lambda path: hint_at(plan.root, path), outside)
        doubtful = []
        for path, hint in zip(outside, hints, strict=True):
            if hint is not None and hint == held[path].content.hint:
                same[path] = held[path]
            else:
                doubtful.append(path)
    for schema in read_schemas(plan.root, doubtful):
        if isinstance(schema, FileSchema):  # else it is damaged, and no longer what it was
            files[schema.file.path] = schema.file
    for path, content in _same_contents(plan, held, files).items():
        same[path] = replace(held[path], content=content)
    return same


def _same_contents(
    plan: InputPlan, held: Mapping[str, Held], files: Mapping[str, InputFile]
) -> dict[str, FileContent]:
    """Compare files with what they held, each by the columns and row groups that were read then."""
    alike: dict[tuple[Any, ...], list[InputFile]] = {}
    for path, file in files.items():
        known = held[path]
        read = replace(file, left=described_groups(file, known.parts), inside=False)
        alike.setdefault((known.residual, known.columns, known.key_columns), []).append(read)
    same: dict[str, FileContent] = {}
    for (residual, columns, key_columns), read_files in alike.items():
        # Only the columns that the residual names matter here: they belong to the digest.
        asked = None if residual is None else InputFilter(residual, {})
        then = replace(plan, files=tuple(read_files), columns=columns, filter=asked)
        contents = {file.path: held[file.path].content for file in read_files}
        same |= unchanged_files(then, contents, key_columns)
    return same
