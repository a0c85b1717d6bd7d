"""A billion rows, from writing them to their predictions: ``python benchmarks/billion.py``.

- Rows: eight float32 features of an overlapping mixture of eight components, all drawn
  independently, in Parquet files of ten row groups of a million rows, as pyarrow writes them by
  default but for dictionaries, which values that are all different do not need. One process for
  each core writes; every row group has a seed of its own, so the rows do not depend on them.
- Then what a user would call: ``gmm-dask fit RUN.toml --direct`` with 8 components and full
  covariances, and ``gmm-dask predict RUN.toml --direct``. Seconds are of the whole commands; the
  memory is the peak of their processes, shared libraries included.
- The fitted means are compared with those that the rows were drawn from.

The disk that all of this needs is said first, and where it does not fit, nothing is written. The
files are removed at the end. ``--rows 20_000_000`` is a smaller one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import columns_of, print_machine, print_table
from scipy.optimize import linear_sum_assignment

from gmm_dask import load_model

D, K = 8, 8
GROUP_ROWS = 1_000_000
FILE_GROUPS = 10
#: Bytes of a row on the disk: random float32 do not compress.
ROW_BYTES = 4 * D
#: Bytes of its prediction (number, `component`, `log_density`, `outlier`); 8.4 were measured.
PREDICTION_BYTES = 10
#: Left free for whatever else writes to the disk.
SPARE = 1 << 30


def mixture() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (k,), means (k, d) and lower factors (k, d, d) of the covariances."""
    random = np.random.default_rng(0)
    weights = np.geomspace(1.0, 0.3, K)
    means = 2.0 * random.standard_normal((K, D))
    factors = random.standard_normal((K, D, D)) / np.sqrt(D)
    return (
        weights / weights.sum(),
        means,
        np.linalg.cholesky(factors @ factors.mT + 0.5 * np.eye(D)),
    )


def draw(group: int, n: int) -> np.ndarray:
    """Draw the n rows of a row group, (n, d) float32."""
    random = np.random.default_rng([1, group])
    weights, means, factors = mixture()
    rows = random.standard_normal((n, D), dtype=np.float32)
    begin = 0
    for mean, factor, count in zip(means, factors, random.multinomial(n, weights), strict=True):
        part = rows[begin : begin + count]
        part[:] = part @ factor.T.astype(np.float32) + mean.astype(np.float32)
        begin += count
    return rows[random.permutation(n)]


def write_file(directory: Path, rows: int, file: int) -> None:
    """Write one file of at most `FILE_GROUPS` row groups."""
    first = file * FILE_GROUPS
    schema = pa.schema([(name, pa.float32()) for name in columns_of(D)])
    path = directory / f"part-{file:05d}.parquet"
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for group in range(first, first + FILE_GROUPS):
            n = min(GROUP_ROWS, rows - group * GROUP_ROWS)
            if n <= 0:
                break
            columns = np.ascontiguousarray(draw(group, n).T)
            writer.write_table(pa.table(list(columns), schema=schema))


def write_rows(directory: Path, rows: int) -> None:
    """Write all files, on one process for each core."""
    directory.mkdir()
    files = -(-rows // (GROUP_ROWS * FILE_GROUPS))
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(write_file, directory, rows), range(files)))


def check_disk(directory: Path, rows: int) -> None:
    """Say how much disk the benchmark needs, and refuse to begin where there is less."""
    free = shutil.disk_usage(directory).free
    needed = rows * (ROW_BYTES + PREDICTION_BYTES) + SPARE
    said = (
        f"{rows:,} rows need {rows * ROW_BYTES / 1e9:.1f} GB, their predictions "
        f"{rows * PREDICTION_BYTES / 1e9:.1f} GB, and {SPARE / 1e9:.1f} GB stay free: "
        f"{needed / 1e9:.1f} of the {free / 1e9:.1f} GB that are free in {directory}"
    )
    if needed > free:
        raise SystemExit(f"{said}. Name a directory on a larger disk (--directory) or fewer --rows")
    print(said, flush=True)


@dataclass(frozen=True)
class Command:
    """What a command of ours took, and its answer."""

    seconds: float
    cpu: float
    peak: int  # bytes
    answer: dict[str, Any]


def call(name: str, run_file: Path) -> Command:
    """Run ``gmm-dask NAME RUN.toml --direct --json`` in a process of its own."""
    command = [str(Path(sys.executable).parent / "gmm-dask"), name, str(run_file)]
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as answer:
        process = subprocess.Popen([*command, "--direct", "--json"], stdout=answer)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise SystemExit(f"gmm-dask {name} has failed")
        answer.seek(0)
        return Command(
            seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, json.load(answer)
        )


def largest_error(version: Path) -> float:
    """Largest difference of a fitted mean from the drawn one, in standard deviations."""
    _, means, factors = mixture()
    fitted = load_model(version).means_
    deviations = np.sqrt((factors**2).sum(axis=2))  # (k, d)
    distances = np.abs(fitted[:, None] - means) / deviations  # fitted, drawn, d
    largest = distances.max(axis=2)
    return float(largest[linear_sum_assignment(largest)].max())


def write_run_file(root: Path) -> Path:
    """The run file of the two commands."""
    path = root / "run.toml"
    path.write_text(
        f"[input]\npath = {str(root / 'rows')!r}\ncolumns = {columns_of(D)!r}\n"
        f"[model]\nn_components = {K}\n"
        f"[output]\nmodels = {str(root / 'models')!r}\nname = 'billion'\n"
        f"predictions = {str(root / 'predictions')!r}\n"
    )
    return path


def bytes_below(directory: Path, pattern: str) -> int:
    """Sum of the sizes of files."""
    return sum(file.stat().st_size for file in directory.rglob(pattern) if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000_000)
    parser.add_argument("--directory", type=Path, help="where there is room; default: TMPDIR")
    options = parser.parse_args()
    if options.rows < 1:
        parser.error("--rows: at least one")
    print_machine()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        root = Path(directory)
        check_disk(root, options.rows)
        began = time.perf_counter()
        write_rows(root / "rows", options.rows)
        written = time.perf_counter() - began
        print(f"written in {written:.0f} s", flush=True)
        run_file = write_run_file(root)
        fit, prediction = (call(name, run_file) for name in ("fit", "predict"))
        model = fit.answer["model"]
        lines = [
            ("write", f"{written:.1f}", "", "", f"{bytes_below(root / 'rows', '*') / 1e9:.2f}"),
            ("fit, published", *describe(fit), ""),
            (
                "predict, published",
                *describe(prediction),
                f"{bytes_below(root / 'predictions.versions', '*.parquet') / 1e9:.2f}",
            ),
        ]
        error = largest_error(Path(model["path"]))
    print_table(
        f"{options.rows:,} × {D} float32, k = {K}, full: {model['status']} after "
        f"{model['n_iter']} iterations and {model['scans']} scans, log-likelihood "
        f"{model['log_likelihood']:.6f}; means within {error:.1e} standard deviations",
        ("", "s", "CPU s", "peak, MiB", "GB written"),
        lines,
    )


def describe(command: Command) -> tuple[str, str, str]:
    return f"{command.seconds:.1f}", f"{command.cpu:.1f}", f"{command.peak / 2**20:.0f}"


if __name__ == "__main__":
    main()
