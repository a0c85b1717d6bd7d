"""How the command ends: its exit codes, and one line on stderr for an error."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gmm_dask.events import Event, Stage
from gmm_dask.printable import printable

FAILED, REFUSED, INTERRUPTED, TERMINATED = 1, 2, 130, 143

AGAIN = "run the same command again: a fit goes on from its last checkpoint"


class Begun:
    """Notices that a run has begun: an error before that means that it was refused.

    Reading the footers and the survey of a fit only look at the data: nothing has begun yet.
    """

    def __init__(self) -> None:
        self.value = False

    def __call__(self, event: Event) -> None:
        """Take one event."""
        self.value = self.value or event.stage is not Stage.SURVEY


class Terminated(SystemExit):
    """SIGTERM ended the command."""


@contextmanager
def exit_codes(debug: bool) -> Iterator[Begun]:
    """Turn an error into one line and an exit code: 1 failed while running, 2 refused.

    Parameters
    ----------
    debug
        Let the error through instead, with its traceback.

    Yields
    ------
    Begun
        Listens to the run, to tell the two codes apart.
    """
    from gmm_dask.errors import GmmDaskError

    def terminate(number: int, frame: Any) -> None:
        raise Terminated(TERMINATED)

    # SIGTERM, from a scheduler or a shutdown, unwinds like an exception: what is half written is
    # removed, and the embedded server is stopped, which would otherwise stay. The handler prints
    # nothing: it may have interrupted a write to the terminal.
    before = signal.signal(signal.SIGTERM, terminate)
    begun = Begun()
    try:
        yield begun
    except Terminated:
        print_error(f"terminated; {AGAIN}")
        raise
    except KeyboardInterrupt:
        print_error(f"interrupted; {AGAIN}")
        sys.exit(INTERRUPTED)
    except GmmDaskError as error:
        if debug:
            raise
        print_error(str(error))
        sys.exit(FAILED if begun.value else REFUSED)
    except Exception as error:
        # Typer ends without a word where whoever reads the output, such as `head`, has enough.
        if debug or (isinstance(error, BrokenPipeError) and not begun.value):
            raise
        what, advice = f"{type(error).__name__}: {error}", "--debug shows the traceback"
        if type(error).__module__.partition(".")[0] in {"httpx", "prefect"}:
            what = f"the Prefect server did not answer ({what})"
            advice = "whatever the log calls published is published; " + advice
        print_error(f"{what}; {advice}")
        sys.exit(FAILED)
    finally:
        signal.signal(signal.SIGTERM, before)


def print_error(message: str) -> None:
    """Write an error as one line on stderr."""
    line = " ".join(printable(message).split())
    print(f"gmm-dask: {line}", file=sys.stderr)
