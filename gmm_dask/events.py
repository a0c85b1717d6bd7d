"""What a long step tells its listeners: small frozen records given to ``notify``.

The log, the bars of a terminal and the artifact of a scheduled run (`pipelines/watching`) are made
of these. A step never prints and never knows who listens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class Stage(StrEnum):
    """The long stages of a run, in their order; each tells how far it is."""

    SURVEY = "survey"
    SEARCH = "search"
    POLISH = "polish"
    EVALUATE = "evaluate"
    PREDICT = "predict"


@dataclass(frozen=True)
class StageStarted:
    """A stage begins.

    ``total`` is the number of units of work if it is known: rows for a scan, starts for a
    search.
    """

    stage: Stage
    total: int | None
    unit: str
    detail: str = ""


@dataclass(frozen=True)
class StageAdvanced:
    """``done`` units of the stage's total are finished."""

    stage: Stage
    done: int


@dataclass(frozen=True)
class StageFinished:
    """The stage ended after ``seconds``; ``detail`` is one readable sentence."""

    stage: Stage
    seconds: float
    detail: str


@dataclass(frozen=True)
class IterationFinished:
    """One EM iteration over all rows: mean log-likelihood (nats per row) of the best candidate."""

    stage: ClassVar[Stage] = Stage.POLISH
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
