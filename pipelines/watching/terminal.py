"""What a person sees on the terminal while a run goes on: log lines, and a bar for each stage."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

from gmm_dask.events import Notify, StageAdvanced, StageFinished, StageStarted
from gmm_dask.pipelines.watching.listening import audible
from gmm_dask.pipelines.watching.narration import Narrator
from gmm_dask.pipelines.watching.standing import Standing, duration, quantity, track
from gmm_dask.printable import printable


class AmountColumn(ProgressColumn):
    """How much is done, how fast, and how long the rest will take, as far as these are known."""

    def render(self, task: Task) -> Text:
        """Write the figures beside a bar."""
        unit = task.fields["unit"]
        if task.total is None:
            return Text(f"{task.completed:,.0f} {unit}")
        if unit != "rows":  # runs of a search, for example, which take unequal times
            return Text(f"{task.completed:,.0f} of {task.total:,.0f} {unit}")
        parts = [f"{task.percentage:3.0f} %"]
        if task.speed:
            parts.append(f"{quantity(task.speed)} {unit}/s")
        if task.time_remaining is not None:
            parts.append(f"{duration(task.time_remaining)} left")
        return Text("  ".join(parts))


class Bars:
    """A bar while a stage goes on; when it is done, only its log line stays."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar: TaskID | None = None

    def __call__(self, standing: Standing) -> None:
        """Draw the stage at hand."""
        match standing.event:
            case StageStarted(stage, total, unit, detail):
                self._remove()
                self._bar = self._progress.add_task(stage, total=total, unit=unit, note=detail)
            case StageAdvanced() if self._bar is not None:
                self._progress.update(self._bar, completed=standing.event.done)
            case StageFinished():
                self._remove()

    def _remove(self) -> None:
        if self._bar is not None:
            self._progress.remove_task(self._bar)
        self._bar = None


class LineFormatter(logging.Formatter):
    """A log record as one line; below it, where there is one, the traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Write the line."""
        return printable(super().formatMessage(record))


class LineHandler(logging.Handler):
    """Log records as lines of the console, above any bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self.setFormatter(LineFormatter("%(asctime)s  %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line; warnings and worse stand out."""
        style = "yellow" if record.levelno >= logging.WARNING else None
        line = Text(self.format(record), style=style or "")
        self._console.print(line, soft_wrap=True, highlight=False)


@contextmanager
def watch(console: Console | None = None, lines: bool = True) -> Iterator[Notify]:
    """Show a run while it goes on, on stderr: log lines, and bars if that is a terminal.

    Parameters
    ----------
    console
        Where to write; default stderr.
    lines
        Whether the library's log is written here; False when Prefect writes it.

    Yields
    ------
    Notify
        The listener for the run's events.
    """
    console = Console(file=sys.stderr) if console is None else console
    handler = LineHandler(console) if lines else logging.NullHandler()
    with audible() as logger:
        logger.addHandler(handler)
        try:
            with _notified(console) as notify:
                yield notify
        finally:
            logger.removeHandler(handler)


@contextmanager
def _notified(console: Console) -> Iterator[Notify]:
    """Make the listener: with bars on a terminal, else with a line now and then instead."""
    if not console.is_terminal:
        yield track(Narrator())
        return
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        AmountColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
        console=console,
        transient=True,
    ) as progress:
        yield track(Narrator(every=float("inf")), Bars(progress))
