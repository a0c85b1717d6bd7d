"""A scan on a cluster: sends tasks to workers, and reacts to results, losses and silence.

The client itself places each task on one worker, and watches the scheduler's list of workers. So it
knows which tasks a lost worker held, gives them to others, and never waits for ever.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterator, Sequence
from typing import Any

from gmm_dask.chunked.array import ArrayChunks
from gmm_dask.chunked.cluster.flights import Answer, Flight, Flights
from gmm_dask.chunked.cluster.joining import Joining
from gmm_dask.chunked.cluster.parcel import Parcel
from gmm_dask.chunked.cluster.placement import Placement, Task, cut_tasks
from gmm_dask.chunked.cluster.roster import POLL_SECONDS, Roster, Trouble, Worker, trouble_of
from gmm_dask.chunked.cluster.worker import (
    Facts,
    greet,
    join_sums,
    open_source,
    open_work,
    sum_groups,
    unpack_sums,
)
from gmm_dask.chunked.groups import GroupResult, Lane
from gmm_dask.chunked.rows import RowChunks
from gmm_dask.chunked.subtrees import Subtree
from gmm_dask.errors import ClusterError

logger = logging.getLogger("gmm_dask")

#: Bytes of the sums of all tasks from which these stay on the workers: to pass on fewer takes no
#: longer than the last joins of a scan do (docs/scale.md).
PASSED_ON_BYTES = 4 << 20


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
    resident
        Whether large sums stay on the workers, which join them among themselves.

    Attributes
    ----------
    placement, joining
        The tasks, and their sums that stay on workers; None until a worker has been admitted.
    flights
        Requests under way.
    works
        Future of the work on each worker, or of its bytes.
    lost
        Workers that died, left, or are silent.
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
        *,
        cache: bool,
        resident: bool,
    ) -> None:
        self.roster = roster
        self.deadlines = roster.deadlines
        self.chunks = chunks
        self.lanes = lanes
        self.source = source
        self.work = work
        self.cache = cache
        self.resident = resident
        self.placement: Placement | None = None
        self.joining: Joining | None = None
        self.flights = Flights(roster.client)
        self.works: dict[Worker, Any] = {}
        self.lost: set[Worker] = set()
        self.answered = self.landed = self.heard = time.monotonic()
        self._held: dict[Worker, list[Task]] = {}
        self._hungry: set[Worker] = set()  # workers that may be in want of a task
        self._last: Sequence[Subtree] | None = None

    @property
    def owners(self) -> dict[int, str]:
        """By first chunk of a task, the address of the worker that ran it."""
        return {} if self.placement is None else self.placement.owners

    def results(self, owners: dict[int, str]) -> Iterator[GroupResult | Subtree]:
        """Yield the result of every group, in the order of the groups; and sums that they lack.

        ``owners`` are those of the last scan of the same source.
        """
        self._greet_new()
        self.flights.watch(self.roster.pause, self.deadlines.worker_lost)
        while not self._usable() or any(
            flight.greeting for flight in self.flights.under_way.values()
        ):
            self._wait()
        threads = {worker.address: worker.threads for worker in self._usable()}
        tasks = cut_tasks(self.lanes, sum(threads.values()))
        placement = self.placement = Placement(tasks, owners, threads)
        joining = self.joining = Joining(len(tasks))
        self._hungry.update(self._usable())
        while not (placement.done and self._has_all(joining)):
            self._dispatch(placement)
            self._join(joining)
            self._wait()
            before, turn = time.monotonic(), placement.turn
            yield from placement.results_in_order()
            if placement.held_back and placement.turn != turn:
                placement.held_back = False
                self._hungry.update(self._usable())
            # The time that the caller takes over a result is not the workers' delay.
            self.landed += time.monotonic() - before
        yield from self._last or ()

    def close(self) -> None:
        """Release the requests that are still under way."""
        self.flights.over = True
        for flight in self.flights.withdraw(lambda flight: True):
            if flight.greeting:
                flight.worker.source = None  # so that the next scan greets the worker again
        self.works.clear()
        for future in () if self.joining is None else self.joining.futures:
            future.release()

    def _usable(self) -> list[Worker]:
        return [worker for worker in self.roster.workers.values() if self._is_usable(worker)]

    def _is_usable(self, worker: Worker) -> bool:
        return worker.admitted and worker.status == "running" and worker not in self.lost

    def _greet_new(self) -> None:
        for worker in self.roster.workers.values():
            if worker.source is None and worker not in self.lost:
                source = self.source.for_worker(worker.address, len(self.roster.workers))
                worker.source = self.flights.submit(worker, open_source, source, worker.budget)
                future = self.flights.submit(worker, greet, worker.source)
                self.flights.follow(Flight(worker, future))

    def _dispatch(self, placement: Placement) -> None:
        """Give tasks to the workers that may be in want of one."""
        given: list[tuple[Worker, Task]] = []
        while self._hungry:
            worker = self._hungry.pop()
            if not self._is_usable(worker):
                continue
            held = self._held.setdefault(worker, [])
            while (task := placement.next_for(worker.address, worker.threads, held)) is not None:
                given.append((worker, task))
                held.append(task)
        requests = [
            (
                worker,
                (
                    worker.source,
                    self._work_on(worker),
                    self.cache,
                    task.groups,
                    self._resident_from(placement, task),
                    *self._persisted(task),
                ),
            )
            for worker, task in given
        ]
        futures = self.flights.submit_all(sum_groups, requests)
        for (worker, task), future in zip(given, futures, strict=True):
            self.flights.follow(Flight(worker, future, task))

    def _resident_from(self, placement: Placement, task: Task) -> int | None:
        """Bytes from which the sums of a task stay on its worker; None for the chunk of a group."""
        if not self.resident or task.strikes > 1:
            return None
        return PASSED_ON_BYTES // len(placement.tasks)

    def _work_on(self, worker: Worker) -> Any:
        """Future of the work on a worker, or of its bytes where workers copy them."""
        if worker not in self.works:
            work = self.work.for_worker(worker.address, len(self.roster.workers))
            if isinstance(work, bytes):
                work = self.flights.submit(worker, open_work, work)
            self.works[worker] = work
        return self.works[worker]

    def _persisted(self, task: Task) -> list[Any]:
        """Futures of persisted blocks that a task needs: Dask moves or recomputes them for it."""
        if not isinstance(self.chunks, ArrayChunks):
            return []
        needs = self.chunks.needs(task.start, task.stop)
        return [self.chunks.persisted[name] for name in needs]

    def _join(self, joining: Joining) -> None:
        """Have workers join what can be joined, and ask for the last sums."""
        usable = {worker.address: worker for worker in self._usable()} if joining.ready else {}
        joins = []
        while (join := joining.next_join(usable)) is not None:
            joins.append((usable[join.address], join))
        requests = [(worker, tuple(part.future for part in join.parts)) for worker, join in joins]
        # Before the tasks that wait there: joins are short, and the end of the scan needs them.
        futures = self.flights.submit_all(join_sums, requests, priority=1)
        for (worker, join), future in zip(joins, futures, strict=True):
            self.flights.follow(Flight(worker, future, join=join))
        if joining.done and not self._has_all(joining) and not self._asked_for_last():
            assert joining.last is not None
            worker = self.roster.workers[joining.last.address]
            self.flights.follow(Flight(worker, joining.last.future, last=True))

    def _has_all(self, joining: Joining) -> bool:
        """Whether no sums are left on workers."""
        return self._last is not None or (joining.done and joining.last is None)

    def _asked_for_last(self) -> bool:
        return any(flight.last for flight in self.flights.under_way.values())

    def _wait(self) -> None:
        """Read the inbox, and check that no deadline has passed."""
        inbox = self.flights.inbox
        try:
            message = inbox.get(timeout=POLL_SECONDS)
            while True:
                if isinstance(message, Answer):
                    self._land(message)
                else:
                    self._update_roster(message)
                message = inbox.get_nowait()
        except queue.Empty:
            pass
        self._check_deadlines()

    def _update_roster(self, info: dict[str, Any]) -> None:
        self.answered = time.monotonic()
        for worker in self.roster.update(info):
            self._lose(worker, "is gone", died=True)
        self._greet_new()
        self._check_silence()
        self._hungry.update(self._usable())

    def _land(self, answer: Answer) -> None:
        flight = self.flights.under_way.get(answer.ticket)
        if flight is None:  # its worker has been given up in the meantime
            return
        error = answer.error
        trouble = None if error is None else trouble_of(error)
        if trouble is Trouble.DIED:
            self._lose(flight.worker, "has died", died=True)
            return
        del self.flights.under_way[answer.ticket]
        self.landed = time.monotonic()
        if trouble is not None:
            self.roster.require_scheduler(trouble is not Trouble.CUT_OFF)
            raise ClusterError(
                "the cluster was restarted or its tasks were cancelled from outside; start again"
            ) from error
        if flight.greeting:
            self._admit(flight.worker, answer.value, error)
            flight.future.release()
        elif error is not None:
            raise error
        else:
            self._receive(flight, answer.value)

    def _receive(self, flight: Flight, value: Any) -> None:
        """Take the answer of a worker: results of a task, or that its sums stay there."""
        assert self.placement is not None
        assert self.joining is not None
        if flight.last:
            self._last = unpack_sums(value)
        elif flight.join is not None:
            self.joining.add_joined(flight.join, flight.future)
        elif flight.task is not None:
            task, address = flight.task, flight.worker.address
            self._held[flight.worker].remove(task)
            self._hungry.add(flight.worker)
            if value is None:
                self.placement.add_resident(task, address)
                self.joining.keep(self.placement.number(task), address, flight.future)
                return
            if self.placement.add_results(task, address, value):
                self.joining.deliver(self.placement.number(task))
            flight.future.release()

    def _admit(self, worker: Worker, facts: Facts, error: BaseException | None) -> None:
        """Admit a worker that was greeted; if it is unfit, refuse it, or leave it out if late."""
        objection = (
            self.roster.check(worker, facts) if error is None else f"{worker.address}: {error}"
        )
        if not objection:
            worker.admitted = True
            self._hungry.add(worker)
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
        """Give what a worker was asked for to others, and what only it knew."""
        self.lost.add(worker)
        flights = self.flights.withdraw(lambda flight: flight.worker is worker)
        held = [flight.task for flight in flights if flight.task is not None]
        self._held.pop(worker, None)
        if not worker.admitted:
            worker.source = None  # so that it is greeted again if it comes back
        if self.placement is None or self.joining is None:
            return
        repeated = [] if self._has_all(self.joining) else self.joining.lose(worker.address)
        self.placement.repeat(repeated)
        joins = self.joining.under_way
        self.flights.withdraw(lambda flight: flight.join is not None and flight.join not in joins)
        self._hungry.update(self._usable())
        logger.warning(
            "worker %s %s; %d tasks go to others",
            worker.address,
            reason,
            len(held) + len(repeated),
        )
        culprit = self.placement.take_back(held, died)
        if culprit is not None:
            raise ClusterError(
                f"{self.chunks.describe(culprit.start)}: {culprit.strikes} workers died while they "
                "worked on these rows; do the rows fit in a worker's memory? See the workers' logs"
            )

    def _check_silence(self) -> None:
        """Give up workers that have been silent, and take back those that are no longer."""
        limit = self.deadlines.worker_lost
        for worker in self.roster.workers.values():
            # A worker that has just joined is busy importing, so it also has the time to connect.
            patience = limit if worker.admitted else max(limit, self.deadlines.connect)
            # Measured to the scheduler's last answer: later reports of workers are not known.
            silent = self.answered - worker.heard > patience
            heard = worker.heard if worker.admitted or silent else self.answered
            self.heard = max(self.heard, heard)
            if silent and worker not in self.lost:
                self._lose(worker, f"has been silent for {patience:g} s", died=False)
                self.flights.follow_again()
            elif not silent and worker in self.lost:
                self.lost.discard(worker)

    def _check_deadlines(self) -> None:
        self.roster.require_scheduler()
        now, limit = time.monotonic(), self.deadlines.worker_lost
        if now - self.answered > limit:
            raise ClusterError(
                f"the scheduler has not answered for {limit:g} s; is it stopped or overloaded? "
                "deadlines.worker_lost sets the limit"
            )
        if self.answered - self.heard > limit:
            raise ClusterError(
                f"there has been no worker for {limit:g} s{self._last_death()}; start workers and "
                "run again; deadlines.worker_lost sets the limit"
            )
        if now - self.landed > self.deadlines.no_progress:
            flights = self.flights.under_way.values()
            workers = {flight.worker for flight in flights}
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
