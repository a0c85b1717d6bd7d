"""Values that stop a fit or a prediction: found by one rule, refused in one set of words.

A null is NaN in decoded rows. Infinities are refused always, nulls where the policy says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import RowsArray
from gmm_dask.chunked.rows import Rows, complete
from gmm_dask.errors import InputError, NonFiniteError
from gmm_dask.nulls import NullPolicy


def usable_rows(rows: Rows, nulls: NullPolicy) -> Rows:
    """Rows without the incomplete ones, where the policy leaves those out and nobody has yet."""
    return complete(rows) if nulls is NullPolicy.DROP and rows.used is None else rows


def is_finite(values: RowsArray) -> bool:
    """Whether the sum of all values is finite; False does not yet mean that a value is not."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.add.reduce(values, axis=None)))


def require_usable(
    values: RowsArray,
    columns: Sequence[str],
    nulls: NullPolicy,
    place: Callable[[int], str],
) -> None:
    """Refuse infinities, and nulls where the policy does; one pass when all is well.

    Parameters
    ----------
    values
        (m, d).
    columns
        Names of the d features.
    nulls
        The policy.
    place
        Says where a row of ``values`` lies: "part-3.parquet row 17".

    Raises
    ------
    NonFiniteError
        Names the column, how many such values it holds, and where the first one is.
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
    """Make the error of values that are not finite numbers.

    Parameters
    ----------
    column
        Its name.
    null
        Whether they are nulls or NaN; otherwise infinities.
    count
        How many there are.
    first
        Where the first one lies.
    """
    if null:
        return NonFiniteError(
            f"Input X contains NaN: column {column!r} holds {count:,} "
            f"{'null' if count == 1 else 'nulls'} or NaN, the first at {first}; leave such rows "
            "out (with nulls = 'drop' in a run file or in read_parquet), or fill them in"
        )
    return NonFiniteError(
        f"Input X contains infinity: column {column!r} holds {count:,} infinite "
        f"{'value' if count == 1 else 'values'}, the first at {first}; remove or replace "
        f"{'it' if count == 1 else 'them'}"
    )


def bad_weights(count: int, first: str) -> InputError:
    """Make the error of sample weights that are negative or not finite."""
    return InputError(
        f"sample weights: {count:,} {'is' if count == 1 else 'are'} negative or not finite, the "
        f"first at {first}; weights are finite and ≥ 0"
    )


@dataclass(frozen=True, eq=False)
class Defects:
    """Values that cannot be used, counted per column; the last entry is the weight column.

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


def no_defects(d: int) -> Defects:
    """Defects of rows that have none, with d features."""
    nothing, nowhere = np.zeros(d + 1, np.int64), (None,) * (d + 1)
    return Defects(nothing, nothing, nowhere, nowhere)


def count_defects(rows: Rows) -> Defects:
    """Count the defects of one chunk."""
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


def refuse_defects(
    defects: Defects,
    columns: Sequence[str],
    nulls: NullPolicy,
    describe: Callable[[int, int], str],
) -> None:
    """Refuse what the policy does not allow.

    Parameters
    ----------
    columns
        Names of the d features.
    describe
        Says where a row of a chunk lies.

    Raises
    ------
    NonFiniteError
        Infinity anywhere; nulls or NaN where the policy refuses them, in the weights always.
    InputError
        A sample weight is negative or infinite.
    """

    def place(at: tuple[int, int] | None) -> str:
        return "an unknown place" if at is None else describe(*at)

    if defects.infinite[-1]:
        raise bad_weights(int(defects.infinite[-1]), place(defects.first_infinite[-1]))
    for index, name in enumerate(columns):
        if count := int(defects.infinite[index]):
            raise non_finite(name, False, count, place(defects.first_infinite[index]))
    for index, name in enumerate((*columns, "sample_weight")):
        count = int(defects.missing[index])
        if count and (nulls is NullPolicy.ERROR or index == len(columns)):
            raise non_finite(name, True, count, place(defects.first_missing[index]))


def _first(
    before: tuple[tuple[int, int] | None, ...], after: tuple[tuple[int, int] | None, ...]
) -> tuple[tuple[int, int] | None, ...]:
    return tuple(
        min((place for place in places if place is not None), default=None)
        for places in zip(before, after, strict=True)
    )
