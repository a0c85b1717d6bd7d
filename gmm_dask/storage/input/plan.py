"""The input plan: the files and rows of an input, taken once from the footers of its files.

The plan is the snapshot that a fit is held to. Files added later do not belong to it. A file that
is changed, shortened or gone is noticed when it is read (`gmm_dask.storage.input.decode`). Making
a plan reads no rows.

The statistics in the footers (nulls, minimum, maximum) are not used: asking pyarrow 26 for those
of a damaged footer ends the process. The survey counts the nulls.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import pyarrow as pa

from gmm_dask.config import InputSection
from gmm_dask.errors import ConfigError, InputError, SchemaError, TooFewRowsError
from gmm_dask.nulls import NullPolicy
from gmm_dask.storage.input.columns import Column, problem_of, widest
from gmm_dask.storage.input.footer import read_footer
from gmm_dask.storage.input.hints import hint_of
from gmm_dask.storage.input.location import (
    READ_ERRORS,
    did_you_mean,
    find_files,
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
    """

    path: str
    size: int
    row_groups: tuple[int, ...]
    footer: str
    hint: str | None = field(default=None, compare=False, repr=False)

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(self.row_groups)

    @property
    def partitions(self) -> dict[str, str | None]:
        """Keys and values of the Hive partitions that the file lies in."""
        return partitions_of(self.path)


