"""The footer of a Parquet file: plans are made from it, and later reads checked against it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from gmm_dask.errors import BadFileError
from gmm_dask.storage.input.columns import INT96_UNIT
from gmm_dask.storage.input.location import READ_ERRORS, reason

_TAIL = 1 << 16  # bytes; most footers are shorter, and one read is enough


@dataclass(frozen=True, eq=False)
class Footer:
    """The footer of a file, not yet parsed.

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
        """Digest of the footer; files with the same digest agree in layout and statistics."""
        return hashlib.blake2b(self.raw, digest_size=16).hexdigest()

    def parse(self, path: str) -> pq.FileMetaData:
        """Parse the footer and check that its row counts agree.

        Raises
        ------
        BadFileError
            The footer is damaged.
        """
        try:
            metadata = pq.read_metadata(pa.BufferReader(self.raw))
        except READ_ERRORS as error:
            raise BadFileError(
                path, f"its footer is damaged ({reason(error)}); restore or rewrite the file"
            ) from error
        groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        if min(groups, default=0) < 0 or sum(groups) != metadata.num_rows:
            raise BadFileError(
                path,
                "its footer is damaged (row counts contradict each other); restore or "
                "rewrite the file",
            )
        return metadata

    def schema(self, metadata: pq.FileMetaData) -> pa.Schema:
        """Return the types as which the columns will be read, given what `parse` returned."""
        schema = metadata.schema.to_arrow_schema()
        if pa.timestamp("ns") not in schema.types:
            return schema
        # Some of these columns may be int96; any other way to find out takes longer.
        source = pa.BufferReader(self.raw)
        with pq.ParquetFile(
            source, metadata=metadata, coerce_int96_timestamp_unit=INT96_UNIT
        ) as file:
            return file.schema_arrow


def read_footer(source: pa.NativeFile, path: str) -> Footer:
    """Read the footer of an open file.

    Raises
    ------
    BadFileError
        The file is not a whole Parquet file.
    OSError
        The file cannot be read.
    """
    size = source.size()
    tail = source.read_at(min(size, _TAIL), max(size - _TAIL, 0))
    if tail[-4:] == b"PARE":
        raise BadFileError(path, "is encrypted, which cannot be read; decrypt it first")
    if size < 12 or tail[-4:] != b"PAR1":
        raise BadFileError(
            path,
            "is not a Parquet file, or only the beginning of one (it does not end with "
            "PAR1); finish writing it, or leave it out",
        )
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > size - 4:
        raise BadFileError(
            path,
            "its footer is damaged (its length is more than the file's); restore or "
            "rewrite the file",
        )
    if length > len(tail):
        tail = source.read_at(length, size - length)
    return Footer(size, tail[len(tail) - length :])
