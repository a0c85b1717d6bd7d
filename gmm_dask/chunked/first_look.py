"""The first scan of a night: the survey of the rows that it reads, and their first E-step.

Both need every row once, and the model in use is known before. So the rows that are new to it are
compared with it in the same scan, by the same statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gmm_dask.chunked.batches import BatchSums, sum_batch
from gmm_dask.chunked.by_unit import ByUnit, UnitSurvey, unit_of
from gmm_dask.chunked.defects import apply_null_policy
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.survey import LARGEST_VALUE, SurveyRequest, survey_rows
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import SufficientStatistics, sum_statistics
from gmm_dask.nulls import NullPolicy


@dataclass(frozen=True, eq=False)
class LookRequest:
    """Argument of the first scan; it is sent to the workers.

    Attributes
    ----------
    units
        Number of each file's unit.
    survey
        What the survey wants.
    parameters
        The model in use.
    new
        Numbers of the files that are new to it.
    """

    units: tuple[int, ...]
    survey: SurveyRequest
    parameters: MixtureParameters
    new: frozenset[int]


@dataclass(frozen=True, eq=False)
class FirstLook:
    """What the first scan finds; parts add by ``+``.

    Attributes
    ----------
    surveys, statistics
        Of each unit, these under the model in use. Chunks with values that the survey refuses have
        no statistics.
    new
        Sums over the rows of new files; None without any.
    """

    surveys: ByUnit[UnitSurvey]
    statistics: ByUnit[SufficientStatistics]
    new: BatchSums | None

    def __add__(self, other: FirstLook) -> FirstLook:
        new = other.new if self.new is None else self.new
        if self.new is not None and other.new is not None:
            new = self.new + other.new
        return FirstLook(self.surveys + other.surveys, self.statistics + other.statistics, new)


def look_at_rows(rows: Rows, request: LookRequest) -> FirstLook:
    """Survey one chunk, take its statistics, and compare its rows with the model if they are new.

    ``rows`` are as they were read: the survey counts what is missing.
    """
    unit, parameters = unit_of(rows, request.units), request.parameters
    survey = survey_rows(rows, request.survey)
    surveys = ByUnit({unit: UnitSurvey(survey, rows.young)})
    if not _can_be_fitted(survey, request.survey.nulls):
        return FirstLook(surveys, ByUnit({}), None)
    if survey.defects.missing.any():
        rows = apply_null_policy(rows, request.survey.nulls)
    statistics = sum_statistics(parameters, rows.values, rows.sample_weight, rows.patterns or ())
    new = sum_batch(rows, parameters, statistics) if rows.file in request.new else None
    return FirstLook(surveys, ByUnit({unit: statistics}), new)


def _can_be_fitted(survey: Survey, nulls: NullPolicy) -> bool:
    """Whether sums over a chunk mean something: else the survey of all rows will be refused."""
    defects, moments = survey.defects, survey.moments
    if nulls is NullPolicy.ERROR and defects.missing.any():
        return False
    if defects.missing[-1] or defects.infinite.any():
        return False
    largest = np.maximum(np.abs(moments.minimum), np.abs(moments.maximum))  # (d,)
    return not (largest > LARGEST_VALUE)[np.asarray(moments.counts) > 0].any()
