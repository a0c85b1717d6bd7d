"""The cache of compiled kernels: numba's, in directories of our own.

It lies in the first of numba's cache directories that can be written: ``NUMBA_CACHE_DIR``, one
beside the source, the user's cache directory. If none can, each process compiles for itself.
Inside, every combination of source, processor and version of numba has a directory. So processes
that compile at the same time write the same code to the same file, and it does not matter which
writes last. In numba's own layout, two processors that share a home directory overwrite each
other's code, and a change in a file whose functions a kernel calls goes unnoticed.

A digest follows the code in its file. numba would run damaged machine code, which ends the process.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
import xxhash
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    IndexDataCacheFile,
    NullCache,
)
from numba.core.runtime.nrt import rtsys

KernelFunction = Callable[..., Any]

#: Folders that hold every part of every kernel. A change in any of their files recompiles them all.
_MIXTURE = Path(__file__).parent.parent
SOURCES = tuple(
    _MIXTURE / name
    for name in ("kernels", "row_major", "single_precision", "sparse", "covariance", "rounds")
)

_DIGEST_SIZE = xxhash.xxh3_128().digest_size

_logger = logging.getLogger("gmm_dask")


class _CodeFile(IndexDataCacheFile):  # type: ignore[misc]
    """numba's files of one kernel, with a digest at the end of each that holds code."""

    def _load_data(self, name: str) -> Any:
        """Read the code of a file; raise ValueError if it is not what was written."""
        content = memoryview(Path(self._data_path(name)).read_bytes())
        code, digest = content[:-_DIGEST_SIZE], content[-_DIGEST_SIZE:]
        if xxhash.xxh3_128_digest(code) != digest:
            raise ValueError(f"{name} is damaged")
        return pickle.loads(code)

    def _save_data(self, name: str, data: Any) -> None:
        code = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(code)
            file.write(xxhash.xxh3_128_digest(code))


class _KeptCode(CompileResultCacheImpl):  # type: ignore[misc]
    """What is kept of compiled code, and made code again."""

    def reduce(self, compiled: Any) -> tuple[Any, ...]:
        """Return what is kept: all but the environments of the parts, which are the last entry.

        In an environment compiled code finds Python objects, and kernels use none. That of
        ``np.empty``, and of others, would have each process import half of numba to restore it.
        """
        *code, _ = compiled._reduce()
        return *code, ()


class _Cache(FunctionCache):  # type: ignore[misc]
    """numba's cache of one kernel, in a directory for the present source and processor."""

    _impl_class = _KeptCode

    def __init__(self, function: KernelFunction, title: str, check: Callable[[], None]) -> None:
        super().__init__(function)
        self._title = title
        self._check = check
        stamp = _digest(function.__code__.co_filename)
        directory = Path(self._impl.locator.get_cache_path()) / f"gmm_dask-{stamp}"
        directory.mkdir(exist_ok=True)
        self._cache_path = str(directory)
        self._cache_file = _CodeFile(self._cache_path, self._impl.filename_base, stamp)

    @property
    def lock_path(self) -> Path:
        """The file that a process locks while it compiles the kernel.

        Each kernel has its own, so that processes compile different ones at the same time.
        """
        return Path(self._cache_path) / f"{self._impl.filename_base}.lock"

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the compiled code; None, and a message in the log, if none can be read."""
        code = None
        try:
            rtsys.initialize(target_context)
            code = self._load_overload(signature, target_context)
        except Exception as error:  # whatever unpickling a damaged file raises
            reason = str(error) or type(error).__name__
            _logger.warning("compiled code in %s cannot be read: %s", self._cache_path, reason)
            # An index that cannot be read could not be added to either.
            with suppress(OSError):
                self.flush()
        if code is None:
            _logger.info("compiling the %s, once per installation", self._title)
        return code

    def save_overload(self, signature: Any, code: Any) -> None:
        """Keep the compiled code; a failure to write is a warning, not an error.

        Code that the check refuses is not kept: nobody would look at it again.
        """
        self._check()
        try:
            super().save_overload(signature, code)
        except Exception as error:  # a damaged index that could not be replaced, a full disk
            reason = str(error) or type(error).__name__
            _logger.warning("compiled code cannot be kept in %s: %s", self._cache_path, reason)


class _NoCache(NullCache):  # type: ignore[misc]
    """The stand-in for a cache where no directory can be written."""

    lock_path = None

    def __init__(self, title: str, check: Callable[[], None]) -> None:
        self._title = title
        self._check = check

    def save_overload(self, signature: Any, code: Any) -> None:
        """Check the compiled code."""
        self._check()

    def load_overload(self, signature: Any, target_context: Any) -> None:
        """Log that the kernel will be compiled, and how to keep its code."""
        _logger.info(
            "compiling the %s for this process only: no cache directory can be written; "
            "set NUMBA_CACHE_DIR to one",
            self._title,
        )


def open_cache(
    function: KernelFunction, title: str, check: Callable[[], None]
) -> _Cache | _NoCache:
    """Open the cache of a kernel in the first directory that can be written.

    ``check`` is called when the kernel has been compiled, and raises an error to refuse it.
    """
    try:
        return _Cache(function, title, check)
    except (RuntimeError, OSError):  # numba knows no directory that can be written
        return _NoCache(title, check)


def _digest(source: str) -> str:
    """Digest what compiled code depends on: all sources of kernels, numba and the processor."""
    path = Path(source)
    return _digest_with(() if path.parent in SOURCES else (path,))


@cache
def _digest_with(others: tuple[Path, ...]) -> str:
    digest = hashlib.blake2b(numba.__version__.encode(), digest_size=8)
    sources = {path for folder in SOURCES for path in folder.glob("*.py")}
    for path in sorted(sources.union(others)):
        digest.update(path.read_bytes())
    codegen = numba.core.registry.cpu_target.target_context.codegen()
    digest.update(repr(codegen.magic_tuple()).encode())
    return digest.hexdigest()
