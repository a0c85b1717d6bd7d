"""A column of labels in Parquet files: the types it may have, and its decoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import types

from gmm_dask.mixture.label_names import label_rows
from gmm_dask.mixture.labels import RowLabels


def holds_labels(kind: pa.DataType) -> bool:
    """Whether values of a type can be labels: text, integers, booleans, categories of these.

    Floats too, which integers with nulls often are written as; their values must be whole.
    """
    if types.is_dictionary(kind):
        return holds_labels(kind.value_type)
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    number = types.is_integer(kind) or types.is_floating(kind)
    return bool(text or number or types.is_boolean(kind) or types.is_null(kind))


def decode_labels(array: pa.Array) -> RowLabels:
    """Return the labels of an Arrow array; a null, NaN and an empty text are none.

    Raises
    ------
    SchemaError
        A number is not whole.
    InputError
        There are too many labels.
    """
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    encoded = array.dictionary_encode()
    numbers = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return label_rows(encoded.dictionary.to_pylist(), numbers)


def repeat_label(value: Any, m: int) -> RowLabels:
    """Return the labels of m rows of a partition, by the value of its key."""
    return label_rows([value], np.zeros(m, np.intp))
