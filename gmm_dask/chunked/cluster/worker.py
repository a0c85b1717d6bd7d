"""Code that runs on the workers of a cluster: functions that a client submits, and cached rows.

A `Source` lives on a worker for as long as the client holds its future. When the client releases
it or dies, or when Dask moves the source out of memory, the rows that it caches are freed.
"""

from __future__ import annotations

import pickle
import platform
import signal
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from typing import Any

from gmm_dask.chunked.array import ArrayChunks
from gmm_dask.chunked.groups import Group, GroupResult
from gmm_dask.chunked.reading import Reader, RowCache, sum_group
from gmm_dask.chunked.rows import RowChunks
from gmm_dask.chunked.scan import Work
from gmm_dask.chunked.subtrees import Subtree, TreeSum, join_subtrees
from gmm_dask.mixture.threads import single_threaded


def dask_setup(worker: Any) -> None:
    """Ignore Ctrl-C: Dask calls this in workers that a command starts, and that it ends.

    A terminal interrupts every process of the command, and Dask's would answer with tracebacks.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class Facts:
    """Versions and CPU of a process: together they decide the bits that it computes.

    Attributes
    ----------
    gmm_dask, python, numpy, numba
        Versions.
    cpu
        Name of the CPU that numba compiles for.
    features
        Instruction sets that numba may use (+) or not (−), joined by commas.
    """

    gmm_dask: str
    python: str
    numpy: str
    numba: str
    cpu: str
    features: str

    def unlike(self, other: Facts) -> str:
        """Say how a worker with these facts differs from this process, whose facts are ``other``.

        The answer is empty if they are equal.
        """
        differences = []
        for field in fields(self):
            value, expected = getattr(self, field.name), getattr(other, field.name)
            if value == expected:
                continue
            if field.name == "features":
                signed = set(value.split(",")) ^ set(expected.split(","))
                names = sorted({feature[1:] for feature in signed})
                differences.append(f"CPU features differ in {', '.join(names[:5])}")
            else:
                differences.append(f"{field.name} {value}, here {expected}")
        return "; ".join(differences)


def collect_facts() -> Facts:
    """Collect the facts of this process."""
    import numba
    from llvmlite import binding
    from numba.core.codegen import get_host_cpu_features

    features = numba.config.CPU_FEATURES
    return Facts(
        gmm_dask=version("gmm-dask"),
        python=platform.python_version(),
        numpy=version("numpy"),
        numba=version("numba"),
        cpu=numba.config.CPU_NAME or binding.get_host_cpu_name(),
        features=get_host_cpu_features() if features is None else features,
    )


class Source:
    """A source of rows on a worker, with the rows that the worker caches.

    Parameters
    ----------
    budget
        Most bytes of rows to cache.
    """

    def __init__(self, chunks: RowChunks, budget: int) -> None:
        self.chunks = chunks
        self.budget = budget
        self.cache = RowCache(budget)

    def __reduce__(self) -> tuple[Any, ...]:
        # Dask may move the source to another worker or to disk: the cached rows stay behind.
        return Source, (self.chunks, self.budget)


def open_source(chunks: bytes, budget: int) -> Source:
    """Set up a source of rows on this worker."""
    return Source(pickle.loads(chunks), budget)


def open_work(work: bytes) -> Work:
    """Unpickle the work of a scan, once for all its tasks on this worker."""
    return pickle.loads(work)


def greet(source: Source) -> Facts:
    """Check that this worker can reach the first and the last row; return the worker's facts.

    Raises
    ------
    InputError
        A row cannot be reached.
    """
    source.chunks.check()
    return collect_facts()


class ResidentSums(bytes):
    """Sums that stay on a worker, pickled once: the client sees their type, and leaves them there.

    As bytes they have a size that Dask knows, by which it moves them, and to disk if need be.
    """


def unpack_sums(sums: bytes) -> Sequence[Subtree]:
    """Return the sums that were packed."""
    return pickle.loads(sums)


def sum_groups(
    source: Source,
    work: Work | bytes,
    cache: bool,
    groups: Sequence[Group],
    resident_from: int | None,
    *persisted: Any,
) -> list[GroupResult] | ResidentSums:
    """Read and sum groups one after the other, on the calling thread; join their sums.

    Parameters
    ----------
    work
        The work of the scan, or its pickle: where workers are many, a task less for each.
    cache
        Whether to cache the rows for the next scan.
    groups
        Consecutive groups.
    resident_from
        Bytes of the packed sums from which they stay here; nothing else is then returned. None:
        they are returned, with the rest, whatever their size.
    persisted
        Results that the blocks of a dask array need, in the order of `ArrayChunks.needs`. Dask
        brings them to this worker.
    """
    if isinstance(work, bytes):
        work = open_work(work)
    chunks, stop = source.chunks, groups[-1].stop
    if persisted:
        assert isinstance(chunks, ArrayChunks)
        names = chunks.needs(groups[0].start, stop)
        chunks = replace(chunks, persisted=dict(zip(names, persisted, strict=True)))
    reader = Reader(chunks, work, stop, source.cache if cache else None)
    with single_threaded():
        results = join_subtrees([sum_group(reader, group) for group in groups])
    if resident_from is not None:
        subtrees = [
            Subtree(result.group.index, result.span, result.total)
            for result in results
            if result.span
        ]
        sums = ResidentSums(pickle.dumps(subtrees))
        if len(sums) >= resident_from:
            return sums
    return results


def join_sums(*parts: bytes) -> ResidentSums:
    """Join sums of several tasks, which Dask brings to this worker, to those of larger subtrees."""
    tree = TreeSum()
    for part in parts:
        for subtree in unpack_sums(part):
            tree.add(subtree.first, subtree.span, subtree.total)
    return ResidentSums(pickle.dumps(tree.subtrees))
