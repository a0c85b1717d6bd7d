"""Calls of BLAS and LAPACK from kernels: products and factors of large matrices.

The library is scipy's. Its functions are called by address, so that a pass neither holds the
interpreter's lock nor returns to Python between two calls. They have columns first, and kernels
rows: what is lower triangular here is upper triangular there, and each product is transposed.

Whoever runs such a kernel opens `single_threaded`: with other numbers of threads, BLAS has other
bits. A matrix is given by the address of its first entry and its stride: the doubles from one row
to the next.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir

from gmm_dask.mixture.kernels.compile import KernelFunction, emitted, exact

_DOUBLE, _INT, _CHAR = ir.DoubleType(), ir.IntType(32), ir.IntType(8)


def _library_function(name: str, library: str, pattern: str) -> KernelFunction:
    """Make a function that kernels call to run one of BLAS or LAPACK, which takes pointers only.

    Parameters
    ----------
    pattern
        Kinds of the arguments. ``c``: a letter, given as its code; ``i``: an integer; ``d``: a
        double; ``p``: an address; ``o``: an integer that the function writes, which is returned.
    """
    # Compiled code, read from the cache too, finds the function by this name.
    symbol = f"gmm_dask_{name}"
    given = [kind for kind in pattern if kind != "o"]

    @cache
    def link() -> None:
        from llvmlite import binding
        from numba.extending import get_cython_function_address

        binding.add_symbol(symbol, get_cython_function_address(f"scipy.linalg.{library}", name))

    def call(typingctx: Any, arguments: Any) -> Any:
        from numba import types
        from numba.core import cgutils

        kinds = {"c": types.int64, "i": types.int64, "d": types.float64, "p": types.int64}

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            values = iter(cgutils.unpack_tuple(builder, values[0], len(given)))
            pointers, written = [], None
            for kind in pattern:
                value = ir.Constant(_INT, 0) if kind == "o" else next(values)
                if kind == "p":
                    pointers.append(builder.inttoptr(value, _DOUBLE.as_pointer()))
                    continue
                if kind in "ci":
                    value = builder.trunc(value, _CHAR if kind == "c" else _INT)
                pointer = cgutils.alloca_once_value(builder, value)
                pointers.append(pointer)
                written = pointer if kind == "o" else written
            shape = ir.FunctionType(ir.VoidType(), [pointer.type for pointer in pointers])
            function = cgutils.get_or_insert_function(builder.module, shape, symbol)
            builder.call(function, pointers)
            result = ir.Constant(_INT, 0) if written is None else builder.load(written)
            return builder.sext(result, ir.IntType(64))

        return types.int64(types.Tuple([kinds[kind] for kind in given])), generate

    call.__name__ = call.__qualname__ = symbol
    return emitted(call, link)


_dtrmm = _library_function("dtrmm", "cython_blas", "ccccii" + "dpipi")
_dgemm = _library_function("dgemm", "cython_blas", "cciii" + "dpipidpi")
_dsyrk = _library_function("dsyrk", "cython_blas", "ccii" + "dpidpi")
_dpotrf = _library_function("dpotrf", "cython_lapack", "cipio")
_dtrtri = _library_function("dtrtri", "cython_lapack", "ccipio")

_LEFT, _RIGHT, _UPPER, _LOWER = ord("L"), ord("R"), ord("U"), ord("L")
_PLAIN, _TRANSPOSED, _FREE = ord("N"), ord("T"), ord("N")


@exact
def multiply_by_upper(rows, stride, m, U, U_stride, d):  # type: ignore[no-untyped-def]
    """Write Y U in place of the rows Y (m, d), for an upper triangular U (d, d)."""
    code = (_LEFT, _LOWER, _PLAIN, _FREE, d, m, 1.0, U, U_stride, rows, stride)
    _dtrmm(code)


@exact
def transform_by_lower(matrix, lower, d):  # type: ignore[no-untyped-def]
    """Write L A Lᵀ in place of A (d, d), for a lower triangular L (d, d)."""
    _dtrmm((_LEFT, _UPPER, _TRANSPOSED, _FREE, d, d, 1.0, lower, d, matrix, d))
    _dtrmm((_RIGHT, _UPPER, _PLAIN, _FREE, d, d, 1.0, lower, d, matrix, d))


@exact
def add_product(left, left_stride, right, right_stride, target, stride, m, p, q):  # type: ignore[no-untyped-def]
    """Add A B to the target (m, q), for A (m, p) and B (p, q)."""
    letters = (_PLAIN, _PLAIN)
    _dgemm((*letters, q, m, p, 1.0, right, right_stride, left, left_stride, 1.0, target, stride))


@exact
def add_squares(rows, stride, m, target, d):  # type: ignore[no-untyped-def]
    """Add Yᵀ Y of the rows Y (m, d) to the lower triangle of the target (d, d)."""
    _dsyrk((_UPPER, _PLAIN, d, m, 1.0, rows, stride, 1.0, target, d))


@exact
def factorize(matrix, d):  # type: ignore[no-untyped-def]
    """Write the Cholesky factor L in the lower triangle of A (d, d); return whether A has one."""
    return _dpotrf((_UPPER, d, matrix, d)) == 0


@exact
def invert_lower(matrix, d):  # type: ignore[no-untyped-def]
    """Write L⁻¹ in place of the lower triangle of a matrix (d, d)."""
    _dtrtri((_UPPER, _FREE, d, matrix, d))
