"""One pass of EM against scikit-learn's iteration: ``python benchmarks/kernel.py``.

For each covariance type, size and dtype, on one thread and on all cores: nanoseconds per row of
one iteration (E-step, M-step), of ours and of scikit-learn's, measured alternately in one run on
the same cores; their ratio; and the share of the machine's own dgemm rate that the pass reaches.

- Ours: `sum_statistics` over feature-major rows (as Parquet columns arrive) or, with ``--orders
  C``, over rows as numpy has them, one call a thread, each on a slice, then `maximize`.
  scikit-learn's: `GaussianMixture` on C-ordered rows from the same parameters with ``tol=0``, the
  difference of two fits with more and fewer
  iterations, so that what is done once does not count. Both: the best of several repetitions,
  in the processor's time on one thread, so that other work on the machine disturbs little.
- Rows: 36 MB of float64 in each size, the least with which scikit-learn's temporary arrays cost
  what they cost on large data (the C library then returns them to the system each time).
- Arithmetic counted per row, of what is executed, exp and log not counted. With a matrix:
  subtract d, whiten d(d+1), square 2d, weight d, F d, S d(d+1). Full does this for each
  component; tied once, and for each component distance 3d and F 3d. Diag: distance 4d, F and S
  5d; spherical: distance 3d, F 3d; for each component.

On all cores the clock on the wall decides: that half needs a machine that does nothing else.
Narrow it down with ``--types full --dtypes float64 --sizes 8,8 --threads 1``.

``--plain`` says instead what the vector instructions written by hand gain: nanoseconds per row and
component of whitening and of the sums of products, by hand and as plain loops, in turns.

``--precisions`` says what float32 rows gain: nanoseconds per row of our pass over the same rows in
float64 and in float32, in turns, and the largest difference of the statistics, relative to N.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from itertools import pairwise, product
from operator import add

import numpy as np
import plain_loops
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.engine import why_doubles
from gmm_dask.mixture.kernels import whitening
from gmm_dask.mixture.kernels.tiles import ROWS, aligned
from gmm_dask.mixture.maximization import maximize
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import MixtureSpec
from gmm_dask.mixture.statistics import sum_statistics

SIZES = [(2, 3), (8, 8), (16, 16), (32, 16), (64, 16)]
VALUES = 4_500_000  # n·d: the rows of every size take 36 MB
SIDE = 1000  # of the square matrices of the dgemm
SPEC = MixtureSpec()
ITERATIONS = 1, 3  # of the two fits of scikit-learn whose difference is taken


def arithmetic(covariance_type: str, d: int, k: int) -> int:
    """Floating point operations of one row, as counted above."""
    matrix = 2 * d * (d + 1) + 5 * d
    return {
        "full": k * matrix,
        "tied": matrix + k * 6 * d,
        "diag": k * 9 * d,
        "spherical": k * 6 * d,
    }[covariance_type]


def overlapping_mixture(
    d: int, k: int, n: int, covariance_type: str
) -> tuple[np.ndarray, MixtureParameters]:
    """Rows of a mixture whose components overlap, (n, d), and parameters close to it."""
    rng = np.random.default_rng(0)
    means = 2.0 * rng.normal(size=(k, d))
    factors = rng.normal(size=(k, d, d)) / np.sqrt(d)
    matrices = factors @ factors.mT + 0.5 * np.eye(d)
    component = rng.integers(0, k, n)
    X = np.empty((n, d))
    for c in range(k):
        mine = component == c
        X[mine] = rng.multivariate_normal(means[c], matrices[c], mine.sum())
    covariances = {
        "full": matrices,
        "tied": matrices.mean(axis=0),
        "diag": np.diagonal(matrices, axis1=1, axis2=2),
        "spherical": np.trace(matrices, axis1=1, axis2=2) / d,
    }[covariance_type]
    start = MixtureParameters.from_covariances(
        covariance_type, np.full(k, 1.0 / k), means + 0.1 * rng.normal(size=(k, d)), covariances
    )
    return X, start


def seconds(threads, function, *arguments) -> float:
    """Time of a call: of the processor on one thread, else of the clock on the wall."""
    clock = time.process_time if threads == 1 else time.perf_counter
    begin = clock()
    function(*arguments)
    return clock() - begin


def iteration(X, start, pool, threads) -> MixtureParameters:
    """Run our E-step on threads over row slices, and our M-step."""
    slices = [X[a:b] for a, b in pairwise(np.linspace(0, len(X), threads + 1).astype(int))]
    parts = pool.map(lambda rows: sum_statistics(start, rows), slices)
    return maximize(start, reduce(add, parts), SPEC)


def scikit_learn_fit(X, start, max_iter) -> None:
    covariance = COVARIANCE_TYPES[start.covariance_type]
    GaussianMixture(
        start.n_components,
        covariance_type=start.covariance_type,
        weights_init=start.weights.astype(X.dtype),
        means_init=start.means.astype(X.dtype),
        precisions_init=covariance.precisions(start.precisions_cholesky).astype(X.dtype),
        reg_covar=SPEC.reg_covar,
        tol=0.0,
        max_iter=max_iter,
        # The start is given; k-means, which would run all the same, takes longer than an iteration,
        # and never equally long.
        init_params="random_from_data",
        random_state=0,
    ).fit(X)


def compare(
    covariance_type, d, k, dtype, order, threads, repetitions
) -> tuple[float, float, float]:
    """Seconds of an iteration of ours, of scikit-learn's, and of a dgemm of side `SIDE`."""
    X, start = overlapping_mixture(d, k, VALUES // d, covariance_type)
    X = X.astype(dtype)
    rows = np.asarray(X, order=order)
    few, many = ITERATIONS
    square = np.random.default_rng(0).normal(size=(SIDE, SIDE))
    ours, short, long, dgemm = [], [], [], []
    with ThreadPoolExecutor(threads) as pool, threadpool_limits(threads):
        iteration(rows, start, pool, threads)
        for _ in range(repetitions):
            for _ in range(4):
                ours.append(seconds(threads, iteration, rows, start, pool, threads))
                dgemm.append(seconds(threads, np.matmul, square, square))
            short.append(seconds(threads, scikit_learn_fit, X, start, few))
            long.append(seconds(threads, scikit_learn_fit, X, start, many))
    return min(ours), (min(long) - min(short)) / (many - few), min(dgemm)


def time_tiles(loops, d: int, tiles: int) -> tuple[float, float]:
    """Nanoseconds per row of whitening and of the sums of products, over so many tiles."""
    random = np.random.default_rng(0)
    tile, mean = aligned(d * ROWS), random.normal(size=d)
    tile[:] = random.normal(size=d * ROWS)
    U = np.triu(random.normal(size=(d, d)))
    residuals, whitened, squares = aligned(d * ROWS), aligned(d * ROWS), aligned(ROWS)
    weighted, F, S = aligned(d * ROWS), np.zeros(d), np.zeros((d, d))
    begin = time.process_time()
    for _ in range(tiles):
        loops.whiten(tile, mean, U, residuals, whitened, squares)
    middle = time.process_time()
    for _ in range(tiles):
        loops.add_products(whitened, squares, weighted, F, S)
    end = time.process_time()
    return (middle - begin) / (tiles * ROWS) * 1e9, (end - middle) / (tiles * ROWS) * 1e9


def compare_with_plain_loops(repetitions: int) -> None:
    """Print what is gained by hand."""
    print(" d   whitening: by hand, plain, ratio   products: by hand, plain, ratio")
    for d in (2, 4, 8, 16, 32, 64):
        tiles = 4_000_000 // (d * d * ROWS) + 2_000
        times = {loops: [] for loops in (whitening, plain_loops)}
        for loops in times:
            time_tiles(loops, d, 1)
        for _ in range(repetitions):
            for loops, measured in times.items():
                measured.append(time_tiles(loops, d, tiles))
        by_hand, plain = (np.min(measured, axis=0) for measured in times.values())
        cells = [f"{h:9.2f} {p:7.2f} {p / h:6.2f}x" for h, p in zip(by_hand, plain, strict=True)]
        print(f"{d:2d}          {cells[0]}            {cells[1]}", flush=True)


def compare_precisions(covariance_type, d, k, order, repetitions) -> tuple[float, float, float]:
    """Seconds of our pass over rows in float64 and in float32, and how far the sums differ."""
    X, start = overlapping_mixture(d, k, VALUES // (4 * d), covariance_type)
    single = np.asarray(X, dtype=np.float32, order=order)
    double = np.asarray(single, dtype=np.float64, order=order)
    assert not why_doubles(start, len(single))
    exact, rounded = sum_statistics(start, double), sum_statistics(start, single)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(4 * repetitions):
        for rows, measured in zip((double, single), times, strict=True):
            measured.append(seconds(1, sum_statistics, start, rows))
    errors = [
        np.abs(getattr(rounded, name) - getattr(exact, name)).max() / exact.counts.min()
        for name in ("counts", "residual_sums", "residual_products", "log_likelihood")
    ]
    return min(times[0]), min(times[1]), max(errors)


def print_precisions(options) -> None:
    """Print what float32 rows gain."""
    print("type        d   k order   float64 ns/row  float32  ratio    error")
    for covariance_type in options.types:
        for d, k in (tuple(map(int, size.split(","))) for size in options.sizes):
            for order in options.orders:
                double, single, error = compare_precisions(
                    covariance_type, d, k, order, options.repetitions
                )
                n = VALUES // (4 * d)
                print(
                    f"{covariance_type:9s} {d:3d} {k:3d} {order:5s} {double / n * 1e9:16.1f} "
                    f"{single / n * 1e9:8.1f} {double / single:5.2f}x {error:8.0e}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", nargs="+", default=list(COVARIANCE_TYPES))
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32"])
    parser.add_argument("--sizes", nargs="+", default=[f"{d},{k}" for d, k in SIZES])
    parser.add_argument("--orders", nargs="+", choices=["F", "C"], default=["F"])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--precisions", action="store_true")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, cores}))
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(f"{platform.processor() or platform.machine()}, {cores} cores, numpy {np.__version__}")
    if options.plain:
        compare_with_plain_loops(options.repetitions)
        return
    if options.precisions:
        print_precisions(options)
        return
    for threads in options.threads:
        print(f"\nthreads: {threads}")
        print("type        d   k dtype   order   ours ns/row  scikit-learn  ratio  of dgemm")
        for covariance_type in options.types:
            for d, k in (tuple(map(int, size.split(","))) for size in options.sizes):
                for dtype, order in product(options.dtypes, options.orders):
                    ours, theirs, dgemm = compare(
                        covariance_type, d, k, dtype, order, threads, options.repetitions
                    )
                    n = VALUES // d
                    rate = n * arithmetic(covariance_type, d, k) / ours
                    share = rate / (2.0 * SIDE**3 / dgemm)
                    print(
                        f"{covariance_type:9s} {d:3d} {k:3d} {dtype} {order:5s} "
                        f"{ours / n * 1e9:12.1f} {theirs / n * 1e9:13.1f} "
                        f"{theirs / ours:5.1f}x {share:9.2f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
