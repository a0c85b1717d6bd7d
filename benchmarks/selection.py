"""A table of mixtures against scikit-learn's loop: ``python benchmarks/selection.py``.

`gmm_dask.select` fits 12 numbers of components × 4 covariance types to a million rows of 8
features in shared scans. scikit-learn fits one cell after the other; its whole loop takes a
quarter of an hour, so only the cells named by ``--ks`` are measured, all four types of each, and
the others are taken to lie on the straight lines through the measured ones, by type. What is
measured and what is extrapolated are printed apart.

Both sides have their defaults and ``random_state=0``. Single fits of the measured cells by this
package follow, with the scans of each: the table may cost two scans more than the slowest.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
from measuring import print_machine, print_table
from sets import MixtureKind
from sklearn.mixture import GaussianMixture as Reference

from gmm_dask import GaussianMixture, select
from gmm_dask.mixture.spec import COVARIANCE_NAMES

ALL_KS = range(1, 13)


def seconds_of(work: Callable[[], object]) -> float:
    """Time a piece of work."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def extrapolated(ks: list[int], seconds: list[float]) -> float:
    """Seconds of all numbers of components, on straight lines through the measured ones."""
    if len(ks) == 1:  # the time of an iteration is about proportional to k
        return seconds[0] / ks[0] * sum(ALL_KS)
    below = np.polyfit(ks[:2], seconds[:2], 1)
    above = np.polyfit(ks[-2:], seconds[-2:], 1)
    total = 0.0
    for k in ALL_KS:
        line = below if k < ks[0] else above
        inside = ks[0] <= k <= ks[-1]
        total += float(np.interp(k, ks, seconds) if inside else max(np.polyval(line, k), 0.0))
    return total


def main() -> None:
    """Measure the table, the part of the loop, and the single fits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ks", type=int, nargs="+", default=[2, 7, 12])
    parser.add_argument("--apart", type=float, default=1.0, help="see sets.MixtureKind")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print_machine()
    X = MixtureKind(8, 8, options.apart).draw(options.rows)
    ks = sorted(set(options.ks))
    select(X[:3_000], [1, 2], random_state=0)  # imports and compiled kernels

    selections = []
    ours = seconds_of(lambda: selections.append(select(X, ALL_KS, random_state=0)))
    selection = selections[0]
    print(f"{selection!r}\n\n{ours:.1f} s for {selection.table.num_rows} cells\n", flush=True)

    rows, loop, measured, slowest = [], 0.0, 0.0, 0
    ends = {
        (row["n_components"], row["covariance_type"]): row["log_likelihood"]
        for row in selection.table.to_pylist()
    }
    for kind in COVARIANCE_NAMES:
        seconds = []
        for k in ks:
            peer = Reference(k, covariance_type=kind, random_state=0)
            alone = GaussianMixture(k, covariance_type=kind, random_state=0)
            seconds.append(seconds_of(lambda peer=peer: peer.fit(X)))
            single = seconds_of(lambda alone=alone: alone.fit(X))
            slowest = max(slowest, alone.scans_)
            above = ends[k, kind] - peer.score(X)
            rows.append(
                [
                    f"{k} {kind}",
                    f"{seconds[-1]:.1f}",
                    f"{single:.2f}",
                    str(alone.scans_),
                    f"{above:+.5f}",
                    f"{ends[k, kind] - alone.log_likelihood_:+.5f}",
                ]
            )
        measured += sum(seconds)
        loop += extrapolated(ks, seconds)
    print_table(
        f"{options.rows:,} × 8 rows",
        ["cell", "scikit-learn, s", "alone, s", "scans alone", "table − theirs", "table − alone"],
        rows,
    )
    print(
        f"scikit-learn: {measured:.0f} s measured in {len(rows)} cells, {loop:.0f} s "
        f"extrapolated to {len(ALL_KS) * len(COVARIANCE_NAMES)}; {loop / ours:.0f} times ours"
    )
    print(f"scans: {selection.scans_} for the table, {slowest} for the slowest measured cell alone")


if __name__ == "__main__":
    main()
