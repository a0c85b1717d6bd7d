"""A predicate over the columns of a batch: the mask of the rows inside, by Arrow's kernels.

Arrow's Kleene kernels have SQL's three values. Numbers, dates and timestamps are compared exactly:
a value is turned into the column's own unit, rounded to the side where that changes nothing.
Columns of floats are compared as float64, whole columns with each other too if one is of floats.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from fractions import Fraction
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from gmm_dask.arrays import MaskArray
from gmm_dask.storage.input.columns import dtype_of
from gmm_dask.storage.input.filters.moments import nanoseconds
from gmm_dask.storage.input.filters.outcomes import as_float
from gmm_dask.storage.input.filters.predicate import (
    Constant,
    Content,
    Flag,
    IsNull,
    Leaf,
    Membership,
    Name,
    Negation,
    Operator,
    Predicate,
    names_of,
)

_KERNELS: dict[Operator, Callable[[Any, Any], Any]] = {
    "=": pc.equal, "<>": pc.not_equal, "<": pc.less, "<=": pc.less_equal,
    ">": pc.greater, ">=": pc.greater_equal,
}  # fmt: skip
_TICKS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}  # nanoseconds
_DAY, _MILLISECOND = 86_400 * 10**9, 10**6


def mask_of(predicate: Predicate, batch: pa.RecordBatch) -> MaskArray:
    """Return which rows of a batch are inside a filter, (m,).

    Parameters
    ----------
    predicate
        Bound to its columns; all of them are in the batch.

    Raises
    ------
    pyarrow.ArrowInvalid
        Two columns cannot be compared exactly, such as timestamps beyond the range of the finer
        of their units.
    """
    truth = _Masking(batch).truth(predicate)
    mask: MaskArray = np.asarray(pc.fill_null(truth, False))
    return mask


class _Masking:
    """Computes the truth of predicates in a batch, and prepares each column once."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        self.prepared: dict[str, pa.Array] = {}

    def truth(self, predicate: Predicate) -> pa.BooleanArray:
        if isinstance(predicate, Negation):
            return pc.invert(self.truth(predicate.item))
        if isinstance(predicate, Leaf):
            return self.leaf(predicate)
        join = pc.and_kleene if predicate.word == "and" else pc.or_kleene
        return reduce(join, (self.truth(item) for item in predicate.items))

    def leaf(self, leaf: Leaf) -> pa.BooleanArray:
        if isinstance(leaf, Constant):
            return pa.repeat(pa.scalar(leaf.truth, pa.bool_()), self.batch.num_rows)
        if isinstance(leaf, IsNull):
            return pc.is_null(self.column(leaf.name))
        if any(types.is_null(self.column(name).type) for name in names_of(leaf).values()):
            return pa.nulls(self.batch.num_rows, pa.bool_())
        if isinstance(leaf, Flag):
            return self.column(leaf.name)
        if isinstance(leaf, Membership):
            contents = [value.content for value in leaf.values]
            return _is_among(self.column(leaf.name), contents)
        column = self.column(leaf.left)
        if isinstance(leaf.right, Name):
            return _compare_columns(column, leaf.operator, self.column(leaf.right))
        return _compare(column, leaf.operator, leaf.right.content)

    def column(self, name: Name) -> pa.Array:
        column = self.prepared.get(name.name)
        if column is None:
            column = _prepare(self.batch.column(name.name))
            self.prepared[name.name] = column
        return column


def _prepare(column: pa.Array) -> pa.Array:
    """Return a column with its categories decoded, floats as float64 and NaN as null."""
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_string_view(column.type):
        return column.cast(pa.large_string())
    if not types.is_floating(column.type):
        return column
    column = column.cast(pa.float64())
    nan = pc.is_nan(column)
    return pc.if_else(nan, pa.scalar(None, pa.float64()), column) if pc.any(nan).as_py() else column


class _Units(NamedTuple):
    """Values of an exact type, counted in its unit.

    Attributes
    ----------
    per_unit
        How many of the type's units a number, or a nanosecond, is.
    least, most
        The least and the most units that the type can hold.
    scalars
        Makes an array of the type from whole numbers of units.
    """

    per_unit: Fraction
    least: int
    most: int
    scalars: Callable[[list[int]], pa.Array]


def _units_of(kind: pa.DataType) -> _Units | None:
    """Return the units of an integer, decimal, date or timestamp type; None for others."""
    if types.is_decimal(kind):
        most = 10**kind.precision - 1
        return _Units(
            Fraction(10) ** kind.scale,
            -most,
            most,
            lambda units: pa.array([_decimal(count, kind.scale) for count in units], kind),
        )
    if types.is_integer(kind):
        limits = np.iinfo(dtype_of(kind))
        return _Units(
            Fraction(1), int(limits.min), int(limits.max), lambda units: pa.array(units, kind)
        )
    tick = tick_of(kind)
    if tick is None:
        return None
    whole = pa.int32() if types.is_date32(kind) else pa.int64()
    most = 2 ** (whole.bit_width - 1) - 1
    return _Units(
        Fraction(1, tick), -most - 1, most, lambda units: pa.array(units, whole).cast(kind)
    )


