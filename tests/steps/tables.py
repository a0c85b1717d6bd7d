"""Small real Parquet datasets, run files for them, and runs of the steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gmm_dask import steps
from gmm_dask.addresses import Place
from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import ClusterKind, RunConfig, ThreadsCluster, check_config
from gmm_dask.events import Notify, silent
from gmm_dask.steps.evaluating import INPUT_CONTENT
from gmm_dask.storage.input.content import decode_contents
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.input.reader import parquet_chunks
from gmm_dask.storage.models.manifest import Manifest

MEANS = np.array([[0.0, 0.0], [6.0, 5.0], [-6.0, 5.0]])
THREADS = ThreadsCluster(threads=2)


def points(rows: int, seed: int, shift: float = 0.0) -> FloatArray:
    """Draw rows of three Gaussians, half of them from the first, (rows, 2)."""
    random = np.random.default_rng(seed)
    component = random.choice(3, size=rows, p=[0.5, 0.3, 0.2])
    return random.normal(size=(rows, 2)) + MEANS[component] + shift


def write_day(
    root: Path,
    day: int,
    rows: int = 500,
    shift: float = 0.0,
    nulls: bool = True,
    **options: Any,
) -> Path:
    """Write a Hive partition ``input/day=N``; with ``nulls``, every fiftieth height is null."""
    heights, widths = points(rows, day, shift).T
    table = pa.table(
        {
            "number": np.arange(rows) + 1_000_000 * day,
            "height": pa.array(heights, mask=nulls & (np.arange(rows) % 50 == 7)),
            "width": widths,
            "share": np.random.default_rng(100 + day).uniform(0.5, 2.0, rows),
        }
    )
    path = root / "input" / f"day={day}" / "part.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def write_days(root: Path, days: int = 3, **options: Any) -> None:
    """Write days 1, 2, … with `write_day`."""
    for day in range(1, days + 1):
        write_day(root, day, **options)


def make_run(root: Path, **keys: Any) -> RunConfig:
    """Make a run file for ``root/input``; ``keys`` are ``section__key=value``."""
    tables: dict[str, dict[str, Any]] = {
        "input": {"path": str(root / "input"), "columns": ["height", "width"], "nulls": "drop"},
        "model": {"n_components": 3},
        "fit": {"tol": 1e-6},
        "predict": {"key_columns": ["number"]},
        "output": {
            "models": str(root / "models"),
            "name": "boxes",
            "predictions": str(root / "predictions"),
        },
    }
    for key, value in keys.items():
        section, _, name = key.partition("__")
        tables.setdefault(section, {})[name] = value
    return check_config(RunConfig, tables, "run.toml")


@dataclass(frozen=True)
class FitRun:
    """What the steps of a fit returned."""

    plan: InputPlan
    fitted: steps.Fitted
    evaluation: steps.Evaluation
    published: steps.Published

    @property
    def manifest(self) -> Manifest:
        """The manifest of the model."""
        return self.evaluation.model.manifest


def run_fit(
    run: RunConfig, run_id: str = "fit-1", notify: Notify = silent, cluster: ClusterKind = THREADS
) -> FitRun:
    """Call the steps of a fit in their order."""
    plan = steps.inspect_input(run)
    with steps.open_scanner(run, plan, cluster, notify) as scanner:
        fitted = steps.fit(run, plan, scanner, notify)
        evaluation = steps.evaluate(run, plan, scanner, fitted)
    return FitRun(plan, fitted, evaluation, steps.publish(run, evaluation, run_id))


def run_predict(
    run: RunConfig,
    run_id: str = "predict-1",
    notify: Notify = silent,
    cluster: ClusterKind = THREADS,
) -> tuple[steps.Predicted, int]:
    """Call the steps of a prediction; return its result and the number of rows verified."""
    plan = steps.inspect_input(run, for_fit=False)
    model = steps.read_model(run)
    with steps.open_predictions(run, plan, model, cluster, notify, run_id) as prediction:
        predicted = steps.predict(run, prediction)
        rows = steps.verify_predictions(run, prediction, predicted)
        steps.publish_predictions(run, prediction, predicted)
    return predicted, rows


def run_retrain(
    run: RunConfig, run_id: str, notify: Notify = silent, cluster: ClusterKind = THREADS
) -> tuple[steps.Evaluation, steps.Decision, steps.Published | Place] | None:
    """Call the steps of a retrain; the last result is what was published, or where it is kept.

    None if nothing is new.
    """
    plan = steps.inspect_input(run)
    current = steps.read_current(run)
    if steps.is_up_to_date(run, plan, current):
        return None
    start = steps.choose_start(run, plan, current)
    with steps.open_scanner(run, plan, cluster, notify) as scanner:
        given = (start.parameters, start.search_too, start.transforms)
        fitted = steps.fit(run, plan, scanner, notify, *given)
        evaluation = steps.evaluate(run, plan, scanner, fitted, current)
    decision = steps.decide(run, evaluation)
    if not decision.accepted:
        return evaluation, decision, steps.reject(run, evaluation, decision, run_id)
    based_on = None if current is None else current.version
    return evaluation, decision, steps.publish(run, evaluation, run_id, based_on)


def out_of_core(
    plan: InputPlan, notify: Notify = silent, threads: int = 2, memory: int = 0
) -> Scanner:
    """Open a scanner that caches no rows unless given memory: every scan reads the files again."""
    return Scanner(parquet_chunks(plan), Threads(threads, memory=memory), notify)


def read_predictions(run: RunConfig) -> pa.Table:
    """Read the published predictions in the order in which a reader sees them."""
    return pq.read_table(run.output.predictions)


def files_below(path: Path) -> dict[str, bytes | Path]:
    """Contents of files and targets of links below a directory, by relative name."""
    return {
        str(file.relative_to(path)): file.readlink() if file.is_symlink() else file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() or file.is_symlink()
    }


def model_files(version: Path) -> dict[str, Any]:
    """Files of a model version without what says when and where: run, lineage, report, hints."""
    files: dict[str, Any] = files_below(version)
    for name in ("run.json", "lineage.json", "report.json", "report.html"):
        files.pop(name, None)
    held = decode_contents(files[INPUT_CONTENT])
    return files | {INPUT_CONTENT: {path: one.digest for path, one in held.items()}}
