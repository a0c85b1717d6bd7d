"""Parts of the current version in the next: linked as they are, or rows of them beside new ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gmm_dask.arrays import MaskArray
from gmm_dask.errors import StorageError
from gmm_dask.storage.files.atomic import storage_errors
from gmm_dask.storage.files.contents import StagedVersion, Version
from gmm_dask.storage.input.location import READ_ERRORS, reason
from gmm_dask.storage.predictions.part_files import MODEL_VERSION, hint_of_part, write_part_file
from gmm_dask.storage.predictions.parts import Part, part_name

#: The columns before ``model_version`` end with this one.
_BEFORE = "outlier"


@dataclass(frozen=True)
class KeptRows:
    """Rows of the current version that stay beside new predictions of their file; picklable.

    Attributes
    ----------
    version
        The current version.
    parts
        Its parts of each file of which rows stay, by path; their origins are numbered as in the
        next version.
    model_versions
        Version of the model of each origin, for parts that are older than the column.
    """

    version: Version
    parts: Mapping[str, tuple[Part, ...]]
    model_versions: Sequence[int | None]

    def outside(
        self, path: str, first: int, inside: MaskArray
    ) -> tuple[pa.Table | None, tuple[int, ...]]:
        """Return the kept rows of a chunk, those outside the filter, and their origins.

        Parameters
        ----------
        path
            The input file.
        first
            Number of the first row of the chunk within that file.
        inside
            (rows of the chunk,) which rows are inside the filter, and so predicted now.

        Raises
        ------
        StorageError
            A part cannot be read.
        """
        stop = first + inside.size
        tables: list[pa.Table] = []
        origins: set[int] = set()
        for part in self.parts.get(path, ()):
            if part.stop <= first or part.first >= stop:
                continue
            model_version = self.model_versions[part.origins[0]]
            table = read_part(self.version, part, model_version, (first, stop))
            places = table["row"].to_numpy() - first
            stays = (places >= 0) & (places < inside.size)
            stays[stays] = ~inside[places[stays]]
            if stays.any():
                tables.append(table.filter(pa.array(stays)))
                versions = set(tables[-1][MODEL_VERSION].unique().to_pylist())
                origins |= {
                    origin for origin in part.origins if self.model_versions[origin] in versions
                }
        return (pa.concat_tables(tables) if tables else None), tuple(sorted(origins))


def read_part(
    version: Version,
    part: Part,
    model_version: int | None,
    between: tuple[int, int] | None = None,
) -> pa.Table:
    """Read a part of a sealed version, with the column ``model_version`` in any case.

    Parameters
    ----------
    model_version
        What the column says where an older gmm-dask has written the part without it.
    between
        Numbers of the first row that is wanted, and of that after the last. Row groups without
        such a row are not read.

    Raises
    ------
    StorageError
        The part cannot be read.
    """
    path = version.path / part.name
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            groups = range(file.num_row_groups) if between is None else _groups(file, *between)
            table = file.read_row_groups(list(groups), use_threads=False)
    except READ_ERRORS as error:
        raise StorageError(
            f"{path}: cannot be read ({reason(error)}), and its rows are to be kept; predict again"
        ) from error
    if MODEL_VERSION in table.schema.names:
        return table
    place = table.schema.get_field_index(_BEFORE) + 1
    return table.add_column(place, MODEL_VERSION, version_column(model_version, table.num_rows))


def _groups(file: pq.ParquetFile, first: int, stop: int) -> Iterator[int]:
    """Yield the row groups of a part that hold a row of these numbers, which ascend."""
    numbers = file.read(columns=["row"], use_threads=False)["row"].to_numpy()
    begin, end = np.searchsorted(numbers, (first, stop))
    row = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < end and begin < row + rows:
            yield group
        row += rows


def version_column(model_version: int | None, rows: int) -> pa.Array:
    """Return the column that says which version of the model predicted: the same for all rows."""
    return pa.repeat(pa.scalar(model_version, pa.int32()), rows)


def merge(predicted: pa.Table, kept: pa.Table, where: Path) -> pa.Table:
    """Return new and kept rows of a chunk in the order of their numbers.

    Raises
    ------
    StorageError
        Their columns differ; the message begins with ``where``.
    """
    try:
        table = pa.concat_tables([predicted, kept.cast(predicted.schema)]).unify_dictionaries()
    except (pa.ArrowException, ValueError) as error:
        raise StorageError(
            f"{where}: rows that are to be kept have other columns ({reason(error)}); "
            "does a key column change its type between input files?"
        ) from error
    order = np.argsort(table["row"].to_numpy(), kind="stable")
    return table.take(pa.array(order)).combine_chunks()


def take_over(
    stage: StagedVersion,
    current: Version,
    parts: Sequence[Part],
    run_id: str,
    number: int,
    model_versions: Sequence[int | None],
    complete: bool,
) -> tuple[Part, ...]:
    """Take parts of an input file over into a staged version, under new names.

    Parameters
    ----------
    number
        The file's number in the next version, for the names.
    model_versions
        Version of the model of each origin, as the parts number them.
    complete
        Whether the parts have all columns. Then they are linked, else written again.

    Raises
    ------
    StorageError
        A part is lost or cannot be read, or the disk refuses.
    """
    taken = []
    for part in parts:
        name = part_name(run_id, number, part.first)
        if not complete:
            table = read_part(current, part, model_versions[part.origins[0]])
            written = write_part_file(stage, name, table)
            taken.append(replace(part, name=name, **written._asdict()))
            continue
        stage.take(current, part.name, name)
        with storage_errors(stage.directory / name, "cannot be read"):
            hint = hint_of_part(stage.directory / name)
        taken.append(replace(part, name=name, hint=hint))
    return tuple(taken)
