"""What runs on the workers of a cluster: functions that a client submits, and rows cached there.

A `Source` lives on a worker as long as the client holds the future of it. When the client lets
go, or dies, or when Dask moves the source out of memory, the rows that it keeps are freed.
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
from gmm_dask.chunked.reading import Reader, RowCache, sum_group
from gmm_dask.chunked.rows import RowChunks
from gmm_dask.chunked.scan import Group, GroupResult, Work
from gmm_dask.mixture.threads import single_threaded


def dask_setup(worker: Any) -> None:
    """Ignore Ctrl-C: the preload of workers that a command starts itself, and ends itself.

    A terminal interrupts every process of the command, and Dask's would answer with tracebacks.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class Facts:
    """What decides the bits that a process computes.

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
        """Say in what this process differs from another; empty if in nothing."""
        differences = []
        for field in fields(self):
            value, here = getattr(self, field.name), getattr(other, field.name)
            if value == here:
                continue
            if field.name == "features":
                signed = set(value.split(",")) ^ set(here.split(","))
                names = sorted({feature[1:] for feature in signed})
                differences.append(f"CPU features differ in {', '.join(names[:5])}")
            else:
                differences.append(f"{field.name} {value}, here {here}")
        return "; ".join(differences)


def facts() -> Facts:
    """Return the facts of this process."""
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
    """The rows as a worker sees them: how to read them, and those that it keeps.

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
        # Dask may move it to another worker or to a disk: the rows stay behind.
        return Source, (self.chunks, self.budget)


def open_source(chunks: bytes, budget: int) -> Source:
    """Set up a source of rows on this worker."""
    return Source(pickle.loads(chunks), budget)


def open_work(work: bytes) -> Work:
    """Unpack what a scan does, once for all its tasks on this worker."""
    return pickle.loads(work)


def greet(source: Source) -> Facts:
    """Check that the source's first and last rows can be reached; return the facts of this process.

    Raises
    ------
    InputError
        This worker does not see the input.
    """
    source.chunks.check()
    return facts()


def sum_groups(
    source: Source, work: Work, cache: bool, groups: Sequence[Group], persisted: Sequence[Any]
) -> list[GroupResult]:
    """Read and sum groups in turn, on the calling thread.

    ``persisted`` are the results, brought by Dask, that blocks of a dask array need.
    """
    chunks, stop = source.chunks, groups[-1].stop
    if persisted:
        assert isinstance(chunks, ArrayChunks)
        names = chunks.needs(groups[0].start, stop)
        chunks = replace(chunks, persisted=dict(zip(names, persisted, strict=True)))
    reader = Reader(chunks, work, stop, source.cache if cache else None)
    with single_threaded():
        return [sum_group(reader, group) for group in groups]
