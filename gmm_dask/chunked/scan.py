"""A scan: one function over every chunk of rows, the results added in the order of the groups.

*Groups* are the unit of summation: runs of consecutive chunks, fixed by the plan. What computes
them, in which order and how often decides nothing, for their sums are added in the order of the
plan: the same bits on one thread and on a hundred workers. *Lanes* are runs of groups that can
be read without decoding anything twice: the least that can be given to a worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gmm_dask.chunked.rows import RowChunks, Rows
from gmm_dask.errors import TooFewRowsError
from gmm_dask.events import Notify, Stage, StageAdvanced, StageFinished, StageStarted, silent
from gmm_dask.nulls import NullPolicy

#: Groups aimed at: enough to keep hundreds of cores busy, few enough to add in no time.
GROUPS = 256
LEAST_GROUP_ROWS = 32_768
MOST_GROUP_ROWS = 1_048_576

Result = TypeVar("Result")


@dataclass(frozen=True)
class Group:
    """Chunks ``start`` … ``stop`` − 1, summed as one; ``index`` is its place in the plan."""

    index: int
    start: int
    stop: int
    rows: int


@dataclass(frozen=True)
class Lane:
    """Consecutive groups that begin where reading may begin."""

    groups: tuple[Group, ...]

    @property
    def start(self) -> int:
        """First chunk."""
        return self.groups[0].start

    @property
    def stop(self) -> int:
        """Last chunk + 1."""
        return self.groups[-1].stop


def group_rows(n: int) -> int:
    """Rows that a group should hold, for n rows in all."""
    return min(max(-(-n // GROUPS), LEAST_GROUP_ROWS), MOST_GROUP_ROWS)


def lanes_of(chunks: RowChunks) -> tuple[Lane, ...]:
    """Cut a source into groups and lanes; depends on nothing but its chunks."""
    wanted = group_rows(sum(chunks.rows))
    entries = set(chunks.entries)
    lanes: list[Lane] = []
    groups: list[Group] = []
    start, held, sliced, index = 0, 0, False, 0
    for chunk, rows in enumerate(chunks.rows):
        held += rows
        sliced = sliced or chunk not in entries
        after = chunk + 1
        last = after == len(chunks.rows)
        # A group that ends inside a row group would chain the next lane to this one.
        if last or held >= wanted or (sliced and after in entries):
            groups.append(Group(index, start, after, held))
            start, held, sliced, index = after, 0, False, index + 1
            if last or after in entries:
                lanes.append(Lane(tuple(groups)))
                groups = []
    return tuple(lanes)


@dataclass(frozen=True, eq=False)
class Work:
    """What a scan does to each chunk; travels to the workers.

    Attributes
    ----------
    function
        ``function(rows, argument)``; its results must add by ``+``. It may be called twice for
        a chunk, when a worker is lost: what it writes, it must write whole or not at all.
    argument
        The same for every chunk.
    nulls
        ``DROP`` leaves incomplete rows out first; ``ERROR`` hands all rows on as they are read.
    fingerprints
        Of every chunk's values in the first scan; None to take them now.
    volatile
        Whether the values could differ from one reading to the next.
    """

    function: Callable[[Rows, Any], Any]
    argument: Any
    nulls: NullPolicy
    fingerprints: tuple[int, ...] | None
    volatile: bool


@dataclass(frozen=True, eq=False)
class GroupResult:
    """The sum over one group, and the fingerprints of its chunks."""

    group: Group
    total: Any
    fingerprints: tuple[int, ...]


class Executor(Protocol):
    """What runs the work: threads here, or the workers of a cluster."""

    @property
    def memory(self) -> int:
        """Bytes of rows that may be cached between scans."""
        ...

    @property
    def threads(self) -> int:
        """Groups that are worked on at the same time."""
        ...

    @property
    def mixed(self) -> tuple[str, ...]:
        """In what workers differ from this process; if in anything, the bits may differ too."""
        ...

    def run(
        self, chunks: RowChunks, lanes: Sequence[Lane], work: Work, cache: bool
    ) -> Iterator[GroupResult]:
        """Yield the result of every group, in the order of the groups."""
        ...

    def close(self) -> None:
        """Let go of threads, workers and cached rows."""
        ...


class Scanner:
    """Scans one source of rows, on one executor, and counts the scans.

    Parameters
    ----------
    chunks
        The rows.
    executor
        Threads or a cluster.
    notify
        Told how far each scan is.
    once
        Whether there is one scan only: then rows are neither cached nor fingerprinted.
    cache
        Whether the rows stay in memory after the first scan; None: if they fit.
    scans
        Readings of the whole source before this scanner was made.

    Attributes
    ----------
    scans
        Readings of the whole source so far, whether from files or from cached rows.
    rows
        Source rows in all.
    cached
        Whether the rows stay in memory after the first scan.
    fingerprints
        Of the values of the first scan, which later ones are held to; None before it, and where
        values cannot change.
    """

    def __init__(
        self,
        chunks: RowChunks,
        executor: Executor,
        notify: Notify = silent,
        *,
        once: bool = False,
        cache: bool | None = None,
        scans: int = 0,
    ) -> None:
        self.chunks = chunks
        self.executor = executor
        self.notify = notify
        self.lanes = lanes_of(chunks)
        self.rows = sum(chunks.rows)
        self.scans = scans
        size = self.rows * (len(chunks.columns) * chunks.dtype.itemsize + 8 * chunks.weighted)
        self._volatile = chunks.volatile and not once
        self.cached = self._volatile and size <= executor.memory if cache is None else cache
        self.fingerprints: tuple[int, ...] | None = None

    def resume(self, scans: int, fingerprints: tuple[int, ...] | None) -> None:
        """Go on after so many scans of the same source, held to the values of the first."""
        self.scans, self.fingerprints = scans, fingerprints

    def reduce(
        self,
        function: Callable[[Rows, Any], Result],
        argument: Any,
        stage: Stage,
        nulls: NullPolicy = NullPolicy.ERROR,
    ) -> Result:
        """Apply a function to every chunk and add the results: one scan.

        Parameters
        ----------
        function, argument
            ``function(rows, argument)``; its results add by ``+``.
        stage
            The stage of the run that the scan belongs to, as listeners are told.
        nulls
            ``DROP`` leaves incomplete rows out first; ``ERROR`` hands all rows on as they are.

        Raises
        ------
        InputChangedError
            A chunk is not what the plan or the first scan saw.
        TooFewRowsError
            There is no chunk at all.
        ClusterError
            The workers are gone, or a deadline has passed.
        """
        if not self.lanes:
            raise TooFewRowsError("the input has no rows")
        work = Work(function, argument, nulls, self.fingerprints, self._volatile)
        began = time.perf_counter()
        self.notify(StageStarted(stage, self.rows, "rows"))
        total: Any = None
        done = 0
        prints: list[int] = []
        for result in self.executor.run(self.chunks, self.lanes, work, self.cached):
            total = result.total if total is None else total + result.total
            prints.extend(result.fingerprints)
            done += result.group.rows
            self.notify(StageAdvanced(stage, done))
        self.scans += 1
        if self._volatile and self.fingerprints is None:
            self.fingerprints = tuple(prints)
        seconds = time.perf_counter() - began
        rate = self.rows / max(seconds, 1e-9)
        self.notify(StageFinished(stage, seconds, f"{self.rows:,} rows at {rate:,.0f} rows/s"))
        return total

    def close(self) -> None:
        """Let go of the cached rows and of the executor's threads or workers."""
        self.executor.close()

    def __enter__(self) -> Scanner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
