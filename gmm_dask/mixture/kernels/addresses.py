"""Addresses and strides of the caller's arrays: the form in which kernels take them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.kernels.compile import emitted

# A kernel takes the caller's arrays as addresses and strides, and parameters as writable C-ordered
# float64 arrays. So one compiled kernel serves every dtype, order and stride, and read-only arrays.


def _pointer(name: str, element: str, llvm: Any) -> Any:
    """Make a function that kernels call to turn an address into a pointer to elements."""

    def cast(typingctx: Any, address: Any) -> Any:
        from numba import types

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], llvm.as_pointer())

        return types.CPointer(getattr(types, element))(types.intp), generate

    cast.__name__ = name
    return emitted(cast)


doubles = _pointer("doubles", "float64", ir.DoubleType())
singles = _pointer("singles", "float32", ir.FloatType())
integers = _pointer("integers", "int32", ir.IntType(32))


class RowsAddress(NamedTuple):
    """The address and the strides of an (n, d) array of the caller, in bytes."""

    address: int
    row_stride: int
    column_stride: int
    itemsize: int
    n: int


class VectorAddress(NamedTuple):
    """The address and the stride of an (n,) array of the caller, in bytes; 0 means no array."""

    address: int
    stride: int


NO_VECTOR = VectorAddress(0, 0)


class Answers(NamedTuple):
    """Where a pass writes what a mixture says of each row; no vectors: nowhere.

    Attributes
    ----------
    labels
        Most probable component, (n,) int32.
    densities
        log p(x), nats, (n,).
    certainties
        The largest responsibility, (n,).
    """

    labels: VectorAddress
    densities: VectorAddress
    certainties: VectorAddress


NO_ANSWERS = Answers(NO_VECTOR, NO_VECTOR, NO_VECTOR)


def rows_at(X: npt.NDArray[Any]) -> RowsAddress:
    """Return the address of an (n, d) array; the caller must keep the array alive."""
    return RowsAddress(X.ctypes.data, X.strides[0], X.strides[1], X.itemsize, len(X))


def vector_at(vector: npt.NDArray[Any] | None) -> VectorAddress:
    """Return the address of an (n,) array, `NO_VECTOR` for None; the caller must keep it alive."""
    return NO_VECTOR if vector is None else VectorAddress(vector.ctypes.data, vector.strides[0])


def native_rows(X: RowsArray) -> RowsArray:
    """Return X itself if it is native float32 or float64, else a float64 copy."""
    return X if X.dtype in (np.float64, np.float32) else X.astype(np.float64)


def writable(array: FloatArray) -> FloatArray:
    """Return the array itself if it is C-ordered, writable float64, else such a copy."""
    if array.flags.carray and array.dtype == np.float64:  # np.require takes ten times as long
        return array
    return np.require(array, np.float64, ["C", "W"])
