"""Rows divided among many components against the plain pass: ``python benchmarks/many.py``.

For each covariance type, number of components and of features, and how far components lie apart:
nanoseconds per row of statistics and of predictions (labels and densities), plain and divided,
in turns in one process, in its processor's time; the best of several repetitions.

- Apart: the median distance from a mean to the nearest other one, in units of about one standard
  deviation: 20 apart, 8 half overlapping, 1 overlapping. Of overlapping components it is the
  parameters that tell, of others the rows.
- Rows: 98,304, three blocks, feature-major, in random order or, with ``--sorted``, by component.
- Divided: what a fit does, with a guide made each time, as for each iteration.

Narrow it down with ``--types full --sizes 16,256 --apart 20``.

``--losses`` says instead what is lost where components overlap: in each turn the plain pass, the
same again, and the pass that the engine chooses, in changing order, in the thread's time; printed
are medians of their ratios to the first. A turn is of one block or more, of so many rows as a plain
pass takes a twentieth of a second for; of 5 to 21 turns, as many as fit in a second.
"""

from __future__ import annotations

import argparse
import time
from itertools import product

import numpy as np

from gmm_dask.mixture import engine
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.sparse import blocks

SIZES = [(d, k) for k in (32, 64, 256) for d in (2, 8, 16, 32)]
ROWS = 3 * blocks.STATISTICS_ROWS
LOSS_SIZES = [(2, 32), (2, 256), (8, 64), (8, 128), (16, 64), (16, 256), (32, 64), (32, 256)]
PASS_SECONDS, LOSS_SECONDS, TURNS = 0.05, 1.0, (5, 21)  # of a pass and of a cell of the losses


def mixture_apart(
    covariance_type: str, d: int, k: int, apart: float, in_order: bool
) -> tuple[np.ndarray, MixtureParameters]:
    """Rows of a mixture, (ROWS, d), and its parameters."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(k, d))
    distances = np.linalg.norm(means[:, None] - means, axis=2) + np.diag(np.full(k, np.inf))
    means *= apart / np.median(distances.min(axis=1))
    factors = rng.normal(size=(k, d, d)) / np.sqrt(d)
    matrices = factors @ factors.mT + 0.5 * np.eye(d)
    covariances = {
        "full": matrices,
        "tied": matrices.mean(axis=0),
        "diag": np.diagonal(matrices, axis1=1, axis2=2),
        "spherical": np.trace(matrices, axis1=1, axis2=2) / d,
    }[covariance_type]
    parameters = MixtureParameters.from_covariances(
        covariance_type, np.full(k, 1.0 / k), means, covariances
    )
    component = rng.integers(0, k, ROWS)
    if in_order:
        component.sort()
    lower = np.linalg.cholesky(parameters.matrices)
    X = rng.normal(size=(ROWS, d))
    for c in range(k):
        members = component == c
        X[members] = means[c] + X[members] @ lower[c].T
    return np.asfortranarray(X), parameters


def measure(parameters, X, predict: bool, divided: bool) -> float:
    """Nanoseconds per row of a pass."""
    n = len(X)
    labels, densities = np.empty(n, np.int32), np.empty(n)
    blocks._guides.clear()
    begin = time.process_time()
    if predict:
        nobody = np.empty((0, parameters.n_components))
        engine.assign(parameters, X, labels, densities, nobody, divided=divided)
    else:
        engine.statistics(parameters, X, None, divided=divided)
    return (time.process_time() - begin) / n * 1e9


def compare_losses(parameters, X) -> tuple[float, float, float]:
    """Nanoseconds per row of the plain pass, and ratios of the engine's and of the same again."""
    seconds_of_row = blocks.plain_time(parameters) * 1e-9
    block = blocks.STATISTICS_ROWS
    X = X[: block * max(1, min(ROWS // block, int(PASS_SECONDS / seconds_of_row / block)))]
    fitting = int(LOSS_SECONDS / (3 * len(X) * seconds_of_row))
    turns = []
    for turn in range(min(max(fitting, TURNS[0]), TURNS[1]) + 1):  # the first compiles
        seconds = [0.0, 0.0, 0.0]
        for place in range(3):
            which = (turn + place) % 3
            blocks._guides.clear()
            begin = time.thread_time()
            engine.statistics(parameters, X, None, divided=None if which == 2 else False)
            seconds[which] = time.thread_time() - begin
        turns.append(seconds)
    plain, again, chosen = np.transpose(turns[1:])
    return np.median(plain) / len(X) * 1e9, np.median(chosen / plain), np.median(again / plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", nargs="+", default=list(COVARIANCE_TYPES))
    parser.add_argument("--sizes", nargs="+")
    parser.add_argument("--apart", nargs="+", type=float)
    parser.add_argument("--sorted", action="store_true")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--losses", action="store_true")
    options = parser.parse_args()
    sizes = [tuple(map(int, size.split(","))) for size in options.sizes or []]
    sizes = sizes or (LOSS_SIZES if options.losses else SIZES)
    distances = options.apart or ([10.0, 8.0, 1.0] if options.losses else [20.0, 8.0, 1.0])
    if options.losses:
        print("type        d   k apart   plain ns/row   chosen over plain   plain again")
        for covariance_type, (d, k), apart in product(options.types, sizes, distances):
            X, parameters = mixture_apart(covariance_type, d, k, apart, options.sorted)
            plain, chosen, again = compare_losses(parameters, X)
            print(
                f"{covariance_type:9s} {d:3d} {k:3d} {apart:5.0f} {plain:14.0f} {chosen:19.3f} "
                f"{again:13.3f}",
                flush=True,
            )
        return
    print("type        d   k apart   statistics: plain, divided, ratio   predictions: the same")
    for covariance_type, (d, k), apart in product(options.types, sizes, distances):
        X, parameters = mixture_apart(covariance_type, d, k, apart, options.sorted)
        cells = []
        for predict in (False, True):
            times: dict[bool, list[float]] = {False: [], True: []}
            for divided in times:
                measure(parameters, X[:2048], predict, divided)
            for _ in range(options.repetitions):
                for divided, measured in times.items():
                    measured.append(measure(parameters, X, predict, divided))
            plain, ours = min(times[False]), min(times[True])
            cells.append(f"{plain:8.0f} {ours:8.0f} {plain / ours:6.2f}x")
        print(
            f"{covariance_type:9s} {d:3d} {k:3d} {apart:5.0f}   {'      '.join(cells)}", flush=True
        )


if __name__ == "__main__":
    main()
