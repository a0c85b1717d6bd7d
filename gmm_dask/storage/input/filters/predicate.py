"""A predicate: the condition that rows must meet, as a small tree of frozen records.

It has SQL's three values. A comparison with a null is neither true nor false but null, and a row
is inside a filter only where the predicate is true. NaN counts as null, as everywhere in this
package.

=================================  ==============================
record                             SQL
=================================  ==============================
``Comparison(a, "<=", b)``         ``a <= b``
``Membership(a, values)``          ``a in (…)``
``IsNull(a)``                      ``a is null``
``Flag(a)``                        ``a``, a column of booleans
``Constant(True)``                 ``true``, ``false`` or ``null``
``Negation(p)``                    ``not p``
``Junction("and", (p, q))``        ``p and q``, or ``p or q``
=================================  ==============================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Literal

from gmm_dask.errors import ConfigError

Content = int | Decimal | str | bool | date | None
Operator = Literal["=", "<>", "<", "<=", ">", ">="]

#: The operator that says the same with its sides exchanged.
MIRRORED: dict[Operator, Operator] = {
    "=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<=",
}  # fmt: skip


@dataclass(frozen=True)
class Name:
    """A column or a partition key, by its name as written; ``at`` is its place in the text."""

    name: str
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Value:
    """A value that the text states; ``at`` is its place there.

    Attributes
    ----------
    content
        An int or ``Decimal``, text, a bool, a date or a timestamp (without zone, in UTC); None is
        null.
    """

    content: Content
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Comparison:
    """Two sides compared; at least one of them is a `Name`, and the left one if only one is."""

    left: Name
    operator: Operator
    right: Name | Value


@dataclass(frozen=True)
class Membership:
    """Whether a column is equal to one of some values."""

    name: Name
    values: tuple[Value, ...]


@dataclass(frozen=True)
class IsNull:
    """Whether a column is null; never null itself."""

    name: Name


@dataclass(frozen=True)
class Flag:
    """A column of booleans as a condition."""

    name: Name


@dataclass(frozen=True)
class Constant:
    """A condition that is the same for every row: True, False or None, which is null."""

    truth: bool | None


@dataclass(frozen=True)
class Negation:
    """The opposite of a predicate; null stays null."""

    item: Predicate


@dataclass(frozen=True)
class Junction:
    """Two predicates or more, joined by "and" or by "or"."""

    word: Literal["and", "or"]
    items: tuple[Predicate, ...]


_SHOWN = 40  # characters of the text that a message quotes

Leaf = Comparison | Membership | IsNull | Flag | Constant
Predicate = Leaf | Negation | Junction


def transform(predicate: Predicate, change: Callable[[Leaf], Predicate]) -> Predicate:
    """Replace each leaf of a predicate."""
    if isinstance(predicate, Negation):
        return Negation(transform(predicate.item, change))
    if isinstance(predicate, Junction):
        items = tuple(transform(item, change) for item in predicate.items)
        return replace(predicate, items=items)
    return change(predicate)


def leaves(predicate: Predicate) -> Iterator[Leaf]:
    """Yield the leaves of a predicate, from left to right."""
    if isinstance(predicate, Negation):
        yield from leaves(predicate.item)
    elif isinstance(predicate, Junction):
        for item in predicate.items:
            yield from leaves(item)
    else:
        yield predicate


def names_of(predicate: Predicate) -> dict[str, Name]:
    """Return the columns of a predicate by name, each at its first place."""
    names: dict[str, Name] = {}
    for leaf in leaves(predicate):
        if isinstance(leaf, Comparison):
            sides = (leaf.left, leaf.right)
            for name in sorted(
                (side for side in sides if isinstance(side, Name)), key=lambda name: name.at
            ):
                names.setdefault(name.name, name)
        elif not isinstance(leaf, Constant):
            names.setdefault(leaf.name.name, leaf.name)
    return names


def text_of(predicate: Predicate) -> str:
    """Write a predicate as SQL; reading it gives the predicate again."""
    if isinstance(predicate, Junction):
        return f" {predicate.word} ".join(map(_inner, predicate.items))
    if isinstance(predicate, Negation):
        if isinstance(predicate.item, IsNull):
            return f"{_operand(predicate.item.name)} is not null"
        if isinstance(predicate.item, Membership):
            return _membership(predicate.item, "not in")
        return f"not {_inner(predicate.item)}"
    if isinstance(predicate, Comparison):
        left, right = _operand(predicate.left), _operand(predicate.right)
        return f"{left} {predicate.operator} {right}"
    if isinstance(predicate, Membership):
        return _membership(predicate, "in")
    if isinstance(predicate, IsNull):
        return f"{_operand(predicate.name)} is null"
    if isinstance(predicate, Flag):
        return _operand(predicate.name)
    return _operand(Value(predicate.truth))


def _inner(predicate: Predicate) -> str:
    text = text_of(predicate)
    return f"({text})" if isinstance(predicate, Junction) or text.startswith("not ") else text


def _membership(membership: Membership, word: str) -> str:
    values = ", ".join(map(_operand, membership.values))
    return f"{_operand(membership.name)} {word} ({values})"


def _operand(side: Name | Value) -> str:
    if isinstance(side, Name):
        return '"' + side.name.replace('"', '""') + '"'
    content = side.content
    if content is None:
        return "null"
    if isinstance(content, bool):
        return str(content).lower()
    if isinstance(content, str):
        return "'" + content.replace("'", "''") + "'"
    if isinstance(content, datetime):
        return f"timestamp '{content.isoformat(' ')}'"
    if isinstance(content, date):
        return f"date '{content.isoformat()}'"
    # With its exponent where it has one: 1e-300 has 300 digits.
    return str(content).replace("E", "e")


def problem_at(text: str, at: int, problem: str) -> ConfigError:
    """Make the error for a place in a filter's text: where, what stands there, the problem."""
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    return ConfigError(f"filter: line {line}, column {column}, {shown(text[at:])}: {problem}")


def shown(text: str) -> str:
    """Quote the beginning of a text for a message, in one line."""
    words = " ".join(text.split())
    return repr(words if len(words) <= _SHOWN else words[:_SHOWN] + "…")
