"""Weights that decay with age: half as much for each half-life since a date or timestamp.

The present is the first moment of the run's day, in UTC. So a run at any hour of a day weighs
alike, and a retrain can see that nothing is new. A row of that day or of the next has age 0: its
clock may be up to a day ahead of UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from math import factorial, log
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import types

from gmm_dask.arrays import FloatArray
from gmm_dask.config.input_section import HalflifeSection
from gmm_dask.errors import SchemaError
from gmm_dask.storage.input.columns import write_values
from gmm_dask.storage.input.filters.binding import Family
from gmm_dask.storage.input.filters.moments import read_date
from gmm_dask.storage.input.partitions import partition_families
from gmm_dask.storage.input.schemas import DATED, Schemas

_DAY = 86_400.0
#: Taylor's coefficients of 2^x, highest power first; for |x| ≤ ½ they leave 1e-17.
_POWERS = [log(2.0) ** power / factorial(power) for power in range(13, -1, -1)]


@dataclass(frozen=True)
class Decay:
    """The decay of weights with age: 2^(−age / half-life).

    Attributes
    ----------
    column
        The column or partition key that says when a row is from.
    days
        The half-life, days.
    today
        The day from which age is counted.
    as_of
        The present of the run. It does not belong to the snapshot, and is None in a plan that was
        stored or sent.
    """

    column: str
    days: float
    today: date
    as_of: datetime | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, section: HalflifeSection, as_of: datetime) -> Decay:
        """Put the present into what a run file says."""
        return cls(section.column, section.days, as_of.astimezone(UTC).date(), as_of)

    def to_json(self) -> dict[str, Any]:
        """Return the decay in JSON form; `from_json` reads it back."""
        return {"column": self.column, "days": self.days, "today": self.today.isoformat()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Decay:
        """Read what `to_json` wrote."""
        return cls(content["column"], content["days"], date.fromisoformat(content["today"]))

    def check(self, schemas: Schemas, paths: tuple[str, ...]) -> None:
        """Refuse a column that says nothing of time.

        Raises
        ------
        SchemaError
            The message names the column and what it holds.
        """
        family = schemas.family(self.column, partition_families(paths), DATED)
        if family is not Family.MOMENT:
            raise SchemaError(
                f"column {self.column!r}{DATED}, holds {family}; give a column of dates or "
                "timestamps, or a partition key whose values are dates such as 2026-01-31"
            )

    def factors(self, stored: pa.Array) -> FloatArray:
        """Return the factor of each row by the stored column; NaN where it is null.

        Parameters
        ----------
        stored
            (m,) dates or timestamps; those without a time zone count as UTC.

        Returns
        -------
        factors
            (m,), from 0 to 1; −1 where a row is from after tomorrow.
        """
        if types.is_dictionary(stored.type):
            stored = stored.dictionary_decode()
        if types.is_null(stored.type):
            return np.full(len(stored), np.nan)
        seconds = np.empty(len(stored))
        write_values(stored, seconds)
        return self._factors(seconds)

    def key_factor(self, text: str | None) -> float:
        """Return the factor of the rows in a partition, as `factors` does."""
        day = None if text is None else read_date(text)
        if day is None:
            return float("nan")
        seconds = (day - date(1970, 1, 1)) / timedelta(seconds=1)
        return float(self._factors(np.array([seconds]))[0])

    def refused(self, factors: FloatArray) -> tuple[int, str] | None:
        """Return the first row whose factor is no weight, and why; None if all are."""
        bad = ~(factors >= 0.0)
        if not bad.any():
            return None
        row = int(bad.argmax())
        name = f'"{self.column}"'
        if np.isnan(factors[row]):
            return row, (
                "is null, so the row has no age; fill it in, or leave such rows out by "
                f"filter = '{name} is not null'"
            )
        return row, (
            f"is more than a day after {self.today}, the day of this run in UTC; correct it, or "
            f"leave such rows out by filter = '{name} <= current_date'"
        )

    def _factors(self, seconds: FloatArray) -> FloatArray:
        present = (self.today - date(1970, 1, 1)) / timedelta(seconds=1)
        ages = (present - seconds) / _DAY  # (m,), days
        factors = power_of_two(-np.maximum(ages, 0.0) / self.days)
        factors[ages <= -2.0] = -1.0
        return factors


def power_of_two(exponents: FloatArray) -> FloatArray:
    """Return 2^x, to a few units in the last place, with the same bits on every processor.

    Weights are fingerprinted, and a chunk may be read on one worker first and on another then.
    numpy's ``exp2`` differs in its last bit between processors; sums and products do not.
    """
    whole = np.rint(exponents)
    rest = exponents - whole  # |rest| ≤ ½
    power = np.full_like(rest, _POWERS[0])
    for coefficient in _POWERS[1:]:
        power *= rest
        power += coefficient
    with np.errstate(invalid="ignore"):
        shifts = np.clip(np.nan_to_num(whole), -1100.0, 1100.0).astype(np.int32)
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(power, shifts)
