"""A part of a prediction dataset: what it describes, and its name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A file of a prediction dataset.

    Attributes
    ----------
    name
        Name of the file; contains the run id, so that no two versions share a name.
    input_file
        Path of the input file whose rows it describes, as in the input plan.
    first, rows
        Number of the first row within that file that it describes, and its number of rows.
    size
        Bytes.
    digest
        Digest of its bytes, taken while they were written (xxh3, 128 bits). None in a record of
        an older format: then damage cannot be detected.
    hint
        Modification time and inode; a hard link from another version keeps both.
    outside
        Rows of the input file that it leaves out, because they are outside the filter. So it
        describes ``rows + outside`` rows that follow each other, from ``first`` on.
    origins
        Indices of the origins of its rows in the record (`Predictions.origins`), the latest
        first. With more than one, the column ``model_version`` says which model made which row;
        of two origins of one version, either may have.
    """

    name: str
    input_file: str
    first: int
    rows: int
    size: int
    digest: str | None = None
    hint: str | None = None
    outside: int = 0
    origins: tuple[int, ...] = (0,)

    @property
    def stop(self) -> int:
        """Number of the row after the last that it describes, within the input file."""
        return self.first + self.rows + self.outside


def part_name(run_id: str, file: int, first: int) -> str:
    """Return the file name of a part; sorted by name, parts follow the order of the input.

    Parameters
    ----------
    file
        Number of the input file.
    first
        Number of the first row within it that the part describes.
    """
    return f"part-{run_id}-{file:05d}-{first:012d}.parquet"


def order_of(name: str) -> tuple[int, int]:
    """Return the file number and the number of the first row in the name of a part."""
    file, first = name.removesuffix(".parquet").rsplit("-", 2)[1:]
    return int(file), int(first)
