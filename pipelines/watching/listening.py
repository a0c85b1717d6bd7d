"""Who listens to a run: several at once, the caller of a flow, and readers of the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from gmm_dask.events import Event, Notify
from gmm_dask.pipelines.settings import LIBRARY_LOGGER
from gmm_dask.pipelines.watching.narration import Narrator
from gmm_dask.pipelines.watching.standing import track
from gmm_dask.printable import printable


@contextmanager
def audible() -> Iterator[logging.Logger]:
    """Let the library's log lines through in this block, down to level INFO.

    Yields
    ------
    logging.Logger
        The library's.
    """
    logger = logging.getLogger(LIBRARY_LOGGER)
    level = logger.level
    logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
    printable_only = _PrintableOnly()
    logger.addFilter(printable_only)
    try:
        yield logger
    finally:
        logger.removeFilter(printable_only)
        logger.setLevel(level)


class _PrintableOnly(logging.Filter):
    """Gives each record a text that any handler may print, Prefect's too."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record through."""
        record.msg, record.args = printable(record.getMessage()), ()
        return True


def fan_out(*listeners: Notify) -> Notify:
    """Return one listener that tells all of these, in order."""

    def notify(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return notify


_listener: ContextVar[Notify | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Notify) -> Iterator[None]:
    """Let ``listener`` hear the flows that are called in this block.

    A flow's parameters are stored with its run, so a caller cannot pass a function.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def current_listener() -> Notify:
    """Return the listener of this flow: that of its caller, or its log."""
    return _listener.get() or track(Narrator())
