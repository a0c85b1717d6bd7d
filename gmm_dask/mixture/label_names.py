"""Labels of any type as codes and names.

A label is text from here on: an integer is its digits, a boolean "true" or "false". So a column
whose type changes from one file to the next keeps its labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from gmm_dask.errors import SchemaError
from gmm_dask.mixture.labels import MOST_LABELS, UNLABELLED, RowLabels, code_of, count_limited

#: What scikit-learn's semi-supervised estimators take for a row without a label.
MISSING = -1


def name_of(value: Any, missing: int | None = None) -> str | None:
    """Return the name of a label; None for what stands for no label: null, NaN, empty text.

    Parameters
    ----------
    missing
        A number that stands for no label, too.

    Raises
    ------
    SchemaError
        The value is no name of a class.
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, Real):
        return _name_of_number(value, missing)
    if isinstance(value, str):
        return value or None
    raise SchemaError(
        f"a label is {value!r}, of type {type(value).__name__}; labels are text, integers or "
        "booleans: convert them first"
    )


def _name_of_number(value: Real, missing: int | None) -> str | None:
    number = float(value)
    if isnan(number):
        return None
    if not isinstance(value, Integral) and not number.is_integer():
        raise SchemaError(
            f"a label is {value}, which is a measurement and no class; give text, integers or "
            "booleans"
        )
    return None if value == missing else str(int(value))  # type: ignore[call-overload]


def label_rows(
    values: Sequence[Any], numbers: npt.NDArray[Any], missing: int | None = None
) -> RowLabels:
    """Return the labels of rows that name their value by its number.

    Parameters
    ----------
    values
        The different values.
    numbers
        For each row, the number of its value, (m,); −1: it has none.
    missing
        As for `name_of`.

    Raises
    ------
    SchemaError
        A value is no name of a class.
    InputError
        There are more than `MOST_LABELS`.
    """
    count_limited(dict.fromkeys(map(str, values[: MOST_LABELS + 3])))
    names = [name_of(value, missing) for value in values]
    codes = np.array(
        [*(UNLABELLED if name is None else code_of(name) for name in names), UNLABELLED],
        dtype=np.int64,
    )  # the last is that of the number −1
    return RowLabels(codes[numbers], {code_of(name): name for name in names if name is not None})


def encode_labels(y: Any) -> RowLabels:
    """Return the labels of rows in memory: None, NaN, −1 and what is masked stand for none.

    Parameters
    ----------
    y
        (m,) array-like of text, integers or booleans.

    Raises
    ------
    SchemaError
        It has another shape, or holds something else.
    InputError
        There are too many labels.
    """
    if np.ma.isMaskedArray(y):
        masked, y = np.ma.getmaskarray(y), np.ma.getdata(y).astype(object)
        y[masked] = None
    # Of a list of texts and None or NaN, numpy would make texts of all.
    array = np.asarray(y, dtype=object if isinstance(y, list | tuple) else None)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise SchemaError(f"y has shape {array.shape}; give one label a row, (n,)")
    if array.dtype == object:
        numbers, places = np.empty(len(array), np.intp), dict[tuple[type, Any], int]()
        for row, value in enumerate(array.tolist()):
            hashable = value if isinstance(value, str | Real) and value == value else None
            numbers[row] = places.setdefault((type(hashable), hashable), len(places))
            if hashable is None:
                name_of(value)  # refuses what is no label
        return label_rows([value for _, value in places], numbers, MISSING)
    if array.dtype.kind not in "fiubUS":
        raise SchemaError(
            f"y has dtype {array.dtype}; labels are text, integers or booleans: convert it first"
        )
    values, numbers = np.unique(array, return_inverse=True)
    return label_rows(values.tolist(), numbers, MISSING)


def are_integers(y: Any) -> bool:
    """Whether the labels of an array-like or a dask array are integers, so that results are."""
    dtype = getattr(y, "dtype", None)
    kind = getattr(dtype, "kind", "O")
    if kind in "iuf":
        return True
    if kind != "O" or hasattr(y, "dask"):
        return False
    # Labels in a column of their own, (m, 1), are `encode_labels`'s too.
    values = np.asarray(y).ravel().tolist()
    known = [value for value in values if name_of(value, MISSING) is not None]
    return bool(known) and all(
        isinstance(value, Real) and not isinstance(value, bool) for value in known
    )
