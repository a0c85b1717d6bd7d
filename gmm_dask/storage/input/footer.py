"""The footer of a Parquet file: what an input plan is made from and later readings are held to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from gmm_dask.errors import InputError
from gmm_dask.storage.input.columns import INT96_UNIT
from gmm_dask.storage.input.location import READ_ERRORS, reason

_TAIL = 1 << 16  # most footers are shorter: one read then


@dataclass(frozen=True, eq=False)
class Footer:
    """The last bytes of a file, not yet parsed.

    Attributes
    ----------
    size
        Bytes of the whole file.
    raw
        The metadata, its length and the magic bytes.
    """

    size: int
    raw: bytes

    @property
    def digest(self) -> str:
        """Of the footer: two files with the same agree in layout and statistics."""
        return hashlib.blake2b(self.raw, digest_size=16).hexdigest()

    def parse(self, path: str) -> pq.FileMetaData:
        """Parse and check that the counts agree with each other.

        Raises
        ------
        InputError
            It is damaged.
        """
        try:
            metadata = pq.read_metadata(pa.BufferReader(self.raw))
        except READ_ERRORS as error:
            raise InputError(
                f"{path}: its footer is damaged ({reason(error)}); restore or rewrite the file"
            ) from error
        groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        if min(groups, default=0) < 0 or sum(groups) != metadata.num_rows:
            raise InputError(
                f"{path}: its footer is damaged (row counts contradict each other); restore or "
                "rewrite the file"
            )
        return metadata

    def schema(self, metadata: pq.FileMetaData) -> pa.Schema:
        """Types as which the columns will be read, of what `parse` returned."""
        schema = metadata.schema.to_arrow_schema()
        if pa.timestamp("ns") not in schema.types:
            return schema
        # Some of them may be int96; finding that out in any other way takes longer.
        source = pa.BufferReader(self.raw)
        with pq.ParquetFile(
            source, metadata=metadata, coerce_int96_timestamp_unit=INT96_UNIT
        ) as file:
            return file.schema_arrow


def read_footer(source: pa.NativeFile, path: str) -> Footer:
    """Read the end of an open file.

    Raises
    ------
    InputError
        It is not a whole Parquet file.
    OSError
        As the filesystem has it.
    """
    size = source.size()
    tail = source.read_at(min(size, _TAIL), max(size - _TAIL, 0))
    if tail[-4:] == b"PARE":
        raise InputError(f"{path}: is encrypted, which cannot be read; decrypt it first")
    if size < 12 or tail[-4:] != b"PAR1":
        raise InputError(
            f"{path}: is not a Parquet file, or only the beginning of one (it does not end with "
            "PAR1); finish writing it, or leave it out"
        )
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > size - 4:
        raise InputError(
            f"{path}: its footer is damaged (its length is more than the file's); restore or "
            "rewrite the file"
        )
    if length > len(tail):
        tail = source.read_at(length, size - length)
    return Footer(size, tail[len(tail) - length :])
