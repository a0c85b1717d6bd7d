"""The survey: one scan that measures the input, refuses defects and draws a uniform sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.defects import count_defects, no_defects, refuse_defects
from gmm_dask.chunked.draw import Draw
from gmm_dask.chunked.label_survey import survey_labels
from gmm_dask.chunked.moments import Moments, take_moments
from gmm_dask.chunked.rows import RowChunks, Rows, drop_incomplete, find_holes
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.errors import InputError, TooFewRowsError
from gmm_dask.events import Stage
from gmm_dask.mixture.kernels.sampling import rows_below
from gmm_dask.mixture.labels import take_rows
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.nulls import NullPolicy

#: Largest absolute value whose squares can be summed over rows in float64.
LARGEST_VALUE = 1e140
#: Where all values are below this, the squares of most are 0 in float64.
SMALLEST_REACH = 1e-150


@dataclass(frozen=True)
class SurveyRequest:
    """Argument of the survey's scan; it is sent to the workers.

    Attributes
    ----------
    seed
        Seed of the sample.
    sample_rows
        Most rows that the sample may hold.
    threshold
        Highest priority with which a row is drawn.
    weighted
        Whether the rows carry sample weights.
    nulls
        ``MARGINALIZE`` uses incomplete rows by what they have; the others leave them out.
    """

    seed: int
    sample_rows: int
    threshold: int
    weighted: bool
    nulls: NullPolicy


def survey_source(scanner: Scanner, sample_rows: int, seed: int, nulls: NullPolicy) -> Survey:
    """Survey all rows of a scanner's source.

    Costs one scan, or two where most rows hold nulls or are outside the filter: the sample of the
    first would be too small.

    Parameters
    ----------
    sample_rows
        Rows of the sample; all used rows if there are fewer. Where many rows hold nulls, the
        sample may have down to half as many.
    seed
        Seed of the sample.
    nulls
        ``ERROR`` refuses rows that hold a null, ``DROP`` drops them, ``MARGINALIZE`` uses what
        they have.

    Raises
    ------
    NonFiniteError
        A value is infinite; or a value is null or NaN and the policy refuses it. The message says
        how many such values there are and where the first one is.
    TooFewRowsError
        No row can be used; or, under ``MARGINALIZE``, a column has no value at all.
    InputError
        A sample weight is negative, infinite or too large, all are 0, or a value is too large to
        be squared.
    """
    request = _request(scanner, sample_rows, seed, scanner.rows, nulls)
    survey = scanner.reduce(survey_rows, request, Stage.SURVEY)
    refuse_unusable(survey, scanner.chunks, nulls)
    transforms = scanner.transforms
    if transforms is not None and transforms.pending:
        scanner.transforms = _settle(transforms, survey.moments)
    if 2 * len(survey.draw.numbers) < min(sample_rows, survey.rows):
        request = _request(scanner, sample_rows, seed, survey.rows, nulls)
        again = scanner.reduce(survey_rows, request, Stage.SURVEY)
        survey = replace(_in_units(survey, scanner.transforms), draws=(again.draw,))
    elif len(survey.draws) > 1:
        survey = replace(survey, draws=(survey.draw,))
    return _in_units(survey, scanner.transforms)


def _settle(transforms: Transforms, moments: Moments) -> Transforms:
    """Put mean and standard deviation of the used rows into what is pending."""
    deviation = np.sqrt(moments.squares / np.maximum(moments.counts, 1))  # (d,)
    varies = moments.maximum > moments.minimum
    return transforms.settled(moments.mean, np.where(varies, deviation, 0.0))


def _in_units(survey: Survey, transforms: Transforms | None) -> Survey:
    """Return the survey of rows that have had what was pending in their transforms, too."""
    if transforms is None or transforms == survey.transforms:
        return survey
    moments, labels = survey.moments, survey.labels

    def in_units(draw: Draw) -> Draw:
        return replace(draw, values=transforms.apply(draw.values, survey.transforms))

    rows = np.stack([moments.mean, moments.minimum, moments.maximum])  # (3, d)
    mean, minimum, maximum = transforms.apply(rows, survey.transforms)
    scale = transforms.scales(survey.transforms)  # (d,)
    assert survey.feature_weights is not None
    slopes = -float((survey.feature_weights * np.log(scale)).sum())
    return replace(
        survey,
        moments=replace(
            moments, mean=mean, squares=moments.squares / scale**2, minimum=minimum, maximum=maximum
        ),
        draws=(in_units(survey.draw),),
        labels=labels
        and replace(
            labels,
            draw=replace(
                labels.draw, values=transforms.apply(labels.draw.values, survey.transforms)
            ),
        ),
        transforms=transforms,
        log_slopes=survey.log_slopes + slopes,
        feature_weights=None,
    )


def _request(
    scanner: Scanner, sample_rows: int, seed: int, used_rows: int, nulls: NullPolicy
) -> SurveyRequest:
    """Set the threshold at which ``sample_rows`` of the used rows are drawn, and a few more."""
    threshold = priority_limit(sample_rows, used_rows)
    return SurveyRequest(seed, sample_rows, threshold, scanner.chunks.weighted, nulls)


def priority_limit(sample_rows: int, rows: int) -> int:
    """Return the priority up to which ``sample_rows`` of so many rows lie, and a few more."""
    # Six deviations above the expected number: one survey in a billion draws too few.
    expected = sample_rows + 6.0 * sqrt(sample_rows) + 10.0
    share = min(1.0, expected / max(rows, 1))
    return min(int(share * 2.0**64), 2**64 - 1)


@np.errstate(over="ignore", invalid="ignore")
def survey_rows(rows: Rows, request: SurveyRequest) -> Survey:
    """Survey one chunk; infinities in it are counted without a warning."""
    moments = take_moments(rows.values)
    # A finite sum holds neither NaN nor infinity.
    clean = rows.sample_weight is None and bool(np.isfinite(moments.mean).all())
    defects = no_defects(rows.values.shape[1]) if clean else count_defects(rows)
    used = rows
    incomplete = 0
    if defects.missing.any():
        if request.nulls is NullPolicy.MARGINALIZE:
            used = find_holes(rows)
            incomplete = sum(len(hole.rows) for hole in used.patterns or () if not hole.complete)
        else:
            used = drop_incomplete(rows)
        moments = take_moments(used.values, incomplete > 0)
    weights = used.sample_weight
    if weights is not None and np.isnan(weights).any():
        weights = np.nan_to_num(weights)
    numbers, priorities = rows_below(
        request.seed, rows.first, rows.source_rows, request.threshold
    )  # (m,)
    places = numbers - rows.first
    if used.used is not None:
        kept = used.used[places]
        numbers, priorities = numbers[kept], priorities[kept]
        places = np.cumsum(used.used)[places[kept]] - 1
    draw = Draw(
        request.sample_rows,
        priorities,
        numbers,
        take_rows(used.values, places),
        np.empty(0) if weights is None else weights[places],
        np.empty(0, np.int64) if used.labels is None else used.labels.codes[places],
    )
    return Survey(
        rows.source_rows,
        moments,
        float(used.values.shape[0]) if weights is None else float(weights.sum()),
        defects,
        (Draw.merge([draw]),),
        rows.outside,
        incomplete,
        float(used.values.shape[0]) if weights is None else float((weights * weights).sum()),
        rows.transforms,
        _sum_slopes(used, weights),
        _weigh_features(used, weights),
        survey_labels(used, weights, request.seed),
    )


def _weigh_features(rows: Rows, weights: FloatArray | None) -> FloatArray | None:
    if rows.transforms is None or not rows.transforms.pending:
        return None
    observed = ~np.isnan(rows.values)  # (m, d)
    if weights is None:
        return np.count_nonzero(observed, axis=0).astype(np.float64)
    return np.where(observed, weights[:, None], 0.0).sum(axis=0)


def _sum_slopes(rows: Rows, weights: FloatArray | None) -> float:
    if rows.transforms is None:
        return 0.0
    slopes = rows.transforms.log_slopes(rows.values)  # (m,)
    return float(slopes.sum() if weights is None else (slopes * weights).sum())


def refuse_unusable(survey: Survey, chunks: RowChunks, nulls: NullPolicy) -> None:
    """Refuse rows that cannot be fitted; raises as `survey_source` does.

    Parameters
    ----------
    survey
        Of all rows; its defects are of rows of ``chunks``.
    """
    defects = survey.defects
    refuse_defects(defects, chunks.columns, nulls, chunks.describe)
    if not survey.source_rows:
        raise TooFewRowsError("the input has no rows")
    inside = survey.source_rows - survey.outside
    if not inside:
        raise TooFewRowsError(
            f"no row in {survey.source_rows:,} is inside the filter; widen it, or check that its "
            "values are written as the columns have them"
        )
    if not survey.rows:
        empty = [
            name
            for name, count in zip(chunks.columns, defects.missing[:-1], strict=True)
            if count == inside
        ]
        why = "every row has a null"
        remedy = "leave out the columns with many nulls, or fill them in"
        first_missing = defects.first_missing[:-1]
        if empty:
            why, remedy = f"column {empty[0]!r} holds nothing but nulls", "leave it out"
            first_missing = (first_missing[chunks.columns.index(empty[0])],)
        places = [place for place in first_missing if place is not None]
        first = f", the first at {chunks.describe(*min(places))}" if places else ""
        raise TooFewRowsError(f"no complete row in {inside:,}: {why}{first}; {remedy}")
    _refuse_empty_columns(survey, chunks)
    largest = np.maximum(np.abs(survey.moments.minimum), np.abs(survey.moments.maximum))  # (d,)
    if largest.max() > LARGEST_VALUE:
        column = chunks.columns[int(largest.argmax())]
        raise InputError(
            f"column {column!r} holds values up to {largest.max():.3g}, and their squares leave "
            f"the range of float64; rescale the column, or leave out rows beyond {LARGEST_VALUE:g}"
        )
    if ((largest > 0) & (largest < SMALLEST_REACH)).any():
        column = chunks.columns[int(np.where(largest > 0, largest, np.inf).argmin())]
        raise InputError(
            f"column {column!r} holds no value beyond {SMALLEST_REACH:g} in size, and squares that "
            "small are 0 in float64; rescale the column"
        )
    if not survey.weight > 0:
        raise InputError("sample_weight: all weights are 0; at least one must be above 0")


def _refuse_empty_columns(survey: Survey, chunks: RowChunks) -> None:
    """Refuse a column without any value: nothing can be said of it."""
    for name, count in zip(chunks.columns, survey.moments.counts, strict=True):
        if not count:
            raise TooFewRowsError(
                f"column {name!r} holds nothing but nulls in {survey.rows:,} rows; leave it out"
            )
