"""Values that stop a fit or a prediction: how they are found, and the errors that name them.

A null is NaN in decoded rows. Infinities are always refused, nulls where the policy says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, MaskArray, RowsArray
from gmm_dask.chunked.rows import Rows, drop_incomplete, find_holes
from gmm_dask.errors import InputError, NonFiniteError
from gmm_dask.nulls import NullPolicy

#: Largest sample weight: the square of the sum of such weights is in the range of float64.
LARGEST_WEIGHT = 1e140


def apply_null_policy(rows: Rows, nulls: NullPolicy) -> Rows:
    """Drop incomplete rows, or find their patterns, if the policy says so; once is enough."""
    if nulls is NullPolicy.MARGINALIZE and rows.patterns is None:
        return find_holes(rows)
    dropped = rows.used is not rows.inside
    return drop_incomplete(rows) if nulls is NullPolicy.DROP and not dropped else rows


def is_finite(values: RowsArray) -> bool:
    """Whether the sum of all values is finite; it can overflow although every value is finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.add.reduce(values, axis=None)))


def require_usable(
    values: RowsArray,
    columns: Sequence[str],
    nulls: NullPolicy,
    place: Callable[[int], str],
) -> None:
    """Refuse infinities, and nulls where the policy does; one pass if there are none.

    Parameters
    ----------
    values
        (m, d).
    columns
        Names of the d features.
    nulls
        ``ERROR`` refuses nulls, the others let them pass.
    place
        Says where a row of ``values`` lies: "part-3.parquet row 17".

    Raises
    ------
    NonFiniteError
        A value is refused. The message names the column, how many such values it holds, and
        where the first one is.
    """
    if is_finite(values):
        return
    kinds: list[np.ufunc] = [np.isinf]
    if nulls is NullPolicy.ERROR:
        kinds.append(np.isnan)
    for is_bad in kinds:
        for name, column in zip(columns, values.T, strict=True):
            bad = is_bad(column)  # (m,)
            if bad.any():
                count, first = int(np.count_nonzero(bad)), place(int(bad.argmax()))
                raise non_finite(name, is_bad is np.isnan, count, first)


def non_finite(column: str, null: bool, count: int, first: str) -> NonFiniteError:
    """Make the error for values of a column that are not finite numbers.

    Parameters
    ----------
    column
        Name of the column.
    null
        Whether the values are nulls or NaN; otherwise they are infinities.
    count
        How many such values the column holds.
    first
        Where the first one is: "part-3.parquet row 17".
    """
    if null:
        return NonFiniteError(
            f"Input X contains NaN: column {column!r} holds {count:,} "
            f"{'null' if count == 1 else 'nulls'} or NaN, the first at {first}; leave such rows "
            "out (with nulls = 'drop' in a run file or in read_parquet), fill them in, or use what "
            "the rows have (with nulls = 'marginalize')"
        )
    return NonFiniteError(
        f"Input X contains infinity: column {column!r} holds {count:,} infinite "
        f"{'value' if count == 1 else 'values'}, the first at {first}; remove or replace "
        f"{'it' if count == 1 else 'them'}"
    )


def missing_weights(count: int, first: str) -> NonFiniteError:
    """Make the error for sample weights that are null or NaN, which no policy lets pass.

    Parameters
    ----------
    count
        How many such weights there are.
    first
        Where the first one is: "part-3.parquet row 17".
    """
    return NonFiniteError(
        f"sample_weight: {_weights(count)} null or NaN, the first at {first}; fill them in, "
        "or leave such rows out (in a run file with filter = 'WEIGHT is not null')"
    )


def bad_weights(count: int, first: str) -> InputError:
    """Make the error for sample weights that are negative, infinite or too large.

    Parameters
    ----------
    count
        How many such weights there are.
    first
        Where the first one is: "part-3.parquet row 17".
    """
    return InputError(
        f"sample_weight: {_weights(count)} negative, infinite or above {LARGEST_WEIGHT:g}, the "
        f"first at {first}; weights must be ≥ 0, and to divide all by the same number leaves the "
        "mixture as it is"
    )


def _weights(count: int) -> str:
    return "1 weight is" if count == 1 else f"{count:,} weights are"


