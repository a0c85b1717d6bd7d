"""The schemas of the files of an input, compared with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import types

from gmm_dask.errors import SchemaError
from gmm_dask.storage.input.bad_files import BadFile
from gmm_dask.storage.input.columns import Column, common_type, problem_of
from gmm_dask.storage.input.filters.binding import Family, family_of
from gmm_dask.storage.input.input_file import FileSchema
from gmm_dask.storage.input.label_columns import holds_labels
from gmm_dask.storage.input.location import did_you_mean

#: What messages say of columns that are not read as numbers.
FILTERED = ", which the filter names"
DATED = ", which weight_halflife names"
LABELLED = ", which labels.column names"


@dataclass(frozen=True)
class _Alike:
    """Files that share a schema and their partition keys.

    Attributes
    ----------
    keys
        Names of the partition keys.
    stored
        Types of the columns of each name: Arrow's look-up by name passes over all columns.
    schema
        The schema itself.
    paths
        The files, in their order.
    """

    keys: frozenset[str]
    stored: Mapping[str, list[pa.DataType]]
    schema: pa.Schema
    paths: list[str]


class Schemas:
    """The schemas of all files, compared with each other."""

    def __init__(
        self, file_schemas: Sequence[FileSchema], partitions: Mapping[str, pa.DataType]
    ) -> None:
        self.partitions = partitions
        # Thousands of files share a few schemas: each is checked once, in its first file.
        self.distinct: list[_Alike] = []
        for file_schema in file_schemas:
            keys, schema = frozenset(file_schema.file.partitions), file_schema.schema
            for alike in self.distinct:
                if keys == alike.keys and schema.equals(alike.schema):
                    alike.paths.append(file_schema.file.path)
                    break
            else:
                paths = [file_schema.file.path]
                self.distinct.append(_Alike(keys, _types_by_name(schema), schema, paths))

    def unfit(
        self,
        conversions: Mapping[str, str | None],
        filtered: Sequence[str],
        keys: Sequence[str] = (),
        dated: str | None = None,
        labelled: str | None = None,
    ) -> list[BadFile]:
        """Find the files that lack a column, or have it in a type that cannot be used.

        Parameters
        ----------
        conversions
            The columns that are read as numbers, and their ``[input.convert]``.
        filtered
            Columns that the filter names.
        keys
            Key columns of predictions. One that no file has is for the prediction to refuse.
        dated
            The column that ages are counted from, if any.
        labelled
            The column of labels, if any.

        Raises
        ------
        SchemaError
            No file can be used for one of the columns.
        """
        problems: list[str | None] = [None] * len(self.distinct)
        asked: list[list[str | None]] = [
            [self._problem(alike, name, conversion) for alike in self.distinct]
            for name, conversion in conversions.items()
        ]
        by_wording = [(name, FILTERED) for name in filtered]
        by_wording += [] if dated is None else [(dated, DATED)]
        by_wording += [] if labelled is None else [(labelled, LABELLED)]
        for name, wording in by_wording:
            words = f"{_column(name)}{wording}"
            asked.append(
                [
                    None if name in alike.keys else self._missing(alike, name, words)
                    for alike in self.distinct
                ]
            )
        for name in keys:
            words = f"key column {name!r}"
            these = [self._missing(alike, name, words) for alike in self.distinct]
            asked += [] if all(these) else [these]
        for these in asked:
            if all(these):
                raise SchemaError(f"{self.distinct[0].paths[0]}: {these[0]}")
            problems = [before or now for before, now in zip(problems, these, strict=True)]
        return [
            BadFile(path, problem)
            for alike, problem in zip(self.distinct, problems, strict=True)
            if problem is not None
            for path in alike.paths
        ]

    def column(self, name: str, conversion: str | None) -> Column:
        """Check that the types of a column agree; no file is unfit for it.

        Raises
        ------
        SchemaError
            Its types may not differ so, or are all null.
        """
        kinds = {}
        for alike in self.distinct:
            kind = self._type(alike, name)
            kinds[str(kind)] = kind
        values = [kind for kind in kinds.values() if not types.is_null(kind)]
        if not values:
            problem = problem_of(pa.null(), conversion)
            raise SchemaError(f"{self.distinct[0].paths[0]}: column {name!r} {problem}")
        common = common_type(values, conversion)
        if common is None:
            raise SchemaError(f"column {name!r} is {self._spread(name)}; {_remedy(name, values)}")
        return Column(name, common)

    def check_labels(self, name: str) -> None:
        """Check that a column is of types whose values can be labels; no file is without it.

        Raises
        ------
        SchemaError
            It holds dates, measurements that are no whole numbers by their type, or the like.
        """
        for alike in self.distinct:
            kind = self._type(alike, name)
            if not holds_labels(kind):
                raise SchemaError(
                    f"{alike.paths[0]}: {_column(name)}{LABELLED}, is {kind}; labels are text, "
                    "integers or booleans: write such a column"
                )

    def family(
        self, name: str, key_families: Mapping[str, Family], asked: str = FILTERED
    ) -> Family:
        """Check that the families of a column agree; no file is without it.

        Parameters
        ----------
        asked
            What messages say of the column.

        Raises
        ------
        SchemaError
            A file has it in another family.
        """
        common: tuple[Family, str] | None = None
        for alike in self.distinct:
            path = alike.paths[0]
            if name in alike.keys:
                family = key_families[name]
            else:
                kind = self._type(alike, name)
                if types.is_null(kind):  # what a writer makes of a day without a value
                    continue
                family = family_of(kind)
            if common is not None and family is not common[0]:
                raise SchemaError(
                    f"{path}: {_column(name)}{asked}, holds {family}, but {common[0]} in "
                    f"{common[1]}; rewrite one of them"
                )
            common = common or (family, path)
        return Family.OTHER if common is None else common[0]

    def common(self) -> dict[str, str]:
        """Return the type of every column that all files have once, in types that one can hold.

        That is the widest of numbers, and any other for null. A value that it does not hold
        exactly is refused when it is read.
        """
        alike: dict[str, list[pa.DataType]] | None = None
        for each in self.distinct:
            names = {key: [self.partitions[key]] for key in each.keys}
            names |= {name: kinds for name, kinds in each.stored.items() if len(kinds) == 1}
            if alike is None:
                alike = names
            else:
                alike = {
                    name: kinds if names[name][0] in kinds else [*kinds, *names[name]]
                    for name, kinds in alike.items()
                    if name in names
                }
        held = {name: _holding(kinds) for name, kinds in sorted((alike or {}).items())}
        return {name: str(kind) for name, kind in held.items() if kind is not None}

    def _type(self, alike: _Alike, name: str) -> pa.DataType:
        """Return the type of a column that is not missing."""
        kinds = alike.stored.get(name, [])
        return kinds[0] if kinds else self.partitions[name]

    def _missing(self, alike: _Alike, name: str, asked: str) -> str | None:
        """Say that files do not have a column once; ``asked`` is what messages call it."""
        times = len(alike.stored.get(name, []))
        if times > 1:
            return f"{times} columns are named {name!r}; rename them when writing"
        if times or name in alike.keys:
            return None
        return f"has no {asked}{did_you_mean(name, [*alike.stored, *alike.keys])}"

    def _problem(self, alike: _Alike, name: str, conversion: str | None) -> str | None:
        """Say why files cannot be used for a column, and what to try; None if they can."""
        missing = self._missing(alike, name, _column(name))
        if missing is not None:
            return missing
        kind = self._type(alike, name)
        if types.is_null(kind) or (problem := problem_of(kind, conversion)) is None:
            return None
        return f"{_column(name)} {problem}{self._elsewhere(name)}"

    def _elsewhere(self, name: str) -> str:
        """Say how many files have a column in which type, if they differ."""
        spread = self._spread(name)
        return f"; it is {spread}" if " and " in spread else ""

    def _spread(self, name: str) -> str:
        """Say which types a column has, and in how many files, the most frequent first."""
        paths: dict[str, list[str]] = {}
        for alike in self.distinct:
            if self._missing(alike, name, "") is None:
                paths.setdefault(str(self._type(alike, name)), []).extend(alike.paths)
        by_count = sorted(paths.items(), key=lambda item: -len(item[1]))
        return " and ".join(f"{kind} in {_counted(files)}" for kind, files in by_count)


def _column(name: str) -> str:
    return f"column {name!r}"


def _counted(paths: Sequence[str]) -> str:
    if len(paths) == 1:
        return f"1 file ({paths[0]})"
    return f"{len(paths):,} files (the first of them {min(paths)})"


def _remedy(name: str, kinds: Sequence[pa.DataType]) -> str:
    """Say what to try where the types of a column may not differ as they do."""
    if all(problem_of(kind, "float") is None for kind in kinds):
        return f'[input.convert] {name} = "float" reads all of them as float64, or rewrite some'
    return "rewrite some of them"


def _holding(kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    """Return the type that holds values of all these types; None if there is none that is known."""
    if len(kinds) == 1:
        return kinds[0]
    schemas = [pa.schema([("values", kind)]) for kind in kinds]
    try:
        kind = pa.unify_schemas(schemas, promote_options="permissive").field("values").type
        return kind if kind == pa.type_for_alias(str(kind)) else None
    except (pa.ArrowException, ValueError):
        return None


def _types_by_name(schema: pa.Schema) -> dict[str, list[pa.DataType]]:
    """Return the types of the columns of each name, in their order."""
    types: dict[str, list[pa.DataType]] = {}
    for column in schema:
        types.setdefault(column.name, []).append(column.type)
    return types
