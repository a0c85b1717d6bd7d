"""How a scan scales to 1,000 workers: ``python benchmarks/scale.py``.

First the constants, on a scheduler and some workers that are processes of this machine: what a
task costs the scheduler and the client, how fast sums travel, what joining them takes. Then a
model of a pass made of these, and its curve from 1 to 1,000 workers of one thread
(docs/scale.md). CPU seconds where other work on the machine would disturb the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import psutil
from distributed import Client
from measuring import print_machine, print_table

from gmm_dask.chunked.cluster import ClusterExecutor, placement, scan
from gmm_dask.chunked.cluster.joining import FAN, Joining
from gmm_dask.chunked.cluster.parcel import LARGE
from gmm_dask.chunked.cluster.placement import Placement, Task, cut_tasks
from gmm_dask.chunked.cluster.worker import ResidentSums, join_sums
from gmm_dask.chunked.groups import Lane, group_rows, lanes_of
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.subtrees import Subtree
from gmm_dask.config import Deadlines
from gmm_dask.events import Stage
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import StatisticsBatch, SufficientStatistics
from gmm_dask.storage.input.layout import CHUNK_BYTES

#: (rows, d, k) of the curves.
SIZES = ((10**9, 8, 8), (10**9, 16, 16), (10**9, 64, 16))
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


@dataclass(frozen=True)
class FewRows:
    """Chunks of one row each, which the groups take for many; to measure what is not arithmetic."""

    number: int

    columns = ("x",)
    dtype = np.dtype(np.float64)
    weighted = volatile = False

    @property
    def rows(self) -> tuple[int, ...]:
        return (1,) * self.number

    @property
    def entries(self) -> tuple[int, ...]:
        return tuple(range(self.number))

    @property
    def digest(self) -> str:
        return str(self.number)

    def read(self, start: int, stop: int, digests: bool = False) -> Iterator[Rows]:
        for chunk in range(start, stop):
            yield Rows(np.zeros((1, 1)), None, chunk, chunk)

    def describe(self, chunk: int, row: int | None = None) -> str:
        return f"chunk {chunk}"

    def check(self) -> None:
        """It is there."""


def some_sums(d: int, k: int) -> StatisticsBatch:
    """Statistics of a size, full covariances."""
    random = np.random.default_rng(0)
    halves = random.normal(size=(k, d, d))
    products = halves + halves.swapaxes(1, 2)
    sums = SufficientStatistics(
        random.random(k), random.normal(size=(k, d)), products, 1, 1.0, 1.0, "0" * 32
    )
    return StatisticsBatch((sums,))


def sums_of(rows: Rows, size: tuple[int, int]) -> StatisticsBatch:
    """What a pass at (d, k) would return, without its arithmetic."""
    return some_sums(*size)


@contextlib.contextmanager
def processes(workers: int) -> Iterator[tuple[Client, psutil.Process]]:
    """A scheduler and workers, each a process, and a client of theirs."""
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = place / "scheduler.json"

        def start(*command: str) -> subprocess.Popen[bytes]:
            log = stack.enter_context((place / f"{len(list(place.iterdir()))}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *command, f"--scheduler-file={file}"],
                stdout=log,
                stderr=log,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        scheduler = start("scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard")
        for _ in range(workers):
            start(
                "worker",
                "--no-nanny",
                "--no-dashboard",
                "--nthreads=1",
                "--memory-limit=2GiB",
                f"--local-directory={place}",
            )
        while not file.exists() or not file.read_text():
            time.sleep(0.1)
        client = stack.enter_context(Client(scheduler_file=str(file), set_as_default=False))
        client.wait_for_workers(workers)
        yield client, psutil.Process(scheduler.pid)


def cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@dataclass(frozen=True)
class Constants:
    """What was measured.

    Attributes
    ----------
    scheduler_task, client_task
        CPU seconds of the scheduler and of the client for a task whose sums are passed on.
    scheduler_resident, client_resident
        The same for a task whose sums stay, with its share of a join.
    decisions
        Of ``client_resident``, those of our own for a task, with 1,000 workers.
    round_trip
        Seconds by the clock from asking for a task that does nothing to its answer.
    scheduler_megabyte
        CPU seconds of the scheduler for a megabyte that it passes on.
    gather, direct, peer
        Megabytes a second, by the clock: through the scheduler, from workers to the client, and
        between workers.
    pack, join
        CPU seconds for a megabyte of sums: to pack them on a worker, and to join them there.
    listing
        Bytes of a worker in the scheduler's list.
    """

    scheduler_task: float
    client_task: float
    scheduler_resident: float
    client_resident: float
    decisions: float
    round_trip: float
    scheduler_megabyte: float
    gather: float
    direct: float
    peer: float
    pack: float
    join: float
    listing: float


def measure_tasks(
    client: Client, scheduler: psutil.Process, size: tuple[int, int], tasks: int
) -> tuple[float, float]:
    """CPU seconds of scheduler and client for a task, where each group is one.

    As many are under way as with many workers: messages then come in batches.
    """

    def one_by_one(lanes: Sequence[Lane], threads: int) -> list[Task]:
        return [Task((group,)) for lane in lanes for group in lane.groups]

    with (
        mock.patch.object(scan, "cut_tasks", one_by_one),
        mock.patch.object(placement, "DEPTH", tasks),
        mock.patch("gmm_dask.chunked.groups.group_rows", return_value=1),
    ):
        executor = ClusterExecutor(client, Deadlines(connect=300))
        scanner = Scanner(FewRows(tasks), executor, cache=False)
        scanner.reduce(sums_of, (1, 1), Stage.SURVEY)  # the first scan tells more
        seconds = []
        for _ in range(2):
            before = cpu_of(scheduler), time.process_time()
            scanner.reduce(sums_of, size, Stage.POLISH)
            seconds.append((cpu_of(scheduler) - before[0], time.process_time() - before[1]))
        executor.close()
    both = np.median(seconds, axis=0) / tasks
    return float(both[0]), float(both[1])


def make_bytes(length: int, number: int) -> ResidentSums:
    return ResidentSums(np.random.default_rng(number).bytes(length))


def length_of(value: bytes) -> int:
    return len(value)


def rate(megabytes: float, function: Callable[[], object]) -> float:
    """Megabytes a second of the fastest of five rounds: what other work disturbs only slows."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return megabytes / min(seconds)


