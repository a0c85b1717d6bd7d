"""What a run leaves on the Prefect server: progress, report, decision, and events."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event

from gmm_dask.config import RunConfig
from gmm_dask.events import (
    Event,
    IterationFinished,
    Notify,
    StageAdvanced,
    StageFinished,
    StageStarted,
)
from gmm_dask.pipelines.progress import advanced, current_listener, fan_out, iteration, log, started
from gmm_dask.pipelines.settings import LIBRARY_LOGGER
from gmm_dask.pipelines.summary import Summary, markdown
from gmm_dask.steps import Decision, Published


@contextmanager
def watched() -> Iterator[Notify]:
    """Let whoever called the flow, its log and its progress artifact follow it.

    Yields
    ------
    Notify
        The listener for the run's events.
    """
    # Lines below a logger's level reach nobody, and Prefect leaves the library's as it is.
    logger = logging.getLogger(LIBRARY_LOGGER)
    level = logger.level
    logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
    try:
        with progress_artifact() as show:
            yield fan_out(current_listener(), show)
    finally:
        logger.setLevel(level)


def report(summary: Summary) -> None:
    """Leave the summary with the run, under the same key in every run of the flow."""
    create_markdown_artifact(markdown(summary), key="report", description=summary.title)


def link(key: str, path: str | Path) -> None:
    """Leave an address with the run: of its ``model`` or its ``predictions``."""
    create_link_artifact(Path(path).absolute().as_uri(), link_text=str(path), key=key)


def report_decision(decision: Decision) -> None:
    """Leave the checks of the gate with the run, as a table."""
    create_table_artifact(
        [
            {
                "check": check.name,
                "found": check.value,
                "allowed": check.limit,
                "passed": check.passed,
                "explanation": check.explanation,
            }
            for check in decision.checks
        ],
        key="decision",
        description="accepted" if decision.accepted else f"refused: {decision.reason}",
    )


def announce(run: RunConfig, by: str, published: Published | None) -> None:
    """Emit the event on which other deployments start: a model was published.

    Parameters
    ----------
    by
        The flow: a retrain has predicted already, a fit has not.
    """
    if published is None:
        return
    emit_event(
        "gmm-dask.model.published",
        resource={
            "prefect.resource.id": f"gmm-dask.model.{run.output.name}",
            "prefect.resource.name": run.output.name,
            "gmm-dask.flow": by,
        },
        payload={"version": published.version, "path": str(published.path)},
    )


@contextmanager
def progress_artifact(every: float = 2.0) -> Iterator[Notify]:
    """Keep one progress artifact of the run up to date: the stage it is in, and how far.

    A thread talks to the server, so that a slow or lost server never holds up the fit.

    Parameters
    ----------
    every
        Seconds between two updates.

    Yields
    ------
    Notify
        The listener for the run's events.
    """
    display = _Display()
    ended = threading.Event()
    # The thread needs the context: it says which run the artifact belongs to.
    thread = threading.Thread(
        target=copy_context().run, args=(_publish, display, ended, every), daemon=True
    )
    thread.start()
    try:
        yield display
    finally:
        ended.set()
        thread.join(timeout=10)


class _Display:
    """The latest of what is to be shown: percent and words."""

    def __init__(self) -> None:
        self.shown = (0.0, "started")
        self._stage: StageStarted | None = None
        self._since = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case StageStarted():
                self._stage, self._since = event, time.monotonic()
                self.shown = (0.0, started(event))
            case StageAdvanced() if self._stage is not None:
                share = event.done / self._stage.total if self._stage.total else 0.0
                words = advanced(self._stage, event.done, time.monotonic() - self._since)
                self.shown = (100 * share, words)
            case IterationFinished():
                self.shown = (self.shown[0], iteration(event))
            case StageFinished():
                self.shown = (100.0, f"{event.stage}: {event.detail}")


def _publish(display: _Display, ended: threading.Event, every: float) -> None:
    artifact: UUID | None = None
    before = None
    try:
        while not (last := ended.wait(every)) or display.shown != before:
            if display.shown == before:
                continue
            before = percent, words = display.shown
            if artifact is None:
                # Outside of an event loop, which a thread is, this is no coroutine.
                artifact = cast(
                    UUID, create_progress_artifact(percent, key="progress", description=words)
                )
            else:
                update_progress_artifact(artifact, percent, description=words)
            if last:
                return
    except Exception as error:  # the server's trouble is not the fit's
        log.warning("progress is no longer shown on the server: %s", error)
