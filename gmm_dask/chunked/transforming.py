"""The transforms of features, applied to rows; values outside of a domain are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from gmm_dask.arrays import RowsArray
from gmm_dask.chunked.rows import RowChunks, Rows
from gmm_dask.errors import InputError
from gmm_dask.mixture.transforms import Transforms


def continues(done: Transforms | None, wanted: Transforms | None) -> bool:
    """Whether rows that have had the transforms ``done`` can be given those that are wanted."""
    return done == wanted if wanted is None else wanted.extends(done)


def transform_rows(rows: Rows, transforms: Transforms | None, chunks: RowChunks) -> Rows:
    """Transform the rows of a chunk, unless they have been already.

    Raises
    ------
    InputError
        A value is outside of the domain of its transform.
    """
    if transforms is None or transforms == rows.transforms:
        return rows
    values = transform_values(
        rows.values,
        transforms,
        chunks.columns,
        lambda row: chunks.describe(rows.chunk, rows.source_row(row)),
        rows.transforms,
    )
    return replace(rows, values=values, transforms=transforms)


def transform_values(
    values: RowsArray,
    transforms: Transforms | None,
    columns: Sequence[str],
    place: Callable[[int], str],
    done: Transforms | None = None,
) -> RowsArray:
    """Transform values, (m, d); nulls stay nulls.

    Parameters
    ----------
    columns
        Names of the d features.
    place
        Says where a row of ``values`` lies: "part-3.parquet row 17".
    done
        Transforms that the values have had.

    Raises
    ------
    InputError
        A value is outside of the domain of its transform; the message says how many are among
        these rows, and where the first one is.
    """
    if transforms is None:
        return values
    if not transforms.missing(done):
        return values
    outside = transforms.outside(values, done)
    if outside is not None:
        feature, mask = outside
        transform = transforms.by_feature[feature]
        assert transform is not None
        row, count = int(mask.argmax()), int(np.count_nonzero(mask))
        others = f", and {count - 1:,} more near it" if count > 1 else ""
        raise InputError(
            f"{place(row)}: column {columns[feature]!r} is {values[row, feature]:.6g}{others}; "
            f"{transform.name} "
            f"{advice(transform.name, columns[feature], np.isnan(values[:, feature]).any())}"
        )
    return transforms.apply(values, done)


def advice(name: str, column: str, has_nulls: bool | np.bool_ = False) -> str:
    """Say which values a transform takes, and what to try with others.

    Where the column has nulls the filter keeps them: they are not outside of the domain, and under
    ``marginalize`` their rows count. A comparison with a null is never true.
    """
    needs, condition, instead = {
        "log": ("needs values above 0", f'"{column}" > 0', "log1p where 0 is a value, or asinh"),
        "log1p": ("needs values above -1", f'"{column}" > -1', "asinh"),
        "sqrt": (
            "needs values above 0 (at 0 its slope, and so a density, is infinite)",
            f'"{column}" > 0',
            "log1p or asinh",
        ),
        "logit": (
            "needs values between 0 and 1, both excluded",
            f'"{column}" > 0 and "{column}" < 1',
            "asinh, or no transform",
        ),
    }[name]
    if has_nulls:
        condition = f'({condition} or "{column}" is null)'
    return f"{needs}: take {instead}, or leave such rows out by filter = '{condition}'"
