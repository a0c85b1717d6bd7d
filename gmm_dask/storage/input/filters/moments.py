"""Dates and timestamps of a filter: read from ISO text, and as nanoseconds since 1970, UTC."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MICROSECOND = 1000  # nanoseconds


def read_date(text: str) -> date | None:
    """Read an ISO date, 2026-01-31; None if the text is something else."""
    return _read(date.fromisoformat, text) if _DATE.fullmatch(text.strip()) else None


def read_timestamp(text: str) -> datetime | None:
    """Read an ISO timestamp or date, in UTC unless it names an offset; None if it is neither."""
    moment = _read(datetime.fromisoformat, text) if _DATE.match(text.strip()) else None
    if moment is None or moment.tzinfo is None:
        return moment
    try:
        return moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        return None


def _read(read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text.strip())
    except ValueError:
        return None


def nanoseconds(moment: date) -> int:
    """Return the nanoseconds from 1970 to a timestamp, or to the first of a date."""
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, datetime.min.time())
    since = moment - datetime(1970, 1, 1)
    microseconds = (since.days * 86_400 + since.seconds) * 10**6 + since.microseconds
    return microseconds * _MICROSECOND
