"""Data frames of pandas, polars, pyarrow and dask: their columns by name, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import numpy.typing as npt
from narwhals.exceptions import DuplicateError

from gmm_dask.errors import SchemaError


def as_frame(X: Any) -> Any:
    """Return X, but Arrow data that is no data frame, such as a record batch, as a table.

    Without that, it would pass as an array, and its columns' names would be ignored.
    """
    arrow = hasattr(X, "__arrow_c_stream__") and hasattr(X, "schema")
    if arrow and not nw.dependencies.is_into_dataframe(X):
        return nw.from_arrow(X, backend="pyarrow").to_native()
    return X


def empty_frame(columns: Sequence[str]) -> Any:
    """Return a table with these columns and no rows, for checks of their names."""
    return nw.from_dict({name: [] for name in columns}, backend="pyarrow").to_native()


def open_frame(X: Any, place: str = "") -> nw.DataFrame[Any] | None:
    """Return a data frame in memory as narwhals sees it; None if X is something else.

    Raises
    ------
    SchemaError
        It has no columns, or two of the same name; or it is a lazy frame, whose rows are not in
        memory.
    """
    try:
        frame = nw.from_native(X, pass_through=True)
    except DuplicateError as error:
        names = list(getattr(X, "column_names", X.columns))  # pyarrow's, or anybody's
        name = next(name for name in names if names.count(name) > 1)
        raise SchemaError(
            f"{place}column {name!r} occurs {names.count(name)} times; rename the columns, so that "
            "each has a name of its own"
        ) from error
    if isinstance(frame, nw.LazyFrame):
        raise SchemaError(
            f"X is a lazy frame of {frame.implementation.name.lower()}, whose rows are not in "
            "memory: collect() them first, or write them as Parquet and open it with read_parquet"
        )
    if not isinstance(frame, nw.DataFrame):
        return None
    if not frame.shape[1]:
        raise SchemaError(f"{place}Found array with 0 feature(s): X has no columns")
    return frame


def require_numbers(frame: nw.DataFrame[Any] | None, place: str = "") -> None:
    """Refuse columns that hold no numbers, by name; look at types, and at the values of objects.

    Parameters
    ----------
    frame
        What `open_frame` returned; None passes.
    place
        Where the rows are: "partition 3: ".

    Raises
    ------
    SchemaError
        A column holds no numbers.
    """
    for column in () if frame is None else frame.iter_columns():
        if not _holds_numbers(column):
            raise SchemaError(
                f"{place}column {column.name!r} is of type {_type_name(column)}, not a number; "
                "choose numeric columns or encode it as numbers first"
            )


def select_columns(frame: nw.DataFrame[Any], names: Sequence[str], what: str) -> Any:
    """Return some columns of what `open_frame` returned, in this order, as a frame of its kind.

    ``what`` says what the names are; it begins the error.

    Raises
    ------
    SchemaError
        Columns are missing.
    """
    missing = [name for name in names if name not in frame.columns]
    if missing:
        plural = len(missing) > 1
        index = getattr(nw.maybe_get_index(frame), "names", ())  # pandas'
        hint = "; use reset_index() to make its index a column" if {*missing} & {*index} else ""
        raise SchemaError(
            f"{what}: column{'s' if plural else ''} {', '.join(map(repr, missing))} "
            f"{'are' if plural else 'is'} missing; the table has {', '.join(frame.columns)}{hint}"
        )
    return frame.select(list(names)).to_native()


def join_columns(X: Any, names: Sequence[str], columns: Mapping[str, npt.NDArray[Any]]) -> Any:
    """Return some columns of a data frame with others beside them, as a frame of its kind.

    Parameters
    ----------
    X
        A data frame of n rows in memory. pandas' index is kept.
    names
        Its columns that are copied.
    columns
        The others by name, each (n,).
    """
    frame = nw.from_native(X, eager_only=True)
    backend = frame.implementation
    others = [nw.new_series(name, values, backend=backend) for name, values in columns.items()]
    return frame.with_columns(others).select([*names, *columns]).to_native()


def refuse_text(dtype: np.dtype[Any], name: str) -> None:
    """Refuse text and dates, as a `SchemaError`: numpy would turn them into numbers silently."""
    if dtype.kind in "mMUS":
        raise SchemaError(f"{name} has dtype {dtype}; only numbers can be used: convert it first")


def refuse_text_in(array: np.ndarray[Any, Any], name: str) -> None:
    """Refuse text and dates in an array, also where its dtype is object."""
    refuse_text(array.dtype, name)
    if array.dtype == np.dtype(object):
        for place, value in np.ndenumerate(array):
            if isinstance(value, str | bytes):
                where = ", ".join(str(index) for index in place)
                raise SchemaError(
                    f"{name}[{where}] is {value!r}; only numbers can be used: convert it first"
                )


def _holds_numbers(column: Any) -> bool:
    kind = column.dtype
    if kind == nw.Categorical:
        kind = column.cat.get_categories().dtype
    if kind.is_numeric() or kind == nw.Boolean:
        return True
    native = getattr(column.to_native(), "dtype", None)  # pandas' own
    if native == np.dtype(object):
        return all(
            value is None or isinstance(value, Real | Decimal | np.bool_)
            for value in column.to_list()
        )
    # Sparse columns of pandas, and what this version of narwhals does not know yet.
    numpy_kind = getattr(getattr(native, "subtype", native), "kind", None)
    return kind == nw.Unknown and numpy_kind in tuple("fiub")


def _type_name(column: Any) -> str:
    native = column.to_native()
    return str(native.dtype if hasattr(native, "dtype") else native.type)
