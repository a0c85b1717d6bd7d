"""Data far larger than the workers' memory: ``python benchmarks/release.py``, before a release.

Writes three datasets in turn below ``--directory``, at most 6.4 GB and 3 GB of predictions at a
time, and removes them. ``--rows`` makes it smaller, ``--only`` runs one of the parts:

- cluster: 100M × 8 float64 rows in 200 files, a fit (``max_iter=5``) and a prediction on two
  worker processes of 1 GiB each. Rows do not fit, so every scan decodes them again. Seconds per
  scan, and the polish over (decode + kernel), each of these measured alone on the same two
  workers: decode reads every chunk, kernel is the E-step over one chunk in memory as often as
  there are rows. Peak memory of each worker: the greatest that Linux has seen (VmHWM), shared
  libraries included.
- group: one file with one row group of 100M rows, written by Polars (``pip install polars``), for
  pyarrow writes no more than 64Mi rows into one: survey, E-step and evaluation in a process of
  its own, on one thread and on two; its peak memory, and what it was before the first row.
- files: 10,000 files of 1,000 rows: seconds of the plan, and of a pass.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from measuring import columns_of, decode, peak_bytes, print_machine, print_table, write_parquet
from pipeline import D, K, run_file
from sets import MixtureKind

from gmm_dask.chunked.evaluation import evaluate
from gmm_dask.chunked.expectation import sum_batch
from gmm_dask.chunked.groups import Lane, lanes_of
from gmm_dask.chunked.rows import RowChunks
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.survey import survey_source
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import InputSection, LocalProcesses, RunConfig
from gmm_dask.events import Event, Stage, StageFinished, silent
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import sum_statistics
from gmm_dask.mixture.threads import available_cores, single_threaded
from gmm_dask.steps import evaluating, fitting, inputs, predicting, publishing, resuming
from gmm_dask.storage.input.plan import plan_input
from gmm_dask.storage.input.reader import parquet_chunks

MEMORY = "1GiB"
WORKERS = LocalProcesses(kind="local", workers=2, memory_limit=MEMORY)


class Stages:
    """Remembers how long each stage took."""

    def __init__(self) -> None:
        self.seconds: list[tuple[Stage, float]] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageFinished):
            self.seconds.append((event.stage, event.seconds))


def some_rows() -> np.ndarray:
    """A hundred thousand rows of the mixture, feature-major."""
    return np.asfortranarray(MixtureKind(D, K).draw(100_000))


def start() -> MixtureParameters:
    """A mixture somewhere near the rows."""
    X = some_rows()
    return MixtureParameters.from_covariances(
        "full", np.full(K, 1.0 / K), X[:: len(X) // K][:K], np.stack([np.cov(X.T)] * K)
    )


def decode_lanes(chunks: RowChunks, lanes: tuple[Lane, ...]) -> float:
    """Seconds to read some lanes on the calling thread."""
    began = time.perf_counter()
    decode(chunks, 1, lanes)
    return time.perf_counter() - began


def kernel(parameters: MixtureParameters, rows: int) -> float:
    """Seconds of the E-step over so many rows on the calling thread."""
    block = some_rows()
    began = time.perf_counter()
    with single_threaded():
        for _ in range(rows // len(block)):
            sum_statistics(parameters, block)
    return time.perf_counter() - began


def on_workers(client: Any, function: Any, *each: tuple[Any, ...]) -> float:
    """Seconds of the slower of the workers."""
    addresses = list(client.scheduler_info(n_workers=-1)["workers"])
    asked = [
        client.submit(function, *arguments, workers=[address], pure=False)
        for address, arguments in zip(addresses, each, strict=True)
    ]
    return max(client.gather(asked))


def peaks(client: Any) -> str:
    """MiB, of each worker."""
    return " and ".join(f"{one / 2**20:.0f}" for one in client.run(peak_bytes).values())


def two_workers(directory: Path, rows: int) -> None:
    root = directory / "cluster"
    write_parquet(root / "rows", rows)
    run = run_file(root)
    run = run.model_copy(update={"fit": run.fit.model_copy(update={"max_iter": 5})})
    plan = inputs.inspect_input(run)
    stages = Stages()
    with inputs.open_scanner(run, plan, WORKERS, stages) as scanner:
        client = scanner.executor.client  # type: ignore[attr-defined]
        before = peaks(client)
        fitted = fitting.fit(run, plan, scanner, stages)
        evaluation = evaluating.evaluate(run, plan, scanner, fitted)
        after = peaks(client)
        chunks = scanner.chunks
        lanes = lanes_of(chunks)
        half = len(lanes) // 2
        decoding = on_workers(client, decode_lanes, (chunks, lanes[:half]), (chunks, lanes[half:]))
        parameters = fitted.result.parameters
        computing = on_workers(client, kernel, *[(parameters, rows // 2)] * 2)
    publishing.publish(run, evaluation, str(uuid.uuid4()))
    both = decoding + computing
    lines = [
        (stage, f"{seconds:.1f}", f"{seconds / both:.2f}" if stage == Stage.POLISH else "")
        for stage, seconds in stages.seconds
    ]
    lines += [("decode alone", f"{decoding:.1f}", ""), ("kernel alone", f"{computing:.1f}", "")]
    size = rows * D * 8 / 2**30
    print_table(
        f"Fit of {rows:,} × {D} ({size:.1f} GiB) on two workers of {MEMORY}; "
        f"peak {after} MiB, {before} before",
        ("", "s", "over decode + kernel"),
        lines,
    )
    predict(run)


def predict(run: RunConfig) -> None:
    plan = inputs.inspect_input(run, for_fit=False)
    model = resuming.read_model(run)
    with predicting.open_predictions(run, plan, model, WORKERS, silent, "release") as prediction:
        began = time.perf_counter()
        predicted = predicting.predict(run, prediction)
        predicting.verify_predictions(run, prediction, predicted)
        predicting.publish_predictions(run, prediction, predicted)
        seconds = time.perf_counter() - began
        assert prediction.scanner is not None
        after = peaks(prediction.scanner.executor.client)  # type: ignore[attr-defined]
    size = sum(part.size for part in predicted.parts) / 2**30
    line = (f"{seconds:.1f}", f"{plan.rows / seconds / 1e6:.1f}", f"{size:.1f}", after)
    head = ("s, published", "million rows per s", "GiB written", "peak of the workers, MiB")
    print_table("Prediction of the same rows on two workers", head, [line])


def write_one_group(path: Path, rows: int) -> None:
    """One file with one row group; its columns are the same values, moved by a few rows."""
    import polars

    random = np.random.default_rng(0)
    moved = 1000
    base = random.standard_normal(rows + moved * D)
    base += 4.0 * random.integers(0, 3, len(base), np.int8)
    columns = {f"x{j}": base[moved * j : moved * j + rows] for j in range(D)}
    path.parent.mkdir(parents=True)
    polars.DataFrame(columns).write_parquet(path, compression="snappy", row_group_size=rows)
    groups = pq.ParquetFile(path).metadata.num_row_groups
    if groups != 1:
        raise ValueError(f"{path}: {groups} row groups were written, not one")


def scan_group(path: Path, threads: int) -> tuple[int, int, list[float]]:
    """Peak before the first row, peak at the end, seconds of survey, E-step and evaluation."""
    parameters = start()
    sum_statistics(parameters, some_rows())  # loads the compiled kernel
    before = peak_bytes()
    plan = plan_input(InputSection(path=str(path), columns=columns_of(D)))
    stages = Stages()
    with Scanner(parquet_chunks(plan), Threads(threads, memory=0), stages) as scanner:
        survey_source(scanner, 65_536, 0, "error")
        scanner.reduce(sum_batch, (parameters,), Stage.POLISH)
        evaluate(scanner, [parameters])
    return before, peak_bytes(), [seconds for _, seconds in stages.seconds]


def one_group(directory: Path, rows: int) -> None:
    path = directory / "group" / "one.parquet"
    # In a process of its own: what the writer needs goes with it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(write_one_group, path, rows).result()
    lines = []
    for threads in sorted({1, available_cores()}):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            before, peak, seconds = pool.submit(scan_group, path, threads).result()
        lines.append(
            (threads, *(f"{one / 2**20:.0f}" for one in (before, peak)),
             *(f"{one:.1f}" for one in seconds))
        )  # fmt: skip
    size = path.stat().st_size / 2**30
    path.unlink()
    print_table(
        f"One file with one row group of {rows:,} × {D}, {size:.1f} GiB",
        ("threads", "MiB before", "peak, MiB", "survey, s", "E-step, s", "evaluation, s"),
        lines,
    )


def many_files(directory: Path, files: int) -> None:
    root = write_parquet(directory / "files", files * 1000, file_rows=1000)
    began = time.perf_counter()
    plan = plan_input(InputSection(path=str(root), columns=columns_of(D)))
    planned = time.perf_counter() - began
    stages = Stages()
    with Scanner(parquet_chunks(plan), Threads(memory=0), stages) as scanner:
        scanner.reduce(sum_batch, (start(),), Stage.POLISH)
        scanner.reduce(sum_batch, (start(),), Stage.POLISH)
        chunks = len(scanner.chunks.rows)
    print_table(
        f"{files:,} files of 1,000 × {D}",
        ("plan, s", "first pass, s", "second pass, s", "chunks"),
        [(f"{planned:.2f}", *(f"{seconds:.2f}" for _, seconds in stages.seconds), chunks)],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--only", choices=["cluster", "group", "files"])
    parser.add_argument("--directory", type=Path, help="where there is room; default: TMPDIR")
    options = parser.parse_args()
    print_machine()
    parts = {
        "cluster": lambda root: two_workers(root, options.rows),
        "group": lambda root: one_group(root, options.rows),
        "files": lambda root: many_files(root, options.files),
    }
    for name, part in parts.items():
        if options.only in (None, name):
            with tempfile.TemporaryDirectory(dir=options.directory) as directory:
                part(Path(directory))


if __name__ == "__main__":
    main()
