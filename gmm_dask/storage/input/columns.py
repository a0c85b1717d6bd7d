"""The Parquet columns that count as numbers, and their conversion to floating point.

=============================================  ====================================================
type in the file                               becomes
=============================================  ====================================================
float16, float32, float64                      itself; float32 if all features are at most that wide
integers up to 32 bits                         float64
int64, uint64                                  float64, checked by value: at most 2⁵³ in size
boolean                                        0 or 1
dictionary (categories) of one of these        its values
decimal                                        float64, if named under ``[input.convert]``: "float"
date, time, timestamp, duration                seconds, if named there: "seconds"
null                                           nulls, where other files have one of these types
text, binary, nested, and the rest             refused
=============================================  ====================================================

Between files only the widths of floats may differ. Under "float" all of these numbers may, and are
float64, exactly or refused by value; under "seconds" units of time.

Seconds of dates and timestamps count from 1970-01-01 UTC, those of times from midnight.
Timestamps of the old type int96 are read to the microsecond: nanoseconds, Arrow's default, wrap
around after the year 2262.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import types

#: Float64 holds every integer up to this one exactly.
LARGEST_EXACT_INTEGER = 2**53

#: Unit in which int96 is read: it holds every year from 290,000 BC to AD 294,000.
INT96_UNIT = "us"

_FLOATS = ("halffloat", "float", "double")
_TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class Column:
    """A column that is read as numbers.

    Attributes
    ----------
    name
        Name in the files, or key of a partition.
    type
        Arrow's name of its type; where files differ, of the type that holds all (`common_type`).
    """

    name: str
    type: str

    @property
    def narrow(self) -> bool:
        """Whether float32 holds every value exactly."""
        return self.type in _FLOATS[:2]


def problem_of(kind: pa.DataType, conversion: str | None) -> str | None:
    """Say why a column of this type cannot be used, and what to try; None if it can."""
    if _is_plain(kind) and conversion != "seconds":
        return None
    if types.is_decimal(kind):
        return None if conversion == "float" else f"is {kind}: {_advice('float', conversion)}"
    if types.is_temporal(kind) and not types.is_interval(kind):
        return None if conversion == "seconds" else f"is {kind}: {_advice('seconds', conversion)}"
    if types.is_null(kind):
        return "has the type null, which holds no value; leave it out"
    if conversion is not None:
        return (
            f'is {kind}, which [input.convert] cannot turn into "{conversion}"; only numbers '
            'become "float", only dates and times "seconds"'
        )
    if types.is_nested(kind):
        return f"is nested ({kind}); write the parts that you need as separate columns"
    if types.is_dictionary(kind):
        return f"holds categories of type {kind.value_type}; encode them as numbers first"
    return f"is of type {kind}, not a number; choose numeric columns or encode it as numbers first"


def _advice(needed: str, conversion: str | None) -> str:
    instead = "" if conversion is None else f' instead of "{conversion}"'
    return f'float64 may not hold it exactly; allow that by [input.convert] "{needed}"{instead}'


def _is_plain(kind: pa.DataType) -> bool:
    """Whether values of a type are numbers as they are: those of decimals must be rounded."""
    return bool(types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind))


def common_type(kinds: Collection[pa.DataType], conversion: str | None) -> str | None:
    """Return the name of the type that a column of several types is read as; None if there is none.

    Parameters
    ----------
    kinds
        The types that it has in the files, of which `problem_of` refuses none.
    conversion
        ``[input.convert]`` of the column. Under "float" a column is float64 from the first night
        on, whatever its files hold, so that a type that drifts later changes nothing else.
    """
    names = {str(kind) for kind in kinds}
    if conversion == "float":
        decimal = len(names) == 1 and all(map(types.is_decimal, kinds))
        return names.pop() if decimal else "double"
    if len(names) == 1:
        return names.pop()
    if names <= {*_FLOATS}:
        return max(names, key=_FLOATS.index)
    if conversion == "seconds" and len({_kind_of_time(kind) for kind in kinds}) == 1:
        return str(max(kinds, key=lambda kind: (_TICKS[getattr(kind, "unit", "ms")], str(kind))))
    return None


def _kind_of_time(kind: pa.DataType) -> str:
    """Say what times of a type count from: two types of one kind differ in their unit at most."""
    if types.is_timestamp(kind):
        return "timestamp" if kind.tz is None else "timestamp with a zone"
    return str(kind).partition("[")[0].rstrip("3264")


def write_values(array: pa.Array, out: npt.NDArray[Any]) -> int | None:
    """Write the numbers of an Arrow array into a float array in one pass; nulls become NaN.

    Parameters
    ----------
    array
        (m,) of a type that `problem_of` does not refuse, or of type null.
    out
        (m,) float32 or float64, written.

    Returns
    -------
    int or None
        Index of the first 64-bit integer that float64 cannot hold; None if all fit.
    """
    kind = array.type
    if types.is_null(kind):
        out.fill(np.nan)
        return None
    if types.is_decimal(kind):
        array = array.cast(pa.float64())
        kind = array.type
    inexact = None
    if types.is_boolean(kind):
        out[:] = _bits(array, 1)
    elif types.is_temporal(kind):
        _write_seconds(_view(array, np.int32 if kind.bit_width == 32 else np.int64), kind, out)
    else:
        values = _view(array, dtype_of(kind))
        np.copyto(out, values, casting="unsafe")
        if types.is_integer(kind) and kind.bit_width == 64:
            inexact = _first_inexact(values, array)
    if array.null_count:
        out[_bits(array, 0) == 0] = np.nan
    return inexact


def dtype_of(kind: pa.DataType) -> np.dtype[Any]:
    """Return the dtype of an integer or floating type; pyarrow's own method may import pandas."""
    letter = "f" if types.is_floating(kind) else "u" if types.is_unsigned_integer(kind) else "i"
    return np.dtype(f"{letter}{kind.bit_width // 8}")


def _view(array: pa.Array, dtype: Any) -> npt.NDArray[Any]:
    """Return the values as they lie in memory; the values of null slots are arbitrary."""
    size = np.dtype(dtype).itemsize
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * size)


def _bits(array: pa.Array, buffer: int) -> npt.NDArray[np.uint8]:
    first = array.offset // 8
    packed = np.frombuffer(array.buffers()[buffer], np.uint8)[first:]
    skip = array.offset - 8 * first
    return np.unpackbits(packed, count=skip + len(array), bitorder="little")[skip:]


def _first_inexact(values: npt.NDArray[Any], array: pa.Array) -> int | None:
    limit = LARGEST_EXACT_INTEGER
    if not values.size or (values.max() <= limit and values.min() >= -limit):
        return None
    outside = (values > limit) | (values < -limit)
    if array.null_count:
        outside &= _bits(array, 0) == 1
    return int(outside.argmax()) if outside.any() else None


def _write_seconds(ticks: npt.NDArray[Any], kind: pa.DataType, out: npt.NDArray[Any]) -> None:
    if types.is_date(kind):
        out[:] = ticks
        out *= 86_400 if types.is_date32(kind) else 1e-3
        return
    # Whole seconds and the rest separately: nanoseconds since 1970 are beyond 2⁵³.
    per_second = _TICKS[kind.unit]
    rest = np.fmod(ticks, per_second)
    out[:] = (ticks - rest) // per_second
    out += rest / per_second
