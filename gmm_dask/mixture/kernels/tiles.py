"""Tiles of rows, on which the passes work: reading from and writing to the caller's arrays.

A pass walks over its rows in tiles of `ROWS`, feature-major in float64, so that the innermost
loops run over rows and become vector instructions. Buffers are flat: feature j of a tile is
``tile[j * ROWS : (j + 1) * ROWS]``. As features lie at constant distances, the compiler can see
that they do not overlap. The last tile is filled up with rows of weight 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from gmm_dask.mixture.kernels.addresses import VectorAddress, doubles, integers, singles
from gmm_dask.mixture.kernels.compile import allocating, emitted, exact, inlined

ROWS = 128  # of a tile: all its features stay in the first- or second-level cache
BAND = 16  # rows that are turned to features together
_LONG = 128  # bytes of a row, two cache lines


@emitted
def bits_of(typingctx: Any, value: Any) -> Any:
    """Return the bits of a double as an integer."""
    from numba import types

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


@emitted
def double_of(typingctx: Any, value: Any) -> Any:
    """Return the double that has these bits."""
    from numba import types

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate


@emitted
def bits_of_single(typingctx: Any, value: Any) -> Any:
    """Return the bits of a single as an integer."""
    from numba import types

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@emitted
def single_of(typingctx: Any, value: Any) -> Any:
    """Return the single that has the low 32 bits of an integer."""
    from numba import types

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.trunc(arguments[0], ir.IntType(32)), ir.FloatType())

    return types.float32(types.int64), generate


@emitted
def prefer_wide_vectors(typingctx: Any) -> Any:
    """Make the calling function use the widest vectors of the processor.

    By default LLVM uses half of that width, because the widest vectors lower the clock rate for
    the scalar code around them; a pass has hardly any. Measured: 1.3 to 1.4 times faster with
    AVX-512.
    """
    from numba import types

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # llvmlite accepts only attributes without a value, so this one bypasses its check.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


@allocating
@inlined
def aligned(size):  # type: ignore[no-untyped-def]
    """Allocate doubles that start at a cache line, so that no vector straddles two."""
    buffer = np.empty(size + 8)
    first = (-(buffer.ctypes.data >> 3)) & 7
    return buffer[first : first + size]


@allocating
@inlined
def aligned_rows(k, size):  # type: ignore[no-untyped-def]
    """Allocate (k, size) doubles whose rows start at cache lines; size is a multiple of 8."""
    return aligned(k * size).reshape((k, size))


@allocating
@inlined
def aligned_singles(size):  # type: ignore[no-untyped-def]
    """Allocate singles that start at a cache line."""
    buffer = np.empty(size + 16, np.float32)
    first = (-(buffer.ctypes.data >> 2)) & 15
    return buffer[first : first + size]


@allocating
@inlined
def aligned_rows_of_singles(k, size):  # type: ignore[no-untyped-def]
    """Allocate (k, size) singles whose rows start at cache lines; size is a multiple of 16."""
    return aligned_singles(k * size).reshape((k, size))


@inlined
def fill(values, value, start):  # type: ignore[no-untyped-def]
    """Set the values from start on.

    In place of slice assignment, which numba takes a second to compile.
    """
    for i in range(start, values.size):
        values[i] = value


@inlined
def _load_pairs(tile, pairs, rows):  # type: ignore[no-untyped-def]
    """Copy rows of two doubles that lie one after the other, as numpy has them."""
    prefer_wide_vectors()
    first, second = tile[:ROWS], tile[ROWS : 2 * ROWS]
    for i in range(rows):
        first[i] = pairs[2 * i]
        second[i] = pairs[2 * i + 1]
    fill(first, first[0], rows)
    fill(second, second[0], rows)
    magnitude = 0.0
    for i in range(2 * ROWS):
        magnitude += abs(tile[i])
    return magnitude


@inlined
def load_tile(tile, source, start, rows):  # type: ignore[no-untyped-def]
    """Copy rows into a tile, feature-major; return Σ|x|, which is finite only if every x is."""
    prefer_wide_vectors()
    in_pairs = source.itemsize == 8 and source.column_stride == 8 and source.row_stride == 16
    if tile.size == 2 * ROWS and in_pairs:
        return _load_pairs(tile, doubles(source.address + start * 16), rows)
    if takes_whole_rows(source, tile.size // ROWS):
        magnitude = _load_whole_rows(tile, source, start, rows)
    else:
        magnitude = _load_columns(tile, source, start, rows)
    for j in range(tile.size // ROWS):
        feature = tile[j * ROWS : (j + 1) * ROWS]
        fill(feature, feature[0], rows)
    return magnitude


@inlined
def takes_whole_rows(source, d):  # type: ignore[no-untyped-def]
    """Whether rows lie in one piece each, and are long enough to be loaded one after the other."""
    return source.column_stride == source.itemsize and d * source.itemsize >= _LONG


@inlined
def _load_whole_rows(tile, source, start, rows):  # type: ignore[no-untyped-def]
    """Load rows of which each lies in one piece, sixteen at a time; return Σ|x|.

    The sum is taken first: it reads memory in order, as memory is fastest, and leaves the rows in
    the cache. Feature by feature, rows whose length is a multiple of 256 numbers would compete for
    a few places in it, and take four times as long.
    """
    prefer_wide_vectors()
    d, step, target = tile.size // ROWS, source.row_stride, tile.ctypes.data
    magnitude = 0.0
    whole = rows // BAND * BAND
    for i in range(0, whole, BAND):
        row = source.address + (start + i) * step
        for a in range(BAND):
            magnitude += sum_of_magnitudes(row + a * step, source.itemsize, d)
        if source.itemsize == 4:
            _turn_singles(target + 8 * i, row, step, d)
        else:
            _turn_doubles(target + 8 * i, row, step, d)
    for i in range(whole, rows):
        row = source.address + (start + i) * step
        magnitude += sum_of_magnitudes(row, source.itemsize, d)
        for j in range(d):
            tile[j * ROWS + i] = singles(row)[j] if source.itemsize == 4 else doubles(row)[j]
    return magnitude


@inlined
def _turn_doubles(target, row, step, d):  # type: ignore[no-untyped-def]
    """Copy a band of rows, the first of which is at an address, to places of a tile."""
    prefer_wide_vectors()
    for j in range(d):
        feature = doubles(target + j * (8 * ROWS))
        for a in range(BAND):
            feature[a] = doubles(row + a * step)[j]


@inlined
def _turn_singles(target, row, step, d):  # type: ignore[no-untyped-def]
    """Copy a band of float32 rows to places of a tile of doubles."""
    prefer_wide_vectors()
    for j in range(d):
        feature = doubles(target + j * (8 * ROWS))
        for a in range(BAND):
            feature[a] = singles(row + a * step)[j]


@inlined
def sum_of_magnitudes(address, itemsize, d):  # type: ignore[no-untyped-def]
    """Return Σ|x| of a row that lies in one piece."""
    prefer_wide_vectors()
    narrow, wide = singles(address), doubles(address)
    magnitude = 0.0
    if itemsize == 4:
        for j in range(d):
            magnitude += abs(narrow[j])
    else:
        for j in range(d):
            magnitude += abs(wide[j])
    return magnitude


@inlined
def _load_columns(tile, source, start, rows):  # type: ignore[no-untyped-def]
    """Load rows feature by feature; return Σ|x|."""
    prefer_wide_vectors()
    magnitude = 0.0
    for j in range(tile.size // ROWS):
        feature = tile[j * ROWS : (j + 1) * ROWS]
        column = source.address + start * source.row_stride + j * source.column_stride
        if source.itemsize == 4:
            if source.row_stride == 4:
                contiguous = singles(column)
                for i in range(rows):
                    feature[i] = contiguous[i]
            else:
                for i in range(rows):
                    feature[i] = singles(column + i * source.row_stride)[0]
        else:
            load(feature, VectorAddress(column, source.row_stride), 0, rows)
        for i in range(rows):
            magnitude += abs(feature[i])
    return magnitude


@exact
def load(values, source, start, rows):  # type: ignore[no-untyped-def]
    """Read values from a float64 array of the caller."""
    prefer_wide_vectors()
    if source.stride == 8:
        contiguous = doubles(source.address + start * 8)
        for i in range(rows):
            values[i] = contiguous[i]
    else:
        for i in range(rows):
            values[i] = doubles(source.address + (start + i) * source.stride)[0]


@exact
def load_weights(weights, source, start, rows):  # type: ignore[no-untyped-def]
    """Read the sample weights of a tile, 1 if none are given; rows that fill it up weigh 0."""
    if source.address == 0:
        fill(weights, 1.0, 0)
    else:
        load(weights, source, start, rows)
    fill(weights, 0.0, rows)


@inlined
def largest(values):  # type: ignore[no-untyped-def]
    """Return the largest magnitude of an array of any shape."""
    result = 0.0
    for value in values.reshape(values.size):
        result = max(result, abs(value))
    return result


@exact
def clip_far(tile, magnitude, largest_mean, largest_factor):  # type: ignore[no-untyped-def]
    """Clip values so far out that the squares of whitened residuals would overflow.

    Nothing changes within 1e145 standard deviations of the means. NaN stays NaN.
    """
    d = tile.size // ROWS
    scale = max(1.0, largest_factor)
    if (magnitude + d * largest_mean) * scale < 1e145:
        return
    limit = 1e150 / (d * scale)
    for i in range(tile.size):
        if tile[i] > limit:
            tile[i] = limit
        elif tile[i] < -limit:
            tile[i] = -limit


@exact
def store(values, target, start, rows):  # type: ignore[no-untyped-def]
    """Write values to a float64 array of the caller."""
    prefer_wide_vectors()
    if target.stride == 8:
        contiguous = doubles(target.address + start * 8)
        for i in range(rows):
            contiguous[i] = values[i]
    else:
        for i in range(rows):
            doubles(target.address + (start + i) * target.stride)[0] = values[i]


@exact
def store_labels(labels, target, start, rows):  # type: ignore[no-untyped-def]
    """Write labels to an int32 array of the caller."""
    prefer_wide_vectors()
    if target.stride == 4:
        contiguous = integers(target.address + start * 4)
        for i in range(rows):
            contiguous[i] = np.int32(labels[i])
    else:
        for i in range(rows):
            integers(target.address + (start + i) * target.stride)[0] = np.int32(labels[i])
