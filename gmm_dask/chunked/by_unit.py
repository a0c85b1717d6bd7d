"""Sums of a scan that are kept apart by unit: a file, or a run of files that is read as one.

Chunks must not cross files (`Rows.file`), so each chunk belongs to one unit. What else is read
matters to the sums of a unit by rounding only: it decides where groups of chunks begin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from gmm_dask.chunked.evaluation import EvaluationBatch
from gmm_dask.chunked.expectation import sum_and_evaluate, sum_batch
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.survey import SurveyRequest, survey_rows
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import StatisticsBatch

Total = TypeVar("Total")


@dataclass(frozen=True, eq=False)
class ByUnit(Generic[Total]):
    """A total for each unit that has rows, by the unit's number; they add unit by unit."""

    totals: dict[int, Total]

    def __add__(self, other: ByUnit[Total]) -> ByUnit[Total]:
        merged = dict(self.totals)
        for unit, total in other.totals.items():
            merged[unit] = merged[unit] + total if unit in merged else total  # type: ignore[operator]
        return ByUnit(merged)

    def ordered(self) -> list[Total]:
        """Return the totals in the order of the units' numbers."""
        return [self.totals[unit] for unit in sorted(self.totals)]


@dataclass(frozen=True, eq=False)
class UnitSurvey:
    """What a scan says of a unit besides its statistics.

    Attributes
    ----------
    survey
        The survey of its rows.
    young
        Whether the weight of a row did not yet decay with its age (`Rows.young`).
    """

    survey: Survey
    young: bool

    def __add__(self, other: UnitSurvey) -> UnitSurvey:
        return UnitSurvey(self.survey + other.survey, self.young or other.young)


@dataclass(frozen=True, eq=False)
class UnitSums:
    """A unit's survey and its statistics under a mixture."""

    surveyed: UnitSurvey
    statistics: StatisticsBatch

    def __add__(self, other: UnitSums) -> UnitSums:
        return UnitSums(self.surveyed + other.surveyed, self.statistics + other.statistics)


@dataclass(frozen=True, eq=False)
class Measured:
    """The densities of all rows in several mixtures, and what each unit sums to in the first."""

    evaluation: EvaluationBatch
    units: ByUnit[UnitSums]

    def __add__(self, other: Measured) -> Measured:
        return Measured(self.evaluation + other.evaluation, self.units + other.units)


def unit_of(rows: Rows, units: tuple[int, ...]) -> int:
    """Return the number of the unit of a chunk, given that of each file."""
    assert rows.file is not None  # the source splits its chunks by file
    return units[rows.file]


def sum_units(
    rows: Rows, argument: tuple[tuple[int, ...], tuple[MixtureParameters, ...]]
) -> ByUnit[StatisticsBatch]:
    """Sum the statistics of every candidate over one chunk.

    Parameters
    ----------
    argument
        Number of each file's unit, and the parameters of each candidate.
    """
    units, batch = argument
    return ByUnit({unit_of(rows, units): sum_batch(rows, batch)})


def measure_units(
    rows: Rows, argument: tuple[tuple[int, ...], SurveyRequest, tuple[MixtureParameters, ...]]
) -> Measured:
    """Evaluate mixtures on one chunk, and take the totals of its unit under the first.

    Parameters
    ----------
    argument
        Number of each file's unit, what the survey wants, and the mixtures.
    """
    units, request, mixtures = argument
    surveyed = UnitSurvey(survey_rows(rows, request), rows.young)
    result = sum_and_evaluate(rows, (mixtures[:1], None, mixtures))
    totals = ByUnit({unit_of(rows, units): UnitSums(surveyed, result.sums)})
    return Measured(result.evaluation, totals)
