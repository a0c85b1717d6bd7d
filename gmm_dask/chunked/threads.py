"""Threads of this process as the executor of a scan.

Decoding a lane is sequential, computing on decoded rows is not. So a thread holds a lane only while
it decodes a group of it, and computes while the next thread decodes the next group. Even one file
with one row group keeps every core busy.

The threads that compute add up the sums, too. The thread that asked for the scan sleeps meanwhile:
each time it woke, it would take a core from one of them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from heapq import heappop, heappush
from pathlib import Path

import psutil

from gmm_dask.chunked.groups import Group, GroupResult, Lane
from gmm_dask.chunked.reading import Reader, RowCache, sum_group
from gmm_dask.chunked.rows import RowChunks
from gmm_dask.chunked.scan import Work
from gmm_dask.chunked.subtrees import Subtree, TreeSum
from gmm_dask.errors import ClusterError
from gmm_dask.mixture.threads import available_cores, single_threaded

#: Seconds after which a scan says how far it is.
_PROGRESS = 0.1


def free_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may still take: those free, or fewer if its container limits it.

    Parameters
    ----------
    cgroup
        Directory where control groups, version 2 or 1, are mounted.
    """
    free = int(psutil.virtual_memory().available)
    for directory, limit_file, usage_file, reclaimable_key in (
        (cgroup, "memory.max", "memory.current", "inactive_file"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
         "total_inactive_file"),
    ):  # fmt: skip
        try:
            lines = (directory / "memory.stat").read_text().splitlines()
            reclaimable = int(dict(line.split() for line in lines)[reclaimable_key])
            usage = int((directory / usage_file).read_text()) - reclaimable
            free = min(free, max(int((directory / limit_file).read_text()) - usage, 0))
        except (OSError, ValueError, KeyError):  # not mounted, or "max": no limit
            continue
    return free


class Threads:
    """Runs a scan on threads of this process.

    Parameters
    ----------
    threads
        Number of threads; by default, of the cores that this process may use.
    memory
        Bytes of rows that may be cached between scans; by default, half of the free memory.
    no_progress
        Seconds without a finished group after which a scan fails; None: no limit.
    """

    mixed: tuple[str, ...] = ()

    def __init__(
        self,
        threads: int | None = None,
        memory: int | None = None,
        no_progress: float | None = None,
    ) -> None:
        self._threads = threads
        self._memory = memory
        self.no_progress = no_progress
        self._cache: tuple[str, RowCache] | None = None
        self._pool: ThreadPoolExecutor | None = None

    @cached_property
    def threads(self) -> int:
        """Groups that are computed at the same time."""
        return self._threads or available_cores()

    @property
    def memory(self) -> int:
        """Bytes of rows that may be cached between scans."""
        return free_memory() // 2 if self._memory is None else self._memory

    def run(
        self, chunks: RowChunks, lanes: Sequence[Lane], work: Work, cache: bool
    ) -> Iterator[GroupResult | Subtree]:
        """Yield the result of every group, in the order of the groups; and sums that they lack.

        Raises
        ------
        InputChangedError
            A chunk is not what the plan or the first scan saw.
        ClusterError
            No group was finished for ``no_progress`` seconds.
        """
        if self._cache is None or self._cache[0] != chunks.digest:
            self._cache = chunks.digest, RowCache()
        row_cache = self._cache[1] if cache else None
        groups = sum(len(lane.groups) for lane in lanes)
        with single_threaded():
            if groups == 1 or self.threads == 1:
                for lane in lanes:
                    reader = Reader(chunks, work, lane.stop, row_cache)
                    for group in lane.groups:
                        yield sum_group(reader, group)
                return
            scan = _ThreadScan(chunks, lanes, work, row_cache)
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="gmm-dask-scan")
            try:
                for _ in range(min(self.threads, groups)):
                    self._pool.submit(scan.work)
                yield from scan.results_in_order(self.no_progress)
            finally:
                scan.stop()

    def close(self) -> None:
        """End the threads and free the cached rows."""
        self._cache = None
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


class _OpenLane:
    """A lane that is being read; the thread that holds it decodes its next group."""

    def __init__(self, number: int, lane: Lane, reader: Reader) -> None:
        self.number = number
        self.groups = deque(lane.groups)
        self.reader = reader

    def __lt__(self, other: _OpenLane) -> bool:
        return self.number < other.number


class _ThreadScan:
    """One scan: its lanes, the sums so far, and the first failure.

    ``free`` is a heap of the lanes that no thread holds and that have groups left, ``unclaimed``
    the number of all groups that are left. ``results`` have everything but their sums, which are
    added to a tree as they come.
    """

    def __init__(
        self,
        chunks: RowChunks,
        lanes: Sequence[Lane],
        work: Work,
        cache: RowCache | None,
    ) -> None:
        self.free = [
            _OpenLane(number, lane, Reader(chunks, work, lane.stop, cache))
            for number, lane in enumerate(lanes)
        ]
        self.groups = self.unclaimed = sum(len(lane.groups) for lane in lanes)
        self.finished = 0
        self.results: dict[int, GroupResult] = {}
        self.failure: BaseException | None = None
        self.stopped = False
        self.changing = threading.Lock()
        self.freed = threading.Condition(self.changing)
        self.ended = threading.Condition(self.changing)
        self.tree = TreeSum()

    def work(self) -> None:
        """Compute groups until none are left, on one thread of the pool."""
        with single_threaded():
            while (claim := self._claim_group()) is not None:
                lane, group = claim
                try:
                    result = sum_group(lane.reader, group, partial(self._release, lane))
                    self.tree.add(group.index, 1, result.total)
                    result = replace(result, total=None, span=0)
                except BaseException as error:  # reported by the thread that waits
                    with self.changing:
                        self.failure = self.failure or error
                        self.ended.notify_all()
                    self.stop()
                    return
                with self.changing:
                    self.results[group.index] = result
                    self.finished += 1
                    if self.finished == self.groups:
                        self.ended.notify_all()

    def results_in_order(self, no_progress: float | None) -> Iterator[GroupResult | Subtree]:
        """Yield the results that have come, time and again, in the order of the groups."""
        index, finished, since = 0, 0, time.monotonic()
        while index < self.groups:
            with self.changing:
                self.ended.wait_for(self._is_over, _PROGRESS)
                if self.failure is not None:
                    raise self.failure
                if self.finished > finished:
                    finished, since = self.finished, time.monotonic()
            if no_progress is not None and time.monotonic() - since > no_progress:
                raise ClusterError(
                    f"no group of rows was finished for {no_progress:g} seconds; is the "
                    "storage reachable? deadlines.no_progress sets the limit"
                )
            while (result := self.results.pop(index, None)) is not None:
                index += 1
                yield result
        yield from self.tree.subtrees

    def _is_over(self) -> bool:
        return self.finished == self.groups or self.failure is not None

    def stop(self) -> None:
        """Let each thread end after the group that it computes."""
        with self.changing:
            self.stopped = True
            self.freed.notify_all()

    def _claim_group(self) -> tuple[_OpenLane, Group] | None:
        """Wait for a lane that no thread holds, and take its next group; None at the end."""
        with self.changing:
            while self.unclaimed and not self.stopped:
                if self.free:
                    lane = heappop(self.free)
                    self.unclaimed -= 1
                    return lane, lane.groups.popleft()
                self.freed.wait()
            return None

    def _release(self, lane: _OpenLane) -> None:
        with self.changing:
            if lane.groups:
                heappush(self.free, lane)
            self.freed.notify_all()
