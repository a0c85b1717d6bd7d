"""What a predicate can be where only bounds of its columns are known: keys and statistics.

A row group whose rows cannot meet the predicate is not read, and one whose rows all meet it needs
no mask. The answer may be too careful, never wrong: bounds of different columns are taken to be
independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import reduce as fold
from typing import Any

from gmm_dask.storage.input.filters.moments import nanoseconds
from gmm_dask.storage.input.filters.predicate import (
    MIRRORED,
    Comparison,
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
    Value,
)

TRUE, FALSE, NULL = 1, 2, 4
ANY = TRUE | FALSE | NULL
_TRUTHS = {TRUE: True, FALSE: False, NULL: None}


@dataclass(frozen=True)
class Domain:
    """What is known of the values of a column in some rows.

    Attributes
    ----------
    low, high
        Bounds, comparable with `comparable` of a value; None where nothing is known.
    nulls, values
        Whether there may be nulls, and whether there may be anything else.
    floating
        Whether values are compared as float64. NaN, which counts as null, is in no bounds.
    """

    low: Any = None
    high: Any = None
    nulls: bool = True
    values: bool = True
    floating: bool = False


UNKNOWN = Domain()
ALL_NULL = Domain(values=False)


def exactly(content: Content) -> Domain:
    """Make the domain of a single value."""
    if content is None:
        return ALL_NULL
    return Domain(comparable(content), comparable(content), nulls=False)


def comparable(content: Content) -> Any:
    """Return a value in a form that compares as the column does: text by its bytes, dates by ns."""
    if isinstance(content, str):
        return content.encode("utf-8", "surrogatepass")
    return nanoseconds(content) if isinstance(content, date) else content


def outcomes(predicate: Predicate, domains: Mapping[str, Domain]) -> int:
    """Return which of `TRUE`, `FALSE` and `NULL` a predicate can be in rows of these domains."""
    if isinstance(predicate, Negation):
        inner = outcomes(predicate.item, domains)
        return (TRUE if inner & FALSE else 0) | (FALSE if inner & TRUE else 0) | inner & NULL
    if isinstance(predicate, Comparison):
        return _comparison(predicate, domains)
    if isinstance(predicate, Membership):
        return _membership(predicate, domains.get(predicate.name.name, UNKNOWN))
    if isinstance(predicate, IsNull):
        domain = domains.get(predicate.name.name, UNKNOWN)
        return (TRUE if domain.nulls else 0) | (FALSE if domain.values else 0)
    if isinstance(predicate, Flag):
        leaf = Comparison(predicate.name, "=", Value(True))
        return _comparison(leaf, domains)
    if isinstance(predicate, Constant):
        return {truth: outcome for outcome, truth in _TRUTHS.items()}[predicate.truth]
    join = _both if predicate.word == "and" else _either
    return fold(join, (outcomes(item, domains) for item in predicate.items))


def _both(first: int, second: int) -> int:
    return (
        (first & second & TRUE)
        | ((first | second) & FALSE)
        | (
            NULL
            if (first | second) & NULL and first & (TRUE | NULL) and second & (TRUE | NULL)
            else 0
        )
    )


def _either(first: int, second: int) -> int:
    return (
        ((first | second) & TRUE)
        | (first & second & FALSE)
        | (
            NULL
            if (first | second) & NULL and first & (FALSE | NULL) and second & (FALSE | NULL)
            else 0
        )
    )


def _comparison(leaf: Comparison, domains: Mapping[str, Domain]) -> int:
    first = domains.get(leaf.left.name, UNKNOWN)
    if isinstance(leaf.right, Name):
        second = domains.get(leaf.right.name, UNKNOWN)
    else:
        second = exactly(leaf.right.content)
    if first.floating or second.floating:
        first, second = _as_floats(first), _as_floats(second)
    possible = NULL if first.nulls or second.nulls else 0
    if first.values and second.values:
        possible |= TRUE if _possible(first, leaf.operator, second) else 0
        possible |= FALSE if _possible(first, _OPPOSITE[leaf.operator], second) else 0
    return possible


_OPPOSITE: dict[Operator, Operator] = {
    "=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">",
}  # fmt: skip


def _possible(first: Domain, operator: Operator, second: Domain) -> bool:
    """Whether a value of one domain can compare so with one of the other."""
    if operator in (">", ">="):
        return _possible(second, MIRRORED[operator], first)
    if operator == "=":
        return _possible(first, "<=", second) and _possible(second, "<=", first)
    if operator == "<>":
        ends = {first.low, first.high, second.low, second.high}
        return None in ends or len(ends) > 1
    if first.low is None or second.high is None:
        return True
    return bool(first.low < second.high if operator == "<" else first.low <= second.high)


def _membership(leaf: Membership, domain: Domain) -> int:
    singles = [exactly(value.content) for value in leaf.values if value.content is not None]
    if domain.floating:
        singles = [_as_floats(single) for single in singles]
    possible = NULL if domain.nulls else 0
    if domain.values:
        possible |= TRUE if any(_possible(domain, "=", single) for single in singles) else 0
        if all(_possible(domain, "<>", single) for single in singles):
            # A value that is in no list with a null in it might be the null.
            possible |= FALSE if len(singles) == len(leaf.values) else NULL
    return possible


def _as_floats(domain: Domain) -> Domain:
    return replace(domain, low=as_float(domain.low), high=as_float(domain.high))


def as_float(number: Any) -> Any:
    """Return a number as the nearest float64, beyond them all as infinity; None stays."""
    if number is None:
        return None
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def simplify(predicate: Predicate, domains: Mapping[str, Domain]) -> Predicate:
    """Put constants where these domains decide, and leave out what then decides nothing."""
    if isinstance(predicate, Negation):
        item = simplify(predicate.item, domains)
        if isinstance(item, Constant):
            return Constant(None if item.truth is None else not item.truth)
        return Negation(item)
    if isinstance(predicate, Leaf):
        outcome = outcomes(predicate, domains)
        return Constant(_TRUTHS[outcome]) if outcome in _TRUTHS else predicate
    neutral = predicate.word == "and"
    items = [simplify(item, domains) for item in predicate.items]
    if Constant(not neutral) in items:
        return Constant(not neutral)
    items = [item for item in items if item != Constant(neutral)]
    if len(items) > 1:
        return replace(predicate, items=tuple(items))
    return items[0] if items else Constant(neutral)
