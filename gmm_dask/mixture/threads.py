"""One thread inside a computation: the cores are busy with other rows already.

Results must not depend on how many cores a machine has, and k-means and BLAS give other bits
with other thread counts.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager

from threadpoolctl import LibController, ThreadpoolController

#: Multiplications, about 3 ms of them, below which it takes longer to wake other threads.
WORTH_THREADS = 30_000_000


class _Limit:
    """A limit that whoever comes first sets and the last one lifts.

    Setting it each time would cost more than a small scan; and of two that overlap in threads,
    the one that ends last would restore the limit of the other for good.
    """

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._users = 0
        self._before: list[tuple[LibController, int]] = []

    def enter(self, libraries: Sequence[LibController]) -> None:
        with self._changing:
            self._users += 1
            if self._users == 1:
                self._before = [(one, one.get_num_threads()) for one in libraries]
                for one in libraries:
                    _set_threads(one, 1)

    def leave(self) -> None:
        with self._changing:
            self._users -= 1
            if not self._users:
                for one, threads in self._before:
                    _set_threads(one, threads)


def _set_threads(library: LibController, threads: int) -> None:
    """Set a library's threads, from whatever thread of ours.

    Since its version 3.8 threadpoolctl heeds only the thread that was the first to set OpenBLAS's,
    until it is told that another may; and the last one here need not be the first.
    """
    release = getattr(library, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)
    library.set_num_threads(threads)
    if release is not None:
        release(force=True)


class _OfThread(threading.local):
    """OpenMP's limit, which belongs to the calling thread alone."""

    def __init__(self) -> None:
        self.openmp = _Limit()


_blas = _Limit()
_of_thread = _OfThread()


@functools.cache
def _libraries(api: str) -> tuple[LibController, ...]:
    """Find the libraries of a kind; it must not be asked before they are loaded."""
    import scipy.linalg  # noqa: F401

    return tuple(ThreadpoolController().select(user_api=api).lib_controllers)


class _SingleThreaded:
    """A scan or a start of k-means opens one each time: a generator would cost ten times more."""

    def __enter__(self) -> None:
        _blas.enter(_libraries("blas"))
        self._openmp: _Limit | None = None
        if hasattr(sys.modules.get("sklearn.cluster"), "KMeans"):  # and not half imported
            self._openmp = _of_thread.openmp
            self._openmp.enter(_libraries("openmp"))

    def __exit__(self, *exception: object) -> None:
        if self._openmp is not None:
            self._openmp.leave()
        _blas.leave()


def single_threaded() -> AbstractContextManager[None]:
    """Limit BLAS, and OpenMP on the calling thread, to one thread while the context is open.

    Each thread of a pool needs its own. And it reaches only what is loaded: k-means, which
    brings OpenMP, opens it once more after its import.
    """
    return _SingleThreaded()
