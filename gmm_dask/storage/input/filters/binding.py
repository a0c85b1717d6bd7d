"""A predicate bound to the columns that it names: their families, and values of the same ones.

A family holds the types that can be compared with each other: all numbers, all dates and
timestamps. Files may differ in type within a family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from enum import StrEnum

import pyarrow as pa
from pyarrow import types

from gmm_dask.storage.input.filters.moments import read_date, read_timestamp
from gmm_dask.storage.input.filters.predicate import (
    Comparison,
    Content,
    Flag,
    Leaf,
    Membership,
    Name,
    Predicate,
    Value,
    problem_at,
    transform,
)


class Family(StrEnum):
    """Types that can be compared with each other; the value says what a column of it holds."""

    NUMBER = "numbers"
    TEXT = "text"
    BOOLEAN = "booleans"
    MOMENT = "dates or timestamps"
    #: Times of day, durations, bytes, nested and null types: these are null or not, no more.
    OTHER = "values that cannot be compared"


_EXAMPLES = {
    Family.NUMBER: "a number without quotes",
    Family.TEXT: "text in single quotes",
    Family.BOOLEAN: "true or false",
    Family.MOMENT: "a date such as '2026-01-31'",
}


def family_of(kind: pa.DataType) -> Family:
    """Return the family of an Arrow type; that of its values for categories."""
    if types.is_dictionary(kind):
        return family_of(kind.value_type)
    if types.is_floating(kind) or types.is_integer(kind) or types.is_decimal(kind):
        return Family.NUMBER
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return Family.TEXT
    if types.is_boolean(kind):
        return Family.BOOLEAN
    if types.is_date(kind) or types.is_timestamp(kind):
        return Family.MOMENT
    return Family.OTHER


def bind(predicate: Predicate, families: Mapping[str, Family], text: str) -> Predicate:
    """Check the values of a predicate against its columns; a quoted date becomes a date.

    Parameters
    ----------
    predicate
        As it was read from ``text``.
    families
        Family of each column. Conditions on other columns stay as they are.

    Raises
    ------
    ConfigError
        A column cannot be compared with what it is compared with.
    """

    def bind_leaf(leaf: Leaf) -> Predicate:
        if isinstance(leaf, Flag):
            family = families.get(leaf.name.name, Family.BOOLEAN)
            if family is not Family.BOOLEAN:
                problem = f"column {leaf.name.name!r} holds {family}, which is no condition"
                raise problem_at(text, leaf.name.at, f"{problem}; compare it with something")
        elif isinstance(leaf, Membership) and leaf.name.name in families:
            values = (_bind_value(value, leaf.name, families, text) for value in leaf.values)
            return replace(leaf, values=tuple(values))
        elif isinstance(leaf, Comparison) and isinstance(leaf.right, Value):
            if leaf.left.name in families:
                return replace(leaf, right=_bind_value(leaf.right, leaf.left, families, text))
        elif isinstance(leaf, Comparison) and isinstance(leaf.right, Name):
            _check_columns(leaf.left, leaf.right, families, text)
        return leaf

    return transform(predicate, bind_leaf)


def _check_columns(left: Name, right: Name, families: Mapping[str, Family], text: str) -> None:
    if left.name not in families or right.name not in families:
        return
    first, second = families[left.name], families[right.name]
    if first is not second or first is Family.OTHER:
        raise problem_at(
            text,
            min(left.at, right.at),
            f"column {left.name!r} holds {first}, and column {right.name!r} {second}, "
            "which cannot be compared",
        )


def _bind_value(value: Value, name: Name, families: Mapping[str, Family], text: str) -> Value:
    family = families[name.name]
    if family is Family.OTHER:
        problem = f"column {name.name!r} holds {family}; a filter can only ask whether it is null"
        raise problem_at(text, name.at, problem)
    content = value.content
    if content is None or _family_of_content(content) is family:
        return value
    if family is Family.MOMENT and isinstance(content, str):
        moment = read_date(content) or read_timestamp(content)
        if moment is not None:
            return replace(value, content=moment)
    raise problem_at(
        text,
        value.at,
        f"column {name.name!r} holds {family}, and this is {_description(content)}; "
        f"write {_EXAMPLES[family]}",
    )


def _family_of_content(content: Content) -> Family:
    if isinstance(content, bool):
        return Family.BOOLEAN
    if isinstance(content, int | Decimal):
        return Family.NUMBER
    return Family.MOMENT if isinstance(content, date) else Family.TEXT


def _description(content: Content) -> str:
    if isinstance(content, bool):
        return "a boolean"
    if isinstance(content, int | Decimal):
        return "a number"
    return "a date" if isinstance(content, date) else "text"
