"""A scan on a cluster: sends tasks to workers, and reacts to results, losses and silence.

The client itself places each task on one worker, and watches the scheduler's list of workers. So it
knows which tasks a lost worker held, gives them to others, and never waits for ever.
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
from gmm_dask.chunked.cluster.roster import POLL_SECONDS, Roster, Trouble, Worker, trouble_of
from gmm_dask.chunked.cluster.worker import Facts, greet, open_source, open_work, sum_groups
from gmm_dask.chunked.groups import GroupResult, Lane
from gmm_dask.chunked.rows import RowChunks
from gmm_dask.errors import ClusterError

logger = logging.getLogger("gmm_dask")


@dataclass(frozen=True, eq=False)
class Flight:
    """A request that a worker has not answered yet.

    Attributes
    ----------
    task
        Groups that the worker was asked to sum; None if it was asked to `greet`.
    future
        Future of the answer.
    """

    task: Task | None
    worker: Worker
    future: Any


class ClusterScan:
    """A scan on a cluster: sends tasks to workers, and yields their results in order.

    Parameters
    ----------
    roster
        The workers; those that have no source of the rows yet are greeted first.
    source, work
        The source of rows and the `Work`, pickled for the workers.
    cache
        Whether the workers cache the rows for the next scan.

    Attributes
    ----------
    placement
        The tasks; None until a worker has been admitted.
    flights
        Requests under way, by ticket.
    works
        Future of the work on each worker.
    lost
        Workers that died, left, or are silent.
    inbox
        Answers to requests, and the scheduler's lists of workers.
    over
        Whether the scan is closed.
    answered, landed, heard
        Times of the scheduler's last answer, of the last answer to a request, and of the last
        report of any worker that can be used.
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
        """By first chunk of a task, the address of the worker that ran it."""
        return {} if self.placement is None else self.placement.owners

    def results(self, owners: dict[int, str]) -> Iterator[GroupResult]:
        """Yield the result of every group, in the order of the groups.

        ``owners`` are those of the last scan of the same source.
        """
        self._greet_new()
        self.client.loop.add_callback(self._watch)
        while not self._usable() or any(flight.task is None for flight in self.flights.values()):
            self._wait()
        threads = {worker.address: worker.threads for worker in self._usable()}
        tasks = cut_tasks(self.lanes, sum(threads.values()))
        self.placement = Placement(tasks, owners, threads)
        while not self.placement.done:
            self._dispatch(self.placement)
            self._wait()
            before = time.monotonic()
            yield from self.placement.results_in_order()
            # The time that the caller takes over a result is not the workers' delay.
            self.landed += time.monotonic() - before

    def close(self) -> None:
        """Release the requests that are still under way."""
        self.over = True
        for flight in self.flights.values():
            flight.future.release()
            if flight.task is None:
                flight.worker.source = None  # so that the next scan greets the worker again
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
        """Futures of persisted blocks that a task needs: Dask moves or recomputes them for it."""
        if not isinstance(self.chunks, ArrayChunks):
            return []
        needs = self.chunks.needs(task.start, task.stop)
        return [self.chunks.persisted[name] for name in needs]

    def _submit(self, worker: Worker, function: Any, *arguments: Any) -> Any:
        # On this worker only: if it is lost, the scan knows its tasks and gives them to others.
        return self.client.submit(function, *arguments, workers=[worker.address], pure=False)

    def _follow(self, task: Task | None, worker: Worker, future: Any) -> None:
        ticket = next(self._tickets)
        self.flights[ticket] = Flight(task, worker, future)
        self.client.loop.add_callback(self._fetch, ticket, future)

    async def _fetch(self, ticket: int, future: Any) -> None:
        """Wait for an answer on the client's loop, and put it in the inbox."""
        try:
            value = await self.client.gather(future, asynchronous=True)
        except BaseException as error:  # raised where the scan waits
            self.inbox.put((ticket, None, error))
        else:
            self.inbox.put((ticket, value, None))

    async def _watch(self) -> None:
        """Ask for the scheduler's list of workers on the client's loop, and put it in the inbox."""
        while not self.over and self.client.status == "running":
            await asyncio.sleep(POLL_SECONDS)
            try:
                answer = self.client.scheduler.identity(n_workers=-1)
                info = await asyncio.wait_for(answer, self.deadlines.worker_lost)
            except (OSError, AttributeError):
                continue
            self.inbox.put(info)

    def _wait(self) -> None:
        """Read the inbox, and check that no deadline has passed."""
        try:
            message = self.inbox.get(timeout=POLL_SECONDS)
            while True:
                if isinstance(message, dict):
                    self._update_roster(message)
                else:
                    self._land(*message)
                message = self.inbox.get_nowait()
        except queue.Empty:
            pass
        self._check_deadlines()

    def _update_roster(self, info: dict[str, Any]) -> None:
        self.answered = time.monotonic()
        for worker in self.roster.update(info):
            self._lose(worker, "is gone", died=True)
        self._greet_new()

    def _land(self, ticket: int, value: Any, error: BaseException | None) -> None:
        flight = self.flights.get(ticket)
        if flight is None:  # its worker has been given up in the meantime
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
            self.placement.add_results(flight.task, flight.worker.address, value)
        flight.future.release()

    def _admit(self, worker: Worker, facts: Facts, error: BaseException | None) -> None:
        """Admit a worker that was greeted; if it is unfit, refuse it, or leave it out if late."""
        objection = (
            self.roster.check(worker, facts) if error is None else f"{worker.address}: {error}"
        )
        if not objection:
            worker.admitted = True
            if self.placement is not None:
                logger.info("worker %s has joined", worker.address)
        elif self.placement is None:
            worker.source = None
            raise ClusterError(
                f"worker {objection}; every worker must see the input under the same path and have "
                "the same versions installed"
            )
        else:
            logger.warning("worker %s; it gets no work", objection)

    def _lose(self, worker: Worker, reason: str, *, died: bool) -> None:
        self.lost.add(worker)
        held = []
        for ticket, flight in list(self.flights.items()):
            if flight.worker is worker:
                del self.flights[ticket]
                flight.future.release()
                held.extend([] if flight.task is None else [flight.task])
        if not worker.admitted:
            worker.source = None  # so that it is greeted again if it comes back
        if self.placement is None:
            return
        logger.warning("worker %s %s; %d tasks go to others", worker.address, reason, len(held))
        culprit = self.placement.take_back(held, died)
        if culprit is not None:
            raise ClusterError(
                f"{self.chunks.describe(culprit.start)}: {culprit.strikes} workers died while they "
                "worked on these rows; do the rows fit in a worker's memory? See the workers' logs"
            )

    def _check_deadlines(self) -> None:
        self.roster.require_scheduler()
        now, limit = time.monotonic(), self.deadlines.worker_lost
        if now - self.answered > limit:
            raise ClusterError(
                f"the scheduler has not answered for {limit:g} s; is it stopped or overloaded? "
                "deadlines.worker_lost sets the limit"
            )
        for worker in self.roster.workers.values():
            # A worker that has just joined is busy importing, so it also has the time to connect.
            patience = limit if worker.admitted else max(limit, self.deadlines.connect)
            # Measured to the scheduler's last answer: later reports of workers are not known.
            silent = self.answered - worker.heard > patience
            heard = worker.heard if worker.admitted or silent else self.answered
            self.heard = max(self.heard, heard)
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
            holders = ", ".join(sorted(f"{worker.address} ({worker.status})" for worker in workers))
            raise ClusterError(
                f"no group of rows was finished within {self.deadlines.no_progress:g} s; at work: "
                f"{holders or 'nobody'}; is the storage reachable? deadlines.no_progress sets the "
                "limit"
            )

    def _last_death(self) -> str:
        """Say over which rows a worker died, if any did."""
        task = None if self.placement is None else self.placement.first_struck()
        if task is None:
            return ""
        return f", the last died at {self.chunks.describe(task.start)} or near it"

    def _fetch_again(self) -> None:
        # Dask fetches results in batches, and a worker that is stopped holds up its whole batch.
        for ticket, flight in self.flights.items():
            self.client.loop.add_callback(self._fetch, ticket, flight.future)
