"""Where the caller's arrays lie: addresses and strides, as the kernels take them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gmm_dask.arrays import FloatArray, RowsArray

# Arrays of the caller go to the kernels as address and strides, parameters as writable C-ordered
# float64: so one compiled kernel serves every dtype, order and stride, also of read-only arrays.


def _pointer(name: str, element: Any, llvm: Any) -> Any:
    """Make the function that reads an address as a pointer to elements."""

    def cast(typingctx: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], llvm.as_pointer())

        return types.CPointer(element)(types.intp), generate

    cast.__name__ = name
    return intrinsic(cast)


doubles = _pointer("doubles", types.float64, ir.DoubleType())
singles = _pointer("singles", types.float32, ir.FloatType())
integers = _pointer("integers", types.int32, ir.IntType(32))


class RowsAddress(NamedTuple):
    """Where a (n, d) array of the caller lies, in bytes.

    So one compiled kernel serves every dtype, order and stride.
    """

    address: int
    row_stride: int
    column_stride: int
    itemsize: int
    n: int


class VectorAddress(NamedTuple):
    """Where a (n,) array of the caller lies, in bytes; address 0 means that there is none."""

    address: int
    stride: int


NO_VECTOR = VectorAddress(0, 0)


def rows_at(X: npt.NDArray[Any]) -> RowsAddress:
    """Where a (n, d) array lies."""
    return RowsAddress(X.ctypes.data, X.strides[0], X.strides[1], X.itemsize, len(X))


def vector_at(vector: npt.NDArray[Any] | None) -> VectorAddress:
    """Where a (n,) array lies, if there is one."""
    return (
        VectorAddress(0, 0)
        if vector is None
        else VectorAddress(vector.ctypes.data, vector.strides[0])
    )


def native_rows(X: RowsArray) -> RowsArray:
    """Return X itself unless its dtype is neither native float64 nor native float32."""
    return X if X.dtype in (np.float64, np.float32) else X.astype(np.float64)


def writable(array: FloatArray) -> FloatArray:
    """Return a C-ordered float64 array that may be written, a copy only if need be."""
    if array.flags.carray and array.dtype == np.float64:  # `np.require` takes ten times longer
        return array
    return np.require(array, np.float64, ["C", "W"])
