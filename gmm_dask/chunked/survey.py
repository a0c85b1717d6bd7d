"""The survey: one scan that measures the input, refuses defects and draws a uniform sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, PrioritiesArray, RowsArray
from gmm_dask.chunked.defects import Defects, count_defects, no_defects, refuse_defects
from gmm_dask.chunked.rows import RowChunks, Rows, drop_incomplete
from gmm_dask.chunked.scan import Scanner
from gmm_dask.errors import InputError, TooFewRowsError
from gmm_dask.events import Stage
from gmm_dask.mixture.kernels.moments import column_moments
from gmm_dask.mixture.kernels.sampling import rows_below
from gmm_dask.mixture.starts import Sample
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.nulls import NullPolicy

#: Largest absolute value whose squares can be summed over rows in float64.
LARGEST_VALUE = 1e140
#: Where all values are below this, the squares of most are 0 in float64.
SMALLEST_REACH = 1e-150


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and centred squares of rows; they add as in Chan, Golub and LeVeque (1983).

    Attributes
    ----------
    rows
        Number of complete rows.
    mean
        Mean of each feature, (d,).
    squares
        Σ (x − mean)² of each feature, (d,).
    minimum, maximum
        Extreme values of each feature, (d,).
    """

    rows: int
    mean: FloatArray
    squares: FloatArray
    minimum: FloatArray
    maximum: FloatArray

    @np.errstate(over="ignore", invalid="ignore")
    def __add__(self, other: Moments) -> Moments:
        if not self.rows or not other.rows:
            return self if self.rows else other
        rows = self.rows + other.rows
        shift = other.mean - self.mean  # (d,)
        cross = self.rows * other.rows / rows
        return Moments(
            rows,
            self.mean + shift * (other.rows / rows),
            self.squares + other.squares + cross * (shift * shift),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
        )


@dataclass(frozen=True, eq=False)
class Draw:
    """A uniform sample: the rows of smallest priority among those seen so far.

    The priority of a row is a hash of the seed and of the row's number in the whole input. So the
    sample does not depend on chunks or workers, nor on the order in which chunks are read.

    Attributes
    ----------
    wanted
        Most rows that the sample may hold.
    priorities, numbers
        Priority of each row of the sample, and its number in the input, (m,).
    values
        (m, d), feature-major.
    weights
        Sample weights, (m,); (0,) without weights.
    """

    wanted: int
    priorities: PrioritiesArray
    numbers: npt.NDArray[np.int64]
    values: RowsArray
    weights: FloatArray

    @classmethod
    def merge(cls, draws: Sequence[Draw]) -> Draw:
        """Keep the rows of smallest priority of all draws, which are in the order of the input."""
        wanted = draws[0].wanted
        if len(draws) == 1 and len(draws[0].priorities) <= wanted:
            return draws[0]
        # (m,), (m,), (d, m) and (m,)
        priorities = np.concatenate([draw.priorities for draw in draws])
        numbers = np.concatenate([draw.numbers for draw in draws])
        values = np.concatenate([draw.values.T for draw in draws], axis=1)
        weights = np.concatenate([draw.weights for draw in draws])
        if len(priorities) > wanted:
            chosen = np.sort(np.argpartition(priorities, wanted)[:wanted])
            priorities, numbers = priorities[chosen], numbers[chosen]
            values = values.take(chosen, axis=1)  # (d, wanted), feature-major as before
            weights = weights[chosen] if len(weights) else weights
        return cls(wanted, priorities, numbers, values.T, weights)


