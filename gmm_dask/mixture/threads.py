"""The limit of one thread inside BLAS and OpenMP while our own threads run.

The cores are already busy with other rows. And results must not depend on the number of cores, but
k-means and BLAS give other bits with other numbers of threads.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager

from threadpoolctl import LibController, ThreadpoolController

from gmm_dask.mixture.kernels.compile import load_numba

#: Below this number of multiplications (about 3 ms), waking other threads costs more than it saves.
WORTH_THREADS = 30_000_000


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Limit:
    """A limit of one thread that the first user sets and the last user lifts.

    Setting it for each user would cost more than a small scan. And where two users overlap, the
    second would take the limit of the first for the state before, and restore it for good.
    """

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._users = 0
        self._counts: list[tuple[LibController, int]] = []

    def enter(self, libraries: Sequence[LibController]) -> None:
        with self._changing:
            if not self._users:
                self._counts = [(library, library.get_num_threads()) for library in libraries]
                for library in libraries:
                    _set_threads(library, 1)
            self._users += 1

    def leave(self) -> None:
        with self._changing:
            self._users -= 1
            if not self._users:
                for library, threads in self._counts:
                    _set_threads(library, threads)


def _set_threads(library: LibController, threads: int) -> None:
    """Set the number of threads of a library, whichever of our threads calls.

    Since version 3.8, threadpoolctl lets only the thread that first set the number for OpenBLAS set
    it again, until that thread is cleared. Here the last user may be another thread than the first.
    """
    release = getattr(library, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)
    library.set_num_threads(threads)
    if release is not None:
        release(force=True)


class _ThreadLimits(threading.local):
    """The limits of the calling thread, without and with the libraries that k-means loads."""

    def __init__(self) -> None:
        self.limits = {False: _Limit(), True: _Limit()}


_process_limit = _Limit()
_thread_limits = _ThreadLimits()


@functools.cache
def _libraries(k_means: bool) -> tuple[tuple[LibController, ...], tuple[LibController, ...]]:
    """Return the libraries with one limit for the process, and those with one for each thread.

    The latter are OpenMP, which is loaded with k-means, and a BLAS that runs on OpenMP.
    """
    # Both open libraries. Were another thread to do so during the list, older versions of
    # threadpoolctl could wait for that thread, and it for them.
    import scipy.linalg  # noqa: F401

    load_numba()
    by_process: list[LibController] = []
    by_thread: list[LibController] = []
    for library in ThreadpoolController().lib_controllers:
        layers = library.user_api, getattr(library, "threading_layer", None)
        (by_thread if "openmp" in layers else by_process).append(library)
    return tuple(by_process), tuple(by_thread)


class _SingleThreaded:
    """The context of `single_threaded`.

    Every scan and every k-means opens one, and a generator would cost ten times as much.
    """

    def __enter__(self) -> None:
        # While another thread still imports it, its libraries would be missed, and the cached
        # list would never hold them.
        k_means = hasattr(sys.modules.get("sklearn.cluster"), "KMeans")
        by_process, by_thread = _libraries(k_means)
        self._thread_limit = _thread_limits.limits[k_means]
        self._thread_limit.enter(by_thread)
        try:
            _process_limit.enter(by_process)
        except BaseException:
            self._thread_limit.leave()
            raise

    def __exit__(self, *exception: object) -> None:
        _process_limit.leave()
        self._thread_limit.leave()


def single_threaded() -> AbstractContextManager[None]:
    """Limit BLAS, and OpenMP on the calling thread, to one thread while the context is open.

    Each thread of a pool needs a context. The limit reaches only libraries that are loaded: after
    importing k-means, open another context.
    """
    return _SingleThreaded()
