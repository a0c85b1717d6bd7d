"""A scan on a cluster: what is under way, and what follows from news or from silence.

The client places the work itself, each task on one worker, and watches the scheduler's list of
workers. So it knows what a lost worker held, gives that to another, and never waits for ever.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gmm_dask.chunked.array import ArrayChunks
from gmm_dask.chunked.cluster.parcel import Parcel
from gmm_dask.chunked.cluster.placement import Placement, Task, cut_tasks
from gmm_dask.chunked.cluster.roster import LOOK, Roster, Trouble, Worker, trouble_of
from gmm_dask.chunked.cluster.worker import Facts, greet, open_source, open_work, sum_groups
from gmm_dask.chunked.rows import RowChunks
from gmm_dask.chunked.scan import GroupResult, Lane
from gmm_dask.errors import ClusterError

logger = logging.getLogger("gmm_dask")

#: Bytes of results that a task may send back, taking a result to be as large as its argument.
RESULT_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class Flight:
    """What a worker was asked for; the task is None while it is greeted."""

    task: Task | None
    worker: Worker
    future: Any


class ClusterScan:
    """A scan on a cluster: sends the work out, and hands the results out in order.

    Parameters
    ----------
    source, work
        What the workers need: the recipe of the rows, and the `Work`.
    """

    def __init__(
        self,
        roster: Roster,
        chunks: RowChunks,
        lanes: Sequence[Lane],
        source: Parcel,
        work: Parcel,
        cache: bool,
    ) -> None:
        self.roster = roster
        self.client = roster.client
        self.deadlines = roster.deadlines
        self.chunks = chunks
        self.lanes = lanes
        self.source = source
        self.work = work
        self.cache = cache
        self.placement: Placement | None = None
        self.flights: dict[int, Flight] = {}
        self.works: dict[Worker, Any] = {}
        self.lost: set[Worker] = set()
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.over = False
        self.answered = self.landed = self.heard = time.monotonic()
        self._tickets = itertools.count()

    @property
    def owners(self) -> dict[int, str]:
        """Which worker ran the task that begins at a chunk."""
        return {} if self.placement is None else self.placement.owners

    def results(self, owners: dict[int, str]) -> Iterator[GroupResult]:
        """Yield the result of every group, in the order of the groups."""
        self._greet_new()
        self.client.loop.add_callback(self._watch)
        while not self._usable() or any(flight.task is None for flight in self.flights.values()):
            self._wait()
        threads = {worker.address: worker.threads for worker in self._usable()}
        most_groups = max(RESULT_BYTES // self.work.size, 1)
        tasks = cut_tasks(self.lanes, sum(threads.values()), most_groups)
        self.placement = Placement(tasks, owners, threads)
        while not self.placement.done:
            self._dispatch(self.placement)
            self._wait()
            before = time.monotonic()
            yield from self.placement.in_order()
            # The time that the caller takes over a result is not the workers' delay.
            self.landed += time.monotonic() - before

    def close(self) -> None:
        """Let go of everything that is still under way."""
        self.over = True
        for flight in self.flights.values():
            flight.future.release()
            if flight.task is None:
                flight.worker.source = None  # the next scan greets it again
        self.flights.clear()
        self.works.clear()

    def _usable(self) -> list[Worker]:
        return [
            worker
            for worker in self.roster.workers.values()
            if worker.admitted and worker.status == "running" and worker not in self.lost
        ]

    def _greet_new(self) -> None:
        for worker in self.roster.workers.values():
            if worker.source is None and worker not in self.lost:
                worker.source = self._submit(
                    worker, open_source, self.source.for_worker(worker.address), worker.budget
                )
                self._follow(None, worker, self._submit(worker, greet, worker.source))

    def _dispatch(self, placement: Placement) -> None:
        held: dict[Worker, list[Task]] = {worker: [] for worker in self._usable()}
        for flight in self.flights.values():
            if flight.task is not None and flight.worker in held:
                held[flight.worker].append(flight.task)
        for worker, tasks in held.items():
            while (task := placement.next_for(worker.address, worker.threads, tasks)) is not None:
                if worker not in self.works:
                    self.works[worker] = self._submit(
                        worker, open_work, self.work.for_worker(worker.address)
                    )
                work = self.works[worker]
                needs = self._persisted(task)
                future = self._submit(
                    worker, sum_groups, worker.source, work, self.cache, task.groups, needs
                )
                self._follow(task, worker, future)
                tasks.append(task)

    def _persisted(self, task: Task) -> list[Any]:
        """Futures of what the task's blocks need: Dask brings it, or computes it again if lost."""
        if not isinstance(self.chunks, ArrayChunks):
            return []
        needs = self.chunks.needs(task.start, task.stop)
        return [self.chunks.persisted[name] for name in needs]

    def _submit(self, worker: Worker, function: Any, *arguments: Any) -> Any:
        # On this worker and no other: if it is lost, its tasks are known and given to others.
        return self.client.submit(function, *arguments, workers=[worker.address], pure=False)

    def _follow(self, task: Task | None, worker: Worker, future: Any) -> None:
        ticket = next(self._tickets)
        self.flights[ticket] = Flight(task, worker, future)
        self.client.loop.add_callback(self._fetch, ticket, future)

    async def _fetch(self, ticket: int, future: Any) -> None:
        """On the client's loop: wait for a result and post it."""
        try:
            value = await self.client.gather(future, asynchronous=True)
        except BaseException as error:  # raised where the scan waits
            self.inbox.put((ticket, None, error))
        else:
            self.inbox.put((ticket, value, None))

    async def _watch(self) -> None:
        """On the client's loop: post the scheduler's list of workers, again and again."""
        while not self.over and self.client.status == "running":
            await asyncio.sleep(LOOK)
            try:
                answer = self.client.scheduler.identity(n_workers=-1)
                info = await asyncio.wait_for(answer, self.deadlines.worker_lost)
            except (OSError, AttributeError):
                continue
            self.inbox.put(info)

    def _wait(self) -> None:
        """Read the inbox, and check that no deadline has passed."""
        try:
            message = self.inbox.get(timeout=LOOK)
            while True:
                if isinstance(message, dict):
                    self._take(message)
                else:
                    self._land(*message)
                message = self.inbox.get_nowait()
        except queue.Empty:
            pass
        self._hold_to_deadlines()

    def _take(self, info: dict[str, Any]) -> None:
        self.answered = time.monotonic()
        for worker in self.roster.take(info):
            self._lose(worker, "is gone", died=True)
        self._greet_new()

    def _land(self, ticket: int, value: Any, error: BaseException | None) -> None:
        flight = self.flights.get(ticket)
        if flight is None:  # of a worker given up since
            return
        trouble = None if error is None else trouble_of(error)
        if trouble is Trouble.DIED:
            self._lose(flight.worker, "has died", died=True)
            return
        del self.flights[ticket]
        self.landed = time.monotonic()
        if trouble is not None:
            self.roster.require_scheduler(trouble is not Trouble.CUT_OFF)
            raise ClusterError(
                "the cluster was restarted or its tasks were cancelled from outside; start again"
            ) from error
        if flight.task is None:
            self._admit(flight.worker, value, error)
        elif error is not None:
            raise error
        else:
            assert self.placement is not None
            self.placement.finished(flight.task, flight.worker.address, value)
        flight.future.release()

    def _admit(self, worker: Worker, theirs: Facts, error: BaseException | None) -> None:
        """Use a worker from now on. An unfit one is refused, or left out if it joined late."""
        unfit = self.roster.check(worker, theirs) if error is None else f"{worker.address}: {error}"
        if not unfit:
            worker.admitted = True
            if self.placement is not None:
                logger.info("worker %s has joined", worker.address)
        elif self.placement is None:
            worker.source = None
            raise ClusterError(
                f"worker {unfit}; every worker must see the input under the same path and be "
                "installed alike"
            )
        else:
            logger.warning("worker %s; it gets no work", unfit)

    def _lose(self, worker: Worker, why: str, *, died: bool) -> None:
        self.lost.add(worker)
        held = []
        for ticket, flight in list(self.flights.items()):
            if flight.worker is worker:
                del self.flights[ticket]
                flight.future.release()
                held.extend([] if flight.task is None else [flight.task])
        if not worker.admitted:
            worker.source = None  # to be greeted again, if it comes back
        if self.placement is None:
            return
        logger.warning("worker %s %s; %d tasks go to others", worker.address, why, len(held))
        culprit = self.placement.lost(held, died)
        if culprit is not None:
            raise ClusterError(
                f"{self.chunks.describe(culprit.start)}: {culprit.strikes} workers died while they "
                "worked on these rows; do the rows fit in a worker's memory? See the workers' logs"
            )

    def _hold_to_deadlines(self) -> None:
        self.roster.require_scheduler()
        now, limit = time.monotonic(), self.deadlines.worker_lost
        if now - self.answered > limit:
            raise ClusterError(
                f"the scheduler has not answered for {limit:g} s; is it stopped or overloaded? "
                "deadlines.worker_lost sets the limit"
            )
        for worker in self.roster.workers.values():
            # A worker that has just joined is busy importing, and has as long as for connecting.
            patience = limit if worker.admitted else max(limit, self.deadlines.connect)
            # At the time of the scheduler's last answer: nothing later is known of the workers.
            silent = self.answered - worker.heard > patience
            known = worker.heard if worker.admitted or silent else self.answered
            self.heard = max(self.heard, known)
            if silent and worker not in self.lost:
                self._lose(worker, f"has been silent for {patience:g} s", died=False)
                self._fetch_again()
            elif not silent and worker in self.lost:
                self.lost.discard(worker)
        if self.answered - self.heard > limit:
            raise ClusterError(
                f"there has been no worker for {limit:g} s{self._last_death()}; start workers and "
                "run again; deadlines.worker_lost sets the limit"
            )
        if now - self.landed > self.deadlines.no_progress:
            workers = {flight.worker for flight in self.flights.values()}
            holders = ", ".join(sorted(f"{w.address} ({w.status})" for w in workers))
            raise ClusterError(
                f"no group of rows was finished within {self.deadlines.no_progress:g} s; at work: "
                f"{holders or 'nobody'}; is the storage reachable? deadlines.no_progress sets the "
                "limit"
            )

    def _last_death(self) -> str:
        """Say where the workers died, if they died over rows."""
        task = None if self.placement is None else self.placement.first_struck()
        if task is None:
            return ""
        return f", the last died at {self.chunks.describe(task.start)} or near it"

    def _fetch_again(self) -> None:
        # Results are fetched in batches: one from a worker that is stopped holds up the others.
        for ticket, flight in self.flights.items():
            self.client.loop.add_callback(self._fetch, ticket, flight.future)
