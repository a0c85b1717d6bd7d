"""What the current version holds of each input file, and whether the file is still the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

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
    """

    parts: tuple[Part, ...]
    content: FileContent
    residual: str | None

    @property
    def origins(self) -> frozenset[int]:
        """Indices of the origins of all its rows."""
        return frozenset(origin for part in self.parts for origin in part.origins)


def held_by(current: Predictions) -> dict[str, Held]:
    """Return what a version holds of each file that has parts, by path."""
    by_file: dict[str, list[Part]] = {}
    for part in current.parts:
        by_file.setdefault(part.input_file, []).append(part)
    unknown = FileContent(-1, "")
    return {
        path: Held(tuple(parts), current.files.get(path, unknown), current.filters.get(path))
        for path, parts in by_file.items()
    }


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


def unchanged(
    plan: InputPlan, held: Mapping[str, Held], key_columns: Sequence[str]
) -> dict[str, Held]:
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
    by_residual: dict[str | None, list[InputFile]] = {}
    for path, file in files.items():
        groups = described_groups(file, held[path].parts)
        read = replace(file, left=groups, inside=False)
        by_residual.setdefault(held[path].residual, []).append(read)
    for residual, read_files in by_residual.items():
        # Only the columns of the residual matter here: they belong to the digest.
        asked = None if residual is None else InputFilter(residual, {})
        as_predicted = replace(plan, files=tuple(read_files), filter=asked)
        contents = {file.path: held[file.path].content for file in read_files}
        for path, content in unchanged_files(as_predicted, contents, key_columns).items():
            same[path] = replace(held[path], content=content)
    return same