def measure_transfer(client: Client, scheduler: psutil.Process) -> dict[str, float]:
    """Rates of the three ways, by sums of 275 kB, 64 of them."""
    addresses = list(client.scheduler_info(n_workers=-1)["workers"])
    length, number = 275_000, 64
    megabytes = length * number / 1e6
    held = [
        client.submit(make_bytes, length, each, workers=[addresses[0]], pure=False)
        for each in range(number)
    ]
    client.gather([client.submit(length_of, value, pure=False) for value in held])
    before = cpu_of(scheduler)
    gather = rate(megabytes, lambda: client.gather(held))
    passed_on = (cpu_of(scheduler) - before) / (5 * megabytes)

    def to_peer() -> None:
        # A new copy each time: the worker there would keep one.
        fresh = client.submit(make_bytes, length * number, 0, workers=[addresses[0]], pure=False)
        client.gather(client.submit(length_of, fresh, workers=[addresses[0]], pure=False))
        began = time.perf_counter()
        client.gather(client.submit(length_of, fresh, workers=[addresses[1]], pure=False))
        peers.append(megabytes / (time.perf_counter() - began))

    peers: list[float] = []
    for _ in range(5):
        to_peer()
    trips = []
    for _ in range(50):
        began = time.perf_counter()
        client.gather(client.submit(length_of, b"", pure=False))
        trips.append(time.perf_counter() - began)
    return {
        "gather": gather,
        "direct": rate(megabytes, lambda: client.gather(held, direct=True)),
        "peer": max(peers),
        "scheduler_megabyte": passed_on,
        "round_trip": median(trips),
    }


