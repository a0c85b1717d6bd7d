"""The digest of what a file holds: of the values of the columns that are used, as decoded.

The unit is the row group. Whoever decodes its last rows has decoded it from its beginning, however
the rows are cut into chunks and tasks, so its digest comes from one place and is the same for any
cut. The digest of a file is that of its row groups in their order. Neither path, time, chunks,
threads nor workers play a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pyarrow import types

from gmm_dask.storage.input.decode import OpenFile
from gmm_dask.storage.input.plan import InputPlan

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Rows decoded at a time: enough that Python costs little, few enough not to count as memory.
_BATCH_ROWS = 1 << 16
_BATCH_BYTES = 32 << 20


def columns_of(plan: InputPlan, key_columns: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the columns that are decoded: features, weight, keys; each once."""
    weight = () if plan.sample_weight is None else (plan.sample_weight.name,)
    return tuple(dict.fromkeys((*plan.names, *weight, *key_columns)))


def batch_rows(columns: Sequence[str]) -> int:
    """Rows of a batch; part of the digest where a column holds nulls or text."""
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // (8 * len(columns))))


class RowGroupDigest:
    """The digest of a row group that is being decoded (xxh3, 128 bits, of each column)."""

    def __init__(self) -> None:
        self._columns: dict[str, xxhash.xxh3_128] = {}

    def update(self, batch: pa.RecordBatch) -> None:
        """Take in the next batch, whole."""
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = xxhash.xxh3_128(str(array.type).encode())
            for block in _blocks(array):
                column.update(block)

    def hexdigest(self) -> str:
        """Return the digest of all columns, by their names."""
        whole = xxhash.xxh3_128()
        for name in sorted(self._columns):
            whole.update(name.encode("utf-8", "surrogatepass") + b"\0")
            whole.update(self._columns[name].digest())
        return whole.hexdigest()


def file_digests(plan: InputPlan, row_groups: Sequence[str]) -> tuple[str | None, ...]:
    """Digest of each file of a plan, from those of its row groups with rows, in their order.

    None for all files where no row group was digested.

    Raises
    ------
    ValueError
        There are more or fewer digests than row groups.
    """
    if not row_groups:
        return (None,) * len(plan.files)
    expected = sum(rows > 0 for file in plan.files for rows in file.row_groups)
    if len(row_groups) != expected:
        raise ValueError(f"{len(row_groups)} digests for {expected} row groups")
    remaining = iter(row_groups)
    digests = []
    for file in plan.files:
        whole = xxhash.xxh3_128()
        for rows in file.row_groups:
            if rows:
                whole.update(next(remaining).encode())
        digests.append(whole.hexdigest())
    return tuple(digests)


def read_digest(plan: InputPlan, number: int, key_columns: Sequence[str] = ()) -> str:
    """Read a file again for its digest.

    Parameters
    ----------
    number
        Of the file in the plan.

    Raises
    ------
    InputChangedError, InputError
        It is not what the plan saw, or damaged.
    """
    columns = columns_of(plan, key_columns)
    whole = xxhash.xxh3_128()
    with OpenFile(plan, number) as opened:
        stored = [name for name in columns if opened.stores(name)]
        for index, rows in enumerate(opened.file.row_groups):
            if rows:
                digest = RowGroupDigest()
                for batch in opened.batches(index, stored, batch_rows(columns)):
                    digest.update(batch)
                whole.update(digest.hexdigest().encode())
    return whole.hexdigest()


def _blocks(array: pa.Array) -> Iterator[Buffer]:
    """The bytes of an array that say what it holds: none of a slot that is null."""
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
        yield from _texts(array, np.int32)
    elif types.is_large_string(kind) or types.is_large_binary(kind):
        yield from _texts(array, np.int64)
    elif not types.is_null(kind):
        yield _serialized(array)


def _serialized(array: pa.Array) -> Buffer:
    """An array of any type, as a key may be, in the bytes of Arrow's own format."""
    with suppress(pa.ArrowNotImplementedError):
        # A copy holds nothing of other rows.
        array = array.take(pa.array(np.arange(len(array))))
    return memoryview(pa.RecordBatch.from_arrays([array], ["values"]).serialize())


def _bits(array: pa.BooleanArray) -> Buffer:
    return np.asarray(pc.cast(array, pa.uint8())).data


def _texts(array: pa.Array, width: type[np.int32 | np.int64]) -> Iterator[Buffer]:
    """Lengths and characters of texts."""
    if not len(array):
        return
    _, ends, characters = array.buffers()
    offsets = np.frombuffer(ends, width)[array.offset : array.offset + len(array) + 1]
    yield np.diff(offsets).data
    if characters is not None:
        yield memoryview(characters)[int(offsets[0]) : int(offsets[-1])]
