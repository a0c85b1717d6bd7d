"""Where a run stands after each event: the stage at hand, since when, how far, and in words."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from gmm_dask.events import (
    CheckpointKept,
    CheckpointRemoved,
    Event,
    IterationFinished,
    Notify,
    Progress,
    StageAdvanced,
    StageFinished,
    StageStarted,
)


@dataclass(frozen=True)
class Standing:
    """Where a run stands after an event.

    Attributes
    ----------
    event
        The latest; None before the first.
    stage
        How the stage at hand was announced; None before the first.
    since, now
        When that stage started, and when the event came, in seconds of the same clock.
    share
        How much of the stage is done, from 0 to 1; 0 where its total is not known.
    """

    event: Progress | None = None
    stage: StageStarted | None = None
    since: float = 0.0
    now: float = 0.0
    share: float = 0.0

    def after(self, event: Progress, now: float) -> Standing:
        """Return where the run stands after one more event."""
        match event:
            case StageStarted():
                return Standing(event, event, now, now)
            case StageAdvanced():
                assert self.stage is not None  # it starts before it advances
                share = event.done / self.stage.total if self.stage.total else 0.0
                return replace(self, event=event, now=now, share=share)
            case StageFinished():
                return replace(self, event=event, now=now, share=1.0)
            case IterationFinished():
                return replace(self, event=event, now=now)

    def sentence(self) -> str:
        """Say in a line what the latest event told."""
        match self.event:
            case None:
                return "started"
            case StageStarted():
                return _started(self.event)
            case StageAdvanced():
                assert self.stage is not None
                return _advanced(self.stage, self.event.done, self.now - self.since)
            case StageFinished(stage, seconds, detail):
                return f"{stage}: {detail} ({duration(seconds)})"
            case IterationFinished():
                return _iteration(self.event)


Face = Callable[[Standing], None]


def track(*faces: Face, clock: Callable[[], float] = time.monotonic) -> Notify:
    """Return a listener that follows a run and shows each face where it stands.

    Parameters
    ----------
    faces
        Called after every event, in this order.
    clock
        Seconds, ever increasing.
    """
    standing = Standing()

    def notify(event: Event) -> None:
        nonlocal standing
        if isinstance(event, CheckpointKept | CheckpointRemoved):  # the run goes on as it did
            return
        standing = standing.after(event, clock())
        for face in faces:
            face(standing)

    return notify


def _started(event: StageStarted) -> str:
    """Say what begins, and how much of it there is."""
    amount = "" if event.total is None else f"{event.total:,} {event.unit}"
    return f"{event.stage}: " + (", ".join(filter(None, (amount, event.detail))) or "started")


def _advanced(stage: StageStarted, done: int, seconds: float) -> str:
    """Say how far the stage is, how fast, and how long the rest will take."""
    rate = done / seconds if seconds > 0 else 0.0
    if stage.total is None or rate == 0:
        return f"{stage.stage}: {done:,} {stage.unit} after {duration(seconds)}"
    left = duration(max(stage.total - done, 0) / rate)
    return (
        f"{stage.stage}: {done / stage.total:.0%} of {stage.total:,} {stage.unit}, "
        f"{quantity(rate)} {stage.unit}/s, about {left} left"
    )


def _iteration(event: IterationFinished) -> str:
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
    """Write a number with three digits and a unit: 950, 12.3 k, 4.56 M, 1.20 G."""
    for unit in ("", " k", " M"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g} G"
