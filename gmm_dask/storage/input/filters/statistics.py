"""Bounds and null counts of columns in row groups, from the statistics in a Parquet footer.

The footer is read here and not by pyarrow: pyarrow 26 ends the process when it is asked for the
statistics of a footer that is damaged in the right place. What cannot be read counts as unknown,
which costs time and no rows.

The format is Apache Thrift's compact protocol, and the fields are those of ``parquet.thrift``:
https://github.com/apache/parquet-format. Only ``min_value`` and ``max_value`` are used. Their
predecessors, ``min`` and ``max``, have no defined order for most types.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from gmm_dask.storage.input.filters.binding import Family, family_of
from gmm_dask.storage.input.filters.outcomes import Domain

# Types of Thrift's compact protocol.
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
#: Fields of parquet.thrift.
_FILE_ROW_GROUPS, _FILE_COLUMN_ORDERS = 4, 7
_GROUP_COLUMNS, _COLUMN_META, _META_TYPE, _META_STATISTICS = 1, 3, 1, 12
_NULL_COUNT, _MAX_VALUE, _MIN_VALUE = 3, 5, 6
#: Physical types by the number that a footer has for them, as pyarrow calls them.
_PHYSICAL = ("BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY",
             "FIXED_LEN_BYTE_ARRAY")  # fmt: skip
_NANOSECONDS = {"milliseconds": 10**6, "microseconds": 10**3, "nanoseconds": 1}
_DAY = 86_400 * 10**9

Decode = Callable[[bytes], Any]


def row_group_domains(
    raw: bytes, metadata: pq.FileMetaData, schema: pa.Schema, names: Sequence[str]
) -> list[dict[str, Domain]]:
    """Return what the statistics of a footer say of some columns, for each row group.

    Parameters
    ----------
    raw
        The footer as it lies in the file.
    metadata, schema
        What pyarrow made of it.
    names
        Names of columns; those that a file does not store, or stores nested, are left out.
    """
    columns = _columns(metadata.schema, schema, names)
    rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    try:
        groups = _statistics(raw, {column.index for column in columns})
    except (IndexError, struct.error, RecursionError, OverflowError):
        return [{} for _ in rows]
    if len(groups) != len(rows):
        return [{} for _ in rows]
    return [
        {column.name: column.domain(group.get(column.index), m) for column in columns}
        for group, m in zip(groups, rows, strict=True)
    ]


@dataclass(frozen=True)
class _Statistics:
    """The statistics of a column in a row group, as bytes."""

    physical: int
    nulls: int | None = None
    low: bytes | None = None
    high: bytes | None = None


@dataclass(frozen=True)
class _StoredColumn:
    """A column of a file: its number among the leaves, and how its bounds are decoded."""

    name: str
    index: int
    physical: str
    decode: Decode | None
    floating: bool

    def domain(self, statistics: _Statistics | None, rows: int) -> Domain:
        if statistics is None or _name_of(statistics.physical) != self.physical:
            return Domain(floating=self.floating)
        low, high = self._bound(statistics.low), self._bound(statistics.high)
        if low is None or high is None or not low <= high:  # NaN is not ≤ itself
            low = high = None
        nulls = statistics.nulls is None or statistics.nulls > 0
        # NaN counts as null, and no statistics count it.
        return Domain(low, high, nulls or self.floating, statistics.nulls != rows, self.floating)

    def _bound(self, content: bytes | None) -> Any:
        if content is None or self.decode is None:
            return None
        try:
            return self.decode(content)
        except (struct.error, ValueError, ArithmeticError, IndexError):
            return None


def _columns(
    stored: pq.ParquetSchema, schema: pa.Schema, names: Sequence[str]
) -> list[_StoredColumn]:
    wanted = set(names)
    columns = []
    for index in range(len(stored)):
        leaf = stored.column(index)
        # A nested leaf has a path with dots, and is not the column that a filter names.
        if leaf.path not in wanted or leaf.max_repetition_level or leaf.max_definition_level > 1:
            continue
        position = schema.get_field_index(leaf.path)
        if position < 0 or types.is_nested(schema.field(position).type):
            continue
        kind = schema.field(position).type
        floating = types.is_floating(kind)
        decode = _decoder(leaf, family_of(kind))
        columns.append(_StoredColumn(leaf.path, index, leaf.physical_type, decode, floating))
    return columns


def _decoder(leaf: pq.ColumnSchema, family: Family) -> Decode | None:
    """Return how bounds of a column are decoded; None where that is not known."""
    logical, physical = leaf.logical_type.type, leaf.physical_type
    if family is Family.TEXT and physical == "BYTE_ARRAY":
        return bytes
    if family is Family.BOOLEAN and physical == "BOOLEAN":
        return lambda content: bool(content[0])
    if family is Family.MOMENT:
        if logical == "DATE" and physical == "INT32":
            return lambda content: _integer(content, 4) * _DAY
        if logical == "TIMESTAMP" and physical == "INT64":
            tick = _NANOSECONDS.get(json.loads(leaf.logical_type.to_json()).get("timeUnit"))
            return None if tick is None else lambda content: _integer(content, 8) * tick
    if family is not Family.NUMBER:
        return None
    if logical == "DECIMAL":
        scale = leaf.scale
        if physical in ("INT32", "INT64"):
            return lambda content: Decimal(_integer(content, len(content))).scaleb(-scale)
        return lambda content: _decimal(int.from_bytes(content, "big", signed=True), scale)
    if physical in ("INT32", "INT64"):
        size = 4 if physical == "INT32" else 8
        signed = logical != "INT" or bool(json.loads(leaf.logical_type.to_json())["isSigned"])
        return lambda content: _integer(content, size, signed)
    if physical in ("FLOAT", "DOUBLE"):
        code = "<f" if physical == "FLOAT" else "<d"
        return lambda content: struct.unpack(code, content)[0]
    return None


def _integer(content: bytes, size: int, signed: bool = True) -> int:
    if len(content) != size:
        raise ValueError("a bound of the wrong size")
    return int.from_bytes(content, "little", signed=signed)


def _decimal(units: int, scale: int) -> Decimal:
    """Return units · 10^−scale exactly, where arithmetic would round to 28 digits."""
    sign, digits, _ = Decimal(units).as_tuple()
    return Decimal((sign, digits, -scale))


def _name_of(physical: int) -> str | None:
    return _PHYSICAL[physical] if 0 <= physical < len(_PHYSICAL) else None


def _statistics(raw: bytes, wanted: set[int]) -> list[dict[int, _Statistics]]:
    """Read the statistics of some columns of each row group; none without a defined order."""
    reader = _Reader(raw)
    groups: list[dict[int, _Statistics]] = []
    ordered = False
    for number, kind in reader.fields():
        if number == _FILE_ROW_GROUPS and kind == _LIST:
            size, _ = reader.list_header()
            groups = [_row_group(reader, wanted) for _ in range(size)]
        elif number == _FILE_COLUMN_ORDERS:
            ordered = True
            reader.skip(kind)
        else:
            reader.skip(kind)
    return groups if ordered else [{} for _ in groups]


def _row_group(reader: _Reader, wanted: set[int]) -> dict[int, _Statistics]:
    columns: dict[int, _Statistics] = {}
    for number, kind in reader.fields():
        if number != _GROUP_COLUMNS or kind != _LIST:
            reader.skip(kind)
            continue
        size, element = reader.list_header()
        for index in range(size):
            if index in wanted:
                columns[index] = _column(reader)
            else:
                reader.skip(element)
    return columns


def _column(reader: _Reader) -> _Statistics:
    physical, nulls, low, high = -1, None, None, None
    for number, kind in reader.fields():
        if number != _COLUMN_META or kind != _STRUCT:
            reader.skip(kind)
            continue
        for field, field_kind in reader.fields():
            if field == _META_TYPE:
                physical = reader.zigzag()
            elif field == _META_STATISTICS and field_kind == _STRUCT:
                for item, item_kind in reader.fields():
                    if item == _NULL_COUNT:
                        nulls = reader.zigzag()
                    elif item == _MAX_VALUE and item_kind == _BINARY:
                        high = reader.binary()
                    elif item == _MIN_VALUE and item_kind == _BINARY:
                        low = reader.binary()
                    else:
                        reader.skip(item_kind)
            else:
                reader.skip(field_kind)
    return _Statistics(physical, nulls, low, high)


class _Reader:
    """Reads Thrift's compact protocol; raises ``IndexError`` where the bytes end too early."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.place = 0

    def byte(self) -> int:
        value = self.raw[self.place]
        self.place += 1
        return value

    def varint(self) -> int:
        value, self.place = _varint(self.raw, self.place)
        return value

    def zigzag(self) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def binary(self) -> bytes:
        size = self.varint()
        self.place = _within(self.raw, self.place + size)
        return self.raw[self.place - size : self.place]

    def fields(self) -> Iterator[tuple[int, int]]:
        """Yield number and type of each field of a structure; the caller reads or skips it."""
        number = 0
        while header := self.byte():
            step, kind = header >> 4, header & 0x0F
            number = number + step if step else self.zigzag()
            yield number, kind

    def list_header(self) -> tuple[int, int]:
        """Read the number of elements of a list, and their type."""
        header = self.byte()
        size = header >> 4
        return (self.varint() if size == 15 else size), header & 0x0F

    def skip(self, kind: int) -> None:
        self.place = _after(self.raw, self.place, kind)


