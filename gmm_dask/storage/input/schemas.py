"""The files of an input as their footers describe them: sizes, rows, and schemas compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
from pyarrow import types

from gmm_dask.errors import InputError, SchemaError
from gmm_dask.storage.input.columns import Column, problem_of, widest
from gmm_dask.storage.input.filters.binding import Family, family_of
from gmm_dask.storage.input.filters.moments import read_date
from gmm_dask.storage.input.filters.outcomes import Domain
from gmm_dask.storage.input.filters.statistics import row_group_domains
from gmm_dask.storage.input.footer import read_footer
from gmm_dask.storage.input.hints import hint_of
from gmm_dask.storage.input.location import (
    READ_ERRORS,
    did_you_mean,
    open_file,
    partitions_of,
    reason,
)

_FOOTER_THREADS = 16
_FOOTERS_PER_TURN = 16  # handing out one at a time costs more than reading a local footer
# Longer runs of digits are names, not numbers: float64 would lose their last digits.
_INTEGER = re.compile(r"[+-]?[0-9]{1,15}")
_NUMBER = re.compile(r"[+-]?([0-9]{1,15}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True)
class InputFile:
    """One file of an input.

    Attributes
    ----------
    path
        Path relative to the plan's root, with ``/``.
    size
        Bytes.
    row_groups
        Rows of each row group.
    footer
        Digest of the footer.
    hint
        What the file system said of the file when the plan was made
        (`gmm_dask.storage.input.hints`). It does not belong to the snapshot, and is None in a
        plan that was stored or sent.
    left
        Numbers of the row groups in which a row may be inside the filter; None: of all.
    inside
        Whether all rows of these row groups are known to be inside the filter.
    """

    path: str
    size: int
    row_groups: tuple[int, ...]
    footer: str
    hint: str | None = field(default=None, compare=False, repr=False)
    left: tuple[int, ...] | None = None
    inside: bool = False

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """Number and rows of each row group that is read: with rows, and left by the filter."""
        left = range(len(self.row_groups)) if self.left is None else self.left
        return tuple((index, self.row_groups[index]) for index in left if self.row_groups[index])

    @property
    def rows(self) -> int:
        """Rows of the row groups that are read."""
        return sum(rows for _, rows in self.groups)

    @property
    def partitions(self) -> dict[str, str | None]:
        """Keys and values of the Hive partitions that the file lies in."""
        return partitions_of(self.path)


@dataclass(frozen=True)
class FileSchema:
    """A file of the input, from its footer.

    Attributes
    ----------
    file, schema
        The file, and the types of its columns.
    domains
        What its statistics say of the columns of a filter, for each row group; empty without one.
    """

    file: InputFile
    schema: pa.Schema
    domains: tuple[Mapping[str, Domain], ...] = ()


def read_schemas(root: str, paths: Sequence[str], filtered: Sequence[str] = ()) -> list[FileSchema]:
    """Read all footers, many at a time: most of the time is spent waiting for a remote disk.

    Parameters
    ----------
    filtered
        Columns whose statistics are wanted.
    """

    def read_turn(start: int) -> list[FileSchema]:
        turn = paths[start : start + _FOOTERS_PER_TURN]
        return [_read_schema(root, path, filtered) for path in turn]

    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        turns = pool.map(read_turn, range(0, len(paths), _FOOTERS_PER_TURN))
        return [file_schema for turn in turns for file_schema in turn]


def _read_schema(root: str, path: str, filtered: Sequence[str]) -> FileSchema:
    try:
        with open_file(root, path) as source:
            hint = hint_of(root, path, source)
            footer = read_footer(source, path)
        metadata = footer.parse(path)
        schema = footer.schema(metadata)
        # A partition key counts, even where the file stores a column of its name.
        names = [name for name in filtered if name not in partitions_of(path)]
        domains = row_group_domains(footer.raw, metadata, schema, names) if names else ()
    except InputError:
        raise
    except READ_ERRORS as error:
        raise InputError(
            f"{path}: cannot be read ({reason(error)}); check that it exists and may be read"
        ) from error
    groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    file = InputFile(path, footer.size, groups, footer.digest, hint)
    return FileSchema(file, schema, tuple(domains))


class Schemas:
    """The schemas of all files, compared with each other."""

    def __init__(
        self, file_schemas: Sequence[FileSchema], partitions: Mapping[str, pa.DataType]
    ) -> None:
        self.partitions = partitions
        # Thousands of files share a few schemas: each is checked once, in its first file.
        self.distinct: list[tuple[set[str], FileSchema]] = []
        # Arrow's look-up by name passes over all columns each time.
        self.stored: list[dict[str, list[pa.DataType]]] = []
        for file_schema in file_schemas:
            keys = set(file_schema.file.partitions)
            if not any(
                keys == known_keys and file_schema.schema.equals(known.schema)
                for known_keys, known in self.distinct
            ):
                self.distinct.append((keys, file_schema))
                self.stored.append(_types_by_name(file_schema.schema))

    def column(self, name: str, conversion: str | None) -> Column:
        """Find a column in every file, and check that its types agree."""
        common, first = None, ""
        for (keys, file_schema), stored in zip(self.distinct, self.stored, strict=True):
            path = file_schema.file.path
            kind = self._type(stored, keys, name, path)
            if (problem := problem_of(kind, conversion)) is not None:
                raise SchemaError(f"{path}: column {name!r} {problem}")
            wider = widest(common or str(kind), str(kind))
            if wider is None:
                raise SchemaError(
                    f"{path}: column {name!r} is {kind}, but {common} in {first}; rewrite one of "
                    "them (only float widths may differ)"
                )
            common, first = wider, first or path
        assert common is not None
        return Column(name, common)

    def family(
        self,
        name: str,
        key_families: Mapping[str, Family],
        asked: str = "which the filter names",
    ) -> Family:
        """Find a column that is not read as numbers in every file; its families must agree.

        Parameters
        ----------
        asked
            What messages say of the column.

        Raises
        ------
        SchemaError
            A file has no such column, or has it in another family.
        """
        common: tuple[Family, str] | None = None
        for (keys, file_schema), stored in zip(self.distinct, self.stored, strict=True):
            path = file_schema.file.path
            if name in keys:
                family = key_families[name]
            else:
                kind = self._type(stored, keys, name, path, f"column {name!r}, {asked}")
                if types.is_null(kind):  # what a writer makes of a day without a value
                    continue
                family = family_of(kind)
            if common is not None and family is not common[0]:
                raise SchemaError(
                    f"{path}: column {name!r}, {asked}, holds {family}, but {common[0]} in "
                    f"{common[1]}; rewrite one of them"
                )
            common = common or (family, path)
        return Family.OTHER if common is None else common[0]

    def common(self) -> dict[str, str]:
        """Return the type of every column that all files have once, with the same type."""
        alike: dict[str, str] | None = None
        for (keys, _), stored in zip(self.distinct, self.stored, strict=True):
            names = {key: str(self.partitions[key]) for key in sorted(keys)}
            names |= {name: str(kinds[0]) for name, kinds in stored.items() if len(kinds) == 1}
            alike = names if alike is None else dict(alike.items() & names.items())
        return dict(sorted((alike or {}).items()))

    def _type(
        self,
        stored: Mapping[str, list[pa.DataType]],
        keys: set[str],
        name: str,
        path: str,
        asked: str | None = None,
    ) -> pa.DataType:
        """Return the type of a column in one of the schemas; ``asked`` is what messages call it."""
        kinds = stored.get(name, [])
        if len(kinds) > 1:
            raise SchemaError(
                f"{path}: {len(kinds)} columns are named {name!r}; rename them when writing"
            )
        if kinds:
            return kinds[0]
        if name in keys:
            return self.partitions[name]
        missing = asked or f"column {name!r}"
        raise SchemaError(f"{path}: has no {missing}{did_you_mean(name, [*stored, *keys])}")


def _types_by_name(schema: pa.Schema) -> dict[str, list[pa.DataType]]:
    """Return the types of the columns of each name, in their order."""
    types: dict[str, list[pa.DataType]] = {}
    for column in schema:
        types.setdefault(column.name, []).append(column.type)
    return types


def partition_types(paths: Iterable[str]) -> dict[str, pa.DataType]:
    """Return the type of each partition key: integer, else float, else text."""
    return {key: _type_of(texts) for key, texts in _partition_values(paths).items()}


def partition_families(paths: Iterable[str]) -> dict[str, Family]:
    """Return the family of each partition key in a filter: dates if all its values are ISO dates.

    Otherwise it is that of its type.
    """
    return {
        key: Family.MOMENT
        if texts and all(read_date(text) for text in texts)
        else family_of(_type_of(texts))
        for key, texts in _partition_values(paths).items()
    }


def _partition_values(paths: Iterable[str]) -> dict[str, set[str]]:
    values: dict[str, set[str]] = {}
    for path in paths:
        for key, value in partitions_of(path).items():
            values.setdefault(key, set()).update([] if value is None else [value])
    return values


def _type_of(texts: set[str]) -> pa.DataType:
    for pattern, kind in ((_INTEGER, pa.int64()), (_NUMBER, pa.float64())):
        if texts and all(pattern.fullmatch(text) for text in texts):
            return kind
    return pa.string()
