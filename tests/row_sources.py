"""Sources of random rows for tests, whose readings can be held, killed or falsified.

Workers import this module too. A source can have a directory, whose files control how chunk 3 is
read: ``hold-3`` stops the reading until the file is removed, and ``at-3`` then names the process;
``kill-3`` kills the process, ``hog-3`` fills its memory, ``change-3`` alters a value, ``short-3``
drops a row. Every reading of the chunk leaves a file ``read-3-PID-…``.
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
    """Two Gaussian clouds; chunk i is drawn from (seed, i), so it is the same in every process.

    Attributes
    ----------
    missing
        Share of the rows that hold a null.
    place
        The directory whose files control the readings; empty for none.
    """

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
        """The recipe in words; sources of different rows differ in it."""
        return f"{self.rows} {self.d} {self.seed} {self.weighted} {self.missing} {self.place}"

    def read(self, start: int, stop: int, digests: bool = False) -> Iterator[Rows]:
        """Draw chunks start … stop−1 as the files of the directory command."""
        for chunk in range(start, stop):
            yield self._drawn(chunk)

    def describe(self, chunk: int, row: int | None = None) -> str:
        """Say where a chunk, or a row of it, lies."""
        return f"drawn chunk {chunk}" + ("" if row is None else f" row {row}")

    def check(self) -> None:
        """Raise `InputError` if the environment hides the rows from this process."""
        if os.environ.get("DRAWN_ROWS_HIDDEN"):
            raise InputError("drawn chunk 0: is not there")

    def rule(self, command: str, chunk: int) -> Path:
        """Path of the file that commands something for a chunk; it need not exist."""
        return Path(self.place, f"{command}-{chunk}")

    def readings(self, chunk: int | None = None) -> list[int]:
        """Process id of each reading of a chunk, or of all chunks."""
        files = Path(self.place).glob(f"read-{'*' if chunk is None else chunk}-*")
        return [int(path.name.split("-")[2]) for path in files]

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
            until(lambda: not self.rule("hold", chunk).exists(), "the reading was not released")
        if self.rule("kill", chunk).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if self.rule("hog", chunk).exists():
            arrays: list[FloatArray] = []

            def fill_memory() -> bool:
                arrays.append(np.ones(1 << 20))
                return False

            until(fill_memory, "the process was not killed")


def drawn(chunks: int, rows: int, **keywords: Any) -> DrawnRows:
    """Make a source with chunks of equal size, each an entry."""
    return DrawnRows((rows,) * chunks, tuple(range(chunks)), **keywords)


def chunk_numbers(rows: Rows, argument: Any) -> tuple[int, ...]:
    """Return the chunk's number, so that the sum shows the order of the chunks."""
    return (rows.chunk,)


def row_sums(rows: Rows, argument: float) -> FloatArray:
    """Return sums of floats, whose bits depend on the order of the chunks."""
    return rows.values.sum(axis=0) * argument


def wide_sums(rows: Rows, argument: float) -> FloatArray:
    """Return many such sums, 80 kB."""
    return np.outer(row_sums(rows, argument)[:2], np.sqrt(np.arange(5000.0))).ravel()


def resident_keys(dask_worker: Any) -> list[str]:
    """Names of the sums that a worker holds of scans; called by a client's ``run``."""
    return [str(key) for key in dask_worker.data if str(key).startswith(("sum_groups", "join_"))]


def process_ids(rows: Rows, argument: Any) -> tuple[int, ...]:
    """Return the id of the process that computes on the chunk."""
    return (os.getpid(),)


def bounds(rows: tuple[int, ...]) -> list[int]:
    """First row of each chunk, and the number of all rows."""
    return list(accumulate(rows, initial=0))