def _after(raw: bytes, place: int, kind: int) -> int:
    """Return the place after a value; most of a footer is passed over here."""
    if kind == _STRUCT:
        while header := raw[place]:
            place += 1
            if header < 0x10:  # the field's number follows
                place = _after_varint(raw, place)
            field = header & 0x0F
            if _BYTE < field < _DOUBLE:  # integers
                while raw[place] >= 0x80:
                    place += 1
                place += 1
            elif field > _FALSE:  # the value of a boolean is in the header
                place = _after(raw, place, field)
        return place + 1
    if kind == _BINARY:
        size, place = _varint(raw, place)
        return _within(raw, place + size)
    if kind in (_LIST, _SET):
        header = raw[place]
        size, place = header >> 4, place + 1
        if size == 15:
            size, place = _varint(raw, place)
        for _ in range(size):
            place = _after_element(raw, place, header & 0x0F)
        return place
    if kind == _MAP:
        size, place = _varint(raw, place)
        kinds, place = (raw[place], place + 1) if size else (0, place)
        for _ in range(size):
            place = _after_element(raw, place, kinds >> 4)
            place = _after_element(raw, place, kinds & 0x0F)
        return place
    if kind in (_BYTE, _DOUBLE):
        return _within(raw, place + (1 if kind == _BYTE else 8))
    return place if kind in (_TRUE, _FALSE) else _after_varint(raw, place)


def _after_element(raw: bytes, place: int, kind: int) -> int:
    """Return the place after an element of a collection, where a boolean takes a byte."""
    return _after(raw, place, _BYTE if kind in (_TRUE, _FALSE) else kind)


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    """Return an integer of seven bits a byte, the lowest first, and the place after it."""
    value = shift = 0
    while (byte := raw[place]) >= 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        place += 1
    return value | byte << shift, place + 1


def _after_varint(raw: bytes, place: int) -> int:
    while raw[place] >= 0x80:
        place += 1
    return place + 1


def _within(raw: bytes, place: int) -> int:
    if place > len(raw):
        raise IndexError("the bytes end too early")
    return place
