"""Calls of one kernel by another, by address: what is called is compiled once, for both.

A part that is compiled with its caller costs seconds of compilation for each caller. A call by
address costs nanoseconds, and so it serves where a pass over many rows is called: the caller is
given `Kernel.address` among its arguments, and one caller serves the kernels of all forms.

What fails in the kernel that is called, as an allocation can, cannot be raised in its caller. It
returns zeros then, and the caller has to tell that by them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gmm_dask.mixture.kernels.compile import KernelFunction, emitted


def returning(name: str, result: Callable[[Any], Any]) -> KernelFunction:
    """Make a function of an address and a tuple of arguments: it calls the kernel there.

    The arguments must be of the types that `Kernel.address` was given.

    Parameters
    ----------
    name
        Of the function, in messages of the compiler.
    result
        Returns the type of what the kernels return; called with `numba.types`.
    """

    def call(typingctx: Any, address: Any, arguments: Any) -> Any:
        from numba import types

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            from llvmlite import ir
            from numba.core import cgutils

            kinds = [context.get_value_type(kind) for kind in signature.args[1].types]
            returned = context.get_value_type(signature.return_type)
            pointer = ir.FunctionType(returned, kinds).as_pointer()
            given = cgutils.unpack_tuple(builder, values[1], len(kinds))
            return builder.call(builder.inttoptr(values[0], pointer), given)

        return result(types)(address, arguments), generate

    call.__name__ = call.__qualname__ = name
    return emitted(call)
