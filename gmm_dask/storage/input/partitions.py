"""The keys of Hive partitions as columns: the type of their texts, and their family in a filter."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pyarrow as pa

from gmm_dask.storage.input.filters.binding import Family, family_of
from gmm_dask.storage.input.filters.moments import read_date
from gmm_dask.storage.input.location import partitions_of

# Longer runs of digits are names, not numbers: float64 would lose their last digits.
_INTEGER = re.compile(r"[+-]?[0-9]{1,15}")
_NUMBER = re.compile(r"[+-]?([0-9]{1,15}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def partition_types(paths: Iterable[str]) -> dict[str, pa.DataType]:
    """Return the type of each partition key: integer, else float, else text."""
    return {key: _type_of(texts) for key, texts in _partition_values(paths).items()}


def partition_families(paths: Iterable[str]) -> dict[str, Family]:
    """Return the family of each partition key in a filter: dates if all its values are ISO dates.

    Otherwise it is that of its type.
    """
    return {
        key: Family.MOMENT
        if texts and all(read_date(text) for text in texts)
        else family_of(_type_of(texts))
        for key, texts in _partition_values(paths).items()
    }


def _partition_values(paths: Iterable[str]) -> dict[str, set[str]]:
    values: dict[str, set[str]] = {}
    for path in paths:
        for key, value in partitions_of(path).items():
            values.setdefault(key, set()).update([] if value is None else [value])
    return values


def _type_of(texts: set[str]) -> pa.DataType:
    for pattern, kind in ((_INTEGER, pa.int64()), (_NUMBER, pa.float64())):
        if texts and all(pattern.fullmatch(text) for text in texts):
            return kind
    return pa.string()
