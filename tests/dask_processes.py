"""Real schedulers and workers in separate processes, for tests that connect to or kill them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.waiting import until

ROOT = Path(__file__).parents[1]


@dataclass
class Processes:
    """A scheduler and its workers, each a process.

    Attributes
    ----------
    place
        The directory of their logs.
    file
        The file in which the scheduler wrote its address.
    options
        Options of the command that all of them are started with.
    """

    place: Path
    file: Path
    address: str
    options: tuple[str, ...]
    stack: ExitStack
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_worker(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker without a nanny, so that nothing restarts it when it is killed."""
        process = self.stack.enter_context(
            dask_process(
                self.place / f"worker-{len(self.workers)}.log",
                "worker",
                self.address,
                "--no-nanny",
                "--no-dashboard",
                "--nthreads=1",
                "--memory-limit=2GiB",
                f"--local-directory={self.place}",
                f"--name=w{len(self.workers)}",
                *self.options,
                *options,
                **environment,
            )
        )
        self.workers.append(process)
        return process


@contextmanager
def dask_process(log: Path, *command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a dask command until the block ends, with its output in a log."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()


@contextmanager
def processes(
    place: Path, workers: int, *options: str, host: str = "127.0.0.1"
) -> Iterator[Processes]:
    """Start a scheduler and some workers, and end them with the block."""
    with ExitStack() as stack:
        file = place / "scheduler.json"
        scheduler = stack.enter_context(
            dask_process(
                place / "scheduler.log",
                "scheduler",
                f"--host={host}",
                "--port=0",
                "--no-dashboard",
                f"--scheduler-file={file}",
                *options,
            )
        )

        def read_address() -> str:
            assert scheduler.poll() is None, (place / "scheduler.log").read_text()
            with suppress(OSError, ValueError):
                return str(json.loads(file.read_text())["address"])
            return ""

        address = until(read_address, "the scheduler did not start")
        started = Processes(place, file, address, options, stack, scheduler)
        for _ in range(workers):
            started.start_worker()
        yield started
