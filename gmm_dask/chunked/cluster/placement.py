"""Which worker gets which groups, what the loss of a worker means, and the order of results.

Decisions only, which need no cluster; `ClusterScan` carries them out.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gmm_dask.chunked.scan import Group, GroupResult, Lane

#: Tasks per worker thread and scan: enough to even out the load, few enough to cost nothing.
TASKS_PER_THREAD = 4
#: Tasks that a worker holds per thread: the one at work and the one that waits.
DEPTH = 2
#: Most rows of a task, so that progress is seen; a lane is not cut for it.
MOST_TASK_ROWS = 8 * 1_048_576
#: Workers that may die over the same chunk.
MOST_STRIKES = 3


@dataclass(frozen=True)
class Task:
    """Consecutive groups, or a single chunk of a group, for one worker to work through.

    Attributes
    ----------
    groups
        What is read and summed.
    strikes
        Workers that died while they held it.
    """

    groups: tuple[Group, ...]
    strikes: int = 0

    @property
    def start(self) -> int:
        """First chunk."""
        return self.groups[0].start

    @property
    def stop(self) -> int:
        """Last chunk + 1."""
        return self.groups[-1].stop


def cut_tasks(lanes: Sequence[Lane], threads: int, most_groups: int) -> list[Task]:
    """Cut the plan into tasks for a number of threads.

    Lanes stay whole, because a lane entered in its middle is decoded from its beginning. They are
    cut only where they are fewer than the threads, so that every thread has work.

    Parameters
    ----------
    most_groups
        Most groups of a task, so that its results stay small.
    """
    rows = sum(group.rows for lane in lanes for group in lane.groups)
    wanted = min(-(-rows // (threads * TASKS_PER_THREAD)), MOST_TASK_ROWS)
    parts = -(-threads // max(len(lanes), 1))  # per lane
    tasks: list[Task] = []
    held: list[Group] = []
    for lane in lanes:
        size = -(-len(lane.groups) // parts)
        for first in range(0, len(lane.groups), size):
            piece = lane.groups[first : first + size]
            full = sum(group.rows for group in (*held, *piece)) > wanted
            if held and (parts > 1 or full or len(held) + len(piece) > most_groups):
                tasks.append(Task(tuple(held)))
                held = []
            held.extend(piece)
    return [*tasks, Task(tuple(held))] if held else tasks


class Placement:
    """The tasks of a scan: which worker is to run each, which are done, which are suspect.

    Parameters
    ----------
    tasks
        In the order of the groups.
    owners
        The worker that ran the task beginning at a chunk in the last scan: it may hold the rows.
    threads
        Of each worker.
    """

    def __init__(
        self, tasks: Sequence[Task], owners: Mapping[int, str], threads: Mapping[str, int]
    ) -> None:
        self.groups = {group.index: group for task in tasks for group in task.groups}
        self.owners: dict[int, str] = {}
        self.queues: dict[str, deque[Task]] = {address: deque() for address in threads}
        self.again: deque[Task] = deque()
        self.suspects: deque[Task] = deque()
        self.turn = 0
        self._parts: dict[int, list[GroupResult]] = {}
        self._ahead = self._window(tasks, sum(threads.values()))
        fair = {
            address: -(-len(tasks) * count // sum(threads.values()))
            for address, count in threads.items()
        }
        for task in tasks:
            address = owners.get(task.start, "")
            if address not in fair or len(self.queues[address]) >= fair[address]:
                address = min(fair, key=lambda worker: len(self.queues[worker]) / threads[worker])
            self.queues[address].append(task)

    @staticmethod
    def _window(tasks: Sequence[Task], threads: int) -> int:
        """Count the groups beyond the next in turn that may be begun: it bounds what waits here."""
        longest = max((len(task.groups) for task in tasks), default=1)
        return 2 * DEPTH * max(threads, 1) * longest

    @property
    def done(self) -> bool:
        """Whether every result has been handed out."""
        return self.turn == len(self.groups)

    def next_for(self, address: str, threads: int, held: Sequence[Task]) -> Task | None:
        """Return what a worker should be given now, or None for nothing.

        A suspect goes to a worker that has nothing else, and nothing else goes there, so that
        if that worker dies there is no doubt why.
        """
        if self.suspects:
            return None if held else self.suspects.popleft()
        if len(held) >= DEPTH * threads or any(task.strikes > 1 for task in held):
            return None
        if self.again:
            return self.again.popleft()
        queue = self.queues.setdefault(address, deque())
        if self._near(queue):
            return queue.popleft()
        # Rows that another worker may hold are read again: only so that no thread idles.
        if len(held) >= threads:
            return None
        longest = max(filter(self._near, self.queues.values()), key=len, default=None)
        return None if longest is None else longest.popleft()

    def _near(self, queue: deque[Task]) -> bool:
        return bool(queue) and queue[0].groups[0].index < self.turn + self._ahead

    def lost(self, held: Sequence[Task], died: bool) -> Task | None:
        """Take back what a lost worker held; return the chunk that has killed too many, if any.

        A task that one worker died over goes to another as it is. One that two died over is tried
        chunk by chunk, alone.
        """
        for task in held:
            struck = replace(task, strikes=task.strikes + died)
            if struck.strikes < 2:
                self.again.append(struck)
            elif struck.strikes < MOST_STRIKES:
                self.suspects.extend(_chunks(struck))
            else:
                return struck
        return None

    def first_struck(self) -> Task | None:
        """Return the first task, in the order of the groups, that a worker died over."""
        struck = [task for task in (*self.again, *self.suspects) if task.strikes]
        return min(struck, key=lambda task: task.start, default=None)

    def finished(self, task: Task, address: str, results: Sequence[GroupResult]) -> None:
        """Take the results of a task."""
        self.owners[task.start] = address
        for result in results:
            self._parts.setdefault(result.group.index, []).append(result)

    def in_order(self) -> Iterator[GroupResult]:
        """Hand out the results whose turn it is."""
        while (parts := self._parts.get(self.turn)) is not None:
            group = self.groups[self.turn]
            if sum(part.group.stop - part.group.start for part in parts) < group.stop - group.start:
                return
            del self._parts[self.turn]
            self.turn += 1
            yield _join(group, parts)


def _chunks(task: Task) -> Iterator[Task]:
    """Split a task into its chunks; each keeps the number of rows of its group."""
    for group in task.groups:
        for chunk in range(group.start, group.stop):
            yield Task((replace(group, start=chunk, stop=chunk + 1),), task.strikes)


def _join(group: Group, parts: list[GroupResult]) -> GroupResult:
    """Add chunks that were summed apart, in the order in which a worker would have."""
    parts.sort(key=lambda part: part.group.start)
    total: Any = parts[0].total
    for part in parts[1:]:
        total = total + part.total
    fingerprints = itertools.chain.from_iterable(part.fingerprints for part in parts)
    return GroupResult(group, total, tuple(fingerprints))
