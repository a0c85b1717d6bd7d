"""One thread inside a computation: the cores are busy with other rows already.

Results must not depend on how many cores a machine has, and k-means and BLAS give other bits
with other thread counts.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController


@functools.cache
def _controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  the libraries to be limited must be loaded by now
    import sklearn.cluster  # noqa: F401

    return ThreadpoolController()


def single_threaded() -> AbstractContextManager[object]:
    """Limit BLAS and OpenMP to one thread while the context is open.

    OpenMP's limit belongs to the calling thread alone: each thread of a pool needs its own.
    """
    limit: AbstractContextManager[object] = _controller().limit(limits=1)
    return limit
