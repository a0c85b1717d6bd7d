"""One pass of EM beside other libraries: ``python benchmarks/peers.py``.

oneDAL (through daal4py), scikit-learn, pomegranate and Spark, each in a virtual environment of its
own, which is made once from PyPI in a cache directory: 0.3 GB for scikit-learn, 0.5 for oneDAL,
0.6 for Spark, 1.4 for pomegranate. The last needs torch, which from PyPI brings CUDA, several GB
more: ``PIP_CONSTRAINT=FILE`` with a line ``torch==VERSION+cpu`` keeps it out where pip finds that
wheel. Spark needs a Java runtime (Debian: ``apt-get install default-jre-headless``). A library
that cannot be had is left out with a sentence.

- The same rows for all: an overlapping mixture of 36 MB of float64, rows as numpy has them (Spark
  reads them from Parquet and keeps them in memory). Full covariances.
- The same start and ``tol=0``. After one iteration, the means of all agree, or the benchmark
  stops. Spark cannot begin at a given start.
- A pass is the difference of two fits with more and fewer iterations, divided by the iterations
  between, so that what is done once does not count. The libraries take turns, in processes that
  live through all turns; what is given is the median of equally many turns.
- One thread means one core, to which the process is bound, too.

``--avx2`` rules out AVX-512 for all, so that a machine that has it says what one without would.
The table says what each library reports of the instructions that it uses.

About nine minutes on two idle cores once the environments exist, which takes three more; less
with ``--sizes 8,8``, ``--threads 1`` or ``--libraries oneDAL``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from kernel import overlapping_mixture
from measuring import as_table, print_machine, print_table, spread

SIZES = [(2, 3), (8, 8), (16, 16), (32, 16)]
VALUES = 4_500_000  # n·d: the rows of every size take 36 MB
SCRIPTS = Path(__file__).with_name("peer_scripts")
OURS = "gmm-dask"
#: The means of two libraries may differ by so many standard deviations of the rows.
AGREEMENT = 1e-4
#: What rules out AVX-512 in OpenBLAS, MKL and torch. The scripts see to the rest.
AVX2 = {
    "OPENBLAS_CORETYPE": "Haswell",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
}


@dataclass(frozen=True)
class Library:
    """A library to compare with: its script, and what pip installs for it."""

    script: str
    requirements: tuple[str, ...]
    needs: str = ""  # a program beside Python
    advice: str = ""  # how to get the program


LIBRARIES = {
    OURS: Library("run_gmm_dask.py", ()),
    "oneDAL": Library("run_onedal.py", ("scikit-learn-intelex",)),
    "scikit-learn": Library("run_scikit_learn.py", ("scikit-learn",)),
    "pomegranate": Library("run_pomegranate.py", ("pomegranate",)),
    "Spark": Library(
        "run_spark.py",
        ("pyspark", "numpy", "psutil"),
        "java",
        "apt-get install default-jre-headless",
    ),
}


class UnavailableError(Exception):
    """A library cannot be measured; the message says why."""


def interpreter(name: str, environments: Path) -> str:
    """The Python of a library's environment, which is made where it does not exist yet."""
    library = LIBRARIES[name]
    if not library.requirements:
        return sys.executable
    if library.needs and shutil.which(library.needs) is None:
        raise UnavailableError(f"there is no {library.needs}; install it: {library.advice}")
    directory = environments / name
    python, complete = directory / "bin" / "python", directory / "complete"
    if not complete.exists():
        print(f"Installing {', '.join(library.requirements)} in {directory}", flush=True)
        shutil.rmtree(directory, ignore_errors=True)
        try:
            run_quietly([sys.executable, "-m", "venv", str(directory)])
            run_quietly([str(python), "-m", "pip", "install", "--quiet", *library.requirements])
        except UnavailableError:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        complete.touch()
    return str(python)


