"""What a filter leaves of an input unread: files by partition keys, row groups by statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from gmm_dask.errors import TooFewRowsError
from gmm_dask.storage.input.filters.binding import Family, bind
from gmm_dask.storage.input.filters.input_filter import InputFilter, key_domains
from gmm_dask.storage.input.filters.outcomes import TRUE, outcomes
from gmm_dask.storage.input.filters.predicate import Predicate, names_of, text_of
from gmm_dask.storage.input.input_file import FileSchema, InputFile
from gmm_dask.storage.input.location import partitions_of
from gmm_dask.storage.input.partitions import partition_families
from gmm_dask.storage.input.schemas import Schemas


@dataclass
class Draft:
    """A filter whose columns are not known yet.

    Attributes
    ----------
    text
        As it was written, for messages.
    predicate
        With the present put in, which is ``as_of``.
    key_families
        Families of the partition keys; known once the files are listed.
    """

    text: str
    predicate: Predicate
    as_of: datetime
    key_families: Mapping[str, Family]

    @classmethod
    def of(cls, text: str, now: datetime) -> Draft:
        """Read a filter; raises as `parse_filter` does."""
        # Imported here: an input without a filter does not need sqlglot.
        from gmm_dask.storage.input.filters.sql import parse_filter

        return cls(text, parse_filter(text, now), now, {})

    @property
    def names(self) -> tuple[str, ...]:
        """Columns and keys that the filter names."""
        return tuple(names_of(self.predicate))

    def possible_paths(self, address: str, paths: Sequence[str]) -> tuple[str, ...]:
        """Return the files in whose partitions a row can be inside, and learn the keys' families.

        Raises
        ------
        ConfigError
            A key is compared with something else than its values.
        TooFewRowsError
            There is no such file.
        """
        self.key_families = partition_families(paths)
        bound = bind(self.predicate, self.key_families, self.text)
        # Thousands of files lie in few partitions.
        possible: dict[tuple[tuple[str, str | None], ...], bool] = {}
        kept = []
        for path in paths:
            partitions = partitions_of(path)
            key = tuple(partitions.items())
            if key not in possible:
                domains = key_domains(partitions, self.key_families)
                possible[key] = bool(outcomes(bound, domains) & TRUE)
            if possible[key]:
                kept.append(path)
        if not kept:
            raise nothing_left(address, len(paths), text_of(bound))
        return tuple(kept)

    def bind(self, schemas: Schemas) -> InputFilter:
        """Bind the filter to the columns of the files.

        Raises
        ------
        SchemaError
            A column is missing in a file, or belongs to another family than in the file before.
        ConfigError
            A column is compared with something else than its values.
        """
        families = {name: schemas.family(name, self.key_families) for name in self.names}
        bind(self.predicate, families, self.text)  # here the places in messages are the writer's
        return InputFilter(text_of(self.predicate), families, self.as_of)


def left_by(input_filter: InputFilter, file_schemas: Sequence[FileSchema]) -> tuple[InputFile, ...]:
    """Return the files in which a row can be inside the filter, with the row groups left."""
    files = []
    for file_schema in file_schemas:
        file = file_schema.file
        keys = key_domains(file.partitions, input_filter.families)
        groups = {
            index: outcomes(input_filter.predicate, {**file_schema.domains[index], **keys})
            if file_schema.domains
            else outcomes(input_filter.predicate, keys)
            for index, _ in file.groups
        }
        left = tuple(index for index, possible in groups.items() if possible & TRUE)
        inside = all(groups[index] == TRUE for index in left)
        if left:
            whole = left == tuple(groups)
            files.append(replace(file, left=None if whole else left, inside=inside))
        elif not groups:
            files.append(file)  # a file without rows, which a plan without a filter has too
    return tuple(files)


def nothing_left(address: str, files: int, text: str) -> TooFewRowsError:
    """Make the error for a filter that leaves no row group."""
    return TooFewRowsError(
        f"{address}: no row of {files:,} file(s) can be inside the filter {text}; their "
        "partition keys or statistics exclude it; check its bounds"
    )
