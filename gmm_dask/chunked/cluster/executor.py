"""The workers of a Dask cluster as the executor of scans.

Rows are never results of Dask tasks, so Dask neither spills nor copies them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gmm_dask.chunked.array import ArrayChunks
from gmm_dask.chunked.cluster.parcel import Parcel
from gmm_dask.chunked.cluster.roster import Roster
from gmm_dask.chunked.cluster.scan import ClusterScan
from gmm_dask.chunked.groups import GroupResult, Lane
from gmm_dask.chunked.rows import MemoryChunks, RowChunks
from gmm_dask.chunked.scan import Work
from gmm_dask.chunked.subtrees import Subtree
from gmm_dask.config import Deadlines
from gmm_dask.errors import ClusterError


class ClusterExecutor:
    """Runs scans on the workers of a cluster.

    Parameters
    ----------
    client
        A synchronous `distributed.Client`; it stays open when the executor is closed.
    deadlines
        ``connect`` holds for the first worker; ``no_progress`` and ``worker_lost`` for each scan.
    allow_mixed
        Accept workers whose versions or CPU differ from those of this process.

    Attributes
    ----------
    roster
        The list of workers.

    Raises
    ------
    ClusterError
        No worker has joined within ``deadlines.connect``, or one differs from this process.
    """

    def __init__(
        self, client: Any, deadlines: Deadlines | None = None, *, allow_mixed: bool = False
    ) -> None:
        if client.asynchronous:
            raise ClusterError("the client is asynchronous; give a Client(asynchronous=False)")
        self.client = client
        self.roster = Roster(client, deadlines or Deadlines(), allow_mixed)
        self._digest: str | None = None
        self._source: Parcel | None = None
        self._owners: dict[int, str] = {}
        self.roster.await_workers()
        self.roster.check_all()

    @property
    def memory(self) -> int:
        """Bytes of rows that the workers may cache between scans."""
        return self.roster.budget

    @property
    def threads(self) -> int:
        """Threads of all workers."""
        return self.roster.threads

    @property
    def mixed(self) -> tuple[str, ...]:
        """How accepted workers differ from this process.

        If they do not, results are the same bits on any number of workers.
        """
        return self.roster.mixed

    def run(
        self, chunks: RowChunks, lanes: Sequence[Lane], work: Work, cache: bool
    ) -> Iterator[GroupResult | Subtree]:
        """Yield the result of every group, in the order of the groups; and sums that they lack.

        Raises
        ------
        ClusterError
            Scheduler or workers are gone, a deadline has passed, a chunk kills its workers, a
            worker cannot reach the input, or the rows are an array in this process's memory.
        """
        if isinstance(chunks, MemoryChunks):
            raise ClusterError(
                "an array in this process's memory is not sent to a cluster; scan it on threads, "
                "or give a dask array or files"
            )
        if self._digest != chunks.digest:
            self.close()
            self._digest, self._source = chunks.digest, Parcel(self.client, chunks)
        assert self._source is not None
        self.roster.refresh()
        if isinstance(chunks, ArrayChunks) and chunks.persisted:
            cache = False  # the rows are in the workers' memory already
        scan = ClusterScan(
            self.roster,
            chunks,
            lanes,
            self._source,
            Parcel(self.client, work),
            cache=cache,
            resident=work.sums_only,
        )
        try:
            yield from scan.results(self._owners)
            self._owners = scan.owners
        finally:
            scan.close()

    def close(self) -> None:
        """Free the rows that the workers cache."""
        self.roster.forget_sources()
        self._digest, self._source, self._owners = None, None, {}
