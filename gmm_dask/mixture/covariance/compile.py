"""How the kernels are compiled: once per installation, announced, safe between processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

KernelFunction = Callable[..., Any]

# No flag that assumes the absence of NaN or infinity: sums may be reordered, that is all.
SUMMATION = {"contract", "reassoc", "nsz"}


def kernel(function: KernelFunction) -> KernelFunction:
    """Compile a function that is called once per pass, without the interpreter's lock."""
    compiled: KernelFunction = njit(nogil=True, cache=True, fastmath=SUMMATION)(function)
    return compiled


def inlined(function: KernelFunction) -> KernelFunction:
    """Compile a part of kernels whose sums may be reordered."""
    compiled: KernelFunction = njit(nogil=True, fastmath=SUMMATION)(function)
    return compiled


def exact(function: KernelFunction) -> KernelFunction:
    """Compile a part of kernels that keeps the order of its operations."""
    compiled: KernelFunction = njit(nogil=True, fastmath={"contract"})(function)
    return compiled
