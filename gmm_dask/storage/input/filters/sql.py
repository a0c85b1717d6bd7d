"""A filter's text read as a predicate: a subset of SQL's WHERE.

================================  ================================================================
columns                           bare or in double quotes, case as written
numbers, text, booleans, null     ``-1.5``, ``'FR'``, ``true``, ``null``
dates and timestamps              ``date '2026-01-31'``, ``timestamp '2026-01-31 12:00:00'``; in a
                                  comparison with a column of these types, the quoted text alone
now                               ``current_date``, ``current_timestamp``, in UTC
a date or timestamp ± a number    of days
± an interval                     ``interval '36' hour``, ``interval '2 weeks'``; of seconds,
                                  minutes, hours, days, weeks, months or years
comparisons                       ``=  <>  !=  <  <=  >  >=``, ``[not] between … and …``
sets and nulls                    ``[not] in (…)``, ``is [not] null``
combinations                      ``and``, ``or``, ``not``, parentheses; a column of booleans
================================  ================================================================

sqlglot reads the text, nothing is evaluated, and what is not in the table is refused where it
stands. This is the only module that imports sqlglot, so it must itself be imported late.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NoReturn

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError

from gmm_dask.errors import ConfigError
from gmm_dask.storage.input.filters.moments import read_date, read_timestamp
from gmm_dask.storage.input.filters.predicate import (
    MIRRORED,
    Comparison,
    Constant,
    Flag,
    IsNull,
    Junction,
    Membership,
    Name,
    Negation,
    Operator,
    Predicate,
    Value,
    problem_at,
    shown,
)

SUBSET = (
    "a filter has comparisons, between, in, is null, and, or, not, numbers, text, dates, "
    "current_date and current_timestamp"
)

_OPERATORS: dict[type[exp.Expression], Operator] = {
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
}  # fmt: skip
_TIMESTAMPS = {"TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMPNTZ", "DATETIME"}
_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86_400, "WEEK": 604_800}
_MONTHS = {"MONTH": 1, "YEAR": 12}
_LONGEST = 400  # characters of a number: float64 has integers of 309 digits
_NUMBER = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def parse_filter(text: str, now: datetime) -> Predicate:
    """Read a filter.

    Parameters
    ----------
    text
        A condition as after SQL's WHERE.
    now
        What ``current_timestamp`` means, and the UTC day of ``current_date``; with a time zone.

    Raises
    ------
    ConfigError
        The text is not SQL, or outside the subset; the message says where and what.
    """
    if not text.strip():
        raise ConfigError("filter: is empty; write a condition such as price > 0, or leave it out")
    try:
        tree = sqlglot.parse_one(text, into=exp.Condition)
        return _Reader(text, now.astimezone(UTC).replace(tzinfo=None)).predicate(tree)
    except ParseError as error:
        raise _syntax_error(text, error) from error
    except TokenError as error:
        raise ConfigError(
            f"filter: {shown(text)} has a quote or a comment without an end; close it"
        ) from error
    except RecursionError as error:
        raise ConfigError("filter: is nested too deeply; use fewer parentheses") from error


def _syntax_error(text: str, error: ParseError) -> ConfigError:
    detail = error.errors[0] if error.errors else {}
    if not detail.get("highlight"):
        return ConfigError(f"filter: {shown(text)} is not a condition; {SUBSET}")
    # sqlglot counts the column of a token's last character.
    lines = text.splitlines(keepends=True)
    before = sum(map(len, lines[: detail["line"] - 1]))
    at = max(0, before + detail["col"] - len(detail["highlight"]))
    if detail["highlight"].lower() == "where":
        return problem_at(text, at, "write the condition without the word where")
    if detail["description"].startswith("Required keyword"):
        return problem_at(text, at, "is incomplete; something is missing before or after it")
    return problem_at(text, at, f"is not expected here; {SUBSET}")


class _Reader:
    """Turns sqlglot's tree into a predicate, and refuses what has no place in one."""

    def __init__(self, text: str, now: datetime) -> None:
        self.text = text
        self.now = now

    def predicate(self, node: Any) -> Predicate:
        if isinstance(node, exp.Paren):
            return self.predicate(node.this)
        if isinstance(node, exp.And | exp.Or):
            items = tuple(self.predicate(item) for item in _operands(node, type(node)))
            return Junction("and" if isinstance(node, exp.And) else "or", items)
        if isinstance(node, exp.Not):
            return Negation(self.predicate(node.this))
        if type(node) in _OPERATORS:
            return self.comparison(node, node.this, _OPERATORS[type(node)], node.expression)
        if isinstance(node, exp.Between) and not node.args.get("symmetric"):
            low = self.comparison(node, node.this, ">=", node.args["low"])
            high = self.comparison(node, node.this, "<=", node.args["high"])
            return Junction("and", (low, high))
        if isinstance(node, exp.In) and node.args.get("expressions"):
            values = tuple(self.value(item) for item in node.args["expressions"])
            return Membership(self.name(node.this), values)
        if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
            return IsNull(self.name(node.this))
        if isinstance(node, exp.Boolean):
            return Constant(bool(node.this))
        if isinstance(node, exp.Null):
            return Constant(None)
        if isinstance(node, exp.Column):
            return Flag(self.name(node))
        self.refuse(node, f"is not a condition that a filter can have; {SUBSET}")

    def comparison(self, node: Any, left: Any, operator: Operator, right: Any) -> Comparison:
        first, second = self.operand(left), self.operand(right)
        if isinstance(first, Name):
            return Comparison(first, operator, second)
        if isinstance(second, Name):
            return Comparison(second, MIRRORED[operator], first)
        self.refuse(node, "compares no column; name one (text stands in single quotes)")

    def operand(self, node: Any) -> Name | Value:
        if isinstance(node, exp.Paren):
            return self.operand(node.this)
        return self.name(node) if isinstance(node, exp.Column) else self.value(node)

    def name(self, node: Any) -> Name:
        if isinstance(node, exp.Paren):
            return self.name(node.this)
        if not isinstance(node, exp.Column):
            self.refuse(node, "is not the name of a column, and a filter computes nothing of them")
        if node.table or not isinstance(node.this, exp.Identifier):
            self.refuse(node, 'is not the plain name of a column; quote a name with dots: "a.b"')
        return Name(node.name, self.place(node))

    def value(self, node: Any) -> Value:
        at = self.place(node)
        if isinstance(node, exp.Paren):
            return self.value(node.this)
        if isinstance(node, exp.Literal) and node.is_string:
            return Value(node.name, at)
        if isinstance(node, exp.Literal):
            return Value(self.number(node), at)
        if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal | exp.Neg):
            content = self.value(node.this).content
            if isinstance(content, int | Decimal):
                return Value(-content, at)
        if isinstance(node, exp.Boolean):
            return Value(bool(node.this), at)
        if isinstance(node, exp.Null):
            return Value(None, at)
        if isinstance(node, exp.Column):
            self.refuse(node, "is a column where only a value can stand; text has single quotes")
        return Value(self.moment(node), at)

    def number(self, node: Any) -> int | Decimal:
        if len(node.name) > _LONGEST or not _NUMBER.fullmatch(node.name):
            self.refuse(node, "is not a number that can be read")
        return int(node.name) if node.name.isdigit() else Decimal(node.name)

    def moment(self, node: Any) -> date:
        """Read a date, a timestamp, or one of them moved by days or an interval."""
        if isinstance(node, exp.Paren):
            return self.moment(node.this)
        if isinstance(node, exp.CurrentDate) and not node.this:
            return self.now.date()
        if isinstance(node, exp.CurrentTimestamp) and not node.this:
            return self.now
        if isinstance(node, exp.Cast) and isinstance(node.this, exp.Literal):
            kind = node.to.this.name
            if node.this.is_string and (kind == "DATE" or kind in _TIMESTAMPS):
                read = read_date if kind == "DATE" else read_timestamp
                moment = read(node.this.name)
                if moment is None:
                    self.refuse(node.this, "is not a date that can be read; write '2026-01-31'")
                return moment
        if isinstance(node, exp.Add | exp.Sub):
            sign = 1 if isinstance(node, exp.Add) else -1
            return self.moved(node, self.moment(node.this), sign)
        self.refuse(node, f"is not a value that a filter can have; {SUBSET}")

    def moved(self, node: Any, moment: date, sign: int) -> date:
        step = node.expression
        while isinstance(step, exp.Paren):
            step = step.this
        try:
            if isinstance(step, exp.Interval):
                return self.by_interval(step, moment, sign)
            days = self.value(step).content
            if isinstance(days, int) and not isinstance(days, bool):
                return moment + timedelta(days=sign * days)
        except OverflowError:
            self.refuse(node, "is outside the years 1 to 9999")
        self.refuse(step, "is not a whole number of days; or write interval '36' hour")

    def by_interval(self, node: Any, moment: date, sign: int) -> date:
        unit = (node.text("unit") or "").upper().removesuffix("S")
        text = node.this.name if isinstance(node.this, exp.Literal) else ""
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", text) or unit not in {*_SECONDS, *_MONTHS}:
            units = ", ".join(word.lower() for word in (*_SECONDS, *_MONTHS))
            self.refuse(
                node, f"is not an interval that can be read; write interval '36' hour ({units})"
            )
        count = sign * int(text)
        if unit in _MONTHS:
            return _add_months(moment, count * _MONTHS[unit])
        step = timedelta(seconds=count * _SECONDS[unit])
        if step % timedelta(days=1) and not isinstance(moment, datetime):
            moment = datetime.combine(moment, datetime.min.time())
        return moment + step

    def place(self, node: Any) -> int:
        """Return where a node begins in the text, as far as its parts or those around it know."""
        starts = [part.meta["start"] for part in node.walk() if "start" in part.meta]
        if not starts and node.parent is not None:
            return self.place(node.parent)
        return min(starts, default=0)

    def refuse(self, node: Any, problem: str) -> NoReturn:
        raise problem_at(self.text, self.place(node), problem)


def _operands(node: Any, kind: type[Any]) -> Iterator[Any]:
    """Yield what a chain of the same word joins; a long chain is deep in sqlglot's tree."""
    chain = []
    while isinstance(node, kind):
        chain.append(node.expression)
        node = node.this
    yield node
    yield from reversed(chain)


def _add_months(moment: date, months: int) -> date:
    """Move a date by months; the day is at most the month's last."""
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    if not 1 <= year <= 9999:
        raise OverflowError
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)
