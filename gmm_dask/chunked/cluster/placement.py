"""Decisions of a scan on a cluster: which worker gets which groups, and what a loss means.

They need no cluster; `ClusterScan` carries them out.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapreplace
from typing import Any

from gmm_dask.chunked.groups import Group, GroupResult, Lane
from gmm_dask.chunked.subtrees import Subtree

#: Most tasks per worker thread and scan, whatever the number of groups: few enough to cost nothing.
MOST_TASKS_PER_THREAD = 16
#: Most pieces of a lane, if every thread has work with so many: each decodes the lane from its
#: beginning.
MOST_LANE_PIECES = 4
#: Tasks that a worker holds per thread: one that runs and one that waits.
DEPTH = 2
#: Most rows of a task, so that progress is seen; a lane of more rows is still one task.
MOST_TASK_ROWS = 8 * 1_048_576
#: Workers that die over the same chunk before the scan fails.
MOST_STRIKES = 3


@dataclass(frozen=True)
class Task:
    """Consecutive groups, or a single chunk of a group, for one worker to work through.

    Attributes
    ----------
    groups
        The groups to read and sum.
    strikes
        Number of workers that died while they held the task.
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


def cut_tasks(lanes: Sequence[Lane], threads: int) -> list[Task]:
    """Cut lanes into tasks for a number of threads: long ones first, short ones at the end.

    Each task takes what half a thread's share of the groups left would be, so that all threads end
    together; and its groups are a subtree where lanes allow, so that it sends back one sum.

    A lane that is entered in its middle is decoded from its beginning. So lanes are cut only where
    too few are left for all threads, and into few pieces.

    Parameters
    ----------
    threads
        Threads of all workers.
    """
    groups = [group for lane in lanes for group in lane.groups]
    rows = sum(group.rows for group in groups)
    most = max(MOST_TASK_ROWS * len(groups) // max(rows, 1), 1)
    least = -(-len(groups) // (threads * MOST_TASKS_PER_THREAD))
    most_pieces = max(MOST_LANE_PIECES, -(-threads // max(len(lanes), 1)))
    tasks: list[Task] = []
    start = 0  # of the groups of the next task
    for lane in lanes:
        size = _power(min(max((len(groups) - start) // (2 * threads), least), most))
        share = max((len(groups) - lane.groups[0].index) // threads, 1)
        for stop in _cut_lane(lane, min(-(-len(lane.groups) // share), most_pieces)):
            if stop <= lane.groups[-1].index or stop == len(groups) or stop // size > start // size:
                tasks.append(Task(tuple(groups[start:stop])))
                start = stop
    return tasks


def _cut_lane(lane: Lane, pieces: int) -> list[int]:
    """Return the numbers of the groups before which the pieces of a lane end."""
    first, count = lane.groups[0].index, len(lane.groups)
    return [first + count * (piece + 1) // pieces for piece in range(pieces)]


def _power(number: int) -> int:
    """Return the largest power of two up to a number."""
    return 1 << (number.bit_length() - 1)


class Placement:
    """The tasks of a scan: which worker runs each, which are done, and which are suspect.

    Parameters
    ----------
    tasks
        All tasks, in the order of their groups.
    owners
        By first chunk of a task, the worker that ran it in the last scan: it may cache the rows.
    threads
        Number of threads of each worker, by address.

    Attributes
    ----------
    tasks
        All tasks, in the order of their groups.
    groups
        All groups by index.
    owners
        By first chunk of a task, the worker that ran it in this scan.
    queues
        Tasks that wait for each worker, by address.
    again
        Tasks of lost workers, which any worker may take.
    suspects
        Chunks over which two workers died; each is tried alone.
    turn
        Index of the group whose result is yielded next.
    held_back
        Whether a worker got no task because its next one is too far from the turn.
    """

    def __init__(
        self, tasks: Sequence[Task], owners: Mapping[int, str], threads: Mapping[str, int]
    ) -> None:
        self.tasks = tuple(tasks)
        self.groups = {group.index: group for task in tasks for group in task.groups}
        self.owners: dict[int, str] = {}
        self.queues: dict[str, deque[Task]] = {address: deque() for address in threads}
        self.again: deque[Task] = deque()
        self.suspects: deque[Task] = deque()
        self.turn = 0
        self.held_back = False
        self._numbers = {
            group.index: number for number, task in enumerate(tasks) for group in task.groups
        }
        self._lacking = [len(task.groups) for task in tasks]  # groups that add_results lacks
        self._parts: dict[int, list[GroupResult]] = {}
        self._results: dict[int, GroupResult] = {}
        self._late: list[Subtree] = []
        self._ahead = self._window(tasks, sum(threads.values()))
        shares = {
            address: -(-len(tasks) * count // sum(threads.values()))
            for address, count in threads.items()
        }
        # The least busy worker first; an entry may say less than its worker holds by now.
        loads = [(0.0, number, address) for number, address in enumerate(threads)]
        for task in tasks:
            address = owners.get(task.start, "")
            if address not in shares or len(self.queues[address]) >= shares[address]:
                address = self._least_busy(loads, threads)
            self.queues[address].append(task)
        self._waiting = len(tasks)  # in all queues

    def _least_busy(self, loads: list[tuple[float, int, str]], threads: Mapping[str, int]) -> str:
        """Return the first worker that has the fewest tasks per thread; ``loads`` is a heap."""
        while True:
            said, number, address = loads[0]
            load = len(self.queues[address]) / threads[address]
            if load == said:
                return address
            heapreplace(loads, (load, number, address))

    @staticmethod
    def _window(tasks: Sequence[Task], threads: int) -> int:
        """Count the groups beyond the turn that may be begun: it bounds the results that wait."""
        longest = max((len(task.groups) for task in tasks), default=1)
        return 2 * DEPTH * max(threads, 1) * longest

    @property
    def done(self) -> bool:
        """Whether every result has been yielded."""
        return self.turn == len(self.groups) and not self._late

    def next_for(self, address: str, threads: int, held: Sequence[Task]) -> Task | None:
        """Take the task that a worker should be given now; None if it should wait.

        A suspect is given to a worker that holds nothing else, and nothing else is given to that
        worker. So if it dies, the suspect killed it.

        Parameters
        ----------
        threads
            Number of threads of the worker.
        held
            Tasks that it holds.
        """
        if self.suspects:
            return None if held else self.suspects.popleft()
        if len(held) >= DEPTH * threads or any(task.strikes > 1 for task in held):
            return None
        if self.again:
            return self.again.popleft()
        queue = self.queues.setdefault(address, deque())
        if not self._near(queue):
            self.held_back |= bool(queue)
            # Another worker may cache the rows of its tasks: take one only if a thread would idle.
            if len(held) >= threads or not self._waiting:
                return None
            longest = max(filter(self._near, self.queues.values()), key=len, default=None)
            if longest is None:
                self.held_back = True
                return None
            queue = longest
        self._waiting -= 1
        return queue.popleft()

    def _near(self, queue: deque[Task]) -> bool:
        """Whether the first task of a queue is near enough to the turn to be begun."""
        return bool(queue) and queue[0].groups[0].index < self.turn + self._ahead

    def take_back(self, held: Sequence[Task], died: bool) -> Task | None:
        """Take back the tasks of a lost worker; return a chunk that killed too many, if any.

        A task over which one worker died goes to another as it is. A task over which two died is
        tried chunk by chunk, each alone.

        Parameters
        ----------
        held
            Tasks that the worker held.
        died
            Whether the worker died; otherwise it has been silent for too long.
        """
        for task in held:
            struck = replace(task, strikes=task.strikes + died)
            if struck.strikes < 2:
                self.again.append(struck)
            elif struck.strikes < MOST_STRIKES:
                self.suspects.extend(_split(struck))
            else:
                return struck
        return None

    def first_struck(self) -> Task | None:
        """Return the first task, in the order of the groups, over which a worker died."""
        struck = [task for task in (*self.again, *self.suspects) if task.strikes]
        return min(struck, key=lambda task: task.start, default=None)

    def number(self, task: Task) -> int:
        """Return the number of the task in `tasks` that a task is, or is a chunk of."""
        return self._numbers[task.groups[0].index]

    def repeat(self, numbers: Sequence[int]) -> None:
        """Let tasks be computed again by any worker: their sums were lost with another."""
        self.again.extend(self.tasks[number] for number in numbers)

    def add_results(self, task: Task, address: str, results: Sequence[GroupResult]) -> bool:
        """Add the results of a task, computed by the worker at an address.

        Return whether those of all chunks are there, if the task was tried chunk by chunk.
        """
        self.owners[task.start] = address
        number = self.number(task)
        for result in results:
            group = self.groups[result.group.index]
            parts = self._parts.setdefault(group.index, [])
            parts.append(result)
            if (
                sum(part.group.stop - part.group.start for part in parts)
                == group.stop - group.start
            ):
                del self._parts[group.index]
                self._lacking[number] -= 1
                self._receive(parts[0] if len(parts) == 1 else _join(group, parts))
        return not self._lacking[number]

    def add_resident(self, task: Task, address: str) -> None:
        """Note that a task is done, and that its sums stay on the worker at an address."""
        self.owners[task.start] = address
        for group in task.groups:
            self._receive(GroupResult(group, None, (), span=0))

    def _receive(self, result: GroupResult) -> None:
        index = result.group.index
        if index >= self.turn and index not in self._results:
            self._results[index] = result
        elif result.span:  # computed again, since a worker was lost with the sum
            self._late.append(Subtree(index, result.span, result.total))

    def results_in_order(self) -> Iterator[GroupResult | Subtree]:
        """Yield the results whose turn has come, and sums whose turn is over."""
        while self._late:
            yield self._late.pop()
        while (result := self._results.pop(self.turn, None)) is not None:
            self.turn += 1
            yield result


def _split(task: Task) -> Iterator[Task]:
    """Split a task into its chunks; ``rows`` of each stays that of the whole group."""
    for group in task.groups:
        for chunk in range(group.start, group.stop):
            yield Task((replace(group, start=chunk, stop=chunk + 1),), task.strikes)


def _join(group: Group, parts: list[GroupResult]) -> GroupResult:
    """Add the sums of chunks in the order in which one worker would have added them."""
    parts.sort(key=lambda part: part.group.start)
    total: Any = parts[0].total
    for part in parts[1:]:
        total = total + part.total
    fingerprints = itertools.chain.from_iterable(part.fingerprints for part in parts)
    digests = itertools.chain.from_iterable(part.digests for part in parts)
    return GroupResult(group, total, tuple(fingerprints), tuple(digests))
