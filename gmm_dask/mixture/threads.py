"""One thread inside a computation: the cores are busy with other rows already.

Results must not depend on how many cores a machine has, and k-means and BLAS give other bits
with other thread counts.
"""

from __future__ import annotations

import functools
import sys
from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController


@functools.cache
def _controller(k_means: bool) -> ThreadpoolController:
    """Make what knows the libraries that are loaded; k-means brings OpenMP, when it is needed."""
    import scipy.linalg  # noqa: F401

    return ThreadpoolController()


def single_threaded() -> AbstractContextManager[object]:
    """Limit BLAS and OpenMP to one thread while the context is open.

    OpenMP's limit belongs to the calling thread alone: each thread of a pool needs its own. And
    it reaches only what is loaded: open it after the import of what it is for.
    """
    controller = _controller("sklearn.cluster" in sys.modules)
    limit: AbstractContextManager[object] = controller.limit(limits=1)
    return limit
