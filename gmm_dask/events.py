"""Events: small frozen values that tell a listener how far a long step is.

A step gives each event to the function ``notify`` that its caller passed. The log, the progress
bars of a terminal and the artifact of a scheduled run (`pipelines/watching`) are made of events.
A step never prints, and it does not know who listens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class Stage(StrEnum):
    """The long stages of a run, in their order."""

    SURVEY = "survey"
    SEARCH = "search"
    POLISH = "polish"
    EVALUATE = "evaluate"
    PREDICT = "predict"


@dataclass(frozen=True)
class StageStarted:
    """A stage begins.

    Attributes
    ----------
    total
        Units of work in the stage; None if unknown.
    unit
        What is counted: ``"rows"`` in a scan, ``"runs"`` in a search.
    detail
        A few words for the reader: ``"on 65,536 rows"``.
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
    """One EM iteration over all rows has finished.

    Attributes
    ----------
    log_likelihood
        Mean log-likelihood of the best candidate, nats per row.
    change
        How much it changed in this iteration, nats per row; infinite in the first.
    candidates_running
        Candidates still running after it.
    rows
        Complete rows of the input.
    """

    stage: ClassVar[Stage] = Stage.POLISH
    iteration: int
    log_likelihood: float
    change: float
    candidates_running: int
    rows: int
    seconds: float


@dataclass(frozen=True)
class CheckpointKept:
    """The state of a fit lies in its checkpoint: if it is interrupted, the same run goes on."""


@dataclass(frozen=True)
class CheckpointRemoved:
    """The result of a fit is stored, and the checkpoint that the fit could go on from is gone."""


Progress = StageStarted | StageAdvanced | StageFinished | IterationFinished
Event = Progress | CheckpointKept | CheckpointRemoved
Notify = Callable[[Event], None]


def silent(event: Event) -> None:
    """Ignore an event: the default listener."""
