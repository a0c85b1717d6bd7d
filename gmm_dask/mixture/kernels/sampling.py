"""The choice of rows for a sample: those whose number hashes to a small value."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.mixture.kernels.compile import inlined, kernel
from gmm_dask.mixture.kernels.tiles import prefer_wide_vectors

_BLOCK = 512


def rows_below(
    seed: int, first: int, rows: int, threshold: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """Find the rows whose priority is at most a threshold.

    The priority of a row is a hash of the seed and the row's number, uniform in 64 bits: the
    finaliser of SplitMix64 (Steele, Lea, Flood, 2014).

    Parameters
    ----------
    seed
        Of the sample; other seeds give unrelated priorities.
    first, rows
        The rows considered have the numbers first … first + rows − 1.
    threshold
        The largest priority to accept, below 2⁶⁴.

    Returns
    -------
    numbers, priorities
        Of the rows found, (m,) each, ordered by number.
    """
    numbers, priorities = np.empty(rows, np.int64), np.empty(rows, np.uint64)
    # The odd constant is 2⁶⁴/φ: seeds that differ by one give unrelated streams.
    start = (seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64
    m = _rows_below(np.uint64(start), first, np.uint64(threshold), numbers, priorities)
    if 2 * m < rows:
        # Copied, else the memory for all rows would live as long as the sample.
        return numbers[:m].copy(), priorities[:m].copy()
    return numbers[:m], priorities[:m]


@inlined
def _hash(number, start):  # type: ignore[no-untyped-def]
    mixed = (number + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ start
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@kernel("sampling kernel")
def _rows_below(start, first, threshold, numbers, priorities):  # type: ignore[no-untyped-def]
    prefer_wide_vectors()
    rows = numbers.size
    block = np.empty(_BLOCK, np.uint64)
    m = 0
    for begin in range(0, rows, _BLOCK):
        number = np.uint64(first + begin)
        for i in range(_BLOCK):
            block[i] = _hash(number + np.uint64(i), start)
        for i in range(min(_BLOCK, rows - begin)):
            if block[i] <= threshold:
                numbers[m] = first + begin + i
                priorities[m] = block[i]
                m += 1
    return m
