"""Events as sentences: what the log of a run says while it goes on."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from gmm_dask.events import (
    Event,
    IterationFinished,
    Notify,
    Stage,
    StageAdvanced,
    StageFinished,
    StageStarted,
)

log = logging.getLogger("gmm_dask.run")


class Narrator:
    """Log each stage and iteration as one line, and how far a long stage is now and then.

    Parameters
    ----------
    every
        Seconds between two lines about how far a stage is.
    clock
        Seconds, ever increasing.
    """

    def __init__(self, every: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        self._told: set[Stage] = set()
        self._stage: StageStarted | None = None
        self._since = self._last = 0.0

    def __call__(self, event: Event) -> None:
        """Take one event."""
        match event:
            case StageStarted():
                self._last = self._clock()
                self._stage, self._since = event, self._last
                if event.stage not in self._told:
                    log.info("%s", started(event))
                    self._told.add(event.stage)
            case StageAdvanced():
                now = self._clock()
                if self._stage and now - self._last >= self._every:
                    self._last = now
                    log.info("%s", advanced(self._stage, event.done, now - self._since))
            case StageFinished():
                if event.stage is not Stage.POLISH:  # its scans are told as iterations
                    log.info("%s: %s (%s)", event.stage, event.detail, duration(event.seconds))
            case IterationFinished():
                log.info("%s", iteration(event))


def started(event: StageStarted) -> str:
    """Say what begins, and how much of it there is."""
    amount = "" if event.total is None else f"{event.total:,} {event.unit}"
    return f"{event.stage}: " + (", ".join(filter(None, (amount, event.detail))) or "started")


def advanced(stage: StageStarted, done: int, seconds: float) -> str:
    """Say how far a stage is, how fast, and how long the rest will take."""
    rate = done / seconds if seconds > 0 else 0.0
    if stage.total is None or rate == 0:
        return f"{stage.stage}: {done:,} {stage.unit} after {duration(seconds)}"
    left = duration(max(stage.total - done, 0) / rate)
    return (
        f"{stage.stage}: {done / stage.total:.0%} of {stage.total:,} {stage.unit}, "
        f"{quantity(rate)} {stage.unit}/s, about {left} left"
    )


def iteration(event: IterationFinished) -> str:
    """Say what one iteration reached."""
    rate = f", {quantity(event.rows / event.seconds)} rows/s" if event.seconds > 0 else ""
    several = f", {event.candidates_running} candidates" if event.candidates_running > 1 else ""
    change = f", change {event.change:+.2g}" if math.isfinite(event.change) else ""
    return (
        f"iteration {event.iteration}: log-likelihood {event.log_likelihood:.6g} per row"
        f"{change}{several}{rate}"
    )


def duration(seconds: float) -> str:
    """Write seconds as a person would: 0.3 s, 12 s, 4 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def quantity(value: float) -> str:
    """Three digits and a unit: 950, 12.3 k, 4.56 M, 1.20 G."""
    for unit in ("", " k", " M"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g} G"


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

    A flow's parameters are stored with its run, so whoever calls it cannot pass a function.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def current_listener() -> Notify:
    """Return who listens to this flow: whoever called it, else its log."""
    return _listener.get() or Narrator()
