"""Row chunks whose features are transformed as they are read, as if the files held them so.

These are for arrays of `read_parquet`. A model's own transforms are applied by the scan
(`gmm_dask.chunked.transforming`), to values in natural units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gmm_dask.chunked.reading import fingerprint_of
from gmm_dask.chunked.rows import RowChunks, Rows
from gmm_dask.chunked.transforming import transform_rows
from gmm_dask.mixture.transforms import Transforms


@dataclass(frozen=True, eq=False)
class TransformedChunks:
    """Row chunks with transformed features; the columns are named so: log1p(price).

    Attributes
    ----------
    source
        The row chunks in natural units.
    transforms
        None of them is pending.
    """

    source: RowChunks
    transforms: Transforms

    volatile = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the d features after their transforms."""
        return self.transforms.labels(self.source.columns)

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Type of the values, that of the source."""
        return self.source.dtype

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of each chunk."""
        return self.source.rows

    @property
    def entries(self) -> tuple[int, ...]:
        """Chunks that begin with a row group."""
        return self.source.entries

    @property
    def weighted(self) -> bool:
        """Whether the source has weights."""
        return self.source.weighted

    @cached_property
    def digest(self) -> str:
        """Digest of the source and the transforms."""
        text = f"{self.source.digest} {self.transforms.names}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def read(self, start: int, stop: int, digests: bool = False) -> Iterator[Rows]:
        """Decode chunks start … stop−1 and transform them.

        Their fingerprints are of values in natural units: a logarithm may differ in its last bit
        between the processors of two workers.

        Raises
        ------
        InputError
            A value is outside of the domain of its transform; or as the source raises.
        """
        for rows in self.source.read(start, stop, digests):
            transformed = transform_rows(rows, self.transforms, self.source)
            fingerprint = fingerprint_of(rows.values)
            yield replace(transformed, transforms=None, fingerprint=fingerprint)

    def describe(self, chunk: int, row: int | None = None) -> str:
        """Name a chunk's place, or that of a row of it, as the source does."""
        return self.source.describe(chunk, row)

    def check(self) -> None:
        """Check the files as the source does."""
        self.source.check()
