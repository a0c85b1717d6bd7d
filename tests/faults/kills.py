"""Death at a change of the disk: every write, and every file or directory that comes or goes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from gmm_dask.storage.files import atomic, locks

if TYPE_CHECKING:
    from typing_extensions import Buffer

_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate"}


def die() -> NoReturn:
    """End this process as a power cut would: nothing is flushed, nothing cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL has been survived")


def die_at_changes(chosen: Callable[[], bool], cut: Callable[[int], int]) -> None:
    """Ask at each change of the disk, before it is made, whether it is the chosen one.

    A chosen write is not left out but broken off: of n bytes, ``cut(n)`` are written.
    """
    write_all = atomic.write_all

    def write(descriptor: int, block: Buffer) -> None:
        if chosen():
            view = memoryview(block).cast("B")
            write_all(descriptor, view[: cut(len(view))])
            die()
        write_all(descriptor, block)

    def on_audit(event: str, arguments: Sequence[Any]) -> None:
        creates = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        if (event in _EVENTS or creates) and chosen():
            die()

    atomic.write_all = locks.write_all = write  # type: ignore[attr-defined]
    sys.addaudithook(on_audit)
