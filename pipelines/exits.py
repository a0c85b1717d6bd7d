"""How the command ends: its exit codes, and one line on stderr for an error."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gmm_dask.events import CheckpointKept, CheckpointRemoved, Event, Stage
from gmm_dask.printable import printable

if TYPE_CHECKING:
    from gmm_dask.config import RunConfig

FAILED, REFUSED, INTERRUPTED, TERMINATED = 1, 2, 130, 143

AGAIN = "run the same command again"


class Begun:
    """Notices that a run has begun: an error before that means that it was refused.

    Reading the footers and the survey of a fit only look at the data: nothing has begun yet.

    Attributes
    ----------
    value
        Whether it has.
    checkpoint
        Whether a fit that is interrupted now goes on from a checkpoint.
    run, run_id
        The run file, once it is read, and the id of the run, once it has one.
    """

    def __init__(self) -> None:
        self.value = False
        self.checkpoint = False
        self.run: RunConfig | None = None
        self.run_id: str | None = None

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, CheckpointKept | CheckpointRemoved):
            self.checkpoint = isinstance(event, CheckpointKept)
            return
        self.value = self.value or event.stage is not Stage.SURVEY
        # A survey begins a fit, and what is predicted has a model that is published.
        if event.stage in (Stage.SURVEY, Stage.PREDICT):
            self.checkpoint = False

    def note_id(self, flow: Any, flow_run: Any, state: Any) -> None:
        """Note the id of a flow's run: Prefect calls it when the run begins."""
        self.run_id = str(flow_run.id)


class Terminated(SystemExit):
    """SIGTERM ended the command."""


#: Takes what is known of a run, the error that ended it, the exit code of the command, and why in
#: one line.
Report = Callable[[Begun, BaseException, int, str], None]


@contextmanager
def exit_codes(debug: bool, report: Report | None = None, resumed: str = "") -> Iterator[Begun]:
    """Turn an error into one line and an exit code: 1 failed while running, 2 refused.

    Parameters
    ----------
    debug
        Let the error through instead, with its traceback.
    report
        Says it to other programs too.
    resumed
        What the same command does after it was interrupted, where there is no checkpoint; empty:
        it begins again.

    Yields
    ------
    Begun
        Listens to the run, to tell the two codes apart.
    """

    def terminate(number: int, frame: Any) -> None:
        raise Terminated(TERMINATED)

    # SIGTERM, from a scheduler or a shutdown, unwinds like an exception: what is half written is
    # removed, and the embedded server is stopped, which would otherwise stay. The handler prints
    # nothing: it may have interrupted a write to the terminal.
    before = signal.signal(signal.SIGTERM, terminate)
    begun = Begun()
    try:
        yield begun
    except (Exception, KeyboardInterrupt, Terminated) as error:
        code, words = _ending(error, begun, resumed)
        if words is None or (debug and isinstance(error, Exception)):
            if report is not None and words is not None:
                report(begun, error, FAILED, _reason(error, words))
            raise
        if report is not None:
            report(begun, error, code, _reason(error, words))
        print_error(words)
        sys.exit(code)
    finally:
        signal.signal(signal.SIGTERM, before)


def _ending(error: BaseException, begun: Begun, resumed: str) -> tuple[int, str | None]:
    """Return the exit code after an error, and the line that says it; None: not a word."""
    from gmm_dask.errors import GmmDaskError

    if begun.checkpoint:
        resumed = "the fit goes on from its checkpoint"
    again = f"{AGAIN}: {resumed}" if resumed else AGAIN
    if isinstance(error, Terminated):
        return TERMINATED, f"terminated; {again}"
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, f"interrupted; {again}"
    if isinstance(error, GmmDaskError):
        return FAILED if begun.value else REFUSED, str(error)
    # Typer ends without a word where whoever reads the output, such as `head`, has enough.
    if isinstance(error, BrokenPipeError) and not begun.value:
        return FAILED, None
    what, advice = f"{type(error).__name__}: {error}", "--debug shows the traceback"
    if type(error).__module__.partition(".")[0] in {"httpx", "prefect"}:
        what = f"the Prefect server did not answer ({what})"
        advice = "whatever the log calls published is published; " + advice
    return FAILED, f"{what}; {advice}"


def _reason(error: BaseException, words: str) -> str:
    """Return why a command ended, in one line; an interrupt says nothing of itself."""
    return " ".join((str(error) if isinstance(error, Exception) else words).split())


def print_failure(begun: Begun, error: BaseException, code: int, reason: str) -> None:
    """Write an error as JSON to stdout, for a command that is no run."""
    from gmm_dask.pipelines.tables import print_json

    print_json({"exit_code": code, "error": {"type": type(error).__name__, "message": reason}})


def print_error(message: str) -> None:
    """Write an error as one line on stderr."""
    line = " ".join(printable(message).split())
    print(f"gmm-dask: {line}", file=sys.stderr)