def run_quietly(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines() or ["no message"]
        raise UnavailableError(f"python {' '.join(command[1:])} failed: {last[-1]}")


@dataclass
class Peer:
    """A process that fits with one library when it is asked to."""

    process: subprocess.Popen[str]
    log: Path
    ready: dict[str, Any]
    wall: list[float]
    cpu: list[float]

    def answer(self) -> dict[str, Any]:
        """The next line of the process."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            last = self.log.read_text().strip().splitlines() or ["no message"]
            raise UnavailableError(f"its process ended: {last[-1]}")
        return json.loads(line)  # type: ignore[no-any-return]

    def take_turn(self) -> None:
        """Measure once."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds = self.answer()
        self.wall.append(seconds["wall"])
        self.cpu.append(seconds["cpu"])


@contextmanager
def started(name: str, python: str, directory: Path, threads: int, avx2: bool) -> Iterator[Peer]:
    """A process of a library that has read the rows and has fitted once."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if name == OURS:
        environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[variable] = str(threads)
    command = [python, str(SCRIPTS / LIBRARIES[name].script), str(directory), str(threads)]
    if avx2:
        environment |= AVX2
        command.append("--avx2")
    cores = sorted(os.sched_getaffinity(0))[:threads]
    log = directory / f"{name}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    try:
        peer = Peer(process, log, {}, [], [])
        peer.ready = peer.answer()
        yield peer
    finally:
        process.communicate()  # closes its input, and with it the process


def write_rows(directory: Path, d: int, k: int) -> None:
    """Write rows and start for the scripts."""
    X, start = overlapping_mixture(d, k, VALUES // d, "full")
    np.save(directory / "rows.npy", X)
    pq.write_table(as_table(X), directory / "rows.parquet")
    np.savez(
        directory / "start.npz",
        weights=start.weights,
        means=start.means,
        covariances=start.covariances,
    )


def check_means(name: str, peer: Peer, ours: Peer, deviations: np.ndarray) -> None:
    """Refuse to compare a library that does not do the same as ours."""
    if peer.ready["means"] is None:
        return
    difference = np.subtract(peer.ready["means"], ours.ready["means"]) / deviations
    if np.abs(difference).max() > AGREEMENT:
        raise SystemExit(
            f"{name}: after one iteration its means are {np.abs(difference).max():.1e} standard "
            "deviations from ours: it does not do the same passes"
        )


@contextmanager
def left_out(name: str, peers: dict[str, Any]) -> Iterator[None]:
    """Go on without a library that fails, but not without ours."""
    try:
        yield
    except (UnavailableError, OSError) as missing:
        if name == OURS:
            raise SystemExit(f"{name}: {missing}") from None
        peers.pop(name, None)
        print(f"{name} is left out: {missing}\n", flush=True)


def compare(
    size: tuple[int, int], threads: int, pythons: dict[str, str], options: argparse.Namespace
) -> None:
    """Print the table of one size."""
    d, k = size
    n = VALUES // d
    with tempfile.TemporaryDirectory() as root, ExitStack() as stack:
        directory = Path(root)
        write_rows(directory, d, k)
        deviations = np.load(directory / "rows.npy").std(axis=0)
        peers = {}
        for name, python in pythons.items():
            with left_out(name, peers):
                peers[name] = stack.enter_context(
                    started(name, python, directory, threads, options.avx2)
                )
                check_means(name, peers[name], peers[OURS], deviations)
        for turn in range(options.repetitions):
            names = list(peers)
            first = turn % len(names)
            for name in (*names[first:], *names[:first]):
                with left_out(name, peers):
                    peers[name].take_turn()
    cores = "one thread" if threads == 1 else f"{threads} threads"
    print_table(
        f"({d}, {k}), {n:,} rows, {cores}: ns per row and pass",
        ("", "clock", "over ours", "processor", "over ours", "instructions", "versions"),
        [describe(name, peer, peers[OURS], n) for name, peer in peers.items()],
    )


def describe(name: str, peer: Peer, ours: Peer, n: int) -> tuple[str, ...]:
    """A line of the table."""
    times = []
    for clock in ("wall", "cpu"):
        seconds, least = getattr(peer, clock), getattr(ours, clock)
        ratios = [a / b for a, b in zip(seconds, least, strict=True)]
        times += [f"{median(seconds) / n * 1e9:.1f}", spread(ratios)]
    versions = ", ".join(f"{name} {number}" for name, number in peer.ready["versions"].items())
    return name, *times, peer.ready["instructions"], versions


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=size_of, default=SIZES, metavar="D,K")
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, cores}))
    parser.add_argument("--libraries", nargs="+", choices=list(LIBRARIES), default=list(LIBRARIES))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--avx2", action="store_true", help="rule out AVX-512")
    parser.add_argument("--environments", type=Path, default=cache / "gmm-dask" / "peers")
    options = parser.parse_args()
    print_machine()
    print(f"AVX-512 {'is there' if has_avx512() else 'is not there'}"
          f"{', and ruled out' if options.avx2 else ''}\n")  # fmt: skip
    pythons = {}
    for name in dict.fromkeys((OURS, *options.libraries)):
        with left_out(name, pythons):
            pythons[name] = interpreter(name, options.environments)
    for threads in options.threads:
        for size in options.sizes:
            compare(size, threads, pythons, options)


def size_of(text: str) -> tuple[int, int]:
    """Return the features and components of ``D,K``."""
    d, k = map(int, text.split(","))
    return d, k


def has_avx512() -> bool:
    """Whether the processor offers AVX-512."""
    info = Path("/proc/cpuinfo")
    return info.exists() and " avx512f" in info.read_text()


if __name__ == "__main__":
    main()
