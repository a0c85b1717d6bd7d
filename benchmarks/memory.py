"""Peak memory of a fit and of a prediction, two sizes of data: ``python benchmarks/memory.py``.

Each line is a process of its own, on all cores; its peak is what Linux says (VmHWM), shared
libraries included. *Imports* is a process that has fitted and predicted a thousand rows: what
Python, numpy, numba, scikit-learn, pyarrow, and the compiled kernels take.

- read again: rows are not kept between scans, as when they do not fit;
- kept: rows stay in memory after the first scan, the default while they take less than half of
  what is free;
- predict: the predict steps;
- scikit-learn: all rows in an array, one iteration of `GaussianMixture` from random rows.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from measuring import peak_bytes, print_machine, print_table, write_parquet
from pipeline import fit_ours, predict_ours, run_file

from gmm_dask.chunked.fit import fit
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.steps import evaluating, fitting, inputs
from gmm_dask.storage.input.reader import parquet_chunks


def fit_again(root: Path) -> int:
    """Fit and evaluate, rows read again in each scan."""
    run = run_file(root)
    plan = inputs.inspect_input(run)
    with Scanner(parquet_chunks(plan), Threads(memory=0)) as scanner:
        evaluating.evaluate(
            run, plan, scanner, fitting.Fitted(fit(scanner, fitting.fit_options(run)), "")
        )
    return peak_bytes()


def fit_kept(root: Path) -> int:
    """Fit by the steps, and publish the model that `predict` needs."""
    fit_ours(run_file(root))
    return peak_bytes()


def predict(root: Path) -> int:
    predict_ours(run_file(root))
    return peak_bytes()


def one_iteration(root: Path) -> int:
    from pipeline import fit_script
    from sklearn.exceptions import ConvergenceWarning

    warnings.simplefilter("ignore", ConvergenceWarning)
    fit_script(run_file(root), root, max_iter=1, init_params="random_from_data")
    return peak_bytes()


def imports(root: Path) -> int:
    fit_kept(root)
    return predict(root)


def alone(function: Callable[[Path], int], root: Path) -> str:
    """MiB at the peak of a process that does nothing else."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return f"{pool.submit(function, root).result() / 2**20:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_250_000, 5_000_000])
    options = parser.parse_args()
    print_machine()
    lines = []
    with tempfile.TemporaryDirectory() as directory:
        for rows in (1000, *options.rows):
            root = Path(directory, str(rows))
            write_parquet(root / "rows", rows)
            if rows == 1000:
                base = alone(imports, root)
                continue
            found = [alone(what, root) for what in (fit_again, fit_kept, predict, one_iteration)]
            lines.append((f"{rows:,}", f"{rows * 64 / 2**20:.0f}", *found))
    head = ("rows of 8", "as float64, MiB", "fit, read again", "fit, kept", "predict",
            "scikit-learn")  # fmt: skip
    print_table(f"Peak memory, MiB; the imports alone: {base}", head, lines)


if __name__ == "__main__":
    main()
