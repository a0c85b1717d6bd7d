"""Rows that tests scan: drawn again at every reading, and ruled by files in a directory.

Workers import this module too. What a reading meets in the directory decides what happens:
``hold-3`` keeps it at chunk 3, ``kill-3`` ends its process there, ``hog-3`` eats its memory,
``change-3`` alters the values, ``short-3`` loses rows. Every reading leaves ``read-3-PID-…``.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.rows import Rows
from gmm_dask.errors import InputError
from tests.waiting import until


@dataclass(frozen=True, eq=False)
class DrawnRows:
    """Two Gaussian clouds; chunk i is drawn from (seed, i), the same in every process."""

    rows: tuple[int, ...]
    entries: tuple[int, ...]
    d: int = 3
    seed: int = 0
    weighted: bool = False
    missing: float = 0.0
    place: str = ""

    volatile = True
    dtype = np.dtype(np.float64)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the d features: c0, c1, …"""
        return tuple(f"c{number}" for number in range(self.d))

    @property
    def digest(self) -> str:
        """The recipe in words: no two sources of other rows share it."""
        return f"{self.rows} {self.d} {self.seed} {self.weighted} {self.missing} {self.place}"

    def read(self, start: int, stop: int) -> Iterator[Rows]:
        """Draw chunks start … stop−1, and obey the files of the directory."""
        for chunk in range(start, stop):
            yield self._drawn(chunk)

    def describe(self, chunk: int, row: int | None = None) -> str:
        """Where a chunk, or a row of it, lies."""
        return f"drawn chunk {chunk}" + ("" if row is None else f" row {row}")

    def check(self) -> None:
        """Raise `InputError` where this process is not to see the rows."""
        if os.environ.get("DRAWN_ROWS_HIDDEN"):
            raise InputError("drawn chunk 0: is not there")

    def rule(self, what: str, chunk: int) -> Path:
        """The file that rules a chunk, whether it is there or not."""
        return Path(self.place, f"{what}-{chunk}")

    def readings(self, chunk: int | None = None) -> list[int]:
        """Which process did each reading of a chunk, or of any."""
        notes = Path(self.place).glob(f"read-{'*' if chunk is None else chunk}-*")
        return [int(path.name.split("-")[2]) for path in notes]

    def _drawn(self, chunk: int) -> Rows:
        if self.place:
            self.rule("read", chunk).with_name(
                f"read-{chunk}-{os.getpid()}-{uuid.uuid4().hex}"
            ).touch()
            self._obey(chunk)
        m = self.rows[chunk]
        random = np.random.default_rng([self.seed, chunk])
        values = random.normal(size=(self.d, m))
        values += 4.0 * (random.random(m) < 0.4)
        if self.missing:
            values[0, random.random(m) < self.missing] = np.nan
        weight = random.random(m) if self.weighted else None
        if self.place and self.rule("change", chunk).exists():
            values[-1, -1] += 1.0
        if self.place and self.rule("short", chunk).exists():
            values = values[:, :-1]
        return Rows(values.T, weight, chunk, sum(self.rows[:chunk]))

    def _obey(self, chunk: int) -> None:
        if self.rule("hold", chunk).exists():
            self.rule("at", chunk).write_text(str(os.getpid()))
            until(lambda: not self.rule("hold", chunk).exists(), "nobody let the reading go")
        if self.rule("kill", chunk).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if self.rule("hog", chunk).exists():
            eaten: list[FloatArray] = []

            def full() -> bool:
                eaten.append(np.ones(1 << 20))
                return False

            until(full, "nobody ended the hog")


def drawn(chunks: int, rows: int, **keywords: Any) -> DrawnRows:
    """Chunks of equal size, each an entry."""
    return DrawnRows((rows,) * chunks, tuple(range(chunks)), **keywords)


def chunk_numbers(rows: Rows, argument: Any) -> tuple[int, ...]:
    """A result whose sum shows the order of the summands."""
    return (rows.chunk,)


def row_sums(rows: Rows, argument: float) -> FloatArray:
    """A result whose sum depends on the order of the summands."""
    return rows.values.sum(axis=0) * argument


def process_ids(rows: Rows, argument: Any) -> tuple[int, ...]:
    """Which process worked on each chunk."""
    return (os.getpid(),)


def bounds(rows: tuple[int, ...]) -> list[int]:
    """First row of each chunk, and the number of all rows."""
    return list(accumulate(rows, initial=0))
