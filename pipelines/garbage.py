"""The search for garbage in a command, most of which is imports.

Imports make hundreds of thousands of objects that stay, and hardly any garbage. Python's collector
searches them while they are made, again and again later, and three times more at the end.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


def spare_searches() -> None:
    """Have all objects searched seldom, and not at the end; young ones as ever."""
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 100)
    # The interpreter searches all of them three more times before it ends, for another seventh of a
    # short fit. Registered first, this runs last: handlers of libraries still find their objects.
    atexit.register(gc.freeze)


@contextmanager
def importing() -> Iterator[None]:
    """Search nothing while the context is open."""
    searched = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searched:
            gc.enable()


@contextmanager
def imports_set_aside() -> Iterator[None]:
    """Let no search pass over what was imported, while the context is open.

    Afterwards all is searched as before: whoever calls a flow from a process of theirs has garbage
    of their own among it.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