@dataclass(frozen=True, eq=False)
class Survey:
    """What one scan measures of the rows; surveys of their parts add by ``+``.

    Attributes
    ----------
    source_rows, outside
        Rows in the source, and how many of them are outside the filter.
    moments
        Moments of the complete rows.
    weight
        Sum of the sample weights of the complete rows; without weights, the number of these rows.
    defects
        Nulls and infinities.
    draws
        Samples of the parts. Together they hold few more rows than the whole sample, so they are
        merged once, not at each addition.
    weight_squares
        Sum of the squared sample weights of the complete rows; without weights, their number.
    transforms
        Those that the rows of moments and draws have had.
    log_slopes
        Σ w log dy/dx of the complete rows, nats: from log-densities in model units to natural ones.
    """

    source_rows: int
    moments: Moments
    weight: float
    defects: Defects
    draws: tuple[Draw, ...]
    outside: int = 0
    weight_squares: float = 0.0
    transforms: Transforms | None = None
    log_slopes: float = 0.0

    def __add__(self, other: Survey) -> Survey:
        return Survey(
            self.source_rows + other.source_rows,
            self.moments + other.moments,
            self.weight + other.weight,
            self.defects + other.defects,
            self.draws + other.draws,
            self.outside + other.outside,
            self.weight_squares + other.weight_squares,
            self.transforms,
            self.log_slopes + other.log_slopes,
        )

    @cached_property
    def draw(self) -> Draw:
        """The sample of all parts, its rows in the order of the input."""
        return Draw.merge(self.draws)

    @property
    def rows(self) -> int:
        """Number of complete rows."""
        return self.moments.rows

    @property
    def effective_rows(self) -> float:
        """Rows of equal weight that would say as much: (Σ w)² / Σ w² (Kish, 1965)."""
        return self.weight * self.weight / self.weight_squares if self.weight_squares else 0.0

    @property
    def log_slope(self) -> float:
        """Mean of log dy/dx: what a mean log-likelihood in model units lacks to natural ones."""
        return self.log_slopes / self.weight if self.transforms is not None else 0.0

    @property
    def dropped(self) -> int:
        """Number of rows inside the filter with a null."""
        return self.source_rows - self.outside - self.rows

    @property
    def nulls_left(self) -> NullPolicy:
        """Null policy of later scans: ``DROP`` only where a row has a null."""
        return NullPolicy.DROP if self.dropped else NullPolicy.ERROR

    @property
    def in_memory(self) -> bool:
        """Whether the sample holds all complete rows, so that no further scan is needed."""
        return len(self.draw.numbers) == self.rows

    @property
    def variances(self) -> FloatArray:
        """Variance of each feature, (d,)."""
        return self.moments.squares / max(self.rows, 1)

    @cached_property
    def frequent_values(self) -> tuple[tuple[int, float, float], ...]:
        """Values that 1 % or more of the sample share: feature, value, share; one a feature."""
        return tuple(frequent_values(self.sample))

    @property
    def sample(self) -> Sample:
        """Values of the sample, (m, d) feature-major, and their weights."""
        return Sample(self.draw.values, self.draw.weights if len(self.draw.weights) else None)


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
    """

    seed: int
    sample_rows: int
    threshold: int
    weighted: bool


def survey_source(scanner: Scanner, sample_rows: int, seed: int, nulls: NullPolicy) -> Survey:
    """Survey all rows of a scanner's source.

    Costs one scan, or two where most rows hold nulls or are outside the filter: the sample of the
    first would be too small.

    Parameters
    ----------
    sample_rows
        Rows of the sample; all complete rows if there are fewer. Where many rows hold nulls, the
        sample may have down to half as many.
    seed
        Seed of the sample.
    nulls
        ``ERROR`` refuses rows that hold a null, ``DROP`` drops them.

    Raises
    ------
    NonFiniteError
        A value is infinite; or a value is null or NaN and the policy refuses it. The message says
        how many such values there are and where the first one is.
    TooFewRowsError
        No row is complete.
    InputError
        A sample weight is negative or infinite, all are 0, or a value is too large to be squared.
    """
    request = _request(scanner, sample_rows, seed, scanner.rows)
    survey = scanner.reduce(survey_rows, request, Stage.SURVEY)
    _refuse_unusable(survey, scanner.chunks, nulls)
    transforms = scanner.transforms
    if transforms is not None and transforms.pending:
        scanner.transforms = _settle(transforms, survey.moments)
    if 2 * len(survey.draw.numbers) < min(sample_rows, survey.rows):
        request = _request(scanner, sample_rows, seed, survey.rows)
        again = scanner.reduce(survey_rows, request, Stage.SURVEY)
        survey = replace(_in_units(survey, scanner.transforms), draws=(again.draw,))
    elif len(survey.draws) > 1:
        survey = replace(survey, draws=(survey.draw,))
    return _in_units(survey, scanner.transforms)


def _settle(transforms: Transforms, moments: Moments) -> Transforms:
    """Put mean and standard deviation of the complete rows into what is pending."""
    deviation = np.sqrt(moments.squares / moments.rows)  # (d,)
    varies = moments.maximum > moments.minimum
    return transforms.settled(moments.mean, np.where(varies, deviation, 0.0))


def _in_units(survey: Survey, transforms: Transforms | None) -> Survey:
    """Return the survey of rows that have had what was pending in their transforms, too."""
    if transforms is None or transforms == survey.transforms:
        return survey
    moments, draw = survey.moments, survey.draw
    rows = np.stack([moments.mean, moments.minimum, moments.maximum])  # (3, d)
    mean, minimum, maximum = transforms.apply(rows, survey.transforms)
    scale = transforms.scales(survey.transforms)  # (d,)
    return replace(
        survey,
        moments=Moments(moments.rows, mean, moments.squares / scale**2, minimum, maximum),
        draws=(replace(draw, values=transforms.apply(draw.values, survey.transforms)),),
        transforms=transforms,
        log_slopes=survey.log_slopes - survey.weight * float(np.log(scale).sum()),
    )


def _request(scanner: Scanner, sample_rows: int, seed: int, complete_rows: int) -> SurveyRequest:
    """Set the threshold at which ``sample_rows`` of the complete rows are drawn, and a few more."""
    # Six deviations above the expected number: one survey in a billion draws too few.
    expected = sample_rows + 6.0 * sqrt(sample_rows) + 10.0
    share = min(1.0, expected / max(complete_rows, 1))
    threshold = min(int(share * 2.0**64), 2**64 - 1)
    return SurveyRequest(seed, sample_rows, threshold, scanner.chunks.weighted)


@np.errstate(over="ignore", invalid="ignore")
def survey_rows(rows: Rows, request: SurveyRequest) -> Survey:
    """Survey one chunk; infinities in it are counted without a warning."""
    moments = _moments(rows.values)
    # A finite sum holds neither NaN nor infinity.
    clean = rows.sample_weight is None and bool(np.isfinite(moments.mean).all())
    defects = no_defects(rows.values.shape[1]) if clean else count_defects(rows)
    complete = rows
    if defects.missing.any():
        complete = drop_incomplete(rows)
        moments = _moments(complete.values)
    weights = complete.sample_weight
    if weights is not None and np.isnan(weights).any():
        weights = np.nan_to_num(weights)
    numbers, priorities = rows_below(
        request.seed, rows.first, rows.source_rows, request.threshold
    )  # (m,)
    places = numbers - rows.first
    if complete.used is not None:
        kept = complete.used[places]
        numbers, priorities = numbers[kept], priorities[kept]
        places = np.cumsum(complete.used)[places[kept]] - 1
    draw = Draw(
        request.sample_rows,
        priorities,
        numbers,
        complete.values.T.take(places, axis=1).T,  # (m, d), feature-major
        np.empty(0) if weights is None else weights[places],
    )
    return Survey(
        rows.source_rows,
        moments,
        float(complete.values.shape[0]) if weights is None else float(weights.sum()),
        defects,
        (Draw.merge([draw]),),
        rows.outside,
        float(complete.values.shape[0]) if weights is None else float((weights * weights).sum()),
        rows.transforms,
        _sum_slopes(complete, weights),
    )


def _sum_slopes(rows: Rows, weights: FloatArray | None) -> float:
    if rows.transforms is None:
        return 0.0
    slopes = rows.transforms.log_slopes(rows.values)  # (m,)
    return float(slopes.sum() if weights is None else (slopes * weights).sum())


def frequent_values(sample: Sample) -> list[tuple[int, float, float]]:
    """Find values that 1 % or more of the sample share: (feature, value, share), one a feature."""
    m = sample.X.shape[0]
    # In a small sample, a value that occurs a few times means nothing.
    least = max(20, -(-m // 100))
    ordered = np.sort(sample.X.T, axis=1)  # (d, m)
    repeated = (ordered[:, least - 1 :] == ordered[:, : max(m - least + 1, 0)]).any(axis=1)
    frequent = []
    for column in np.flatnonzero(repeated).tolist():
        values, counts = np.unique(ordered[column], return_counts=True)
        most = int(counts.argmax())
        frequent.append((column, float(values[most]), float(counts[most] / m)))
    return frequent


def _moments(values: RowsArray) -> Moments:
    return Moments(values.shape[0], *column_moments(values))


def _refuse_unusable(survey: Survey, chunks: RowChunks, nulls: NullPolicy) -> None:
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
        raise InputError("sample weights: all are 0; at least one must be above 0")
