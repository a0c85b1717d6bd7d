"""How the kernels are compiled: at their first call, once per installation, announced.

The compiled code is kept in numba's cache directory: beside the source if that can be written,
else in the user's cache directory, else nowhere (``NUMBA_CACHE_DIR`` comes before both). Under
it, each state of the source, processor and version of numba has a directory of its own. So
processes that compile at the same time write the same bytes under the same name, whichever is
last; numba's own layout lets two processors that share a home overwrite each other's code, and
does not see a change in a file that a kernel only calls into.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache

KernelFunction = Callable[..., Any]

#: Folders that hold every part of a kernel: code compiled from other sources is compiled again.
SOURCES = (Path(__file__).parent, Path(__file__).parent.parent / "covariance")

# No flag that assumes the absence of NaN or infinity: sums may be reordered, that is all.
_SUMMATION = {"contract", "reassoc", "nsz"}
# Parts are inlined by force: one that is called is linked to itself as compiled alone in the
# process that compiles, and to the kernel's own copy in all that read the cache; the two round
# their sums differently.
_OPTIONS: dict[str, Any] = {"nogil": True, "forceinline": True, "error_model": "numpy"}

_logger = logging.getLogger("gmm_dask")


def inlined(function: KernelFunction) -> KernelFunction:
    """Compile a part of kernels whose sums may be reordered."""
    compiled: KernelFunction = numba.njit(fastmath=_SUMMATION, **_OPTIONS)(function)
    return compiled


def exact(function: KernelFunction) -> KernelFunction:
    """Compile a part of kernels that keeps the order of its operations."""
    compiled: KernelFunction = numba.njit(fastmath={"contract"}, **_OPTIONS)(function)
    return compiled


class Kernel:
    """A function that runs one whole pass over rows without the interpreter's lock.

    It must always be called with arguments of the same types: it is compiled once.
    """

    def __init__(self, function: KernelFunction, title: str) -> None:
        self._function = function
        self._title = title
        self._compiled: KernelFunction | None = None
        self._compiling = threading.Lock()

    def __call__(self, *arguments: Any) -> Any:
        """Run the pass; the first call in a process loads the compiled code, or makes it."""
        if self._compiled is None:
            with self._compiling:
                if self._compiled is None:
                    self._compiled = self._load_or_compile(arguments)
        return self._compiled(*arguments)

    def _load_or_compile(self, arguments: tuple[Any, ...]) -> KernelFunction:
        dispatcher = inlined(self._function)
        stored = _cache_of(self._function, self._title)
        dispatcher._cache = stored  # type: ignore[attr-defined]
        with _one_at_a_time(stored.cache_path):
            dispatcher.compile(tuple(numba.typeof(a) for a in arguments))  # type: ignore[attr-defined]
        return dispatcher


def kernel(title: str) -> Callable[[KernelFunction], Kernel]:
    """Make a `Kernel` of a function; the title is what the log calls it."""
    return lambda function: Kernel(function, title)


class _Cache(FunctionCache):  # type: ignore[misc]
    """numba's cache of one kernel, in a directory of its source's own."""

    def __init__(self, function: KernelFunction, title: str) -> None:
        super().__init__(function)
        self._title = title
        stamp = _digest(function.__code__.co_filename)
        directory = Path(self._impl.locator.get_cache_path()) / f"gmm_dask-{stamp}"
        directory.mkdir(exist_ok=True)
        self._cache_path = str(directory)
        self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the compiled code, or None if there is none that can be read."""
        code = None
        try:
            code = super().load_overload(signature, target_context)
        except Exception as error:  # whatever unpickling a damaged file raises
            _logger.warning("compiled code in %s cannot be read: %s", self._cache_path, error)
        if code is None:
            _logger.info("compiling the %s, once per installation", self._title)
        return code

    def save_overload(self, signature: Any, code: Any) -> None:
        """Keep the compiled code if that is possible."""
        try:
            super().save_overload(signature, code)
        except OSError as error:
            _logger.warning("compiled code cannot be kept in %s: %s", self._cache_path, error)


class _NoCache(NullCache):  # type: ignore[misc]
    """What stands in where nothing can be written."""

    def __init__(self, title: str) -> None:
        self._title = title

    def load_overload(self, signature: Any, target_context: Any) -> None:
        """Say what is about to happen."""
        _logger.info(
            "compiling the %s for this process only: no cache directory can be written; "
            "set NUMBA_CACHE_DIR to one",
            self._title,
        )


def _cache_of(function: KernelFunction, title: str) -> _Cache | _NoCache:
    """Find where compiled code can be kept."""
    try:
        return _Cache(function, title)
    except (RuntimeError, OSError):  # no place known to numba can be written
        return _NoCache(title)


@contextmanager
def _one_at_a_time(directory: str | None) -> Iterator[None]:
    """Let one process compile while the others wait for what it leaves in the cache."""
    if directory is None:
        yield
        return
    with ExitStack() as stack:
        # Some network file systems have no locks: then each process compiles for itself.
        with suppress(OSError):
            lock = stack.enter_context((Path(directory) / "lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def _digest(source: str) -> str:
    """Of all that compiled code depends on: its source and its parts', numba, the processor."""
    digest = hashlib.blake2b(numba.__version__.encode(), digest_size=8)
    parts = {path for folder in SOURCES for path in folder.glob("*.py")}
    for path in sorted(parts | {Path(source)}):
        digest.update(path.read_bytes())
    codegen = numba.core.registry.cpu_target.target_context.codegen()
    digest.update(repr(codegen.magic_tuple()).encode())
    return digest.hexdigest()
