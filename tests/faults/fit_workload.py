"""A fit and a prediction that kill themselves at a chosen point, and then are run again.

``python -m tests.faults.fit_workload WORK SEED COUNT [select]`` runs both, or a selection in the
place of the fit, once undisturbed, counting the points: every event that a step tells, every write
and every other change of the disk. Then, COUNT times, a child is killed by SIGKILL at a point drawn
from the seed, and the same run is started again. One line of JSON each says what was found.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gmm_dask import steps
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import RunConfig, ThreadsCluster, check_config
from gmm_dask.events import Event, StageStarted
from gmm_dask.report import pictures
from gmm_dask.storage.files.choice import version_at
from gmm_dask.storage.input.reader import parquet_chunks
from gmm_dask.storage.models.model import verify_files
from gmm_dask.storage.models.registry import Registry
from tests.faults.kills import die, die_at_changes

ROWS = 120_000  # per file, with three files: six groups
#: Steps to be killed in, in turn; a point within is drawn.
STEPS = ("fit", "evaluate", "fit", "publish", "fit", "predict", "fit", "publish_predictions")


def write_input(path: Path) -> None:
    """Three files of four Gaussians, with a few nulls."""
    random_state = np.random.default_rng(1)
    for day in range(3):
        centres = np.array([[0, 0, 0, 0], [4, 4, 0, 0], [0, 4, 4, 0], [4, 0, 4, 4.0]])
        component = random_state.choice(4, ROWS, p=[0.4, 0.3, 0.2, 0.1])
        values = random_state.normal(size=(ROWS, 4)) + centres[component]
        columns = {name: values[:, j] for j, name in enumerate("abcd")}
        columns["a"] = pa.array(values[:, 0], mask=np.arange(ROWS) % 997 == 5)
        (path / f"day={day}").mkdir(parents=True)
        pq.write_table(pa.table(columns), path / f"day={day}" / "part.parquet")


def run_config(root: Path, selects: bool = False, **fit: Any) -> RunConfig:
    """A run on the input beside ``root`` that writes below it."""
    tables: dict[str, dict[str, Any]] = {
        "input": {"path": str(root.parent / "input"), "columns": list("abcd"), "nulls": "drop"},
        "model": {"n_components": 4},
        "fit": {"search_rows": 2500, "n_init": 2, "tol": 1e-7, "max_iter": 6} | fit,
        "output": {
            "models": str(root / "models"),
            "name": "m",
            "predictions": str(root / "predictions"),
        },
    }
    if selects:
        tables["select"] = {"n_components": [3, 5], "covariance_types": ["full", "diag"]}
    return check_config(RunConfig, tables, "run.toml")


class Points:
    """Counts what happens, and kills this process at the chosen point."""

    def __init__(self, chosen: int | None = None) -> None:
        self.step = ""
        self.stages: list[str] = []
        self.labels: list[tuple[str, int]] = []
        self.chosen, self.numbers = chosen, itertools.count()
        die_at_changes(self.passed, cut=lambda size: size // 2)

    def passed(self) -> bool:
        """Count a point; whether it is the chosen one."""
        self.labels.append((self.step, len(self.stages)))
        return next(self.numbers) == self.chosen

    def begin(self, step: str) -> None:
        """Take the beginning of a step as a point: an evaluation that is there has no other."""
        self.step = step
        if self.passed():
            die()

    def notify(self, event: Event) -> None:
        """Take an event of a step as a point."""
        if isinstance(event, StageStarted):
            self.stages.append(event.stage)
        if self.passed():
            die()


def run_all(run: RunConfig, run_id: str, points: Points) -> None:
    """A fit or selection, and a prediction, by their steps; every scan reads the files."""
    points.begin("inspect")
    plan = steps.inspect_input(run, True, run.select is not None)
    with Scanner(parquet_chunks(plan), Threads(2, memory=0), points.notify) as scanner:
        points.begin("fit")
        if run.select is None:
            fitted = steps.fit(run, plan, scanner, points.notify)
            points.begin("evaluate")
            evaluation = steps.evaluate(run, plan, scanner, fitted)
        else:
            selected = steps.select(run, plan, scanner, points.notify)
            points.begin("evaluate")
            evaluation = steps.evaluate_selection(run, plan, scanner, selected)
    points.begin("publish")
    steps.publish(run, evaluation, run_id)
    points.begin("predict")
    model = steps.read_model(run)
    threads = ThreadsCluster(threads=2)
    with steps.open_predictions(run, plan, model, threads, points.notify, run_id) as prediction:
        predicted = steps.predict(run, prediction)
        assert steps.verify_predictions(run, prediction, predicted) == plan.rows
        points.begin("publish_predictions")
        steps.publish_predictions(run, prediction, predicted)


def in_child(run: RunConfig, run_id: str, report: Path, chosen: int | None = None) -> int:
    """Run in a child process; its exit status, 0 or −9."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            steps.resuming.SAVE_SECONDS = 0.0  # after every step, however short
            pictures.fit_pictures = lambda *arguments: {"picture.png": b"picture"}
            steps.evaluating.count_for_report = lambda *arguments: None  # type: ignore[attr-defined]
            points = Points(chosen)
            run_all(run, run_id, points)
            report.write_text(json.dumps([points.labels, points.stages]))
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def look(run: RunConfig) -> list[Any]:
    """What readers find: the current model and the predictions, both whole, or an exception."""
    registry = Registry(run.output.models, run.output.name)
    for version in registry.versions():
        verify_files(version_at(registry.path(version)))
        registry.load(version)
    model = registry.load()
    table = pq.read_table(run.output.predictions)
    assert table.num_rows == 3 * ROWS
    assert table["row"].to_pylist() == list(range(ROWS)) * 3
    densities = table["log_density"].to_numpy()
    return [model.version, model.sha256, hashlib.sha256(densities.tobytes()).hexdigest()]


