"""A small Parquet dataset with nulls and a run file for it, as a user would write them."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from prometheus_client.parser import text_string_to_metric_families

from gmm_dask.config import RunConfig, read_config
from tests.waiting import until

Answer = TypeVar("Answer")

ROWS = 3000
MEANS = np.array([[0.0, 0.0], [5.0, 5.0], [-5.0, 5.0]])

RUN_FILE = """
[input]
path = "{root}/input"
columns = ["height", "width"]
nulls = "drop"

[model]
n_components = 3

[fit]
tol = 1e-6

[predict]
key_columns = ["number"]

[output]
models = "{root}/models"
name = "boxes"
predictions = "{root}/predictions"
"""


def write_part(root: Path, day: int, seed: int, rows: int = ROWS // 3, shift: float = 0.0) -> Path:
    """One Hive partition; every hundredth height is null."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(rows, 2)) + MEANS[random.integers(3, size=rows)] + shift
    height = pa.array(points[:, 0], mask=np.arange(rows) % 100 == 0)
    table = pa.table(
        {"number": np.arange(rows) + 1000 * seed, "height": height, "width": points[:, 1]}
    )
    path = root / "input" / f"day={day}" / "part.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def write_run(root: Path) -> Path:
    """Three days of data under ``root``; returns the run file's path."""
    for day in (1, 2, 3):
        write_part(root, day, seed=day)
    path = root / "run.toml"
    path.write_text(RUN_FILE.format(root=root))
    return path


def read_run(path: Path, *overrides: str) -> RunConfig:
    """The run file as the command reads it, with ``--set`` options."""
    return read_config(RunConfig, path, overrides)


def eventually(ask: Callable[[], Answer]) -> Answer:
    """The first true answer: the server writes some things a little later."""
    return until(ask, "nothing after 180 s", seconds=180.0, pause=0.05)


def read_metrics(path: Path, kind: str, name: str = "boxes") -> dict[tuple[str, ...], float]:
    """Values by metric, or by metric and what else its label says, of one kind of run."""
    values: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert (family.type, family.documentation.endswith(".")) == ("gauge", True)
        for sample in family.samples:
            labels = dict(sample.labels)
            if (labels.pop("model"), labels.pop("kind")) == (name, kind):
                key = (sample.name.removeprefix("gmm_dask_"), *labels.values())
                assert key not in values
                values[key] = sample.value
    return values
