"""Vector instructions, written by hand for two loops that the compiler vectorizes poorly.

Each method of `Vectors` emits a few LLVM instructions on vectors of doubles or of singles: load,
store, splat, multiply-add, sum over lanes. Their callers unroll loops in Python, so that
accumulators stay in registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from llvmlite import ir

Value = Any  # a value of LLVM's intermediate representation
Builder = Any

INDEX = ir.IntType(64)
_DOUBLE = ir.DoubleType()
_FOUR_DOUBLES = ir.VectorType(_DOUBLE, 4)
_FUSED = ("contract",)


@cache
def _features() -> dict[str, bool]:
    """Return features of the processor that numba compiles for, which NUMBA_CPU_FEATURES may name.

    Like all that imports numba here, it waits until code is compiled.
    """
    from llvmlite import binding
    from numba import config

    if config.CPU_FEATURES is None:
        return dict(binding.get_host_cpu_features())
    return {name[1:]: name[0] == "+" for name in config.CPU_FEATURES.split(",") if name}


@cache
def width() -> int:
    """Return the bytes of a vector."""
    return 64 if _features().get("avx512f") else 32 if _features().get("avx") else 16


@cache
def accumulators() -> int:
    """Return how many accumulators fit beside the operands.

    AVX-512 and ARM have 32 registers, AVX has 16.
    """
    return 8 if width() == 32 and not _features().get("avx512vl") else 16


def index(value: int) -> Value:
    """Make a constant index."""
    return INDEX(value)


def element(builder: Builder, address: Value, offset: Value) -> Value:
    """Point to the number at an offset, counted in numbers, from a pointer to the first."""
    return builder.gep(address, [offset])


def add_to_double(builder: Builder, address: Value, value: Value) -> None:
    """Add a number of any precision to the double at an address."""
    if value.type != _DOUBLE:
        value = builder.fpext(value, _DOUBLE)
    builder.store(builder.fadd(builder.load(address), value), address)


class Vectors:
    """Instructions on vectors of one kind of numbers, as wide as the processor's registers.

    Attributes
    ----------
    lanes
        How many numbers a vector has.
    """

    def __init__(self, number: Any, size: int) -> None:
        self.lanes = width() // size
        self._vector = ir.VectorType(number, self.lanes)

    def load(self, builder: Builder, pointer: Value) -> Value:
        """Load an aligned vector."""
        return self._load(builder, pointer, width())

    def load_anywhere(self, builder: Builder, pointer: Value) -> Value:
        """Load a vector that need not be aligned."""
        return self._load(builder, pointer, width() // self.lanes)

    def _load(self, builder: Builder, pointer: Value, align: int) -> Value:
        return builder.load(builder.bitcast(pointer, self._vector.as_pointer()), align=align)

    def store(self, builder: Builder, vector: Value, pointer: Value) -> None:
        """Store an aligned vector."""
        builder.store(vector, builder.bitcast(pointer, self._vector.as_pointer()), align=width())

    def splat(self, builder: Builder, pointer: Value) -> Value:
        """Load one number into all lanes."""
        vector = ir.Constant(self._vector, ir.Undefined)
        vector = builder.insert_element(vector, builder.load(pointer), ir.IntType(32)(0))
        return builder.shuffle_vector(vector, vector, _mask([0] * self.lanes))

    def zeros(self, builder: Builder, n: int) -> list[Value]:
        """Make accumulators, (n,) vectors of zeros that live in registers."""
        from numba.core import cgutils

        variables = [cgutils.alloca_once(builder, self._vector) for _ in range(n)]
        for variable in variables:
            builder.store(ir.Constant(self._vector, [0.0] * self.lanes), variable)
        return variables

    def add(self, builder: Builder, variable: Value, vector: Value) -> None:
        """Add a vector to an accumulator."""
        builder.store(builder.fadd(builder.load(variable), vector), variable)

    def accumulate(self, builder: Builder, variable: Value, a: Value, b: Value) -> None:
        """Add a·b to an accumulator."""
        product = builder.fmul(a, b, flags=_FUSED)
        builder.store(builder.fadd(builder.load(variable), product, flags=_FUSED), variable)

    def sum_lanes(self, builder: Builder, variables: Sequence[Value]) -> list[Value]:
        """Sum the lanes of each of up to four accumulators; return scalars."""
        sums = self._lane_sums(builder, variables)
        return [
            builder.extract_element(sums, ir.IntType(32)(lane)) for lane in range(len(variables))
        ]

    def add_lane_sums(self, builder: Builder, place: Value, variables: Sequence[Value]) -> None:
        """Add the sums over lanes of up to four accumulators to as many doubles at an address."""
        sums = self._lane_sums(builder, variables)
        if len(variables) == 4:
            if sums.type.element != _DOUBLE:
                sums = builder.fpext(sums, _FOUR_DOUBLES)
            place = builder.bitcast(place, _FOUR_DOUBLES.as_pointer())
            builder.store(builder.fadd(builder.load(place, align=8), sums), place, align=8)
            return
        for lane in range(len(variables)):
            value = builder.extract_element(sums, ir.IntType(32)(lane))
            add_to_double(builder, element(builder, place, index(lane)), value)

    def _lane_sums(self, builder: Builder, variables: Sequence[Value]) -> Value:
        """Sum the lanes of each of up to four accumulators; return a vector of four sums."""
        vectors = [builder.load(variable) for variable in variables]
        vectors += [vectors[0]] * (4 - len(vectors))
        pairs = [self._add_neighbours(builder, vectors[0], vectors[1], 1)]
        pairs.append(self._add_neighbours(builder, vectors[2], vectors[3], 1))
        if self.lanes == 2:
            return builder.shuffle_vector(*pairs, _mask(range(4)))
        total, left = self._add_neighbours(builder, pairs[0], pairs[1], 2), self.lanes
        while left > 4:
            left //= 2
            low = builder.shuffle_vector(total, total, _mask(range(left)))
            high = builder.shuffle_vector(total, total, _mask(range(left, 2 * left)))
            total = builder.fadd(low, high)
        return total

    def _add_neighbours(self, builder: Builder, a: Value, b: Value, run: int) -> Value:
        """Add neighbouring runs of lanes within a and within b, and interleave the sums."""
        first: list[int] = []
        second: list[int] = []
        for start in range(0, self.lanes, 2 * run):
            for source in (0, self.lanes):
                first += range(source + start, source + start + run)
                second += range(source + start + run, source + start + 2 * run)
        return builder.fadd(
            builder.shuffle_vector(a, b, _mask(first)), builder.shuffle_vector(a, b, _mask(second))
        )


@cache
def doubles() -> Vectors:
    """Return the instructions on vectors of doubles."""
    return Vectors(_DOUBLE, 8)


@cache
def singles() -> Vectors:
    """Return the instructions on vectors of singles."""
    return Vectors(ir.FloatType(), 4)


def _mask(lanes: Sequence[int]) -> Value:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
