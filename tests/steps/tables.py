"""Small real Parquet datasets, run files for them, and runs of the steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gmm_dask import steps
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import RunConfig, ThreadsCluster, check_config
from gmm_dask.events import silent
from gmm_dask.storage.input.reader import parquet_chunks

MEANS = np.array([[0.0, 0.0], [6.0, 5.0], [-6.0, 5.0]])
THREADS = ThreadsCluster(threads=2)


def points(rows, seed, shift=0.0):
    """Rows of three Gaussians, one of them half of all, (rows, 2)."""
    random = np.random.default_rng(seed)
    component = random.choice(3, size=rows, p=[0.5, 0.3, 0.2])
    return random.normal(size=(rows, 2)) + MEANS[component] + shift


def write_day(root, day, rows=500, shift=0.0, nulls=True, **options):
    """One Hive partition ``input/day=N``; with nulls, every fiftieth height is one."""
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


def write_days(root, days=3, **options):
    for day in range(1, days + 1):
        write_day(root, day, **options)


def make_run(root, **keys: Any) -> RunConfig:
    """A run on ``root/input``; ``keys`` are ``section__key=value``."""
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
    """All that the steps of a fit returned."""

    plan: Any
    fitted: Any
    evaluation: Any
    published: Any

    @property
    def manifest(self):
        return self.evaluation.model.manifest


def run_fit(run, run_id="fit-1", notify=silent, cluster=THREADS):
    plan = steps.inspect_input(run)
    with steps.open_scanner(run, plan, cluster, notify) as scanner:
        fitted = steps.fit(run, plan, scanner, notify)
        evaluation = steps.evaluate(run, plan, scanner, fitted)
    return FitRun(plan, fitted, evaluation, steps.publish(run, evaluation, run_id))


def run_predict(run, run_id="predict-1", notify=silent, cluster=THREADS):
    plan = steps.inspect_input(run, for_fit=False)
    model = steps.read_model(run)
    with steps.open_predictions(run, plan, model, cluster, notify, run_id) as prediction:
        predicted = steps.predict(run, prediction)
        rows = steps.verify_predictions(run, prediction, predicted)
        steps.publish_predictions(run, prediction, predicted)
    return predicted, rows


def run_retrain(run, run_id, notify=silent, cluster=THREADS):
    """The steps of a retrain: the evaluation, the decision, and what was published, if it was."""
    plan = steps.inspect_input(run)
    current = steps.read_current(run)
    if steps.is_up_to_date(run, plan, current):
        return None
    start = steps.choose_start(run, plan, current)
    with steps.open_scanner(run, plan, cluster, notify) as scanner:
        fitted = steps.fit(run, plan, scanner, notify, start.parameters, start.search_too)
        evaluation = steps.evaluate(run, plan, scanner, fitted, current)
    decision = steps.decide(run, evaluation)
    if not decision.accepted:
        return evaluation, decision, steps.reject(run, evaluation, decision, run_id)
    based_on = None if current is None else current.version
    return evaluation, decision, steps.publish(run, evaluation, run_id, based_on)


def out_of_core(plan, notify=silent, threads=2, memory=0):
    """A scanner that keeps no rows, unless given memory: every scan reads the files again."""
    return Scanner(parquet_chunks(plan), Threads(threads, memory=memory), notify)


def read_predictions(run):
    """What a reader sees, in its order."""
    return pq.read_table(run.output.predictions)


def files_below(path):
    """Every file and link below a directory: bytes by relative name."""
    return {
        str(one.relative_to(path)): one.readlink() if one.is_symlink() else one.read_bytes()
        for one in sorted(path.rglob("*"))
        if one.is_file() or one.is_symlink()
    }


def model_files(version):
    """Files of a model version but ``run.json``, which says when and where."""
    return {name: content for name, content in files_below(version).items() if name != "run.json"}
