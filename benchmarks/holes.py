"""The E-step over rows with holes, beside complete rows: ``python benchmarks/holes.py``.

For each size and number of patterns: nanoseconds per row of one E-step over complete rows, over
rows with holes, and their ratio; the same for the assignment of rows; and what it costs to find
the patterns of a chunk, which is done once while it stays in memory. One thread, in turns, the
best of several in the processor's time, so that other work on the machine disturbs little. The
first pattern is that of complete rows, and all patterns have about as many rows.

``--scattered`` says instead what rows cost that have holes of their own, with values missing at
random: nanoseconds per row, beside complete rows and beside a pass for each pattern.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from gmm_dask.arrays import IndexArray, RowsArray
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import Scattered, each_pattern, find_patterns
from gmm_dask.mixture.statistics import sum_statistics

SIZES = [(2, 3), (8, 8), (16, 16)]
PATTERNS = [1, 4, 64, 256]
ROWS = 131_072  # of a chunk
#: Of scattered rows: (d, k), and the share of the values that is missing.
SCATTERED_SIZES = [(8, 8), (16, 16), (100, 4), (100, 32)]
SHARES = [0.01, 0.1]
SCATTERED_ROWS = 4_096


def punched(X: RowsArray, patterns: int, random: np.random.Generator) -> RowsArray:
    """Take values out of rows, so that they have that many patterns, or as many as there are."""
    n, d = X.shape
    masks = {(False,) * d: None}
    for mask in (random.uniform(size=(20 * patterns, d)) < 0.3).tolist():
        if not all(mask) and len(masks) < patterns:
            masks[tuple(mask)] = None
    chosen = np.array(list(masks))[random.integers(len(masks), size=n)]
    return np.asfortranarray(np.where(chosen, np.nan, X))


def best_of(turns: int, *works: Callable[[], object]) -> list[float]:
    """Measure works in turns; return the least seconds of each."""
    best = [np.inf] * len(works)
    for _ in range(turns):
        for place, work in enumerate(works):
            began = time.thread_time()
            work()
            best[place] = min(best[place], time.thread_time() - began)
    return best


def mixture_of(covariance_type: str, d: int, k: int, random: np.random.Generator) -> Any:
    """Draw the means of a mixture with identities as covariances."""
    covariances = COVARIANCE_TYPES[covariance_type].from_matrices(
        np.repeat(np.eye(d)[None], k, axis=0), np.ones(k)
    )
    return MixtureParameters.from_covariances(
        covariance_type, np.full(k, 1 / k), random.normal(size=(k, d)), covariances
    )


def print_scattered(covariance_type: str, turns: int) -> None:
    """Print a row for each size and share of missing values."""
    print("| type | d | k | missing | complete | scattered | ratio | each pattern | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    random = np.random.default_rng(0)
    for (d, k), share in product(SCATTERED_SIZES, SHARES):
        X = random.normal(size=(SCATTERED_ROWS, d))
        mixture = mixture_of(covariance_type, d, k, random)
        holes = np.where(random.uniform(size=X.shape) < share, np.nan, X)
        some = np.isnan(holes).any(axis=1) & ~np.isnan(holes).all(axis=1)
        X, holes = X[some], holes[some]
        together = (Scattered(find_order(holes)),)
        # Each pattern is a pass; few rows say what one costs.
        few = holes[: 32 if d > 50 else 1024]
        apart = tuple(each_pattern(few, (Scattered(np.arange(len(few))),)))
        plain, scattered, passes = best_of(
            turns,
            partial(sum_statistics, mixture, X),
            partial(sum_statistics, mixture, holes, None, together),
            partial(sum_statistics, mixture, few, None, apart),
        )
        plain, scattered = (seconds / len(X) * 1e9 for seconds in (plain, scattered))
        passes *= 1e9 / len(few)
        print(
            f"| {covariance_type} | {d} | {k} | {share:.0%} | {plain:,.0f} | {scattered:,.0f} "
            f"| {scattered / plain:.1f}× | {passes:,.0f} | {passes / scattered:.1f}× |",
            flush=True,
        )


def find_order(X: RowsArray) -> IndexArray:
    """Order rows by their patterns."""
    return np.lexsort(np.isnan(X).T)


def main() -> None:
    """Print a row for each size and number of patterns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--type", choices=[*COVARIANCE_TYPES], default="full")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--scattered", action="store_true")
    arguments = parser.parse_args()
    if arguments.scattered:
        print_scattered(arguments.type, arguments.turns)
        return
    print("| d | k | patterns | E-step, complete | with holes | ratio | assign | ratio | find |")
    print("|---|---|---|---|---|---|---|---|---|")
    random = np.random.default_rng(0)
    for d, k in SIZES:
        X = np.asfortranarray(random.normal(size=(ROWS, d)))
        parameters = mixture_of(arguments.type, d, k, random)
        for asked in PATTERNS:
            holes = punched(X, asked, random)
            patterns = find_patterns(holes)
            if len(patterns) not in (0, asked) and asked > 4:
                continue  # so many patterns are not possible
            seconds = best_of(
                arguments.turns,
                lambda mixture=parameters, rows=X: sum_statistics(mixture, rows),
                lambda mixture=parameters, rows=holes, of=patterns: sum_statistics(
                    mixture, rows, None, of
                ),
                lambda mixture=parameters, rows=X: assign(mixture, rows),
                lambda mixture=parameters, rows=holes: assign(mixture, rows),
                lambda rows=holes: find_patterns(rows),
            )
            plain, lifted, assigned, by_pattern, finding = (s / ROWS * 1e9 for s in seconds)
            print(
                f"| {d} | {k} | {len(patterns) or 1} | {plain:.1f} | {lifted:.1f} "
                f"| {lifted / plain:.2f}× | {assigned:.1f} | {by_pattern / assigned:.2f}× "
                f"| {finding:.1f} |"
            )


if __name__ == "__main__":
    main()
