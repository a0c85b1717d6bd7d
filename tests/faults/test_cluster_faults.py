"""Workers and schedulers that die, stop or starve in the middle of a fit: real processes, signals.

Where it happens is ruled by files that the readings meet (`row_sources`), never by the clock.
"""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from gmm_dask.chunked import groups
from gmm_dask.chunked.cluster import ClusterExecutor, joining, open_executor, scan
from gmm_dask.chunked.fit import FitOptions, FitResult, fit
from gmm_dask.chunked.scan import Executor, Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import Deadlines, RunningScheduler
from gmm_dask.errors import ClusterError
from gmm_dask.events import Event, Stage, StageStarted
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from tests.dask_processes import Processes, processes
from tests.row_sources import (
    DrawnRows,
    chunk_numbers,
    drawn,
    process_ids,
    resident_keys,
    wide_sums,
)
from tests.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.slow]

KILLS = 20 if os.environ.get("GMM_DASK_FAULT_ROUNDS") == "large" else 5
CHUNKS = 40
SCANS = 5
OPTIONS = FitOptions(MixtureSpec(3), em=EMOptions(tol=0.0, max_iter=SCANS - 1), search_rows=500)
DEADLINES = Deadlines(connect=60, no_progress=120, worker_lost=4)
#: Seconds beyond a deadline that a loaded machine may take.
SLACK = 10


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "LEAST_NARROW_ROWS", 1000)


@pytest.fixture
def source(tmp_path: Path) -> DrawnRows:
    return drawn(CHUNKS, 600, weighted=True, place=str(tmp_path))


@contextmanager
def two_workers() -> Iterator[Client]:
    """Two workers that are started anew when they die."""
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit="1GiB",
            dashboard_address="127.0.0.1:0",
            silence_logs=False,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def executor() -> Iterator[ClusterExecutor]:
    """On workers of its own: Dask forgets to restart one that dies the moment it has come."""
    with two_workers() as client:
        executor = ClusterExecutor(client, DEADLINES)
        yield executor
        executor.close()


@pytest.fixture
def patient_executor() -> Iterator[ClusterExecutor]:
    """One that waits for workers to start again, of which a busy machine may have none for long."""
    with two_workers() as client:
        deadlines = Deadlines(connect=60, no_progress=120, worker_lost=120)
        executor = ClusterExecutor(client, deadlines)
        yield executor
        executor.close()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Processes]:
    """A scheduler and two workers that stay dead when they die."""
    with processes(tmp_path, 2) as started:
        yield started


@contextmanager
def connected(started: Processes, workers: int = 2) -> Iterator[ClusterExecutor]:
    kind = RunningScheduler(kind="address", address=started.address, deadlines=DEADLINES)
    with open_executor(kind) as executor:
        assert isinstance(executor, ClusterExecutor)
        until(
            lambda: len(executor.roster.workers) == workers or executor.roster.refresh(),
            "the workers have not joined",
        )
        yield executor


def fitted(
    executor: Executor, source: DrawnRows, notify: Callable[[Event], None], cached: bool = False
) -> FitResult:
    scanner = Scanner(source, executor, notify, cache=cached)
    result = fit(scanner, OPTIONS)
    assert result.scans == SCANS
    return result