def litter(root: Path) -> list[str]:
    """What a finished run should not leave: all but models, predictions, records, reports."""
    expected = re.compile(
        r"models(/m(/\.checkpoints|/current\.json|/v\d{6}(/[a-z_]+\.(json|png|safetensors|parquet))?)?)?"
        r"|predictions(\.versions(/\w+(\.json|\.html|/part-[\w-]+\.parquet)?)?)?"
    )
    names = [path.relative_to(root).as_posix() for path in root.rglob("*")]
    return sorted(name for name in names if not expected.fullmatch(name))


def main(work: Path, seed: int, count: int, selects: bool) -> None:
    """Run undisturbed, then be killed ``count`` times; print what was found."""
    write_input(work / "input")
    before = work / "before"
    before.mkdir()
    report = work / "report.json"
    # What stands before each kill: version 1, of another fit.
    assert in_child(run_config(before, selects, max_iter=1), "old", report) == 0

    def begin(name: str) -> RunConfig:
        shutil.copytree(before, work / name, symlinks=True)
        return run_config(work / name, selects)

    whole = begin("whole")
    assert in_child(whole, "run", report) == 0
    labels, stages = json.loads(report.read_text())
    said = {"old": look(run_config(before, selects)), "new": look(whole), "stages": stages}
    print(json.dumps(said | {"litter": litter(work / "whole")}), flush=True)
    draw = random.Random(seed)
    for number in range(count):
        step = STEPS[number % len(STEPS)]
        chosen = draw.choice([place for place, label in enumerate(labels) if label[0] == step])
        run = begin(f"kill-{number}")
        status = in_child(run, "run", report, chosen)
        killed = {"step": step, "point": chosen, "begun": labels[chosen][1], "status": status}
        killed |= {"after": look(run), "versions": len(Registry(run.output.models, "m").versions())}
        # Started again by hand it has another run id; by Prefect, as a retry, the same.
        again = "run" if draw.random() < 0.5 else "again"
        status = in_child(run, again, report)
        stages = json.loads(report.read_text())[1]
        killed |= {"again": again, "status again": status, "stages": stages, "end": look(run)}
        print(json.dumps(killed | {"litter": litter(work / f"kill-{number}")}), flush=True)
        shutil.rmtree(work / f"kill-{number}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), "select" in sys.argv[4:])
