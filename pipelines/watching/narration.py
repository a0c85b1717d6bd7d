"""The log of a run while it goes on, and the listeners beside it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from gmm_dask.events import Event, Notify, Stage, StageAdvanced, StageFinished, StageStarted
from gmm_dask.pipelines.settings import LIBRARY_LOGGER
from gmm_dask.pipelines.watching.standing import Standing, track

log = logging.getLogger("gmm_dask.run")


class Narrator:
    """Logs each stage and iteration as one line, and how far a long stage is now and then.

    Parameters
    ----------
    every
        Seconds between two lines about how far a stage is.
    """

    def __init__(self, every: float = 30.0) -> None:
        self._every = every
        self._announced: set[Stage] = set()
        self._last = 0.0

    def __call__(self, standing: Standing) -> None:
        """Log where the run stands, if that is worth a line."""
        match standing.event:
            case StageStarted(stage):
                self._last = standing.now
                if stage in self._announced:
                    return
                self._announced.add(stage)
            case StageAdvanced():
                if standing.now - self._last < self._every:
                    return
                self._last = standing.now
            case StageFinished(Stage.POLISH):
                return  # the iteration, which follows, says more
        log.info("%s", standing.sentence())


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
    try:
        yield logger
    finally:
        logger.setLevel(level)


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
