"""What all kernels share: loading a tile of rows, exp and log, and normalising responsibilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from gmm_dask.mixture.covariance.compile import exact

ROWS = 128  # of a tile: all its features stay in the first-level cache


@intrinsic  # type: ignore[untyped-decorator]
def _double_pointer(typingctx: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.DoubleType().as_pointer())

    return types.CPointer(types.float64)(types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def _single_pointer(typingctx: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def _integer_pointer(typingctx: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(32).as_pointer())

    return types.CPointer(types.int32)(types.intp), generate


@exact
def load_tile(tile, address, row_stride, column_stride, single, rows):  # type: ignore[no-untyped-def]
    """Copy ``rows`` rows, feature-major, into tile (d, ROWS)."""
    for j in range(tile.shape[0]):
        column = address + j * column_stride
        if single:
            if row_stride == 4:
                contiguous = carray(_single_pointer(column), rows)
                for i in range(rows):
                    tile[j, i] = contiguous[i]
            else:
                for i in range(rows):
                    tile[j, i] = carray(_single_pointer(column + i * row_stride), 1)[0]
        elif row_stride == 8:
            contiguous_double = carray(_double_pointer(column), rows)
            for i in range(rows):
                tile[j, i] = contiguous_double[i]
        else:
            for i in range(rows):
                tile[j, i] = carray(_double_pointer(column + i * row_stride), 1)[0]


@exact
def load_weights(weights, address, stride, rows):  # type: ignore[no-untyped-def]
    """Copy the sample weights of a tile; address 0 means 1 for every row."""
    for i in range(rows):
        if address == 0:
            weights[i] = 1.0
        else:
            weights[i] = carray(_double_pointer(address + i * stride), 1)[0]


@exact
def normalise(log_joint, log_densities, rows):  # type: ignore[no-untyped-def]
    """Turn log π p of a tile, (k, ROWS), into responsibilities, and give log p(x)."""
    k = log_joint.shape[0]
    for i in range(rows):
        top = log_joint[0, i]
        for c in range(1, k):
            top = max(top, log_joint[c, i])
        total = 0.0
        for c in range(k):
            t = log_joint[c, i] - top
            e = np.exp(t) if t > -230.0 else 0.0
            log_joint[c, i] = e
            total += e
        for c in range(k):
            log_joint[c, i] /= total
        log_densities[i] = top + np.log(total)


@exact
def store_tile(  # type: ignore[no-untyped-def]
    log_joint,
    log_densities,
    labels_address,
    labels_stride,
    densities_address,
    densities_stride,
    address,
    row_stride,
    column_stride,
    with_responsibilities,
    rows,
):
    """Write what `normalise` made of a tile to the arrays of the caller."""
    k = log_joint.shape[0]
    for i in range(rows):
        best = 0
        for c in range(1, k):
            if log_joint[c, i] > log_joint[best, i]:
                best = c
        carray(_integer_pointer(labels_address + i * labels_stride), 1)[0] = best
        carray(_double_pointer(densities_address + i * densities_stride), 1)[0] = log_densities[i]
        if with_responsibilities:
            for c in range(k):
                target = address + i * row_stride + c * column_stride
                carray(_double_pointer(target), 1)[0] = log_joint[c, i]
