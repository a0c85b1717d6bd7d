"""An incremental night that kills itself at each change of the disk, and is then run again.

``python -m tests.faults.night_workload WORK EACH`` publishes a model of three days, and then a
fourth day arrives. The night is run once undisturbed, counting the writes and every other change of
the disk. Then, for every EACH-th of these, a child is killed by SIGKILL there, and another runs the
night again. One line of JSON each says what a reader finds after the kill, and at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from itertools import count
from pathlib import Path
from typing import Any

from gmm_dask import steps
from gmm_dask.config import RunConfig
from gmm_dask.events import silent
from gmm_dask.pipelines import sequences
from gmm_dask.report import pictures
from gmm_dask.storage.files.choice import version_at
from gmm_dask.storage.models.model import read_file, verify_files
from gmm_dask.storage.models.registry import Registry
from gmm_dask.storage.models.unit_store import STATISTICS, decode_store
from tests.faults.kills import die_at_changes
from tests.steps.tables import THREADS, make_run, write_day, write_days


def run_config(root: Path) -> RunConfig:
    """A run on the input beside ``root`` that writes below it."""
    return make_run(
        root,
        input__path=str(root.parent / "input"),
        fit__search_rows=500,
        output__predictions=None,
        retrain__start="incremental",
    )


def in_child(run: RunConfig, report: Path, chosen: int | None = None) -> int:
    """Run a night in a child process; its exit status, 0 or −9."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            pictures.fit_pictures = lambda *arguments: {"picture.png": b"picture"}
            steps.evaluating.count_for_report = lambda *arguments: None  # type: ignore[attr-defined]
            changes = count()
            # The version of a night has tens of kB, and is written in blocks.
            die_at_changes(lambda: next(changes) == chosen, cut=lambda size: size // 2)
            sequences.retrain(run, THREADS, sequences.directly, silent, f"run-{os.getpid()}")
            report.write_text(str(next(changes)))
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def look(run: RunConfig) -> list[Any]:
    """What a reader finds: the number of units of the current model, and digests; all whole."""
    registry = Registry(run.output.models, run.output.name)
    for number in registry.versions():
        verify_files(version_at(registry.path(number)))
        model = registry.load(number)
        content = read_file(version_at(registry.path(number)), STATISTICS)
        decode_store(content, model.parameters, model.transforms)  # raises if of another model
    model = registry.load()
    assert model.path is not None
    content = read_file(version_at(model.path), STATISTICS)
    units = decode_store(content, model.parameters, model.transforms).units
    return [len(units), model.sha256, hashlib.sha256(content).hexdigest()]


def main(work: Path, each: int) -> None:
    """Run undisturbed, then be killed at each change; print what was found."""
    write_days(work, 3)
    before, report = work / "before", work / "changes"
    before.mkdir()
    assert in_child(run_config(before), report) == 0
    write_day(work, 4)

    def begin(name: str) -> RunConfig:
        shutil.copytree(before, work / name)
        return run_config(work / name)

    whole = begin("whole")
    assert in_child(whole, report) == 0
    print(json.dumps({"old": look(run_config(before)), "new": look(whole)}), flush=True)
    for chosen in range(0, int(report.read_text()), each):
        run = begin(f"kill-{chosen}")
        killed: dict[str, Any] = {
            "point": chosen,
            "status": in_child(run, work / "ignored", chosen),
        }
        killed |= {"after": look(run)}
        killed |= {"status again": in_child(run, work / "ignored"), "end": look(run)}
        print(json.dumps(killed), flush=True)
        shutil.rmtree(work / f"kill-{chosen}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
