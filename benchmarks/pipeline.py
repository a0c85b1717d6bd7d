"""Parquet to model, and Parquet to predictions: ``python benchmarks/pipeline.py``.

Against the script that one would write with pyarrow and scikit-learn:

- fit: read all files into one array, `sklearn.mixture.GaussianMixture` with its defaults and
  ``random_state=0``, save the arrays. Ours: footers, survey, search, polish, evaluation, pictures
  and the published version, with the defaults.
- predict: read each file, `predict` and `score_samples`, write a Parquet file beside it, with the
  model that ours has published. Ours: the predict steps, published, with checksums, on the disk.

And against the sum of its own parts, each measured alone on the same threads:

- scan (one iteration, rows not kept in memory) over decode + kernel: *decode* reads the chunks
  into feature-major buffers, *kernel* is the E-step over the same chunks in memory;
- predict over decode + kernel + encode: *kernel* gives labels and densities, *encode* writes the
  parts. The scan of the prediction alone, and the whole with its verification and its fsyncs.

All are measured in turns in one process; imports and compiled kernels are loaded before.
"""

from __future__ import annotations

import argparse
import tempfile
import uuid
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import (
    Times,
    columns_of,
    decode,
    in_turns,
    on_threads,
    print_machine,
    print_table,
    ratio,
    write_parquet,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from gmm_dask.chunked.expectation import sum_batch
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import RunConfig, ThreadsCluster, check_config
from gmm_dask.events import Stage, silent
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.statistics import sum_statistics
from gmm_dask.mixture.threads import available_cores
from gmm_dask.steps import evaluating, fitting, inputs, predicting, publishing, resuming
from gmm_dask.steps.predicted_rows import PredictRequest, predict_rows
from gmm_dask.storage.files.contents import StagedVersion
from gmm_dask.storage.input.reader import ParquetRows, parquet_chunks

D, K = 8, 8


def run_file(root: Path) -> RunConfig:
    """A run file with the defaults."""
    tables = {
        "input": {"path": str(root / "rows"), "columns": columns_of(D)},
        "model": {"n_components": K},
        "output": {
            "models": str(root / "models"),
            "name": "ours",
            "predictions": str(root / "predictions"),
        },
    }
    return check_config(RunConfig, tables, "benchmark")


def fit_ours(run: RunConfig) -> evaluating.Evaluation:
    plan = inputs.inspect_input(run)
    with inputs.open_scanner(run, plan, ThreadsCluster(), silent) as scanner:
        fitted = fitting.fit(run, plan, scanner, silent)
        evaluation = evaluating.evaluate(run, plan, scanner, fitted)
    publishing.publish(run, evaluation, str(uuid.uuid4()))
    return evaluation


def fit_script(run: RunConfig, root: Path, **options: Any) -> tuple[GaussianMixture, np.ndarray]:
    table = pq.read_table(run.input.path, columns=run.input.columns)
    X = np.column_stack([column.to_numpy() for column in table.columns])  # (n, d)
    mixture = GaussianMixture(K, random_state=0, **options).fit(X)
    np.savez(
        root / "script.npz",
        weights=mixture.weights_,
        means=mixture.means_,
        covariances=mixture.covariances_,
    )
    return mixture, X


def predict_ours(run: RunConfig, threads: int | None = None) -> None:
    plan = inputs.inspect_input(run, for_fit=False)
    model = resuming.read_model(run)
    # A name of its own each time: nothing is taken over from the version before.
    output = run.output.model_copy(
        update={"predictions": f"{run.output.predictions}{uuid.uuid4()}"}
    )
    run = run.model_copy(update={"output": output})
    run_id = str(uuid.uuid4())
    with predicting.open_predictions(
        run, plan, model, ThreadsCluster(threads=threads), silent, run_id
    ) as prediction:
        predicted = predicting.predict(run, prediction)
        predicting.verify_predictions(run, prediction, predicted)
        predicting.publish_predictions(run, prediction, predicted)


def predict_script(run: RunConfig, mixture: GaussianMixture, root: Path) -> None:
    out = root / f"script-{uuid.uuid4()}"
    out.mkdir()
    for path in sorted(Path(run.input.path).iterdir()):
        table = pq.read_table(path, columns=run.input.columns)
        X = np.column_stack([column.to_numpy() for column in table.columns])
        found = {"component": mixture.predict(X), "log_density": mixture.score_samples(X)}
        pq.write_table(pa.table(found), out / path.name)


def against_script(run: RunConfig, root: Path, repetitions: int) -> None:
    """Print the two tables against scikit-learn."""
    evaluation = fit_ours(run)
    scripts = []
    times = in_turns(
        repetitions,
        {"ours": lambda: fit_ours(run), "script": lambda: scripts.append(fit_script(run, root))},
    )
    mixture, X = scripts[0]
    manifest = evaluation.model.manifest
    results = {
        "script": f"{mixture.score(X):.4f} ({mixture.n_iter_} iterations)",
        "ours": f"{manifest.log_likelihood:.4f} ({manifest.scans} scans)",
    }
    print_against(f"Parquet to model, {len(X):,} × {D}, k = {K}, full", times, results)
    times = in_turns(
        repetitions,
        {
            "ours": lambda: predict_ours(run),
            "script": lambda: predict_script(run, mixture, root),
        },
    )
    results = dict.fromkeys(times, "")
    print_against(f"Parquet to predictions, {len(X):,} × {D}, k = {K}, full", times, results)


def print_against(title: str, times: dict[str, Times], results: dict[str, str]) -> None:
    """Print seconds by the clock and of the processor, and the script's over ours."""
    names = {"script": "pyarrow + scikit-learn", "ours": "gmm-dask"}
    lines = [
        (
            names[name],
            f"{np.median(times[name].wall):.2f}",
            f"{np.median(times[name].cpu):.2f}",
            results[name],
        )
        for name in names
    ]
    over = [ratio(times, "script", "ours", clock=clock) for clock in ("wall", "cpu")]
    lines.append(("ratio", *over, ""))
    print_table(title, ("", "s", "CPU s", "mean log-likelihood"), lines)


def against_parts(run: RunConfig, threads: int, repetitions: int) -> None:
    """Print the two tables of parts."""
    plan = inputs.inspect_input(run, for_fit=False)
    parameters = resuming.read_model(run).parameters
    chunks = parquet_chunks(plan)
    blocks = [rows.values for rows in chunks.read(0, len(chunks.rows))]
    with Scanner(chunks, Threads(threads, memory=0)) as scanner:
        scanner.reduce(sum_batch, (parameters,), Stage.POLISH)  # takes the fingerprints
        times = in_turns(
            repetitions,
            {
                "scan": lambda: scanner.reduce(sum_batch, (parameters,), Stage.POLISH),
                "decode": lambda: decode(chunks, threads),
                "kernel": lambda: on_threads(
                    threads, lambda block: sum_statistics(parameters, block), blocks
                ),
            },
        )
    print_parts(f"One scan, {threads} threads", plan.rows, times, "scan", "decode", "kernel")

    with predicting.open_predictions(
        run,
        plan,
        resuming.read_model(run),
        ThreadsCluster(threads=threads),
        silent,
        "parts",
    ) as prediction:
        scanner = prediction.scanner
        assert scanner is not None
        writer = prediction.staged.writer

        def request() -> PredictRequest:
            """Into a new directory: to write over files that are there takes longer."""
            stage = StagedVersion(writer.stage.directory.parent.parent / "parts")
            return PredictRequest(parameters, replace(writer, stage=stage))

        def encode() -> None:
            write = request().writer.write
            on_threads(
                threads, lambda one: write(one[0], one[1].labels, one[1].log_densities), decoded
            )

        decoded = [
            (rows, assign(parameters, rows.values))
            for rows in scanner.chunks.read(0, len(scanner.chunks.rows))
            if isinstance(rows, ParquetRows)
        ]
        times = in_turns(
            repetitions,
            {
                "scan": lambda: scanner.reduce(predict_rows, request(), Stage.PREDICT),
                "decode": lambda: decode(scanner.chunks, threads),
                "kernel": lambda: on_threads(
                    threads, lambda one: assign(parameters, one[0].values), decoded
                ),
                "encode": encode,
                "whole, published": lambda: predict_ours(run, threads),
            },
        )
    title = f"Predict, {threads} threads"
    print_parts(title, plan.rows, times, "scan", "decode", "kernel", "encode")


def print_parts(title: str, rows: int, times: dict[str, Times], whole: str, *parts: str) -> None:
    """Print what takes how long per row, and the whole over the sum of its parts."""
    lines = [
        (
            name,
            f"{np.median(one.wall) / rows * 1e9:.1f}",
            f"{np.median(one.cpu) / rows * 1e9:.1f}",
            "" if name in parts else ratio(times, name, *parts),
            "" if name in parts else ratio(times, name, *parts, clock="cpu"),
        )
        for name, one in times.items()
    ]
    over = f"over {' + '.join(parts)}"
    head = ("", "ns per row", "CPU ns per row", over, f"CPU {over}")
    print_table(f"{title}, {rows:,} × {D}, k = {K}, full", head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="against scikit-learn")
    parser.add_argument("--scan-rows", type=int, default=8_000_000, help="against the parts")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--script-repetitions", type=int, default=3)
    parser.add_argument("--parts-only", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        small, large = Path(directory, "small"), Path(directory, "large")
        run = run_file(small)
        write_parquet(small / "rows", options.rows, D, K)
        if options.parts_only:
            fit_ours(run)
        else:
            against_script(run, small, options.script_repetitions)
        write_parquet(large / "rows", options.scan_rows, D, K)
        section = run.input.model_copy(update={"path": str(large / "rows")})
        run = run.model_copy(update={"input": section})
        for threads in sorted({1, available_cores()}):
            against_parts(run, threads, options.repetitions)


if __name__ == "__main__":
    main()