@pytest.fixture(scope="module")
def undisturbed() -> str:
    """Digest of the parameters that a fit on one thread finds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "LEAST_NARROW_ROWS", 1000)
        source = drawn(CHUNKS, 600, weighted=True)
        return fitted(Threads(1), source, lambda event: None).parameters.digest


class At:
    """Does something to the process that reads a chunk in a certain scan, then lets it go on."""

    def __init__(self, source: DrawnRows, scan: int, chunk: int, do: Callable[[int], Any]) -> None:
        self.source = source
        self.scan = scan
        self.chunk = chunk
        self.do = do
        self.started = 0
        self.done: list[int] = []
        self.when = 0.0
        self.thread = threading.Thread(target=self._wait)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageStarted) and event.unit == "rows":
            if self.started == self.scan:
                self.source.rule("hold", self.chunk).touch()
                self.thread.start()
            self.started += 1

    def _wait(self) -> None:
        note = self.source.rule("at", self.chunk)
        pid = int(until(lambda: note.exists() and note.read_text(), "the chunk was not read"))
        self.when = time.monotonic()
        self.do(pid)
        self.done.append(pid)
        self.source.rule("hold", self.chunk).unlink()

    def happened(self) -> int:
        self.thread.join(timeout=30)
        assert self.done, "nothing was done to anybody"
        return self.done[0]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_worker_costs_no_bit(
    executor: ClusterExecutor,
    source: DrawnRows,
    undisturbed: str,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = random.Random(seed)
    if seed % 2:  # let all sums stay on the workers, however small they are
        monkeypatch.setattr(scan, "PASSED_ON_BYTES", 0)
        monkeypatch.setattr(joining, "FAN", 4)
    at = At(source, chance.randrange(SCANS), chance.randrange(CHUNKS), kill)
    result = fitted(executor, source, at)
    at.happened()
    assert result.parameters.digest == undisturbed


def test_sums_that_a_killed_worker_had_joined_are_computed_again(
    executor: ClusterExecutor,
    source: DrawnRows,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, logger="gmm_dask")
    monkeypatch.setattr(scan, "PASSED_ON_BYTES", 0)
    monkeypatch.setattr(joining, "FAN", 4)
    expected = Scanner(drawn(CHUNKS, 600, weighted=True), Threads(1)).reduce(
        wide_sums, 1.0, Stage.SURVEY
    )

    def kill_who_joined(pid: int) -> None:
        """Kill the worker that has done and joined all it can while the other reads chunk 0."""

        def joined() -> list[str]:
            resident = executor.client.run(resident_keys)
            done = sum("sum_groups" in key for keys in resident.values() for key in keys)
            return [
                address
                for address, keys in resident.items()
                if done == 9 and any("join_sums" in key for key in keys)
            ]

        (address,) = until(joined, "nothing was joined")
        worker = executor.client.run(os.getpid, workers=[address])[address]
        assert worker != pid
        kill(worker)

    at = At(source, 1, 0, kill_who_joined)
    scanner = Scanner(source, executor, at, cache=False)
    for _ in range(2):
        sums = scanner.reduce(wide_sums, 1.0, Stage.SURVEY)
        assert sums.tobytes() == expected.tobytes()
    at.happened()
    # Of the 11 tasks the other worker held two, and may have done one or two before.
    (lost,) = re.findall(r"(\d+) tasks go to others", caplog.text)
    assert int(lost) >= 7


def test_rows_kept_by_a_killed_worker_are_read_again(
    executor: ClusterExecutor, source: DrawnRows, undisturbed: str
) -> None:
    def kill_one(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage is Stage.POLISH and not killed:
            killed.append(source.readings(0)[0])
            kill(killed[0])

    killed: list[int] = []
    result = fitted(executor, source, kill_one, cached=True)
    assert set(source.readings()) - set(killed)
    readings = len(source.readings())
    assert CHUNKS < readings < CHUNKS * SCANS
    assert result.parameters.digest == undisturbed


def test_a_worker_that_is_retired_hands_its_work_over(
    started: Processes, source: DrawnRows, undisturbed: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="gmm_dask")
    at = At(source, 1, 11, lambda pid: os.kill(pid, signal.SIGTERM))
    with connected(started) as executor:
        result = fitted(executor, source, at)
    retired = at.happened()
    (process,) = [worker for worker in started.workers if worker.pid == retired]
    until(lambda: process.poll() is not None, "the worker did not end")
    assert result.parameters.digest == undisturbed
    assert "is gone" in caplog.text


def test_a_stopped_worker_is_given_up_in_time_and_used_again_when_it_goes_on(
    started: Processes, source: DrawnRows, undisturbed: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="gmm_dask")
    at = At(source, 1, 11, lambda pid: os.kill(pid, signal.SIGSTOP))
    with connected(started) as executor:
        result = fitted(executor, source, at)
        assert time.monotonic() - at.when < DEADLINES.worker_lost + SLACK
        assert "has been silent for 4 s" in caplog.text
        os.kill(at.happened(), signal.SIGCONT)
        scanner = Scanner(source, executor)
        until(
            lambda: len(set(scanner.reduce(process_ids, None, Stage.SURVEY))) == 2,
            "only one worker works",
        )
    assert result.parameters.digest == undisturbed


def test_a_chunk_that_kills_its_workers_is_named(
    patient_executor: ClusterExecutor, source: DrawnRows
) -> None:
    source.rule("kill", 17).touch()
    message = r"^drawn chunk 17: 3 workers died while they worked on these rows; do the rows fit in"
    with pytest.raises(ClusterError, match=message):
        Scanner(source, patient_executor).reduce(chunk_numbers, None, Stage.SURVEY)
    assert len(set(source.readings(17))) == 3
    source.rule("kill", 17).unlink()
    assert Scanner(source, patient_executor).reduce(chunk_numbers, None, Stage.SURVEY) == tuple(
        range(CHUNKS)
    )


def test_a_chunk_that_does_not_fit_in_memory_is_named(
    patient_executor: ClusterExecutor, source: DrawnRows
) -> None:
    source.rule("hog", 23).touch()
    with pytest.raises(ClusterError, match=r"^drawn chunk 23: 3 workers died while they worked on"):
        Scanner(source, patient_executor).reduce(chunk_numbers, None, Stage.SURVEY)


def test_no_worker_left_is_an_error_in_time(started: Processes, source: DrawnRows) -> None:
    def kill_all(pid: int) -> None:
        for worker in started.workers:
            worker.kill()

    at = At(source, 1, 11, kill_all)
    message = (
        r"^there has been no worker for 4 s, the last died at drawn chunk \d+ or near it; start "
        r"workers and run again; deadlines\.worker_lost sets the limit"
    )
    with connected(started) as executor:
        with pytest.raises(ClusterError, match=message):
            fitted(executor, source, at)
        assert time.monotonic() - at.when < DEADLINES.worker_lost + SLACK
    at.happened()


def test_a_worker_that_comes_in_time_saves_the_fit(
    started: Processes, source: DrawnRows, undisturbed: str
) -> None:
    def replace_all(pid: int) -> None:
        for worker in list(started.workers):
            worker.kill()
        started.start_worker()

    at = At(source, 1, 11, replace_all)
    kind = RunningScheduler(
        kind="address",
        address=started.address,
        deadlines=DEADLINES.model_copy(update={"worker_lost": 30.0}),
    )
    with open_executor(kind) as executor:
        result = fitted(executor, source, at)
    at.happened()
    assert result.parameters.digest == undisturbed


def test_a_killed_scheduler_is_an_error_at_once(started: Processes, source: DrawnRows) -> None:
    at = At(source, 1, 11, lambda pid: started.scheduler.kill())
    with connected(started) as executor:
        with pytest.raises(
            ClusterError, match=r"^the connection to the scheduler is lost; start it"
        ):
            fitted(executor, source, at)
        assert time.monotonic() - at.when < SLACK
    at.happened()


def test_a_stopped_scheduler_is_an_error_in_time(started: Processes, source: DrawnRows) -> None:
    at = At(source, 1, 11, lambda pid: started.scheduler.send_signal(signal.SIGSTOP))
    with connected(started) as executor:
        with pytest.raises(
            ClusterError, match=r"^the scheduler has not answered for 4 s; is it stop"
        ):
            fitted(executor, source, at)
        assert time.monotonic() - at.when < DEADLINES.worker_lost + SLACK
        started.scheduler.send_signal(signal.SIGCONT)
    at.happened()
