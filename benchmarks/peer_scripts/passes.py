"""What the scripts of ``peers.py`` share: a process that times passes when the driver asks.

Each script runs in the environment of its library, so this file needs numpy and nothing of ours.
The process loads the rows once, says on its output that it is ready, and then, for each line that
it reads, fits twice from the same start: with a few iterations and with many. What is done once
for a fit is in both and does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from math import ceil
from pathlib import Path

import numpy as np

#: Iterations of the shorter fit, whose means the driver compares.
FEW = 1
#: The longer fit has as many iterations more as take the processor about this many seconds.
SECONDS = 0.5
MOST = 50


def arguments() -> argparse.Namespace:
    """Directory with the rows, number of threads, and whether AVX-512 is ruled out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("threads", type=int)
    parser.add_argument("--avx2", action="store_true")
    return parser.parse_args()


def load_start(directory: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (k,), means (k, d) and covariances (k, d, d) from which every library starts."""
    with np.load(directory / "start.npz") as start:
        return start["weights"], start["means"], start["covariances"]


def serve(
    fit: Callable[[int], np.ndarray | None],
    packages: Sequence[str],
    instructions: str = "",
    cpu_clock: Callable[[], float] = time.process_time,
) -> None:
    """Answer the driver until it closes the input.

    Parameters
    ----------
    fit
        Fits with so many iterations, and gives the means (k, d), or None where the library cannot
        begin at the given start.
    packages
        Names of the distributions whose versions are reported.
    instructions
        What the library says of the instructions that it uses.
    cpu_clock
        Seconds of the processor so far.
    """

    def measure(iterations: int) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), cpu_clock()
        fit(iterations)
        return time.perf_counter() - wall, cpu_clock() - cpu

    means = fit(FEW)
    once, twice = measure(FEW), measure(2 * FEW)
    more = min(MOST, ceil(SECONDS * FEW / max(twice[1] - once[1], 1e-2)))
    _answer(
        versions={name: version(name) for name in packages},
        instructions=instructions,
        means=None if means is None else np.asarray(means).tolist(),
    )
    for _ in sys.stdin:
        few, many = measure(FEW), measure(FEW + more)
        wall, cpu = ((after - before) / more for before, after in zip(few, many, strict=True))
        _answer(wall=wall, cpu=cpu)


def _answer(**values: object) -> None:
    print(json.dumps(values), file=ANSWERS, flush=True)


# Libraries print what they like on the output: the driver reads answers only.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
