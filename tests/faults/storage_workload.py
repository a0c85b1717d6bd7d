"""What the fault tests of storage do to a directory, and a driver that kills itself doing it.

``python -m tests.faults.storage_workload kill WORK ROOT SEED`` runs a workload in forked children;
the k-th child is killed by SIGKILL before its k-th change of the disk (or in the middle of it, for
a write), for every k until one survives. After each, the parent looks at what is left.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from gmm_dask.config import InputSection
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.storage.files.contents import Version
from gmm_dask.storage.files.retention import Keep
from gmm_dask.storage.input.plan import plan_input
from gmm_dask.storage.input.reader import parquet_chunks
from gmm_dask.storage.models.checkpoint import open_checkpoint
from gmm_dask.storage.models.model import StoredModel, verify_files
from gmm_dask.storage.models.pruning import prune_models, rejected_runs
from gmm_dask.storage.models.registry import Registry
from gmm_dask.storage.predictions.beginning import begin
from tests.faults.kills import die_at_changes
from tests.storage.stored import some_manifest


def model_of(number: int) -> StoredModel:
    """A model whose every part says which one it is."""
    parameters = MixtureParameters.from_covariances(
        "diag", np.full(2, 0.5), np.full((2, 3), float(number)), np.full((2, 3), 1.0 + number)
    )
    manifest = some_manifest(rows=number, low_density_threshold=0.0, clusters=None)
    return StoredModel(parameters, ("a", "b", "c"), (0, 1), manifest)


def number_of(model: StoredModel) -> int:
    """Which model it is; all parts must agree."""
    numbers = {
        model.manifest.rows,
        *model.parameters.means.ravel().tolist(),
        *(model.parameters.covariances.ravel() - 1).tolist(),
    }
    assert len(numbers) == 1, numbers
    return int(numbers.pop())


class Workload(Protocol):
    """Something stored that has a version at any time, numbered by who writes."""

    def prepare(self) -> None:
        """Make what is there before the first version."""

    def write(self, number: int) -> None:
        """Store a version."""

    def look(self) -> int | None:
        """Number of what a reader finds, None before the first; raises if that is not whole."""


class Models:
    """Publishes a model with a picture."""

    def __init__(self, root: Path) -> None:
        self.registry = Registry(root / "models", "stars")

    def prepare(self) -> None:
        """Nothing: the first version makes its own directory."""

    def write(self, number: int) -> None:
        """Publish a version."""
        self.registry.publish(model_of(number), run_id=f"run-{number}", extra={"p": b"p" * 9})

    def look(self) -> int | None:
        """Number of the current model, when all versions are whole."""
        if self.registry.current_version() is None:
            return None
        for version in self.registry.versions():
            verify_files(Version(self.registry.path(version)))
            self.registry.load(version)
        return number_of(self.registry.load())


class PrunedModels(Models):
    """Publishes a model and keeps the last two, of which one is a candidate."""

    def write(self, number: int) -> None:
        """Publish a version, reject one, and prune."""
        super().write(number)
        self.registry.reject(model_of(number), run_id=f"bad-{number}", reason="it is bad")
        prune_models(self.registry, Keep(versions=1))

    def look(self) -> int | None:
        """Number of the current model, when versions and candidates are whole."""
        for run in rejected_runs(self.registry):
            verify_files(self.registry.store.version(f"rejected/{run}"))
        return super().look()


class Predictions:
    """Writes a prediction dataset of three parts from two files."""

    def __init__(self, root: Path) -> None:
        self.input = root / "input"
        self.out = root / "out"

    def prepare(self) -> None:
        """Write the input."""
        self.input.mkdir()
        for file, rows in (("a", 64), ("b", 32)):
            table = pa.table({name: np.arange(rows) * 1.0 for name in "abc"})
            pq.write_table(table, self.input / f"{file}.parquet", row_group_size=32)

    def write(self, number: int) -> None:
        """Predict and publish."""
        plan = plan_input(InputSection(path=str(self.input), columns=["a", "b", "c"]))
        run_id = f"run-{number}"
        model = model_of(number)
        with begin(self.out, plan, model, model_name="stars", run_id=run_id, reuse=False) as staged:
            chunks = parquet_chunks(staged.remaining, split_files=True, chunk_bytes=32 * 24)
            parts = []
            for rows in chunks.read(0, len(chunks.rows)):
                m = len(rows.values)
                labels, densities = np.zeros(m, np.int32), np.full(m, float(number))
                parts.append(staged.writer.write(rows, labels, densities))
            staged.publish(parts)

    def look(self) -> int | None:
        """Number of the predictions, when all rows are there and agree."""
        if not self.out.exists():
            return None
        table = ds.dataset(self.out).to_table()
        assert table.num_rows == 96
        assert table["row"].to_pylist() == [*range(64), *range(32)]
        numbers = set(table["log_density"].to_pylist())
        assert len(numbers) == 1, numbers
        return int(numbers.pop())


class Checkpoints:
    """Saves the checkpoint of a fit."""

    def __init__(self, root: Path) -> None:
        self.registry = Registry(root / "models", "stars")

    def prepare(self) -> None:
        """Nothing: the first version makes its own directory."""

    def write(self, number: int) -> None:
        """Save a checkpoint."""
        with open_checkpoint(self.registry, "key") as checkpoint:
            checkpoint.save({"means": np.full((30, 2), float(number))}, {"number": number})

    def look(self) -> int | None:
        """Number of the checkpoint, when its parts agree."""
        path = self.registry.directory / ".checkpoints" / "key" / "state"
        if not path.exists():
            return None
        with open_checkpoint(self.registry, "key") as checkpoint:
            loaded = checkpoint.load()
        assert loaded is not None
        assert (loaded[0]["means"] == loaded[1]["number"]).all()
        return int(loaded[1]["number"])


WORKLOADS: dict[str, Callable[[Path], Workload]] = {
    "models": Models,
    "predictions": Predictions,
    "checkpoints": Checkpoints,
}


def die_at(step: int, seed: int) -> None:
    """Kill this process at the step-th change of the disk."""
    steps = itertools.count(1)
    draw = random.Random(f"{seed} {step}")
    die_at_changes(lambda: next(steps) == step, cut=lambda size: draw.randrange(size + 1))


def kill_at_every_step(work: str, root: Path, seed: int) -> None:
    """Print what readers found after each kill: one line of JSON per step."""
    workload = PrunedModels(root) if work == "pruned" else WORKLOADS[work](root)
    workload.prepare()
    workload.write(0)
    number: int | None = 0
    for step in itertools.count(1):
        old = number
        child = os.fork()
        if child == 0:
            die_at(step, seed)
            workload.write(step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        number = workload.look()
        finding = {"step": step, "old": old, "new": step, "found": number}
        print(json.dumps(finding), flush=True)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            return


if __name__ == "__main__":
    _, command, work, root, last = sys.argv
    if command == "kill":
        kill_at_every_step(work, Path(root), int(last))
    else:
        WORKLOADS[work](Path(root)).write(int(last))
