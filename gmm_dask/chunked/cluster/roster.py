"""The workers of a cluster: their addresses, threads and memory, and which of them may be used.

A `Roster` follows the scheduler's list of workers, and adds what only this client knows. A worker
that would not compute the same bits as this process is refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gmm_dask.chunked.cluster.worker import Facts, collect_facts
from gmm_dask.config import Deadlines
from gmm_dask.config.cluster_values import WORKER_OVERHEAD
from gmm_dask.errors import ClusterError

logger = logging.getLogger("gmm_dask")

#: Seconds between two requests for the scheduler's list of workers, at least; and for each worker,
#: of whom the list has some 2 kB.
POLL_SECONDS = 0.25
POLL_SECONDS_PER_WORKER = 0.0025


@dataclass(eq=False)
class Worker:
    """A worker as the scheduler last listed it, and what this client knows of it.

    Attributes
    ----------
    address
        Where the scheduler reaches it: ``"tcp://10.0.0.7:41235"``.
    incarnation
        Tells a worker from its successor at the same address.
    threads
        Number of its threads.
    memory_limit
        Bytes; 0 for none.
    status
        ``"running"``, ``"paused"`` and so on, as Dask names it.
    beat
        Time of its last report to the scheduler, by the scheduler's clock.
    heard
        Time of its last report that it is running, by this process's clock.
    source
        Future of the source of rows on it; None before it has one.
    admitted
        Whether it may be used: it can reach the input, and computes the same bits.
    """

    address: str
    incarnation: str
    threads: int = 0
    memory_limit: int = 0
    status: str = ""
    beat: float = 0.0
    heard: float = field(default_factory=time.monotonic)
    source: Any = None
    admitted: bool = False

    @property
    def budget(self) -> int:
        """Bytes of rows that it may cache: half of what its limit leaves, 0 without a limit."""
        return max(self.memory_limit - WORKER_OVERHEAD, 0) // 2


class Trouble(Enum):
    """What the failure of a task says about the cluster."""

    DIED = "died"
    CANCELLED = "cancelled"
    CUT_OFF = "cut off"


class Roster:
    """The workers of a cluster, as a client of its scheduler knows them.

    Parameters
    ----------
    client
        A synchronous `distributed.Client`.
    deadlines
        ``connect`` holds for the first worker and for every answer.
    allow_mixed
        Accept workers whose versions or CPU differ from those of this process.

    Attributes
    ----------
    workers
        By address, as the scheduler last listed them.
    mixed
        How accepted workers differ from this process.
    """

    def __init__(self, client: Any, deadlines: Deadlines, allow_mixed: bool) -> None:
        self.client = client
        self.deadlines = deadlines
        self.allow_mixed = allow_mixed
        self.workers: dict[str, Worker] = {}
        self.mixed: tuple[str, ...] = ()

    @property
    def budget(self) -> int:
        """Bytes of rows that all workers may cache."""
        return sum(worker.budget for worker in self.workers.values())

    @property
    def threads(self) -> int:
        """Threads of all workers."""
        return sum(worker.threads for worker in self.workers.values())

    def pause(self) -> float:
        """Return the seconds between two requests for the scheduler's list of workers."""
        seconds = min(len(self.workers) * POLL_SECONDS_PER_WORKER, self.deadlines.worker_lost / 4)
        return max(POLL_SECONDS, seconds)

    def refresh(self) -> list[Worker]:
        """Ask the scheduler for its list of workers; return those that are gone.

        Raises
        ------
        ClusterError
            The scheduler does not answer within ``deadlines.connect``.
        """
        seconds = self.deadlines.connect
        self.require_scheduler()
        try:
            # Not scheduler_info(): that answers from memory when the scheduler does not.
            info = self.client.sync(
                self.client.scheduler.identity, n_workers=-1, callback_timeout=seconds
            )
        except OSError as error:
            raise ClusterError(
                f"the scheduler did not answer within {seconds:g} s ({type(error).__name__}); is "
                "it running? deadlines.connect sets the limit"
            ) from error
        return self.update(info)

    def update(self, info: dict[str, Any]) -> list[Worker]:
        """Update the workers from the scheduler's list; return those that are gone.

        Parameters
        ----------
        info
            The scheduler's answer to ``identity``.
        """
        listed = {}
        for address, entry in info["workers"].items():
            worker = self.workers.get(address)
            if worker is None or worker.incarnation != entry["local_directory"]:
                worker = Worker(address, entry["local_directory"])
            worker.threads = entry["nthreads"]
            worker.memory_limit = entry["memory_limit"] or 0
            worker.status = entry["status"]
            if worker.status == "running" and worker.beat != entry["last_seen"]:
                worker.beat, worker.heard = entry["last_seen"], time.monotonic()
            listed[address] = worker
        gone = [
            worker for address, worker in self.workers.items() if listed.get(address) is not worker
        ]
        self.workers = listed
        return gone

    def await_workers(self) -> None:
        """Wait for the first worker.

        Raises
        ------
        ClusterError
            No worker has joined within ``deadlines.connect``.
        """
        deadline = time.monotonic() + self.deadlines.connect
        self.refresh()
        while not self.workers:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"no worker has joined the scheduler within {self.deadlines.connect:g} s; "
                    "start some (dask worker), see what jobs wait for (squeue), or raise "
                    "deadlines.connect"
                )
            time.sleep(POLL_SECONDS)
            self.refresh()

    def check_all(self) -> None:
        """Check that every worker has the versions and the CPU of this process.

        Raises
        ------
        ClusterError
            A worker differs, or does not answer within ``deadlines.connect``.
        """
        workers = list(self.workers.values())
        objections = self._objections(workers)
        if objections:
            raise ClusterError(
                f"these workers would not compute the same bits: {' | '.join(objections)}; give "
                "them the versions and the CPU of this process, or set allow_mixed = true"
            )
        logger.info(
            "%d workers with %d threads, %.1f GiB for rows cached between scans: %s",
            len(workers),
            self.threads,
            self.budget / 2**30,
            ", ".join(
                f"{worker.address} ({worker.threads}, {worker.memory_limit / 2**30:.1f} GiB)"
                for worker in workers
            ),
        )

    def _objections(self, workers: Sequence[Worker]) -> list[str]:
        answers = [
            self.client.submit(collect_facts, workers=[worker.address], pure=False)
            for worker in workers
        ]
        deadline = time.monotonic() + self.deadlines.connect
        objections = []
        for worker, answer in zip(workers, answers, strict=True):
            try:
                facts = answer.result(timeout=max(deadline - time.monotonic(), 0.1))
            except TimeoutError:
                raise ClusterError(
                    f"worker {worker.address} did not answer within {self.deadlines.connect:g} "
                    "s; is it stopped or busy? deadlines.connect sets the limit"
                ) from None
            except Exception as error:  # whatever keeps it from running our code
                objections.append(f"{worker.address}: {error}")
            else:
                objections.append(self.check(worker, facts))
        return [objection for objection in objections if objection]

    def check(self, worker: Worker, facts: Facts) -> str:
        """Say how a worker differs from this process; the answer is empty if it may be used."""
        difference = facts.unlike(collect_facts())
        if not difference:
            return ""
        objection = f"{worker.address}: {difference}"
        if not self.allow_mixed:
            return objection
        if objection not in self.mixed:
            self.mixed = (*self.mixed, objection)
        return ""

    def require_scheduler(self, connected: bool = True) -> None:
        """Refuse to go on without a connection to the scheduler.

        Raises
        ------
        ClusterError
            The client is not running, or ``connected`` is False.
        """
        if self.client.status != "running" or not connected:
            raise ClusterError(
                "the connection to the scheduler is lost; start it and its workers, and run again"
            )

    def forget_sources(self) -> None:
        """Free the rows that the workers cache; each worker is greeted before its next use."""
        for worker in self.workers.values():
            worker.source, worker.admitted = None, False


def trouble_of(error: BaseException) -> Trouble | None:
    """Return what the failure of a task says about the cluster; None if the task's code failed."""
    import distributed

    for kind, trouble in (
        (distributed.KilledWorker, Trouble.DIED),
        (distributed.CancelledError, Trouble.CANCELLED),
        (distributed.comm.CommClosedError, Trouble.CUT_OFF),
    ):
        if isinstance(error, kind):
            return trouble
    return None
