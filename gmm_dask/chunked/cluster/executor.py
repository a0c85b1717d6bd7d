"""The workers of a Dask cluster as the executor of a scan, and how each kind of cluster is opened.

Rows never become Dask's data, so Dask neither spills nor copies them. This is the only file that
knows `distributed`, and it imports it when a cluster is asked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import dask

from gmm_dask.chunked.array import ArrayChunks
from gmm_dask.chunked.cluster.roster import Trouble, Worker, require_scheduler
from gmm_dask.chunked.cluster.scan import LOOK, ClusterScan
from gmm_dask.chunked.cluster.worker import Facts, facts
from gmm_dask.chunked.rows import MemoryChunks, RowChunks
from gmm_dask.chunked.scan import GroupResult, Lane, Work
from gmm_dask.config import Deadlines
from gmm_dask.errors import ClusterError

logger = logging.getLogger("gmm_dask")

#: Bytes from which a message is sent to one worker and copied from there to the others.
LARGE = 1 << 20


class ClusterExecutor:
    """Runs scans on the workers of a cluster.

    Parameters
    ----------
    client
        A synchronous `distributed.Client`; it stays open when the executor is closed.
    deadlines
        ``connect`` for the first worker, ``no_progress``, ``worker_lost``.
    allow_mixed
        Accept workers whose versions or CPU differ from those here.

    Attributes
    ----------
    mixed
        In what accepted workers differ; while this is empty, results are the same bits on any
        number of workers.

    Raises
    ------
    ClusterError
        There is no worker within ``deadlines.connect``, or one is not like this process.
    """

    def __init__(
        self, client: Any, deadlines: Deadlines | None = None, *, allow_mixed: bool = False
    ) -> None:
        if client.asynchronous:
            raise ClusterError("the client is asynchronous; give a Client(asynchronous=False)")
        self.client = client
        self.deadlines = deadlines or Deadlines()
        self.allow_mixed = allow_mixed
        self.mixed: tuple[str, ...] = ()
        self.workers: dict[str, Worker] = {}
        self._digest: str | None = None
        self._parcel: _Parcel | None = None
        self._owners: dict[int, str] = {}
        self._await_workers()
        self._meet()

    @property
    def memory(self) -> int:
        """Bytes of rows that the workers may keep between scans."""
        return sum(worker.budget for worker in self.workers.values())

    @property
    def threads(self) -> int:
        """Of all workers."""
        return sum(worker.threads for worker in self.workers.values())

    def run(
        self, chunks: RowChunks, lanes: Sequence[Lane], work: Work, keep: bool
    ) -> Iterator[GroupResult]:
        """Yield the result of every group, in the order of the plan.

        Raises
        ------
        ClusterError
            Scheduler or workers are gone, a deadline has passed, a chunk kills its workers, a
            worker does not see the input, or the rows are an array in this process's memory.
        """
        if isinstance(chunks, MemoryChunks):
            raise ClusterError(
                "an array in this process's memory is not sent to a cluster; scan it on threads, "
                "or give a dask array or files"
            )
        if self._digest != chunks.digest:
            self.close()
            self._digest, self._parcel = chunks.digest, _Parcel(self.client, chunks)
        assert self._parcel is not None
        self.look(self.ask())
        if isinstance(chunks, ArrayChunks) and chunks.persisted:
            keep = False  # they are in the workers' memory already
        parcel = _Parcel(self.client, work)
        scan = ClusterScan(self, chunks, lanes, self._parcel, parcel, keep)
        try:
            yield from scan.results(self._owners)
            self._owners = scan.owners
        finally:
            scan.close()

    def close(self) -> None:
        """Free the rows that the workers keep."""
        for worker in self.workers.values():
            worker.source, worker.welcome = None, False
        self._digest, self._parcel, self._owners = None, None, {}

    def look(self, info: dict[str, Any]) -> list[Worker]:
        """Take the scheduler's list of workers; returns those that are gone."""
        there = {}
        for address, seen in info["workers"].items():
            worker = self.workers.get(address)
            if worker is None or worker.incarnation != seen["local_directory"]:
                worker = Worker(address, seen["local_directory"])
            worker.threads = seen["nthreads"]
            worker.memory_limit = seen["memory_limit"] or 0
            worker.status = seen["status"]
            if worker.status == "running" and worker.beat != seen["last_seen"]:
                worker.beat, worker.heard = seen["last_seen"], time.monotonic()
            there[address] = worker
        gone = [one for one in self.workers.values() if there.get(one.address) is not one]
        self.workers = there
        return gone

    def ask(self) -> dict[str, Any]:
        """Ask the scheduler for its list of workers, within ``deadlines.connect``.

        Raises
        ------
        ClusterError
            It does not answer.
        """
        seconds = self.deadlines.connect
        require_scheduler(self.client)
        try:
            # Not scheduler_info(): that answers from memory when the scheduler does not.
            return self.client.sync(
                self.client.scheduler.identity, n_workers=-1, callback_timeout=seconds
            )
        except OSError as error:
            raise ClusterError(
                f"the scheduler does not answer within {seconds:g} s ({type(error).__name__}); is "
                "it running? deadlines.connect sets the limit"
            ) from error

    def check(self, worker: Worker, found: Facts) -> str:
        """In what a worker differs from this process so that it may not be used, or nothing."""
        unlike = found.unlike(facts())
        if not unlike:
            return ""
        sentence = f"{worker.address}: {unlike}"
        if not self.allow_mixed:
            return sentence
        if sentence not in self.mixed:
            self.mixed = (*self.mixed, sentence)
        return ""

    def trouble(self, error: BaseException) -> Trouble | None:
        """What the failure of a task says of the cluster."""
        import distributed

        for kind, trouble in (
            (distributed.KilledWorker, Trouble.DIED),
            (distributed.CancelledError, Trouble.CANCELLED),
            (distributed.comm.CommClosedError, Trouble.CUT_OFF),
        ):
            if isinstance(error, kind):
                return trouble
        return None

    def _await_workers(self) -> None:
        deadline = time.monotonic() + self.deadlines.connect
        self.look(self.ask())
        while not self.workers:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"no worker has joined the scheduler within {self.deadlines.connect:g} s; "
                    "start some (dask worker), see what jobs wait for (squeue), or raise "
                    "deadlines.connect"
                )
            time.sleep(LOOK)
            self.look(self.ask())

    def _meet(self) -> None:
        """Hold every worker to the versions and the CPU of this process."""
        workers = list(self.workers.values())
        asked = [
            self.client.submit(facts, workers=[worker.address], pure=False) for worker in workers
        ]
        deadline = time.monotonic() + self.deadlines.connect
        refused = []
        for worker, future in zip(workers, asked, strict=True):
            try:
                found = future.result(timeout=max(deadline - time.monotonic(), 0.1))
            except TimeoutError:
                raise ClusterError(
                    f"worker {worker.address} does not answer within {self.deadlines.connect:g} "
                    "s; is it stopped or busy? deadlines.connect sets the limit"
                ) from None
            except Exception as error:  # whatever keeps it from running our code
                refused.append(f"{worker.address}: {error}")
            else:
                refused.append(self.check(worker, found))
        refused = [sentence for sentence in refused if sentence]
        if refused:
            raise ClusterError(
                f"these workers would not compute the same bits: {' | '.join(refused)}; give them "
                "what this process has, or set allow_mixed = true"
            )
        logger.info(
            "%d workers with %d threads, %.1f GiB for rows kept between scans: %s",
            len(workers),
            self.threads,
            self.memory / 2**30,
            ", ".join(
                f"{w.address} ({w.threads}, {w.memory_limit / 2**30:.1f} GiB)" for w in workers
            ),
        )


class _Parcel:
    """Something that every worker needs once: small, it travels with each request for it."""

    def __init__(self, client: Any, content: Any) -> None:
        from distributed.protocol.pickle import dumps

        self.client = client
        self.content = dumps(content)
        self._first: Any = None

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content)

    def for_worker(self, worker: Worker) -> Any:
        """Give the bytes, or the future of them on the first worker that asked."""
        if len(self.content) < LARGE:
            return self.content
        if self._first is None:
            # A task and not scattered data: if that worker dies, Dask makes it anew elsewhere.
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1PiB"}):
                self._first = self.client.submit(
                    bytes,
                    self.content,
                    workers=[worker.address],
                    allow_other_workers=True,
                    pure=False,
                )
        return self._first
