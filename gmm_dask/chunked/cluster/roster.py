"""The workers of a cluster: who they are, what they have, and who may be used.

The scheduler's list of workers is the one source of truth; a `Roster` keeps what is known of each
beyond that. A worker that would not compute the same bits as this process is refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gmm_dask.chunked.cluster.worker import Facts, facts
from gmm_dask.config import Deadlines
from gmm_dask.errors import ClusterError

logger = logging.getLogger("gmm_dask")

#: Seconds between looks at the scheduler's list of workers.
LOOK = 0.25
#: Bytes that a worker needs before it holds any row: Python, numpy, numba, pyarrow, Dask took
#: 322 MiB. Dask pauses a worker at 80 % of its limit; half of the rest stays well below.
OVERHEAD = 352 << 20


@dataclass(eq=False)
class Worker:
    """A worker as last seen, and what it was given.

    Attributes
    ----------
    incarnation
        Tells a worker from its successor at the same address.
    memory_limit
        Bytes; 0 for none.
    beat
        When it last reported to the scheduler, by the scheduler's clock.
    heard
        When it last reported to be running, by ours.
    source
        Future of the rows' source on it.
    admitted
        Whether it sees the input and may be used.
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
        """Bytes of rows that it may cache: half of what it has; without a limit, none."""
        return max(self.memory_limit - OVERHEAD, 0) // 2


class Trouble(Enum):
    """What a failed task tells of the cluster."""

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
        ``connect`` for the first worker and for every answer.
    allow_mixed
        Accept workers whose versions or CPU differ from those here.

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

    def refresh(self) -> list[Worker]:
        """Ask the scheduler for its list of workers; returns those that are gone.

        Raises
        ------
        ClusterError
            It does not answer within ``deadlines.connect``.
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
        return self.take(info)

    def take(self, info: dict[str, Any]) -> list[Worker]:
        """Take the scheduler's list of workers; returns those that are gone."""
        listed = {}
        for address, seen in info["workers"].items():
            worker = self.workers.get(address)
            if worker is None or worker.incarnation != seen["local_directory"]:
                worker = Worker(address, seen["local_directory"])
            worker.threads = seen["nthreads"]
            worker.memory_limit = seen["memory_limit"] or 0
            worker.status = seen["status"]
            if worker.status == "running" and worker.beat != seen["last_seen"]:
                worker.beat, worker.heard = seen["last_seen"], time.monotonic()
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
            None has joined within ``deadlines.connect``.
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
            time.sleep(LOOK)
            self.refresh()

    def check_all(self) -> None:
        """Hold every worker to the versions and the CPU of this process.

        Raises
        ------
        ClusterError
            One differs, or does not answer within ``deadlines.connect``.
        """
        workers = list(self.workers.values())
        objections = self._objections(workers)
        if objections:
            raise ClusterError(
                f"these workers would not compute the same bits: {' | '.join(objections)}; give "
                "them what this process has, or set allow_mixed = true"
            )
        logger.info(
            "%d workers with %d threads, %.1f GiB for rows cached between scans: %s",
            len(workers),
            self.threads,
            self.budget / 2**30,
            ", ".join(
                f"{w.address} ({w.threads}, {w.memory_limit / 2**30:.1f} GiB)" for w in workers
            ),
        )

    def _objections(self, workers: Sequence[Worker]) -> list[str]:
        answers = [
            self.client.submit(facts, workers=[worker.address], pure=False) for worker in workers
        ]
        deadline = time.monotonic() + self.deadlines.connect
        objections = []
        for worker, answer in zip(workers, answers, strict=True):
            try:
                theirs = answer.result(timeout=max(deadline - time.monotonic(), 0.1))
            except TimeoutError:
                raise ClusterError(
                    f"worker {worker.address} did not answer within {self.deadlines.connect:g} "
                    "s; is it stopped or busy? deadlines.connect sets the limit"
                ) from None
            except Exception as error:  # whatever keeps it from running our code
                objections.append(f"{worker.address}: {error}")
            else:
                objections.append(self.check(worker, theirs))
        return [objection for objection in objections if objection]

    def check(self, worker: Worker, theirs: Facts) -> str:
        """Say why a worker may not be used: how it differs from this process; empty if it may."""
        difference = theirs.unlike(facts())
        if not difference:
            return ""
        objection = f"{worker.address}: {difference}"
        if not self.allow_mixed:
            return objection
        if objection not in self.mixed:
            self.mixed = (*self.mixed, objection)
        return ""

    def require_scheduler(self, connected: bool = True) -> None:
        """Refuse to go on without the connection to the scheduler.

        Raises
        ------
        ClusterError
            It is lost.
        """
        if self.client.status != "running" or not connected:
            raise ClusterError(
                "the connection to the scheduler is lost; start it and its workers, and run again"
            )

    def forget_sources(self) -> None:
        """Let go of the rows that the workers cache; each is greeted before it is used again."""
        for worker in self.workers.values():
            worker.source, worker.admitted = None, False


def trouble_of(error: BaseException) -> Trouble | None:
    """Return what the failure of a task tells of the cluster; None if it is the task's own."""
    import distributed

    for kind, trouble in (
        (distributed.KilledWorker, Trouble.DIED),
        (distributed.CancelledError, Trouble.CANCELLED),
        (distributed.comm.CommClosedError, Trouble.CUT_OFF),
    ):
        if isinstance(error, kind):
            return trouble
    return None
