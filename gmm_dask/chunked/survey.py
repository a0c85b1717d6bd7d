"""The survey: one scan that says what the data are, and draws the sample for the search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.chunked.defects import Defects, count_defects, no_defects, refuse_defects
from gmm_dask.chunked.rows import RowChunks, Rows, complete
from gmm_dask.chunked.scan import Scanner
from gmm_dask.errors import InputError, TooFewRowsError
from gmm_dask.events import Stage
from gmm_dask.mixture.kernels.moments import column_moments
from gmm_dask.mixture.kernels.sampling import rows_below
from gmm_dask.mixture.starts import Sample
from gmm_dask.nulls import NullPolicy

Priorities = npt.NDArray[np.uint64]

#: Values beyond this cannot be squared and summed over rows in float64.
LARGEST_VALUE = 1e140


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and centred squares of rows; merge by Chan, Golub and LeVeque (1983).

    Attributes
    ----------
    rows
        Complete rows.
    mean
        (d,).
    squares
        Σ (x − mean)², (d,).
    minimum, maximum
        (d,).
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
    """The rows of smallest priority so far, a uniform sample.

    A row's priority is a hash of the seed and its number in the whole input, so the sample does
    not depend on chunks, workers or arrival.
    """

    wanted: int
    priorities: Priorities
    numbers: npt.NDArray[np.int64]
    values: RowsArray
    weights: FloatArray

    @classmethod
    def of(cls, parts: Sequence[Draw]) -> Draw:
        """Merge by keeping the smallest; ``parts`` and the outcome in the order of the input."""
        wanted = parts[0].wanted
        if len(parts) == 1 and len(parts[0].priorities) <= wanted:
            return parts[0]
        # (m,), (m,), (d, m) and (m,)
        priorities = np.concatenate([part.priorities for part in parts])
        numbers = np.concatenate([part.numbers for part in parts])
        values = np.concatenate([part.values.T for part in parts], axis=1)
        weights = np.concatenate([part.weights for part in parts])
        if len(priorities) > wanted:
            chosen = np.sort(np.argpartition(priorities, wanted)[:wanted])
            priorities, numbers = priorities[chosen], numbers[chosen]
            values = values.take(chosen, axis=1)  # (d, wanted), feature-major as before
            weights = weights[chosen] if len(weights) else weights
        return cls(wanted, priorities, numbers, values.T, weights)


@dataclass(frozen=True, eq=False)
class Survey:
    """What one scan says of the data.

    Attributes
    ----------
    source_rows
        Rows in the source.
    moments
        Of the complete rows.
    weight
        Sum of the sample weights of complete rows; their number without weights.
    defects
        Nulls and infinities.
    draws
        Of each chunk: few more rows than the sample in all, merged once and not at each addition.
    """

    source_rows: int
    moments: Moments
    weight: float
    defects: Defects
    draws: tuple[Draw, ...]

    def __add__(self, other: Survey) -> Survey:
        return Survey(
            self.source_rows + other.source_rows,
            self.moments + other.moments,
            self.weight + other.weight,
            self.defects + other.defects,
            self.draws + other.draws,
        )

    @cached_property
    def draw(self) -> Draw:
        """The sample, in the order of the input: sums are added in the order of the groups."""
        return Draw.of(self.draws)

    @property
    def rows(self) -> int:
        """Complete rows."""
        return self.moments.rows

    @property
    def dropped(self) -> int:
        """Rows with a null."""
        return self.source_rows - self.rows

    @property
    def nulls_left(self) -> NullPolicy:
        """What later scans have to do with nulls: nothing where there are none."""
        return NullPolicy.DROP if self.dropped else NullPolicy.ERROR

    @property
    def in_memory(self) -> bool:
        """Whether the sample holds all complete rows, so that no scan is needed any more."""
        return len(self.draw.numbers) == self.rows

    @property
    def variances(self) -> FloatArray:
        """Of each feature, (d,)."""
        return self.moments.squares / max(self.rows, 1)

    @property
    def sample(self) -> Sample:
        """The values drawn, (m, d) feature-major, and their weights."""
        return Sample(self.draw.values, self.draw.weights if len(self.draw.weights) else None)


@dataclass(frozen=True)
class SurveyRequest:
    """What the survey's scan needs to know; travels to the workers."""

    seed: int
    sample_rows: int
    threshold: int
    weighted: bool