def tick_of(kind: pa.DataType) -> int | None:
    """Return the nanoseconds that a date or timestamp type counts in; None for others."""
    if types.is_date(kind):
        return _DAY if types.is_date32(kind) else _MILLISECOND
    return _TICKS[kind.unit] if types.is_timestamp(kind) else None


def _decimal(units: int, scale: int) -> Decimal:
    sign, digits, _ = Decimal(units).as_tuple()
    return Decimal((sign, digits, -scale))


def _in_units(content: Content, units: _Units) -> Fraction:
    assert isinstance(content, int | Decimal | date)
    number = nanoseconds(content) if isinstance(content, date) else content
    return Fraction(number) * units.per_unit


def _compare(column: pa.Array, operator: Operator, content: Content) -> pa.BooleanArray:
    if content is None:
        return pa.nulls(len(column), pa.bool_())
    units = _units_of(column.type)
    if units is None:
        value = as_float(content) if types.is_floating(column.type) else content
        return _KERNELS[operator](column, pa.scalar(value, column.type))
    exact = _in_units(content, units)
    bound = exact.numerator // exact.denominator
    if exact.denominator > 1:  # between two units: no value of the column is equal
        if operator in ("=", "<>"):
            return _everywhere(column, operator == "<>")
        if operator in ("<", "<="):
            operator = "<="
        else:
            operator, bound = ">=", bound + 1
    if not units.least <= bound <= units.most:
        below = bound < units.least
        return _everywhere(column, operator in ((">", ">=", "<>") if below else ("<", "<=", "<>")))
    return _KERNELS[operator](column, units.scalars([bound])[0])


def _everywhere(column: pa.Array, truth: bool) -> pa.BooleanArray:
    """Return one truth for all values, and null for nulls."""
    return pc.if_else(column.is_valid(), pa.scalar(truth), pa.scalar(None, pa.bool_()))


def _is_among(column: pa.Array, contents: list[Content]) -> pa.BooleanArray:
    values = [content for content in contents if content is not None]
    units = _units_of(column.type)
    if units is not None:
        exact = [_in_units(content, units) for content in values]
        whole = [number.numerator for number in exact if number.denominator == 1]
        among = units.scalars([count for count in whole if units.least <= count <= units.most])
    elif types.is_floating(column.type):
        floats = [as_float(content) for content in values]
        # Sets of Arrow tell 0 from −0.
        among = pa.array([*floats, *(-number for number in floats if not number)], column.type)
    else:
        among = pa.array(values, column.type)
    inside = pc.is_in(column, value_set=among)
    absent = None if len(values) < len(contents) else False
    inside = pc.if_else(inside, pa.scalar(True), pa.scalar(absent, pa.bool_()))
    return pc.if_else(column.is_valid(), inside, pa.scalar(None, pa.bool_()))


def _compare_columns(left: pa.Array, operator: Operator, right: pa.Array) -> pa.BooleanArray:
    kinds = (left.type, right.type)
    ticks = [tick_of(kind) for kind in kinds]
    if ticks[0] is not None and ticks[1] is not None:
        finer = min(ticks[0], ticks[1])
        left, right = _in_ticks(left, ticks[0] // finer), _in_ticks(right, ticks[1] // finer)
    elif any(map(types.is_floating, kinds)):
        left, right = left.cast(pa.float64(), safe=False), right.cast(pa.float64(), safe=False)
    elif left.type != right.type and all(types.is_integer(kind) for kind in kinds):
        # Of a signed and an unsigned column, Arrow would compare the bits.
        left, right = left.cast(pa.decimal128(20)), right.cast(pa.decimal128(20))
    elif left.type != right.type and types.is_decimal(left.type) | types.is_decimal(right.type):
        scale = max(kind.scale if types.is_decimal(kind) else 0 for kind in kinds)
        common = pa.decimal256(76, scale)
        left, right = left.cast(common), right.cast(common)
    elif left.type != right.type:  # text of two widths
        left, right = left.cast(pa.large_string()), right.cast(pa.large_string())
    return _KERNELS[operator](left, right)


def _in_ticks(column: pa.Array, ticks: int) -> pa.Array:
    whole = column.cast(pa.int32()) if types.is_date32(column.type) else column
    whole = whole.cast(pa.int64())
    return whole if ticks == 1 else pc.multiply_checked(whole, pa.scalar(ticks, pa.int64()))