def cpu_of_call(function: Callable[[], object], rounds: int = 20) -> float:
    began = time.process_time()
    for _ in range(rounds):
        function()
    return (time.process_time() - began) / rounds


def measure_sums() -> dict[str, float]:
    """CPU seconds for a megabyte of sums at (64, 16): to pack them, and to join 16 of them."""
    sums = some_sums(64, 16)
    parts = [ResidentSums(pickle.dumps((Subtree(group, 1, sums),))) for group in range(FAN)]
    megabytes = len(parts[0]) / 1e6
    return {
        "pack": cpu_of_call(lambda: pickle.dumps((Subtree(0, 1, sums),))) / megabytes,
        "join": cpu_of_call(lambda: join_sums(*parts), 5) / (FAN * megabytes),
    }


def measure_decisions(workers: int = 1000) -> float:
    """CPU seconds of our own decisions for a task, with that many workers."""
    lanes = billion_rows(64)
    tasks = cut_tasks(lanes, workers)
    began = time.process_time()
    threads = {f"w{number}": 1 for number in range(workers)}
    placed, joining = Placement(tasks, {}, threads), Joining(len(tasks))
    held: dict[str, list[Task]] = {address: [] for address in threads}
    for _ in range(len(tasks)):  # every worker takes tasks and ends one, in turns
        for address, has in held.items():
            while (task := placed.next_for(address, 1, has)) is not None:
                has.append(task)
            if has:
                done = has.pop(0)
                placed.add_resident(done, address)
                joining.keep(placed.number(done), address, None)
            while (join := joining.next_join(threads)) is not None:
                joining.add_joined(join, None)
        list(placed.results_in_order())
        if placed.done:
            break
    return (time.process_time() - began) / len(tasks)


def measure_constants(workers: int, tasks: int) -> Constants:
    with processes(workers) as (client, scheduler):
        entries = client.sync(client.scheduler.identity, n_workers=-1)["workers"].values()
        small = measure_tasks(client, scheduler, (1, 1), tasks)
        resident = measure_tasks(client, scheduler, (64, 16), tasks)
        transfer = measure_transfer(client, scheduler)
    return Constants(
        scheduler_task=small[0],
        client_task=small[1],
        scheduler_resident=resident[0],
        client_resident=resident[1],
        decisions=measure_decisions(),
        listing=max(len(pickle.dumps(entry)) for entry in entries),
        **transfer,
        **measure_sums(),
    )


