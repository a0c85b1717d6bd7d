"""The progress artifact of a run on the Prefect server: the stage it is in, and how far."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from gmm_dask.events import Notify
from gmm_dask.pipelines.watching.listening import audible, current_listener, fan_out
from gmm_dask.pipelines.watching.narration import log
from gmm_dask.pipelines.watching.standing import Standing, track


@contextmanager
def watched() -> Iterator[Notify]:
    """Let the caller of the flow, or its log, and its progress artifact follow it.

    Yields
    ------
    Notify
        The listener for the run's events.
    """
    with audible(), progress_artifact() as show:
        yield fan_out(current_listener(), show)


@contextmanager
def progress_artifact(every: float = 2.0) -> Iterator[Notify]:
    """Keep the progress artifact of the run up to date: the stage it is in, and how far.

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
    # The context tells the thread which run the artifact belongs to.
    thread = threading.Thread(
        target=copy_context().run, args=(_publish, display, ended, every), daemon=True
    )
    thread.start()
    try:
        yield track(display)
    finally:
        ended.set()
        thread.join(timeout=10)


class _Display:
    """Where the run stands, for the thread that publishes it."""

    def __init__(self) -> None:
        self.standing = Standing()

    def __call__(self, standing: Standing) -> None:
        self.standing = standing


def _publish(display: _Display, ended: threading.Event, every: float) -> None:
    artifact: UUID | None = None
    published = Standing()
    try:
        while not (last := ended.wait(every)) or display.standing != published:
            if display.standing == published:
                continue
            published = display.standing
            percent, words = 100 * published.share, published.sentence()
            if artifact is None:
                # In a thread, which has no event loop, this returns a value and no coroutine.
                artifact = cast(
                    UUID, create_progress_artifact(percent, key="progress", description=words)
                )
            else:
                update_progress_artifact(artifact, percent, description=words)
            if last:
                return
    except Exception as error:  # the server's trouble is not the fit's
        log.warning("progress is no longer shown on the server: %s", error)
