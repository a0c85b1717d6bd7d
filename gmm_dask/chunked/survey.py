"""The survey: one scan that says what the data are, and draws the sample for the search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.chunked.rows import RowChunks, Rows, complete
from gmm_dask.chunked.scan import Scanner
from gmm_dask.errors import InputError, NonFiniteError, TooFewRowsError
from gmm_dask.events import Stage
from gmm_dask.mixture.kernels.moments import column_moments
from gmm_dask.mixture.kernels.sampling import rows_below
from gmm_dask.mixture.starts import Sample

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
class Defects:
    """What would stop a fit, counted per column; the last entry is the weight column.

    Attributes
    ----------
    missing, infinite
        Values per column, (d + 1,); a negative weight counts as infinite.
    first_missing, first_infinite
        Per column (chunk, row) of the first, or None.
    """

    missing: npt.NDArray[np.int64]
    infinite: npt.NDArray[np.int64]
    first_missing: tuple[tuple[int, int] | None, ...]
    first_infinite: tuple[tuple[int, int] | None, ...]

    def __add__(self, other: Defects) -> Defects:
        return Defects(
            self.missing + other.missing,
            self.infinite + other.infinite,
            _first(self.first_missing, other.first_missing),
            _first(self.first_infinite, other.first_infinite),
        )


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
        """The sample, in the order of the input: sums are added in the order of the plan."""
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


def survey(scanner: Scanner, sample_rows: int, seed: int, nulls: str) -> Survey:
    """Look at all rows once; twice where most hold nulls, or else the sample would be small.

    Parameters
    ----------
    sample_rows
        Rows wanted in the sample: exactly so many, or all if there are fewer (down to half as
        many where many rows hold nulls).
    seed
        Of the sample.
    nulls
        ``"error"`` or ``"drop"``.

    Raises
    ------
    NonFiniteError
        Infinity anywhere; nulls or NaN under ``"error"``. Says how many and where the first is.
    TooFewRowsError
        No complete row is left.
    InputError
        A sample weight is negative, or all are 0.
    """
    found = scanner.reduce(
        survey_rows, _request(scanner, sample_rows, seed, scanner.rows), Stage.SURVEY
    )
    _refuse(found, scanner.chunks, nulls)
    scanner.drop = found.dropped > 0
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
    defects = _no_defects(rows.values.shape[1]) if clean else _defects(rows)
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
    if usable.kept is not None:
        there = usable.kept[places]
        numbers, priorities = numbers[there], priorities[there]
        places = np.cumsum(usable.kept)[places[there]] - 1
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


def _no_defects(d: int) -> Defects:
    nothing, nowhere = np.zeros(d + 1, np.int64), (None,) * (d + 1)
    return Defects(nothing, nothing, nowhere, nowhere)


def _defects(rows: Rows) -> Defects:
    d = rows.values.shape[1]
    missing, infinite = np.zeros(d + 1, np.int64), np.zeros(d + 1, np.int64)
    first_missing: list[tuple[int, int] | None] = [None] * (d + 1)
    first_infinite: list[tuple[int, int] | None] = [None] * (d + 1)
    columns = [*rows.values.T]
    if rows.sample_weight is not None:
        columns.append(np.where(rows.sample_weight < 0, np.inf, rows.sample_weight))
    for column, values in enumerate(columns):
        if np.isfinite(np.add.reduce(values)):  # no NaN or infinity survives a sum
            continue
        absent, unbounded = np.isnan(values), np.isinf(values)
        missing[column], infinite[column] = absent.sum(), unbounded.sum()
        if missing[column]:
            first_missing[column] = (rows.chunk, int(absent.argmax()))
        if infinite[column]:
            first_infinite[column] = (rows.chunk, int(unbounded.argmax()))
    return Defects(missing, infinite, tuple(first_missing), tuple(first_infinite))


def _first(
    mine: tuple[tuple[int, int] | None, ...], theirs: tuple[tuple[int, int] | None, ...]
) -> tuple[tuple[int, int] | None, ...]:
    return tuple(
        min((place for place in places if place is not None), default=None)
        for places in zip(mine, theirs, strict=True)
    )


def _refuse(found: Survey, chunks: RowChunks, nulls: str) -> None:
    defects = found.defects
    if defects.infinite[-1]:
        place = defects.first_infinite[-1]
        raise InputError(
            f"sample weights: {defects.infinite[-1]:,} are negative or infinite, the first at "
            f"{_place(chunks, place)}; weights are finite and ≥ 0"
        )
    for column, count in zip(chunks.columns, defects.infinite[:-1], strict=True):
        if count:
            place = defects.first_infinite[chunks.columns.index(column)]
            raise NonFiniteError(
                f"Input X contains infinity: column {column!r} holds {count:,}, the first at "
                f"{_place(chunks, place)}; remove or replace them"
            )
    for index, count in enumerate(defects.missing):
        if count and (nulls == "error" or index == len(chunks.columns)):
            column = (*chunks.columns, "sample_weight")[index]
            raise NonFiniteError(
                f"Input X contains NaN: column {column!r} holds {count:,} "
                f"{'null' if count == 1 else 'nulls'} or NaN, the first at "
                f"{_place(chunks, defects.first_missing[index])}; leave such rows out (with "
                "nulls = 'drop' in a run file or in read_parquet), or fill them in"
            )
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


def _place(chunks: RowChunks, place: tuple[int, int] | None) -> str:
    return chunks.describe(*place) if place is not None else "an unknown place"