def billion_rows(d: int, n: int = 10**9) -> tuple[Lane, ...]:
    """Lanes of n rows in row groups of a million rows."""
    slices = -(-(10**6) // min(group_rows(n, d), CHUNK_BYTES // (8 * d)))
    chunks = FewRows(0)
    row_groups = n // 10**6

    class ManyRows(FewRows):
        columns = tuple(f"x{feature}" for feature in range(d))
        rows = (10**6 // slices,) * slices * row_groups
        entries = tuple(range(0, slices * row_groups, slices))

    return lanes_of(ManyRows(chunks.number))


@dataclass(frozen=True)
class Pass:
    """A pass as the model has it: its parts in seconds, and bytes to the client."""

    tasks: int
    work: float
    busiest: float
    scheduler: float
    client: float
    begin: float
    end: float
    bytes_to_client: float

    @property
    def seconds(self) -> float:
        return self.begin + max(self.busiest, self.scheduler, self.client) + self.end

    def efficiency(self, workers: int) -> float:
        return self.work / (workers * self.seconds)

    @property
    def limit(self) -> str:
        """What takes longest."""
        parts = {
            "rows": self.busiest,
            "scheduler": self.scheduler,
            "client": self.client,
            "begin and end": self.begin + self.end,
        }
        return max(parts, key=lambda name: parts[name])


def row_seconds(d: int, k: int) -> float:
    """Seconds of a row in the kernel, full covariances: what `tests/chunked` simulates with."""
    return k * (2.5 + 0.3 * d + 0.033 * d * d) * 1e-9


def model(constants: Constants, n: int, d: int, k: int, workers: int) -> Pass:
    """A pass over rows that workers have cached."""
    lanes = billion_rows(d, n)
    tasks = cut_tasks(lanes, workers)
    sums = len(pickle.dumps(some_sums(d, k))) / 1e6
    mixture = MixtureParameters.from_covariances(
        "full", np.full(k, 1 / k), np.zeros((k, d)), np.stack([np.eye(d)] * k)
    )
    parameters = len(pickle.dumps(mixture)) / 1e6
    stay = sums * 1e6 * len(tasks) >= scan.PASSED_ON_BYTES
    joins = tasks_joined = 0
    level, levels = len(tasks), 0
    while stay and level > 1:
        level, levels = -(-level // FAN), levels + 1
        joins += level
    tasks_joined = len(tasks) if stay else 0
    ends = [0.0] * workers
    for task in tasks:
        rows = sum(group.rows for group in task.groups)
        seconds = rows * row_seconds(d, k) + 1e-4 * len(task.groups) + 1e-3
        if stay:
            seconds += sums * (constants.pack + constants.join + 1 / constants.peer)
        heapq.heappush(ends, heapq.heappop(ends) + seconds)
    of_scheduler = constants.scheduler_resident if stay else constants.scheduler_task
    of_client = constants.client_resident if stay else constants.client_task
    # Where workers are few, each unpacks the parameters once a pass, which is a task too.
    asked = len(tasks) + (workers if workers * parameters * 1e6 < LARGE else 0)
    rounds = np.ceil(np.log(max(workers, 2)) / np.log(FAN))
    begin = 2 * constants.round_trip + rounds * parameters / constants.peer
    of_join = constants.round_trip + FAN * sums * (1 / constants.peer + constants.join)
    end = constants.round_trip + (levels * of_join + sums / constants.gather if stay else 0.0)
    subtrees = 12  # at the most, of up to 4,095 groups
    passed_on = subtrees * sums if stay else len(tasks) * sums
    pass_ = Pass(
        tasks=len(tasks),
        work=sum(row_seconds(d, k) * group.rows for lane in lanes for group in lane.groups),
        busiest=max(ends),
        scheduler=of_scheduler * asked,
        client=of_client * asked,
        begin=float(begin),
        end=float(end),
        bytes_to_client=0.0,
    )
    polls = pass_.seconds / max(0.25, 0.0025 * workers)
    told = 500 * (tasks_joined + joins + asked)  # what is said of a task, bytes
    heard = passed_on * 1e6 + told + polls * workers * constants.listing
    return replace(pass_, bytes_to_client=heard)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=3, help="processes to measure with")
    parser.add_argument("--tasks", type=int, default=400, help="tasks of a measured scan")
    options = parser.parse_args()
    print_machine()
    constants = measure_constants(options.workers, options.tasks)
    lines = [(field.name, f"{getattr(constants, field.name):.3g}") for field in fields(constants)]
    print_table("Constants", ("", "measured"), lines)
    for n, d, k in SIZES:
        passes = {workers: model(constants, n, d, k, workers) for workers in WORKERS}
        lines = [
            (
                f"{workers:,}",
                f"{pass_.tasks:,}",
                f"{pass_.seconds:.3g}",
                f"{100 * pass_.efficiency(workers):.0f} %",
                f"{pass_.busiest:.3g}",
                f"{pass_.scheduler:.2g}",
                f"{pass_.client:.2g}",
                f"{pass_.begin + pass_.end:.2g}",
                f"{pass_.bytes_to_client / 1e6:.1f}",
                pass_.limit,
            )
            for workers, pass_ in passes.items()
        ]
        head = ("workers", "tasks", "pass, s", "efficiency", "busiest worker, s", "scheduler, s",
                "client, s", "begin and end, s", "MB to the client", "limit")  # fmt: skip
        print_table(f"{n:,} rows, d = {d}, k = {k}", head, lines)


if __name__ == "__main__":
    main()
