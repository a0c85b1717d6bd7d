"""What a long step tells whoever watches: small frozen records given to ``notify``.

The terminal's progress bar and the artifacts of a scheduled run are two functions that take
these. A step never prints and never knows who listens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StageStarted:
    """A stage begins: survey, search, polish, evaluate, predict, ...

    ``total`` is the number of units of work if it is known: rows for a scan, starts for a
    search, iterations at the most for the polish.
    """

    stage: str
    total: int | None
    unit: str
    detail: str = ""


@dataclass(frozen=True)
class StageAdvanced:
    """``done`` units of the stage's total are finished."""

    stage: str
    done: int


@dataclass(frozen=True)
class StageFinished:
    """The stage ended after ``seconds``; ``detail`` is one readable sentence."""

    stage: str
    seconds: float
    detail: str


@dataclass(frozen=True)
class IterationFinished:
    """One EM iteration over all rows: mean log-likelihood (nats per row) of the best candidate."""

    iteration: int
    log_likelihood: float
    change: float
    candidates_running: int
    rows: int
    seconds: float


Event = StageStarted | StageAdvanced | StageFinished | IterationFinished
Notify = Callable[[Event], None]


def silent(event: Event) -> None:
    """Listen to nothing: the default."""
