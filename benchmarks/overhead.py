"""What scheduling adds to a pass: ``python benchmarks/overhead.py``.

A pass over 64 and 512 chunks of 100,000 rows at (d, k) = (8, 8), full: one E-step with all that a
scan does around it, on two threads and on two processes (`LocalCluster`), over the kernel alone on
the same threads or processes; the same with work that takes no time, which leaves the overhead in
milliseconds; and two workers against one.

So that neither disk nor memory is measured, every chunk is the same block, made once in each
process. The kernel alone is a plain loop over as many blocks, half of them in each thread or
process. Dask's share is the pass minus the kernel, over the pass. By the clock, and in the
processor's time of all processes, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from measuring import in_turns, on_threads, print_machine, print_table, ratio, spread
from sets import MixtureKind

from gmm_dask.chunked.expectation import sum_batch
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.scan import Executor, Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import LocalProcesses
from gmm_dask.events import Stage
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import sum_statistics
from gmm_dask.mixture.threads import single_threaded

D, K = 8, 8
ROWS = 100_000


@functools.cache
def block() -> np.ndarray:
    """The rows of every chunk, (ROWS, D), feature-major."""
    return np.asfortranarray(MixtureKind(D, K).draw(ROWS))


@dataclass(frozen=True)
class SameBlock:
    """As many chunks as wanted, all of them the same rows."""

    number: int

    columns = tuple(f"x{feature}" for feature in range(D))
    dtype = np.dtype(np.float64)
    weighted = volatile = False

    @property
    def rows(self) -> tuple[int, ...]:
        return (ROWS,) * self.number

    @property
    def entries(self) -> tuple[int, ...]:
        return tuple(range(self.number))

    @property
    def digest(self) -> str:
        return str(self.number)

    def read(self, start: int, stop: int, digests: bool = False) -> Iterator[Rows]:
        for chunk in range(start, stop):
            yield Rows(block(), None, chunk, chunk * ROWS)

    def describe(self, chunk: int, row: int | None = None) -> str:
        return f"chunk {chunk}"

    def check(self) -> None:
        """It is there."""


def start() -> MixtureParameters:
    """Parameters near the rows' own."""
    X = block()
    means = X[:: ROWS // K][:K]
    return MixtureParameters.from_covariances(
        "full", np.full(K, 1.0 / K), means, np.stack([np.cov(X.T)] * K)
    )


def nothing(rows: Rows, argument: object) -> int:
    return rows.chunk


def kernel(parameters: MixtureParameters, number: int) -> float:
    """Seconds of the E-step over so many blocks on the calling thread."""
    rows = block()
    began = time.perf_counter()
    with single_threaded():
        for _ in range(number):
            sum_statistics(parameters, rows)
    return time.perf_counter() - began


def kernel_on_workers(client: Any, parameters: MixtureParameters, number: int) -> float:
    """Run the kernel on all workers at once; seconds of the slowest."""
    addresses = list(client.scheduler_info(n_workers=-1)["workers"])
    share = number // len(addresses)
    asked = [
        client.submit(kernel, parameters, share, workers=[address], pure=False)
        for address in addresses
    ]
    return max(client.gather(asked))


def passes(
    executor: Executor, alone: Callable[[int], object], numbers: Sequence[int], repetitions: int
) -> list[tuple[str, ...]]:
    """Rows of the table for one executor."""
    parameters = start()
    lines = []
    for number in numbers:
        scanner = Scanner(SameBlock(number), executor)
        scanner.reduce(sum_batch, (parameters,), Stage.POLISH)
        times = in_turns(
            repetitions,
            {
                "pass": functools.partial(scanner.reduce, sum_batch, (parameters,)),
                "kernel": functools.partial(alone, number),
                "empty": functools.partial(scanner.reduce, nothing, None),
            },
        )
        rest = [1 - b / a for a, b in zip(times["pass"].wall, times["kernel"].wall, strict=True)]
        lines.append(
            (
                str(number),
                f"{np.median(times['pass'].wall) * 1e3:.0f}",
                ratio(times, "pass", "kernel"),
                ratio(times, "pass", "kernel", clock="cpu"),
                f"{100 * np.median(rest):.1f} %",
                spread([one * 1e3 for one in times["empty"].wall], 1),
                f"{np.median(times['empty'].cpu) * 1e3:.0f}",
            )
        )
    return lines


def main() -> None:
    from gmm_dask.chunked.cluster import open_executor

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    print_machine()
    parameters = start()

    def on_two_threads(number: int) -> None:
        on_threads(2, lambda half: kernel(parameters, half), [number // 2] * 2)

    threads = Threads(2, memory=0)
    lines = [
        ("two threads", *line)
        for line in passes(threads, on_two_threads, options.chunks, options.repetitions)
    ]
    threads.close()
    kinds = [LocalProcesses(kind="local", workers=workers) for workers in (2, 1)]
    with open_executor(kinds[0]) as two, open_executor(kinds[1]) as one:
        client = two.client
        alone = functools.partial(kernel_on_workers, client, parameters)
        lines += [
            ("two processes", *line)
            for line in passes(two, alone, options.chunks, options.repetitions)
        ]
        head = ("", "chunks", "pass, ms", "pass over kernel", "CPU", "share not kernel",
                "empty pass, ms", "CPU, ms")  # fmt: skip
        print_table(f"A pass over chunks of {ROWS:,} × {D}, k = {K}, full", head, lines)
        chunks = SameBlock(max(options.chunks))
        scanners = [Scanner(chunks, executor) for executor in (one, two)]
        for scanner in scanners:
            scanner.reduce(sum_batch, (parameters,), Stage.POLISH)
        times = in_turns(
            options.repetitions,
            {
                "one": lambda: scanners[0].reduce(sum_batch, (parameters,), Stage.POLISH),
                "two": lambda: scanners[1].reduce(sum_batch, (parameters,), Stage.POLISH),
                "kernel, one": lambda: kernel_on_workers(one.client, parameters, chunks.number),
                "kernel, two": lambda: kernel_on_workers(two.client, parameters, chunks.number),
            },
        )
        line = (
            f"{np.median(times['one'].wall) * 1e3:.0f}",
            f"{np.median(times['two'].wall) * 1e3:.0f}",
            ratio(times, "one", "two"),
            ratio(times, "kernel, one", "kernel, two"),
        )
        head = ("one worker, ms", "two workers, ms", "two against one", "the kernel alone")
        print_table(f"A pass over {chunks.number} chunks on two workers and one", head, [line])


if __name__ == "__main__":
    main()
