"""Vector instructions, written by hand for two loops that the compiler vectorizes poorly.

Each function here emits a few LLVM instructions on vectors of `LANES` doubles: load, store, splat,
multiply-add, sum over lanes. Their callers unroll loops in Python, so that accumulators stay in
registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils

Value = Any  # a value of LLVM's intermediate representation
Builder = Any

_FEATURES = binding.get_host_cpu_features()
LANES = 8 if _FEATURES.get("avx512f") else 4 if _FEATURES.get("avx") else 2
# Accumulators that fit beside the operands: AVX-512 and ARM have 32 registers, AVX has 16.
ACCUMULATORS = 8 if LANES == 4 and not _FEATURES.get("avx512vl") else 16

DOUBLE = ir.DoubleType()
INDEX = ir.IntType(64)
VECTOR = ir.VectorType(DOUBLE, LANES)
_FUSED = ("contract",)


def index(value: int) -> Value:
    """Make a constant index."""
    return INDEX(value)


def element(builder: Builder, address: Value, offset: Value) -> Value:
    """Point to the double at an offset, counted in doubles, from an address."""
    return builder.gep(builder.inttoptr(address, DOUBLE.as_pointer()), [offset])


def load(builder: Builder, pointer: Value) -> Value:
    """Load an aligned vector."""
    return builder.load(builder.bitcast(pointer, VECTOR.as_pointer()), align=8 * LANES)


def store(builder: Builder, vector: Value, pointer: Value) -> None:
    """Store an aligned vector."""
    builder.store(vector, builder.bitcast(pointer, VECTOR.as_pointer()), align=8 * LANES)


def splat(builder: Builder, pointer: Value) -> Value:
    """Load one double into all lanes."""
    vector = ir.Constant(VECTOR, ir.Undefined)
    vector = builder.insert_element(vector, builder.load(pointer), ir.IntType(32)(0))
    return builder.shuffle_vector(vector, vector, _mask([0] * LANES))


def zeros(builder: Builder, n: int) -> list[Value]:
    """Make accumulators, (n,) vectors of zeros that live in registers."""
    variables = [cgutils.alloca_once(builder, VECTOR) for _ in range(n)]
    for variable in variables:
        builder.store(ir.Constant(VECTOR, [0.0] * LANES), variable)
    return variables


def accumulate(builder: Builder, variable: Value, a: Value, b: Value) -> None:
    """Add a·b to an accumulator."""
    product = builder.fmul(a, b, flags=_FUSED)
    builder.store(builder.fadd(builder.load(variable), product, flags=_FUSED), variable)


def sum_lanes(builder: Builder, variables: Sequence[Value]) -> list[Value]:
    """Sum the lanes of each of up to four accumulators; return scalars."""
    vectors = [builder.load(variable) for variable in variables]
    vectors += [vectors[0]] * (4 - len(vectors))
    pairs = [_add_neighbours(builder, vectors[0], vectors[1], 1)]
    pairs.append(_add_neighbours(builder, vectors[2], vectors[3], 1))
    if LANES == 2:
        lanes = [(pairs[0], 0), (pairs[0], 1), (pairs[1], 0), (pairs[1], 1)]
    else:
        total, width = _add_neighbours(builder, pairs[0], pairs[1], 2), LANES
        while width > 4:
            width //= 2
            low = builder.shuffle_vector(total, total, _mask(range(width)))
            high = builder.shuffle_vector(total, total, _mask(range(width, 2 * width)))
            total = builder.fadd(low, high)
        lanes = [(total, lane) for lane in range(4)]
    return [
        builder.extract_element(vector, ir.IntType(32)(lane))
        for vector, lane in lanes[: len(variables)]
    ]


def _add_neighbours(builder: Builder, a: Value, b: Value, run: int) -> Value:
    """Add neighbouring runs of lanes within a and within b, and interleave the sums."""
    first: list[int] = []
    second: list[int] = []
    for start in range(0, LANES, 2 * run):
        for source in (0, LANES):
            first += range(source + start, source + start + run)
            second += range(source + start + run, source + start + 2 * run)
    return builder.fadd(
        builder.shuffle_vector(a, b, _mask(first)), builder.shuffle_vector(a, b, _mask(second))
    )


def _mask(lanes: Sequence[int]) -> Value:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