def survey(scanner: Scanner, sample_rows: int, seed: int, nulls: NullPolicy) -> Survey:
    """Look at all rows once; twice where most hold nulls, or else the sample would be small.

    Parameters
    ----------
    sample_rows
        Rows wanted in the sample: exactly so many, or all if there are fewer (down to half as
        many where many rows hold nulls).
    seed
        Of the sample.
    nulls
        What becomes of rows that hold a null.

    Raises
    ------
    NonFiniteError
        Infinity anywhere; nulls or NaN where the policy refuses them. Says how many there are
        and where the first one is.
    TooFewRowsError
        No complete row is left.
    InputError
        A sample weight is negative, or all are 0.
    """
    found = scanner.reduce(
        survey_rows, _request(scanner, sample_rows, seed, scanner.rows), Stage.SURVEY
    )
    _refuse(found, scanner.chunks, nulls)
    if 2 * len(found.draw.numbers) < min(sample_rows, found.rows):
        again = _request(scanner, sample_rows, seed, found.rows)
        return replace(found, draws=(scanner.reduce(survey_rows, again, Stage.SURVEY).draw,))
    return found if len(found.draws) == 1 else replace(found, draws=(found.draw,))


def _request(scanner: Scanner, sample_rows: int, seed: int, usable: int) -> SurveyRequest:
    """Draw ``sample_rows`` of so many usable rows."""
    # Six deviations above the expected number: the sample is short once in a billion surveys.
    expected = sample_rows + 6.0 * sqrt(sample_rows) + 10.0
    share = min(1.0, expected / max(usable, 1))
    threshold = min(int(share * 2.0**64), 2**64 - 1)
    return SurveyRequest(seed, sample_rows, threshold, scanner.chunks.weighted)


@np.errstate(over="ignore", invalid="ignore")
def survey_rows(rows: Rows, request: SurveyRequest) -> Survey:
    """The survey of one chunk; infinities in it are counted, not warned about."""
    moments = _moments(rows.values)
    # No NaN or infinity survives a sum.
    clean = rows.sample_weight is None and bool(np.isfinite(moments.mean).all())
    defects = no_defects(rows.values.shape[1]) if clean else count_defects(rows)
    usable = rows
    if defects.missing.any():
        usable = complete(rows)
        moments = _moments(usable.values)
    weights = usable.sample_weight
    if weights is not None and np.isnan(weights).any():
        weights = np.nan_to_num(weights)
    numbers, priorities = rows_below(
        request.seed, rows.first, rows.source_rows, request.threshold
    )  # (m,)
    places = numbers - rows.first
    if usable.used is not None:
        there = usable.used[places]
        numbers, priorities = numbers[there], priorities[there]
        places = np.cumsum(usable.used)[places[there]] - 1
    drawn = Draw(
        request.sample_rows,
        priorities,
        numbers,
        usable.values.T.take(places, axis=1).T,  # (m, d), feature-major
        np.empty(0) if weights is None else weights[places],
    )
    return Survey(
        rows.source_rows,
        moments,
        float(usable.values.shape[0]) if weights is None else float(weights.sum()),
        defects,
        (Draw.of([drawn]),),
    )


def frequent_values(sample: Sample, columns: Sequence[str]) -> list[tuple[str, float, float]]:
    """Columns with a value that ≥ 1 % of the sample share: (column, value, share)."""
    m = sample.X.shape[0]
    # In a handful of rows, a value that stands twice says nothing.
    least = max(20, -(-m // 100))
    ordered = np.sort(sample.X.T, axis=1)  # (d, m)
    repeated = (ordered[:, least - 1 :] == ordered[:, : max(m - least + 1, 0)]).any(axis=1)
    found = []
    for column in np.flatnonzero(repeated).tolist():
        distinct, counts = np.unique(ordered[column], return_counts=True)
        most = int(counts.argmax())
        found.append((columns[column], float(distinct[most]), float(counts[most] / m)))
    return found


def _moments(values: RowsArray) -> Moments:
    return Moments(values.shape[0], *column_moments(values))


def _refuse(found: Survey, chunks: RowChunks, nulls: NullPolicy) -> None:
    defects = found.defects
    refuse_defects(defects, chunks.columns, nulls, chunks.describe)
    if not found.rows:
        empty = [
            name
            for name, count in zip(chunks.columns, defects.missing[:-1], strict=True)
            if count == found.source_rows
        ]
        why = f"column {empty[0]!r} holds nothing but nulls" if empty else "every row has a null"
        raise TooFewRowsError(f"no complete row in {found.source_rows:,}: {why}; leave it out")
    reach = np.maximum(np.abs(found.moments.minimum), np.abs(found.moments.maximum))  # (d,)
    if reach.max() > LARGEST_VALUE:
        column = chunks.columns[int(reach.argmax())]
        raise InputError(
            f"column {column!r} holds values up to {reach.max():.3g}, and their squares leave the "
            f"range of float64; rescale the column, or leave out rows beyond {LARGEST_VALUE:g}"
        )
    if not found.weight > 0:
        raise InputError("sample weights: all are 0; at least one row must count")
