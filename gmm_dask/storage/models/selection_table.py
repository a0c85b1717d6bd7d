"""The table of a selection as an Arrow table, and as the Parquet file beside a model."""

from __future__ import annotations

import io
from dataclasses import fields

import pyarrow as pa
import pyarrow.parquet as pq

from gmm_dask.chunked.selection_records import CellRow, SelectionTable

#: File beside a model that was selected.
SELECTION = "selection.parquet"

_TYPES = {
    "n_components": pa.int64(),
    "covariance_type": pa.string(),
    "status": pa.string(),
    "reason": pa.string(),
}
SCHEMA = pa.schema(
    [(field.name, _TYPES.get(field.name, pa.float64())) for field in fields(CellRow)]
)


def arrow_table(table: SelectionTable) -> pa.Table:
    """Return the rows of a selection's table; what a broken cell does not have is null."""
    return pa.Table.from_pylist([vars(row) for row in table.cells], schema=SCHEMA)


def parquet_bytes(table: SelectionTable) -> bytes:
    """Return the content of `SELECTION`."""
    sink = io.BytesIO()
    pq.write_table(arrow_table(table), sink, compression="none")
    return sink.getvalue()
