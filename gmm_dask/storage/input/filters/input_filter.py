"""The filter of an input plan: its text, and what it leaves of each file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

from gmm_dask.storage.input.filters.binding import Family, bind
from gmm_dask.storage.input.filters.moments import read_date
from gmm_dask.storage.input.filters.outcomes import Domain, exactly, simplify
from gmm_dask.storage.input.filters.predicate import (
    Content,
    Predicate,
)

Partitions = Mapping[str, str | None]


@dataclass(frozen=True)
class InputFilter:
    """A filter that belongs to an input plan; picklable and the same wherever it is read.

    Attributes
    ----------
    text
        The resolved text: days and times in place of ``current_date`` and its like.
    families
        Family of each column that the filter names.
    as_of
        The time that was put in. It does not belong to the snapshot, and is None in a plan that
        was stored or sent.
    """

    text: str
    families: Mapping[str, Family] = field(repr=False)
    as_of: datetime | None = field(default=None, compare=False, repr=False)

    @cached_property
    def predicate(self) -> Predicate:
        """The predicate, bound to its columns."""
        # Imported here: an input without a filter does not need sqlglot.
        from gmm_dask.storage.input.filters.sql import parse_filter

        # The text names no present any more.
        return bind(parse_filter(self.text, datetime.now(UTC)), self.families, self.text)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> InputFilter:
        """Make the filter from the text and the families that a stored plan has."""
        families = {name: Family(family) for name, family in content["families"].items()}
        return cls(content["text"], families)

    def residual(self, partitions: Partitions) -> Predicate:
        """Return what is left to ask of the rows of a file that lies in these partitions."""
        return simplify(self.predicate, key_domains(partitions, self.families))


def names_present(text: str) -> bool:
    """Whether a filter means something else at another time.

    Raises
    ------
    ConfigError
        The text is not a filter; the message says where.
    """
    from gmm_dask.storage.input.filters.sql import parse_filter

    times = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2001, 2, 3, tzinfo=UTC))
    first, second = (parse_filter(text, time) for time in times)
    return first != second


def key_domains(partitions: Partitions, families: Mapping[str, Family]) -> dict[str, Domain]:
    """Return the domains of the partition keys that have a family: each a single value."""
    return {
        key: exactly(_content(text, families[key]))
        for key, text in partitions.items()
        if key in families
    }


def _content(text: str | None, family: Family) -> Content:
    if text is None or family is Family.TEXT:
        return text
    return read_date(text) if family is Family.MOMENT else Decimal(text)
