"""Compilation of the kernels: at the first call, once per installation, announced in the log.

The compiled code is kept (`code_cache`). numba is imported when the first kernel runs: what only
reads models runs none.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

KernelFunction = Callable[..., Any]

# Sums may be reordered. No flag assumes the absence of NaN or infinity.
_SUMMATION = {"contract", "reassoc", "nsz"}
# Inlining is forced. Otherwise the process that compiles would call the part as compiled alone, and
# processes that read the cache would call the kernel's copy of it: the two round sums differently.
_OPTIONS: dict[str, Any] = {"nogil": True, "forceinline": True, "error_model": "numpy"}
# Neither Python nor C calls a part. What would let them takes a seventh of a compilation.
_PART_OPTIONS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

# Nothing is written to the lock, and what somebody else put in its place is not waited for.
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Part:
    """A function that kernels call, and that is compiled with them.

    By default nobody counts who holds its arrays, since they are its caller's. To count took a
    third of a pass over rows of two features: one atomic addition whenever a part takes a row of a
    matrix, and another one when it is done with it.
    """

    def __init__(
        self, function: KernelFunction, fastmath: set[str], allocates: bool = False
    ) -> None:
        self._function = function
        self._fastmath = fastmath
        self.allocates = allocates

    @cached_property
    def compiled(self) -> KernelFunction:
        """What numba makes of the function, for kernels."""
        return _compiled(self._function, self._fastmath, _nrt=self.allocates, **_PART_OPTIONS)

    def returns_arrays(self) -> bool:
        """Whether it has been compiled in this process, and returns arrays."""
        # Another thread may be compiling a kernel that has this part, too.
        overloads = list(getattr(self.__dict__.get("compiled"), "overloads", {}).values())
        return any(_holds_arrays(overload.signature.return_type) for overload in overloads)

    @cached_property
    def _compiled_for_python(self) -> KernelFunction:
        return _compiled(self._function, self._fastmath)

    def __call__(self, *arguments: Any) -> Any:
        """Call the compiled function from Python, as tests do."""
        return self._compiled_for_python(*arguments)


class Instructions:
    """A function that kernels call, and that emits instructions where it is called."""

    def __init__(self, emit: KernelFunction, link: Callable[[], None]) -> None:
        self._emit = emit
        self.link = link

    @cached_property
    def compiled(self) -> Any:
        """What numba makes of the function."""
        from numba.extending import intrinsic

        return intrinsic(self._emit)


def inlined(function: KernelFunction) -> KernelFunction:
    """Make a function a part of kernels whose sums may be reordered."""
    return Part(function, _SUMMATION)


def allocating(part: KernelFunction) -> KernelFunction:
    """Let a part allocate arrays, or return some to a kernel: who holds them is counted there."""
    assert isinstance(part, Part)
    return Part(part._function, part._fastmath, allocates=True)


def exact(function: KernelFunction) -> KernelFunction:
    """Make a function a part of kernels whose operations must keep their order."""
    return Part(function, {"contract"})


def emitted(emit: KernelFunction, link: Callable[[], None] = lambda: None) -> KernelFunction:
    """Make a function a part of kernels that says its instructions itself.

    Parameters
    ----------
    emit
        As for `numba.extending.intrinsic`; it imports what it needs of numba.
    link
        Makes known to compiled code what the instructions name, before such code is loaded.
    """
    return Instructions(emit, link)  # type: ignore[return-value]


def _compiled(function: KernelFunction, fastmath: set[str], **more: Any) -> KernelFunction:
    compiled: KernelFunction = load_numba().njit(fastmath=fastmath, **_OPTIONS, **more)(function)
    return compiled


@cache
def load_numba() -> Any:
    """Import numba, and tell it what a part is."""
    import numba
    from numba.core.registry import cpu_target
    from numba.extending import typeof_impl

    @typeof_impl.register(Part)  # type: ignore[untyped-decorator]
    def type_of_part(part: Part, context: Any) -> Any:
        return typeof_impl(part.compiled, context)

    @typeof_impl.register(Instructions)  # type: ignore[untyped-decorator]
    def type_of_instructions(instructions: Instructions, context: Any) -> Any:
        compiled, typing = instructions.compiled, cpu_target.typing_context
        typing.refresh()  # it may be new
        return typing.resolve_value_type(compiled)

    return numba


def _link_parts(function: KernelFunction, linked: set[KernelFunction]) -> None:
    """Link the instructions that a function names, and those of the parts that it names."""
    linked.add(function)
    for part in _named_by(function):
        if isinstance(part, Instructions):
            part.link()
        elif part._function not in linked:
            _link_parts(part._function, linked)


def _named_by(function: KernelFunction) -> list[Part | Instructions]:
    named = [function.__globals__.get(name) for name in function.__code__.co_names]
    return [part for part in named if isinstance(part, Part | Instructions)]


def _refuse_lost_arrays(
    function: KernelFunction, counts: bool, seen: set[tuple[KernelFunction, bool]]
) -> None:
    """Refuse parts whose arrays would be freed twice, or never.

    A part that returns arrays must agree with its caller: both count who holds them, or neither.

    Parameters
    ----------
    counts
        Whether the function counts who holds its arrays.
    """
    seen.add((function, counts))
    for part in _named_by(function):
        if isinstance(part, Part):
            if part.returns_arrays() and part.allocates != counts:
                names = [f"{f.__module__}.{f.__qualname__}" for f in (part._function, function)]
                raise TypeError(
                    f"{names[0]} returns arrays to {names[1]}: "
                    "both must be `allocating`, as kernels are, or neither"
                )
            if (part._function, part.allocates) not in seen:
                _refuse_lost_arrays(part._function, part.allocates, seen)


def _holds_arrays(kind: Any) -> bool:
    """Whether a type of numba's is of an array, or of a tuple that holds some."""
    from numba import types

    if isinstance(kind, types.BaseTuple):
        return any(map(_holds_arrays, kind))
    return isinstance(kind, types.Array)


