"""Peak memory of a fit and a prediction does not depend on the number of rows."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask import steps
from gmm_dask.config import ThreadsCluster
from gmm_dask.events import silent
from gmm_dask.report import pictures
from tests.steps.tables import make_run, out_of_core

ROOT = Path(__file__).parents[2]
NAMES = [f"x{j}" for j in range(8)]
FILE_ROWS = 250_000  # 16 MB
FEW, MANY = 3, 21


def run_all(root):
    """Fit without cached rows, then predict; return the peak resident bytes after each."""
    from resource import RUSAGE_SELF, getrusage

    pictures.fit_pictures = lambda *arguments: {}
    run = make_run(
        root, input__columns=NAMES, fit__search_rows=2000, fit__max_iter=2, predict__key_columns=[]
    )
    plan = steps.inspect_input(run)
    with out_of_core(plan) as scanner:
        fitted = steps.fit(run, plan, scanner, silent)
        evaluation = steps.evaluate(run, plan, scanner, fitted)
    steps.publish(run, evaluation, "fit")
    peaks = [getrusage(RUSAGE_SELF).ru_maxrss << 10]
    model, threads = steps.read_model(run), ThreadsCluster(threads=2)
    with steps.open_predictions(run, plan, model, threads, silent, "predict") as prediction:
        predicted = steps.predict(run, prediction)
        assert steps.verify_predictions(run, prediction, predicted) == plan.rows
        steps.publish_predictions(run, prediction, predicted)
    return [*peaks, getrusage(RUSAGE_SELF).ru_maxrss << 10]


@pytest.mark.slow
def test_ten_times_the_rows_take_no_more_memory(tmp_path):
    random = np.random.default_rng(0)
    values = random.normal(size=(FILE_ROWS, 8)) + 4 * random.integers(3, size=(FILE_ROWS, 1))
    template = tmp_path / "template.parquet"
    table = pa.table({name: values[:, j] for j, name in enumerate(NAMES)})
    pq.write_table(table, template, compression="none", use_dictionary=False)
    peaks = {}
    for files in (FEW, MANY):
        root = tmp_path / str(files)
        (root / "input").mkdir(parents=True)
        for number in range(files):
            shutil.copyfile(template, root / "input" / f"{number:02}.parquet")
        process = subprocess.run(
            [sys.executable, "-m", "tests.steps.test_memory", root],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            timeout=300,
            check=True,
        )
        peaks[files] = json.loads(process.stdout)
        shutil.rmtree(root)
    more_data = (MANY - FEW) * FILE_ROWS * 8 * 8
    for small, large in zip(peaks[FEW], peaks[MANY], strict=True):
        assert large - small < 0.2 * more_data, peaks


if __name__ == "__main__":
    print(json.dumps(run_all(Path(sys.argv[1]))))