@dataclass(frozen=True)
class InputPlan:
    """A snapshot of an input: small, picklable, and equal wherever the same files lie.

    Attributes
    ----------
    root
        Absolute address of the directory above all files; never holds credentials.
    files
        The files, in the order in which they are read.
    columns
        The d features.
    sample_weight
        The column of weights, or None.
    nulls
        What happens to rows that hold a null or NaN.
    convert
        Columns whose type is not a number, and the form they are converted to.
    types
        Arrow type of every column that all files have with the same type, partition keys
        included. These may be key columns.
    """

    root: str
    files: tuple[InputFile, ...] = field(repr=False)
    columns: tuple[Column, ...]
    sample_weight: Column | None
    nulls: NullPolicy
    convert: Mapping[str, str]
    types: Mapping[str, str] = field(repr=False)

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def rows(self) -> int:
        """Rows of all files, before any is dropped."""
        return sum(file.rows for file in self.files)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the d features."""
        return tuple(column.name for column in self.columns)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @cached_property
    def digest(self) -> str:
        """Digest of the snapshot: names, sizes and footers of the files, columns, types, policy.

        It does not depend on where the files lie or when they were touched.
        """
        content = self.to_json()
        del content["root"], content["types"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the plan in JSON form; `from_json` reads it back."""
        return {
            "root": self.root,
            "files": [
                [file.path, file.size, list(file.row_groups), file.footer] for file in self.files
            ],
            "columns": [asdict(column) for column in self.columns],
            "sample_weight": self.sample_weight and asdict(self.sample_weight),
            "nulls": self.nulls,
            "convert": dict(self.convert),
            "types": dict(self.types),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> InputPlan:
        """Rebuild the plan that `to_json` wrote.

        Raises
        ------
        ValueError
            The content is not what `to_json` writes.
        """
        try:
            weight = content["sample_weight"]
            return cls(
                content["root"],
                tuple(
                    InputFile(path, size, tuple(groups), footer)
                    for path, size, groups, footer in content["files"]
                ),
                tuple(Column(**column) for column in content["columns"]),
                None if weight is None else Column(**weight),
                NullPolicy(content["nulls"]),
                dict(content["convert"]),
                dict(content["types"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not an input plan: {error!r}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        # Compressed: ten thousand files take a few hundred kB. A process keeps one copy of the
        # plan for all its tasks.
        return _restore, (zlib.compress(json.dumps(self.to_json()).encode(), 1),)


@lru_cache(maxsize=4)
def _restore(compressed: bytes) -> InputPlan:
    return InputPlan.from_json(json.loads(zlib.decompress(compressed)))


def plan_input(section: InputSection) -> InputPlan:
    """Make the input plan of an ``[input]`` section: reads footers, no rows.

    Parameters
    ----------
    section
        Path, columns and policies. `gmm_dask.storage.input.location` says which files belong to
        a path. Keys of Hive partitions (``day=3/``) are columns like those in the files. If a
        file stores a column of the same name, the stored column is used.

    Raises
    ------
    ConfigError
        A column is named twice, or ``convert`` names a column that is not read.
    InputError
        A path, file or footer cannot be used.
    SchemaError
        A column is missing, differs in type between files, or is not a number.
    TooFewRowsError
        The files hold no rows.
    """
    wanted = [*section.columns, *([section.sample_weight] if section.sample_weight else [])]
    _check_names(section, wanted)
    root, paths = find_files(section.path)
    file_schemas = _read_schemas(root, paths)
    partitions = _partition_types(paths)
    schemas = _Schemas(file_schemas, partitions)
    columns = {name: schemas.column(name, section.convert.get(name)) for name in wanted}
    rows = sum(file_schema.file.rows for file_schema in file_schemas)
    if not rows:
        raise TooFewRowsError(
            f"{section.path}: {len(paths):,} file(s), but not one row; is the writer finished?"
        )
    return InputPlan(
        root,
        tuple(file_schema.file for file_schema in file_schemas),
        tuple(columns[name] for name in section.columns),
        columns[section.sample_weight] if section.sample_weight else None,
        section.nulls,
        dict(section.convert),
        schemas.common(),
    )


def _check_names(section: InputSection, wanted: Sequence[str]) -> None:
    for name, times in Counter(section.columns).items():
        if times > 1:
            raise ConfigError(f"input.columns names {name!r} twice; name each column once")
    known = frozenset(wanted)
    for name in section.convert:
        if name not in known:
            raise ConfigError(
                f"input.convert names {name!r}, which is not among input.columns"
                f"{did_you_mean(name, wanted)}"
            )


@dataclass(frozen=True)
class _FileSchema:
    """A file of the input and its schema, from its footer."""

    file: InputFile
    schema: pa.Schema


def _read_schemas(root: str, paths: Sequence[str]) -> list[_FileSchema]:
    """Read all footers, many at a time: most of the time is spent waiting for a remote disk."""

    def read_turn(start: int) -> list[_FileSchema]:
        return [_read_schema(root, path) for path in paths[start : start + _FOOTERS_PER_TURN]]

    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        turns = pool.map(read_turn, range(0, len(paths), _FOOTERS_PER_TURN))
        return [file_schema for turn in turns for file_schema in turn]


def _read_schema(root: str, path: str) -> _FileSchema:
    try:
        with open_file(root, path) as source:
            hint = hint_of(root, path, source)
            footer = read_footer(source, path)
        metadata = footer.parse(path)
        schema = footer.schema(metadata)
    except InputError:
        raise
    except READ_ERRORS as error:
        raise InputError(
            f"{path}: cannot be read ({reason(error)}); check that it exists and may be read"
        ) from error
    groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    file = InputFile(path, footer.size, groups, footer.digest, hint)
    return _FileSchema(file, schema)


class _Schemas:
    """The schemas of all files, compared with each other."""

    def __init__(
        self, file_schemas: Sequence[_FileSchema], partitions: Mapping[str, pa.DataType]
    ) -> None:
        self.partitions = partitions
        # Thousands of files share a few schemas: each is checked once, in its first file.
        self.distinct: list[tuple[set[str], _FileSchema]] = []
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

    def common(self) -> dict[str, str]:
        """Return the type of every column that all files have once, with the same type."""
        alike: dict[str, str] | None = None
        for (keys, _), stored in zip(self.distinct, self.stored, strict=True):
            types = {key: str(self.partitions[key]) for key in sorted(keys)}
            types |= {name: str(kinds[0]) for name, kinds in stored.items() if len(kinds) == 1}
            alike = types if alike is None else dict(alike.items() & types.items())
        return dict(sorted((alike or {}).items()))

    def _type(
        self, stored: Mapping[str, list[pa.DataType]], keys: set[str], name: str, path: str
    ) -> pa.DataType:
        kinds = stored.get(name, [])
        if len(kinds) > 1:
            raise SchemaError(
                f"{path}: {len(kinds)} columns are named {name!r}; rename them when writing"
            )
        if kinds:
            return kinds[0]
        if name in keys:
            return self.partitions[name]
        raise SchemaError(f"{path}: has no column {name!r}{did_you_mean(name, [*stored, *keys])}")


def _types_by_name(schema: pa.Schema) -> dict[str, list[pa.DataType]]:
    """Return the types of the columns of each name, in their order."""
    types: dict[str, list[pa.DataType]] = {}
    for column in schema:
        types.setdefault(column.name, []).append(column.type)
    return types


def _partition_types(paths: Iterable[str]) -> dict[str, pa.DataType]:
    """Return the type of each partition key: integer, else float, else text."""
    values: dict[str, set[str]] = {}
    for path in paths:
        for key, value in partitions_of(path).items():
            values.setdefault(key, set()).update([] if value is None else [value])
    return {key: _type_of(texts) for key, texts in values.items()}


def _type_of(texts: set[str]) -> pa.DataType:
    for pattern, kind in ((_INTEGER, pa.int64()), (_NUMBER, pa.float64())):
        if texts and all(pattern.fullmatch(text) for text in texts):
            return kind
    return pa.string()
