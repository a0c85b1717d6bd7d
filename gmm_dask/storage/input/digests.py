"""The digest of a file's content: the decoded values of the columns that are used.

The unit is the row group. Whoever decodes the last rows of a row group has decoded it from its
beginning, however the rows are cut into chunks and tasks. So its digest is computed in one place
and is the same for any cut. The digest of a file is taken over those of its row groups, in order.
Paths, times, chunks, threads and workers do not affect it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash
from pyarrow import types

from gmm_dask.storage.input.decode import OpenFile
from gmm_dask.storage.input.filters.predicate import Predicate, names_of
from gmm_dask.storage.input.plan import InputPlan

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Rows decoded at a time: enough that Python costs little, few enough not to count as memory.
_BATCH_ROWS = 1 << 16
_BATCH_BYTES = 32 << 20


def columns_of(
    plan: InputPlan, key_columns: Sequence[str] = (), residual: Predicate | None = None
) -> tuple[str, ...]:
    """Return the names of the columns to decode, each once.

    These are features, weight, age, labels and keys, and what the filter asks of the rows of a file
    (`InputPlan.residual`).
    """
    weight = () if plan.sample_weight is None else (plan.sample_weight.name,)
    age = () if plan.decay is None else (plan.decay.column,)
    labels = () if plan.labels is None else (plan.labels,)
    masking = () if residual is None else names_of(residual)
    return tuple(dict.fromkeys((*plan.names, *weight, *age, *labels, *key_columns, *masking)))


def batch_rows(columns: Sequence[str]) -> int:
    """Return the rows of a batch; where a column holds nulls or text, the digest depends on it."""
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // (8 * len(columns))))


class RowGroupDigest:
    """The digest of a row group that is being decoded (xxh3, 128 bits, of each column)."""

    def __init__(self) -> None:
        self._columns: dict[str, xxhash.xxh3_128] = {}

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the next batch of the row group."""
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = xxhash.xxh3_128(str(array.type).encode())
            for block in _blocks(array):
                column.update(block)

    def hexdigest(self) -> str:
        """Return the digest of all columns, taken in the order of their names."""
        whole = xxhash.xxh3_128()
        for name in sorted(self._columns):
            whole.update(name.encode("utf-8", "surrogatepass") + b"\0")
            whole.update(self._columns[name].digest())
        return whole.hexdigest()


def file_digests(plan: InputPlan, row_groups: Sequence[str]) -> tuple[str | None, ...]:
    """Compute the digest of each file of a plan from those of its row groups.

    Parameters
    ----------
    row_groups
        Digests of the row groups that are read, in the order of the plan. If empty, every file
        gets None.

    Raises
    ------
    ValueError
        The number of digests is not the number of row groups that are read.
    """
    if not row_groups:
        return (None,) * len(plan.files)
    expected = sum(len(file.groups) for file in plan.files)
    if len(row_groups) != expected:
        raise ValueError(f"{len(row_groups)} digests for {expected} row groups")
    remaining = iter(row_groups)
    digests = []
    for file in plan.files:
        whole = xxhash.xxh3_128()
        for _ in file.groups:
            whole.update(next(remaining).encode())
        digests.append(whole.hexdigest())
    return tuple(digests)


def read_digest(plan: InputPlan, number: int, key_columns: Sequence[str] = ()) -> str:
    """Read a file of a plan and return its digest; costs one scan of that file.

    Parameters
    ----------
    number
        The file's index in the plan.
    key_columns
        Columns that are decoded in addition to the plan's.

    Raises
    ------
    InputChangedError
        The file is not the one that was planned.
    InputError
        The file is damaged or cannot be read.
    """
    columns = columns_of(plan, key_columns, plan.residual(plan.files[number]))
    whole = xxhash.xxh3_128()
    with OpenFile(plan, number) as opened:
        stored = [name for name in columns if opened.stores(name)]
        for index, _ in opened.file.groups:
            digest = RowGroupDigest()
            for batch in opened.batches(index, stored, batch_rows(columns)):
                digest.update(batch)
            whole.update(digest.hexdigest().encode())
    return whole.hexdigest()


def _blocks(array: pa.Array) -> Iterator[Buffer]:
    """Yield the bytes that represent an array's values; a null slot contributes no value."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if types.is_string_view(array.type) or types.is_binary_view(array.type):
        array = array.cast(pa.large_binary())
    kind: Any = array.type
    if types.is_nested(kind):
        yield _serialized(array)
        return
    if array.null_count and not types.is_null(kind):
        yield b"nulls"
        yield _bits(array.is_valid())
        array = array.drop_null()
    if types.is_boolean(kind):
        yield _bits(array)
    elif types.is_dictionary(kind):
        yield from _blocks(array.dictionary_decode())
    elif types.is_primitive(kind) or types.is_decimal(kind) or types.is_fixed_size_binary(kind):
        width = kind.bit_width // 8
        if len(array):
            yield memoryview(array.buffers()[1])[
                array.offset * width : (array.offset + len(array)) * width
            ]
    elif types.is_string(kind) or types.is_binary(kind):
        yield from _text_blocks(array, np.int32)
    elif types.is_large_string(kind) or types.is_large_binary(kind):
        yield from _text_blocks(array, np.int64)
    elif not types.is_null(kind):
        yield _serialized(array)


def _serialized(array: pa.Array) -> Buffer:
    """Return an array of any type in Arrow's serialized format; a key column may need it."""
    with suppress(pa.ArrowNotImplementedError):
        # A copy: a slice would serialize bytes of its neighbours too.
        array = array.take(pa.array(np.arange(len(array))))
    return memoryview(pa.RecordBatch.from_arrays([array], ["values"]).serialize())


def _bits(array: pa.BooleanArray) -> Buffer:
    """Return a byte for each value, which must not be null."""
    whole = array.cast(pa.uint8())
    bits = whole.buffers()[1]  # pyarrow's conversion to numpy imports pandas, where it is installed
    return b"" if bits is None else memoryview(bits)[whole.offset : whole.offset + len(whole)]


def _text_blocks(array: pa.Array, width: type[np.int32 | np.int64]) -> Iterator[Buffer]:
    """Yield the lengths and the characters of a text or binary array."""
    if not len(array):
        return
    _, ends, characters = array.buffers()
    offsets = np.frombuffer(ends, width)[array.offset : array.offset + len(array) + 1]
    yield np.diff(offsets).data
    if characters is not None:
        yield memoryview(characters)[int(offsets[0]) : int(offsets[-1])]
