"""A scan: one function over every chunk of rows, the results added in the order of the groups.

The source alone fixes the groups (`gmm_dask.chunked.groups`) and the tree in which their sums are
added (`gmm_dask.chunked.subtrees`). So it does not matter where, when or how often a group is
computed: one thread and a hundred workers give the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gmm_dask.chunked.groups import GroupResult, Lane, lanes_of
from gmm_dask.chunked.rows import RowChunks, Rows
from gmm_dask.chunked.subtrees import Subtree, TreeSum
from gmm_dask.errors import TooFewRowsError
from gmm_dask.events import Notify, Stage, StageAdvanced, StageFinished, StageStarted, silent
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.nulls import NullPolicy

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Work:
    """What a scan does to each chunk; it is sent to the workers.

    Attributes
    ----------
    function
        ``function(rows, argument)``; its results must add by ``+``. It is called again for a
        chunk whose worker is lost, so what it writes, it must write whole or not at all.
    argument
        The second argument, the same for every chunk.
    nulls
        ``DROP`` drops incomplete rows first, ``MARGINALIZE`` finds their patterns; ``ERROR`` passes
        all rows on as they are read.
    fingerprints
        Fingerprint of each chunk in the first scan; None in the first scan, which takes them.
    volatile
        Whether the values could differ from one reading to the next.
    transforms
        What is done to the values before the function sees them; None: nothing.
    sums_only
        Whether only the sums are asked for: fingerprints and digests are known by then.
    """

    function: Callable[[Rows, Any], Any]
    argument: Any
    nulls: NullPolicy
    fingerprints: tuple[int, ...] | None
    volatile: bool
    transforms: Transforms | None = None
    sums_only: bool = False


class Executor(Protocol):
    """Runs scans: on threads of this process, or on the workers of a cluster."""

    @property
    def memory(self) -> int:
        """Bytes of rows that may be cached between scans."""
        ...

    @property
    def threads(self) -> int:
        """Groups that are computed at the same time."""
        ...

    @property
    def mixed(self) -> tuple[str, ...]:
        """How workers differ from this process; if they do, the bits of results may differ too."""
        ...

    def run(
        self, chunks: RowChunks, lanes: Sequence[Lane], work: Work, cache: bool
    ) -> Iterator[GroupResult | Subtree]:
        """Yield the result of every group, in the order of the groups; and sums that they lack."""
        ...

    def close(self) -> None:
        """Release threads, workers and cached rows."""
        ...


class Scanner:
    """Scans one source of rows on one executor, and counts the scans.

    Parameters
    ----------
    chunks
        The source.
    executor
        Threads or a cluster.
    notify
        Receives the events of each scan.
    once
        Whether only one scan is made: rows are then neither cached nor fingerprinted.
    cache
        Whether the rows stay in memory after the first scan; None: if they fit.
    scans
        Scans of the source before this scanner was made.
    transforms
        Transforms of the features, where the mixture has any.

    Attributes
    ----------
    transforms
        What every scan does to the values. The survey settles what is pending.
    scans
        Scans of the source so far, whether of files or of cached rows.
    rows
        Source rows in all.
    cached
        Whether the rows stay in memory after the first scan.
    fingerprints
        Fingerprint of each chunk in the first scan, against which later scans are checked. None
        before it, and where values cannot change.
    digests
        Of the row groups of all files, in their order, as the first scan read them. Empty before
        it, and for rows that are not of files.
    """

    def __init__(
        self,
        chunks: RowChunks,
        executor: Executor,
        notify: Notify = silent,
        *,
        once: bool = False,
        cache: bool | None = None,
        scans: int = 0,
        transforms: Transforms | None = None,
    ) -> None:
        self.chunks = chunks
        self.executor = executor
        self.notify = notify
        self.lanes = lanes_of(chunks)
        self.rows = sum(chunks.rows)
        self.scans = scans
        self.transforms = transforms
        size = self.rows * (len(chunks.columns) * chunks.dtype.itemsize + 8 * chunks.weighted)
        self._volatile = chunks.volatile and not once
        dear = self._volatile or (transforms is not None and not once)
        self.cached = dear and size <= executor.memory if cache is None else cache
        self.fingerprints: tuple[int, ...] | None = None
        self.digests: tuple[str, ...] = ()
        self._known = False  # fingerprints and digests, as far as there are any

    def resume(
        self, scans: int, fingerprints: tuple[int, ...] | None, digests: tuple[str, ...] = ()
    ) -> None:
        """Continue after ``scans`` scans of the same source, the first with ``fingerprints``."""
        self.scans, self.fingerprints, self.digests = scans, fingerprints, digests
        self._known = True

    def reduce(
        self,
        function: Callable[[Rows, Any], Result],
        argument: Any,
        stage: Stage,
        nulls: NullPolicy = NullPolicy.ERROR,
    ) -> Result:
        """Apply a function to every chunk and add the results: one scan.

        Parameters
        ----------
        function, argument
            ``function(rows, argument)``; its results add by ``+``.
        stage
            The stage of the run that the events of this scan name.
        nulls
            As in `Work`.

        Raises
        ------
        InputChangedError
            A chunk is not what the plan or the first scan saw.
        TooFewRowsError
            The source has no chunks.
        ClusterError
            The workers are gone, or a deadline has passed.
        """
        if not self.lanes:
            raise TooFewRowsError("the input has no rows")
        work = Work(
            function,
            argument,
            nulls,
            self.fingerprints,
            self._volatile,
            self.transforms,
            self._known,
        )
        began = time.perf_counter()
        self.notify(StageStarted(stage, self.rows, "rows"))
        tree = TreeSum()
        done = 0
        fingerprints: list[int] = []
        digests: list[str] = []
        for result in self.executor.run(self.chunks, self.lanes, work, self.cached):
            if isinstance(result, Subtree):
                tree.add(result.first, result.span, result.total)
                continue
            if result.span:
                tree.add(result.group.index, result.span, result.total)
            fingerprints.extend(result.fingerprints)
            digests.extend(result.digests)
            done += result.group.rows
            self.notify(StageAdvanced(stage, done))
        self.scans += 1
        self._known = True
        if self._volatile and self.fingerprints is None:
            self.fingerprints = tuple(fingerprints)
        if not self.digests:
            self.digests = tuple(digests)
        seconds = time.perf_counter() - began
        rate = self.rows / max(seconds, 1e-9)
        self.notify(StageFinished(stage, seconds, f"{self.rows:,} rows at {rate:,.0f} rows/s"))
        return tree.total

    def close(self) -> None:
        """Release the cached rows and the executor's threads or workers."""
        self.executor.close()

    def __enter__(self) -> Scanner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
