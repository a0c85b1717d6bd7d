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
            if not self._users:
                self._before = [(one, one.get_num_threads()) for one in libraries]
                for one in libraries:
                    _set_threads(one, 1)
            self._users += 1

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
    """Limits that belong to the calling thread: without and with what k-means brings."""

    def __init__(self) -> None:
        self.limits = {False: _Limit(), True: _Limit()}


_shared = _Limit()
_of_thread = _OfThread()


@functools.cache
def _libraries(k_means: bool) -> tuple[tuple[LibController, ...], tuple[LibController, ...]]:
    """Libraries whose limit is one for the process, and those where each thread has its own.

    The latter are OpenMP, which k-means brings when it is loaded, and BLAS that runs on OpenMP.
    """
    import scipy.linalg  # noqa: F401

    found = ThreadpoolController().lib_controllers
    own = [
        one for one in found if "openmp" in (one.user_api, getattr(one, "threading_layer", None))
    ]
    return tuple(one for one in found if one not in own), tuple(own)


class _SingleThreaded:
    """A scan or a start of k-means opens one each time: a generator would cost ten times more."""

    def __enter__(self) -> None:
        # Not when it is half imported by another thread: what it brings would be missed for good.
        k_means = hasattr(sys.modules.get("sklearn.cluster"), "KMeans")
        shared, own = _libraries(k_means)
        self._own = _of_thread.limits[k_means]
        self._own.enter(own)
        try:
            _shared.enter(shared)
        except BaseException:
            self._own.leave()
            raise

    def __exit__(self, *exception: object) -> None:
        _shared.leave()
        self._own.leave()


def single_threaded() -> AbstractContextManager[None]:
    """Limit BLAS, and OpenMP on the calling thread, to one thread while the context is open.

    Each thread of a pool needs its own. And it reaches only what is loaded: k-means opens it once
    more after its import.
    """
    return _SingleThreaded()