def find_bad_weights(weights: FloatArray) -> MaskArray:
    """Find the weights that `bad_weights` refuses, (m,); NaN is not among them."""
    bad: MaskArray = (weights < 0.0) | (weights > LARGEST_WEIGHT)
    return bad


@dataclass(frozen=True, eq=False)
class Defects:
    """Values that cannot be used, counted per column; the sample weights are the last column.

    Attributes
    ----------
    missing, infinite
        Number of such values in each column, (d + 1,); a weight that is negative or too
        large counts as infinite.
    first_missing, first_infinite
        (chunk, row) of the first such value in each column, or None.
    """

    missing: npt.NDArray[np.int64]
    infinite: npt.NDArray[np.int64]
    first_missing: tuple[tuple[int, int] | None, ...]
    first_infinite: tuple[tuple[int, int] | None, ...]

    def __add__(self, other: Defects) -> Defects:
        if other is no_defects(len(other.missing) - 1):  # of all units that a night keeps
            return self
        return Defects(
            self.missing + other.missing,
            self.infinite + other.infinite,
            _earlier(self.first_missing, other.first_missing),
            _earlier(self.first_infinite, other.first_infinite),
        )


@cache
def no_defects(d: int) -> Defects:
    """Make the defects of rows that have none, with d features."""
    counts, places = np.zeros(d + 1, np.int64), (None,) * (d + 1)
    return Defects(counts, counts, places, places)


def count_defects(rows: Rows) -> Defects:
    """Count the defects of one chunk."""
    d = rows.values.shape[1]
    missing, infinite = np.zeros(d + 1, np.int64), np.zeros(d + 1, np.int64)
    first_missing: list[tuple[int, int] | None] = [None] * (d + 1)
    first_infinite: list[tuple[int, int] | None] = [None] * (d + 1)
    columns = [*rows.values.T]
    if rows.sample_weight is not None:
        weights = rows.sample_weight
        columns.append(np.where(find_bad_weights(weights), np.inf, weights))
    for column, values in enumerate(columns):
        if np.isfinite(np.add.reduce(values)):  # no NaN or infinity survives a sum
            continue
        is_missing, is_infinite = np.isnan(values), np.isinf(values)
        missing[column], infinite[column] = is_missing.sum(), is_infinite.sum()
        if missing[column]:
            first_missing[column] = (rows.chunk, rows.source_row(int(is_missing.argmax())))
        if infinite[column]:
            first_infinite[column] = (rows.chunk, rows.source_row(int(is_infinite.argmax())))
    return Defects(missing, infinite, tuple(first_missing), tuple(first_infinite))


def refuse_defects(
    defects: Defects,
    columns: Sequence[str],
    nulls: NullPolicy,
    describe: Callable[[int, int], str],
) -> None:
    """Refuse infinities and unusable weights, and nulls where the policy does.

    Parameters
    ----------
    columns
        Names of the d features.
    nulls
        ``ERROR`` refuses nulls in the features, the others let them pass.
    describe
        Says where a row of a chunk lies.

    Raises
    ------
    NonFiniteError
        A value is infinite; or a value is null or NaN, in the features where the policy refuses
        it, in the weights always.
    InputError
        A sample weight is negative, infinite or too large.
    """

    def place(first: tuple[int, int] | None) -> str:
        return "an unknown place" if first is None else describe(*first)

    if defects.infinite[-1]:
        raise bad_weights(int(defects.infinite[-1]), place(defects.first_infinite[-1]))
    for index, name in enumerate(columns):
        if count := int(defects.infinite[index]):
            raise non_finite(name, False, count, place(defects.first_infinite[index]))
    for index, name in enumerate(columns):
        count = int(defects.missing[index])
        if count and nulls is NullPolicy.ERROR:
            raise non_finite(name, True, count, place(defects.first_missing[index]))
    if count := int(defects.missing[-1]):
        raise missing_weights(count, place(defects.first_missing[-1]))


def _earlier(
    first: tuple[tuple[int, int] | None, ...], second: tuple[tuple[int, int] | None, ...]
) -> tuple[tuple[int, int] | None, ...]:
    return tuple(
        min((place for place in places if place is not None), default=None)
        for places in zip(first, second, strict=True)
    )