class Kernel:
    """A compiled function that runs a whole pass without holding the interpreter's lock.

    It is compiled for the types of its first arguments and must always be called with these.
    """

    def __init__(self, function: KernelFunction, title: str) -> None:
        self._function = function
        self._title = title
        self._compiled: KernelFunction | None = None
        self._address = 0
        self._compiling = threading.Lock()

    def __call__(self, *arguments: Any) -> Any:
        """Run the pass; the first call in a process loads the compiled code or compiles it."""
        return self._compiled_for(arguments)(*arguments)

    def address(self, *arguments: Any) -> int:
        """Return where other kernels call it (`calls`) with arguments of the types of these.

        Raises
        ------
        KeyError
            The kernel has been compiled for other types. Only the first call looks at that.
        """
        if not self._address:
            dispatcher: Any = self._compiled_for(arguments)
            code = dispatcher.overloads[tuple(map(load_numba().typeof, arguments))]
            name = code.fndesc.llvm_cfunc_wrapper_name
            self._address = code.library.get_pointer_to_function(name)
            assert self._address
        return self._address

    def _compiled_for(self, arguments: tuple[Any, ...]) -> KernelFunction:
        if self._compiled is None:
            with self._compiling:
                if self._compiled is None:
                    self._compiled = self._load_or_compile(arguments)
        return self._compiled

    def _load_or_compile(self, arguments: tuple[Any, ...]) -> KernelFunction:
        numba = load_numba()
        from gmm_dask.mixture.kernels.code_cache import open_cache

        _link_parts(self._function, set())
        dispatcher: Any = _compiled(self._function, _SUMMATION)
        check = partial(_refuse_lost_arrays, self._function, True, set())
        code_cache = open_cache(self._function, self._title, check)
        dispatcher._cache = code_cache
        with _one_at_a_time(code_cache.lock_path):
            dispatcher.compile(tuple(numba.typeof(argument) for argument in arguments))
        compiled: KernelFunction = dispatcher
        return compiled


def kernel(title: str) -> Callable[[KernelFunction], Kernel]:
    """Decorate a function to make it a `Kernel`; the log calls it by its title."""
    return lambda function: Kernel(function, title)


@contextmanager
def _one_at_a_time(path: Path | None) -> Iterator[None]:
    """Let one process compile; the others wait, and then read its code from the cache."""
    if path is None:
        yield
        return
    with ExitStack() as stack:
        # Some network file systems have no locks, and a link in the place of the lock is not
        # followed: there each process compiles for itself.
        with suppress(OSError):
            lock = os.open(path, _LOCK_FLAGS, 0o666)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
