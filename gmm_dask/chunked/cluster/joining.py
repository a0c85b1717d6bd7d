"""Decisions about sums that stay on the workers: which are joined, where, and what a loss means.

The tasks of a scan, numbered in their order, make blocks of `FAN`, these make larger blocks of
`FAN`, and so on up to one block of all tasks. As soon as the sums of a block's parts are there, a
worker that has some of them fetches the others from its peers and joins them. The client is given
the last sums alone. As everywhere the decisions need no cluster; `ClusterScan` carries them out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

#: Sums that one join takes: a join costs the scheduler as much as a task, so that few are made.
FAN = 16


@dataclass(frozen=True, eq=False)
class PartialSums:
    """The sums of consecutive tasks, resident on a worker.

    Attributes
    ----------
    level
        How many times sums were joined: a block of this level has up to ``FAN ** level`` tasks.
    start, stop
        First task, and last task + 1.
    address
        The worker.
    future
        Of the sums; the worker keeps them for as long as this is there.
    parts
        What they were joined of, as long as they were not joined themselves: if the worker is lost,
        most of these are still on others.
    """

    level: int
    start: int
    stop: int
    address: str
    future: Any
    parts: tuple[PartialSums, ...] = ()

    def left_without(self, address: str) -> Iterator[PartialSums]:
        """Yield what is left of these sums when a worker is lost."""
        if self.address != address:
            parts = tuple(part for part in self.parts if part.address != address)
            yield replace(self, parts=parts)
            return
        for part in self.parts:
            yield from part.left_without(address)


@dataclass(frozen=True, eq=False)
class Join:
    """Sums of one block that a worker joins.

    Attributes
    ----------
    level, index
        Which block: the index counts the blocks of its level.
    """

    level: int
    index: int
    address: str
    parts: tuple[PartialSums, ...]


class Joining:
    """The sums of a scan that stay on the workers.

    Parameters
    ----------
    tasks
        Number of tasks.

    Attributes
    ----------
    under_way
        The joins that workers have been asked for.
    """

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._top = 0
        while FAN**self._top < tasks:
            self._top += 1
        self._delivered: set[int] = set()
        # By level and index of a block that is complete: its sums, None if the client has them.
        self._blocks: dict[tuple[int, int], PartialSums | None] = {}
        self._ready: dict[tuple[int, int], tuple[PartialSums, ...]] = {}
        self.under_way: set[Join] = set()

    @property
    def done(self) -> bool:
        """Whether the sums of all tasks are joined, or with the client."""
        return (self._top, 0) in self._blocks

    @property
    def last(self) -> PartialSums | None:
        """The sums that the client lacks once all are joined; None if it has them all."""
        return self._blocks[self._top, 0]

    @property
    def futures(self) -> list[Any]:
        """Of all sums that are resident."""
        held = [sums for sums in self._blocks.values() if sums is not None]
        return [part.future for sums in held for part in (sums, *sums.parts)]

    @property
    def ready(self) -> bool:
        """Whether something can be joined."""
        return bool(self._ready)

    def deliver(self, task: int) -> None:
        """Note that the client itself has the sums of a task."""
        self._delivered.add(task)
        self._complete(0, task, None)

    def keep(self, task: int, address: str, future: Any) -> None:
        """Note that the sums of a task stay on a worker."""
        self._complete(0, task, PartialSums(0, task, task + 1, address, future))

    def next_join(self, addresses: Collection[str]) -> Join | None:
        """Take the next join, to be made on one of the workers at these addresses; None for none.

        It is made where most of its parts are, else where the fewest joins are under way.
        """
        if not (self.ready and addresses):
            return None
        (level, index), parts = self._ready.popitem()
        parts_at = Counter(part.address for part in parts)
        joins_at = Counter(join.address for join in self.under_way)
        holders = [address for address in parts_at if address in addresses]
        address = max(
            holders or addresses, key=lambda address: (parts_at[address], -joins_at[address])
        )
        join = Join(level, index, address, parts)
        self.under_way.add(join)
        return join

    def add_joined(self, join: Join, future: Any) -> None:
        """Note that a join is made; what its parts were joined of is no longer needed."""
        self.under_way.discard(join)
        parts = tuple(replace(part, parts=()) for part in join.parts)
        start, stop = parts[0].start, parts[-1].stop
        for part in join.parts:
            for level in range(part.level, join.level):
                del self._blocks[level, part.start // FAN**level]
        sums = PartialSums(join.level, start, stop, join.address, future, parts)
        self._complete(join.level, join.index, sums)

    def lose(self, address: str) -> list[int]:
        """Forget what was on a lost worker; return the tasks that must be computed again for it.

        Joins that it made or took part in are no longer under way.
        """
        held = {id(sums): sums for sums in self._blocks.values() if sums is not None}.values()
        joins_there = any(join.address == address for join in self.under_way)
        if not joins_there and not any(_is_on(sums, address) for sums in held):
            return []
        before = {task for sums in held for task in range(sums.start, sums.stop)}
        left = [rest for sums in held for rest in sums.left_without(address)]
        covered = {task for rest in left for task in range(rest.start, rest.stop)}
        self._ready.clear()
        self.under_way.clear()
        self._blocks = {(0, task): None for task in self._delivered}
        for rest in left:
            self._blocks[rest.level, rest.start // FAN**rest.level] = rest
        for level, index in list(self._blocks):
            self._climb(level, index)
        return sorted(before - covered - self._delivered)

    def _complete(self, level: int, index: int, sums: PartialSums | None) -> None:
        self._blocks[level, index] = sums
        self._climb(level, index)

    def _climb(self, level: int, index: int) -> None:
        """Look whether the block above a complete one is complete too, or can be joined."""
        above = level + 1, index // FAN
        if level == self._top or above in self._blocks or above in self._ready:
            return
        children = self._children(*above)
        if any(child not in self._blocks for child in children):
            return
        parts = tuple(sums for child in children if (sums := self._blocks[child]) is not None)
        if len(parts) > 1:
            self._ready[above] = parts
        else:
            self._complete(*above, parts[0] if parts else None)

    def _children(self, level: int, index: int) -> list[tuple[int, int]]:
        """The blocks of which a block is made."""
        blocks = -(-self._tasks // FAN ** (level - 1))
        return [(level - 1, child) for child in range(index * FAN, min((index + 1) * FAN, blocks))]


def _is_on(sums: PartialSums, address: str) -> bool:
    return sums.address == address or any(part.address == address for part in sums.parts)
