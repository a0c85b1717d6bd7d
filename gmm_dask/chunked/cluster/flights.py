"""Requests to the workers of a cluster that are not answered yet, and where the answers arrive.

Dask's client has a loop on a thread of its own. There a request is awaited; its answer is put in
the inbox, from which the thread of the scan takes it.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dask

from gmm_dask.chunked.cluster.joining import Join
from gmm_dask.chunked.cluster.placement import Task
from gmm_dask.chunked.cluster.roster import Worker
from gmm_dask.chunked.cluster.worker import ResidentSums

#: Most requests of one message: with more the first workers would wait for the last.
MOST_TOGETHER = 256


@dataclass(frozen=True, eq=False)
class Flight:
    """A request that a worker has not answered yet; without a task or a join, to be greeted.

    Attributes
    ----------
    future
        Future of the answer.
    task
        Groups that the worker was asked to sum.
    join
        Sums that it was asked to join.
    last
        Whether the last sums, which it has, were asked of it.
    """

    worker: Worker
    future: Any
    task: Task | None = None
    join: Join | None = None
    last: bool = False

    @property
    def greeting(self) -> bool:
        """Whether the worker was asked to `greet`."""
        return self.task is None and self.join is None and not self.last


@dataclass(frozen=True, eq=False)
class Answer:
    """What came back to a request: a value, None for sums that stay on the worker, or an error."""

    ticket: int
    value: Any = None
    error: BaseException | None = None


class Flights:
    """The requests of one scan that are under way.

    Parameters
    ----------
    client
        A synchronous `distributed.Client`.

    Attributes
    ----------
    under_way
        By ticket.
    inbox
        Answers, and the scheduler's lists of workers.
    over
        Whether the scan is closed.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.under_way: dict[int, Flight] = {}
        self.inbox: queue.SimpleQueue[Answer | dict[str, Any]] = queue.SimpleQueue()
        self.over = False
        self._tickets = itertools.count()

    def submit(self, worker: Worker, function: Any, *arguments: Any, priority: int = 0) -> Any:
        """Return the future of a function's value on one worker, and on no other.

        If the worker is lost, the scan knows what it was asked for, and asks others.
        """
        return self.client.submit(
            function, *arguments, workers=[worker.address], pure=False, priority=priority
        )

    def submit_all(
        self,
        function: Any,
        requests: Sequence[tuple[Worker, tuple[Any, ...]]],
        priority: int = 0,
    ) -> list[Any]:
        """Return the futures of a function's values, each on one worker, and on no other.

        Together they cost the scheduler and the client half of what they cost one by one
        (docs/scale.md). Futures among the arguments must not lie in a list.

        Parameters
        ----------
        requests
            Worker and arguments of each.
        """
        futures: dict[int, Any] = {}
        alike: defaultdict[int, list[int]] = defaultdict(list)
        for number, (_, arguments) in enumerate(requests):
            alike[len(arguments)].append(number)
        for numbers in alike.values():
            for start in range(0, len(numbers), MOST_TOGETHER):
                some = numbers[start : start + MOST_TOGETHER]
                keys = [f"{function.__name__}-{uuid.uuid4()}" for _ in some]
                addresses = [[requests[number][0].address] for number in some]
                # A method of a dict, so that the scheduler needs none of our code.
                with dask.annotate(workers=dict(zip(keys, addresses, strict=True)).get):
                    columns = zip(*(requests[number][1] for number in some), strict=True)
                    values = self.client.map(
                        function, *columns, key=keys, pure=False, priority=priority
                    )
                futures.update(zip(some, values, strict=True))
        return [futures[number] for number in range(len(requests))]

    def follow(self, flight: Flight) -> None:
        """Have the answer to a request put in the inbox."""
        ticket = next(self._tickets)
        self.under_way[ticket] = flight
        self.client.loop.add_callback(self._fetch, ticket, flight)

    def follow_again(self) -> None:
        """Await all answers once more.

        Dask fetches results in batches, and a worker that is stopped holds up its whole batch.
        """
        for ticket, flight in self.under_way.items():
            self.client.loop.add_callback(self._fetch, ticket, flight)

    def withdraw(self, withdrawn: Callable[[Flight], bool]) -> list[Flight]:
        """Release the requests for which a function is true; return them."""
        tickets = [ticket for ticket, flight in self.under_way.items() if withdrawn(flight)]
        flights = [self.under_way.pop(ticket) for ticket in tickets]
        for flight in flights:
            if not flight.last:  # the sums may be asked for once more
                flight.future.release()
        return flights

    async def _fetch(self, ticket: int, flight: Flight) -> None:
        future = flight.future
        try:
            await future.exception(asynchronous=True)
            resident = future.status == "finished" and future.type is ResidentSums
            if resident and not flight.last:
                value = None
            else:
                value = await self.client.gather(future, asynchronous=True)
        except BaseException as error:  # raised where the scan waits
            self.inbox.put(Answer(ticket, error=error))
        else:
            self.inbox.put(Answer(ticket, value))

    def watch(self, pause: Callable[[], float], patience: float) -> None:
        """Have the scheduler's list of workers put in the inbox again and again.

        Parameters
        ----------
        pause
            Seconds until the next one.
        patience
            Seconds that an answer may take.
        """
        self.client.loop.add_callback(self._watch, pause, patience)

    async def _watch(self, pause: Callable[[], float], patience: float) -> None:
        while not self.over and self.client.status == "running":
            await asyncio.sleep(pause())
            try:
                answer = self.client.scheduler.identity(n_workers=-1)
                info = await asyncio.wait_for(answer, patience)
            except (OSError, AttributeError):
                continue
            self.inbox.put(info)
