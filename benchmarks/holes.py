"""The E-step over rows with holes, beside complete rows: ``python benchmarks/holes.py``.

For each size and number of patterns: nanoseconds per row of one E-step over complete rows, over
rows with holes, and their ratio; the same for the assignment of rows; and what it costs to find
the patterns of a chunk, which is done once while it stays in memory. One thread, in turns, the
best of several in the processor's time, so that other work on the machine disturbs little. The
first pattern is that of complete rows, and all patterns have about as many rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from gmm_dask.arrays import RowsArray
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import find_patterns
from gmm_dask.mixture.statistics import sum_statistics

SIZES = [(2, 3), (8, 8), (16, 16)]
PATTERNS = [1, 4, 64, 256]
ROWS = 131_072  # of a chunk


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


def main() -> None:
    """Print a row for each size and number of patterns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--type", choices=[*COVARIANCE_TYPES], default="full")
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    print("| d | k | patterns | E-step, complete | with holes | ratio | assign | ratio | find |")
    print("|---|---|---|---|---|---|---|---|---|")
    random = np.random.default_rng(0)
    for d, k in SIZES:
        X = np.asfortranarray(random.normal(size=(ROWS, d)))
        covariances = COVARIANCE_TYPES[arguments.type].from_matrices(
            np.repeat(np.eye(d)[None], k, axis=0), np.ones(k)
        )
        parameters = MixtureParameters.from_covariances(
            arguments.type, np.full(k, 1 / k), random.normal(size=(k, d)), covariances
        )
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
