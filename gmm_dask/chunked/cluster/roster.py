"""What is known of each worker, and what a scan and its executor ask of each other."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from gmm_dask.chunked.cluster.worker import Facts
from gmm_dask.config import Deadlines
from gmm_dask.errors import ClusterError

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
    welcome
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
    welcome: bool = False

    @property
    def budget(self) -> int:
        """Bytes of rows that it may keep: half of what it has; without a limit, none."""
        return max(self.memory_limit - OVERHEAD, 0) // 2


class Trouble(Enum):
    """What a failed task says of the cluster, where it says something."""

    DIED = "died"
    CANCELLED = "cancelled"
    CUT_OFF = "cut off"


class Parcel(Protocol):
    """Something that every worker needs once."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def for_worker(self, worker: Worker) -> Any:
        """Give what to submit so that the worker receives it."""
        ...


class Cluster(Protocol):
    """What a scan needs of the executor that it runs for."""

    client: Any
    deadlines: Deadlines
    workers: dict[str, Worker]

    def look(self, info: dict[str, Any]) -> list[Worker]:
        """Take the scheduler's list of workers; returns those that are gone."""
        ...

    def check(self, worker: Worker, found: Facts) -> str:
        """In what a worker is unfit, or nothing."""
        ...

    def trouble(self, error: BaseException) -> Trouble | None:
        """What the failure of a task says of the cluster."""
        ...


def require_scheduler(client: Any, connected: bool = True) -> None:
    """Refuse to go on without the connection to the scheduler.

    Raises
    ------
    ClusterError
        It is lost.
    """
    if client.status != "running" or not connected:
        raise ClusterError(
            "the connection to the scheduler is lost; start it and its workers, and run again"
        )
