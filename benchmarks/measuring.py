"""What the benchmarks share: the machine in words, Parquet to read, timing in turns, tables."""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from sets import MixtureKind

from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.groups import Lane, lanes_of
from gmm_dask.chunked.rows import RowChunks
from gmm_dask.mixture.threads import single_threaded

PACKAGES = ("gmm-dask", "numpy", "numba", "pyarrow", "scikit-learn", "dask", "prefect")
#: Rows of a file that `write_parquet` writes.
FILE_ROWS = 500_000


def print_machine() -> None:
    """CPU, cores, memory, versions, and how busy the machine is with other work."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    cpu = named[1] if named else platform.processor() or platform.machine()
    memory = psutil.virtual_memory().total / 2**30
    cores = psutil.cpu_count()
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    print(f"{cpu}, {cores} cores, {memory:.0f} GiB; load of 1, 5, 15 minutes: {load}")
    print(f"Python {platform.python_version()}, {versions}\n", flush=True)


@dataclass
class Times:
    """Seconds of each round: by the clock, and of the processor in this process and its own."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def in_turns(repetitions: int, functions: Mapping[str, Callable[[], object]]) -> dict[str, Times]:
    """Time each function, called in turns, each round beginning with another one.

    What disturbs the machine for a while disturbs all of them alike.
    """
    times = {name: Times() for name in functions}
    names = list(functions)
    for turn in range(repetitions):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            wall, cpu = time.perf_counter(), cpu_seconds()
            functions[name]()
            times[name].wall.append(time.perf_counter() - wall)
            times[name].cpu.append(cpu_seconds() - cpu)
    return times


def cpu_seconds() -> float:
    """Of this process and of those that it has started, whether they still run or have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() + ended.ru_utime + ended.ru_stime
    for child in psutil.Process().children(recursive=True):
        used = child.cpu_times()
        seconds += used.user + used.system
    return seconds


def ratio(times: Mapping[str, Times], whole: str, *parts: str, clock: str = "wall") -> str:
    """Median over the rounds of one time over the sum of others, and its least and greatest."""
    rounds = zip(*(getattr(times[name], clock) for name in (whole, *parts)), strict=True)
    return spread([first / sum(rest) for first, *rest in rounds])


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, least and greatest."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table."""
    print(f"### {title}\n")
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [" | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, " | ".join("-" * w for w in widths))
    print("\n".join(f"| {line} |" for line in lines) + "\n", flush=True)


def mixture_rows(n: int, d: int = 8, k: int = 8, block: int = FILE_ROWS) -> Iterator[FloatArray]:
    """Rows of one overlapping mixture, (≤ block, d) at a time, all different."""
    drawn = MixtureKind(d, k).draw(block)  # another number would draw another mixture
    random = np.random.default_rng(1)
    for first in range(0, n, block):
        rows = drawn[: n - first]
        # One draw serves all blocks: the same mixture, moved by a thousandth of its width.
        yield rows + 1e-3 * random.standard_normal(rows.shape)


def columns_of(d: int) -> list[str]:
    """Names of the d columns that `write_parquet` writes."""
    return [f"x{feature}" for feature in range(d)]


def as_table(rows: FloatArray) -> pa.Table:
    """Rows (n, d) as a table of d columns."""
    return pa.table(dict(zip(columns_of(rows.shape[1]), rows.T, strict=True)))


def write_parquet(
    directory: Path, n: int, d: int = 8, k: int = 8, file_rows: int = FILE_ROWS
) -> Path:
    """Write n rows of an overlapping mixture as pyarrow does by default, in many files."""
    directory.mkdir(parents=True)
    file = 0
    for block in mixture_rows(n, d, k, max(file_rows, FILE_ROWS)):
        for first in range(0, len(block), file_rows):
            path = directory / f"part-{file:05d}.parquet"
            pq.write_table(as_table(block[first : first + file_rows]), path)
            file += 1
    return directory


def decode(chunks: RowChunks, threads: int, lanes: Sequence[Lane] | None = None) -> None:
    """Read every chunk, or those of some lanes, once and do no more; lanes in turn on threads."""

    def read(lane: Lane) -> None:
        for _ in chunks.read(lane.start, lane.stop):
            pass

    on_threads(threads, read, lanes_of(chunks) if lanes is None else lanes)


def on_threads(threads: int, function: Callable[[Any], object], pieces: Sequence[Any]) -> None:
    """Call a function on every piece, each call with one thread inside BLAS."""

    def alone(piece: Any) -> None:
        with single_threaded():
            function(piece)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(alone, pieces))


def peak_bytes(pid: int | str = "self") -> int:
    """Largest resident memory of a process so far, shared libraries included."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024  # type: ignore[index]
