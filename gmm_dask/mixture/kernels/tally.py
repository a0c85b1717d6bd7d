"""Weight per component and per bin of log-density, and entropy, in one pass for the evaluation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.kernels.compile import inlined, kernel
from gmm_dask.mixture.kernels.densities import negative_logs, sum_of_logs
from gmm_dask.mixture.kernels.tiles import ROWS, aligned, fill, prefer_wide_vectors

#: Rows take turns in so many tables of counts: to add to a number that has just been written takes
#: several times as long.
_TABLES = 4


def tally(
    labels: npt.NDArray[np.int32],
    densities: FloatArray,
    certainties: FloatArray,
    sample_weight: FloatArray | None,
    k: int,
    bins: int,
    floor: float,
    width: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Add up the weights of rows by label and by log-density.

    Parameters
    ----------
    labels, densities, certainties
        Component, log-density (nats) and largest responsibility of each row, (n,) each.
    sample_weight
        (n,) or None.
    k
        Number of components.
    bins, floor, width
        The histogram: bin i holds the log-densities from ``floor + i * width``, nats, to the
        next bin; the first bin also holds what is lower, the last what is higher.

    Returns
    -------
    occupancy
        Weight of each component, (k,).
    histogram
        Weight of each bin, (bins,).
    sums
        Total weight, log-likelihood, lowest and highest log-density, and −Σ w log r of the
        largest responsibilities, (5,).
    """
    occupancy, histogram = np.zeros((_TABLES, k)), np.zeros(bins)
    sums = np.array([0.0, 0.0, np.inf, -np.inf, 0.0])
    rows = (
        np.ascontiguousarray(labels),
        np.ascontiguousarray(densities),
        np.ascontiguousarray(certainties),
    )
    axis = float(floor), 1.0 / width
    if sample_weight is None:
        _tally(*rows, *axis, occupancy, histogram, sums)
        return occupancy.sum(axis=0), histogram, sums
    weights = np.ascontiguousarray(sample_weight)
    _tally_weights(*rows, weights, *axis, occupancy[0], histogram, sums)
    return occupancy[0], histogram, sums


@inlined
def _write_slots(densities, floor, per_nat, last, slots):  # type: ignore[no-untyped-def]
    """Write the bin of each density; 0 for NaN."""
    prefer_wide_vectors()
    for i in range(densities.size):
        place = (densities[i] - floor) * per_nat
        place = place if place < last else last
        slots[i] = np.uint32(np.int32(place if place > 0.0 else 0.0))


@inlined
def _extend_range(densities, lows, highs):  # type: ignore[no-untyped-def]
    """Lower ``lows`` and raise ``highs``, for each place in a tile, to what is there."""
    prefer_wide_vectors()
    for i in range(densities.size):
        density, low, high = densities[i], lows[i], highs[i]
        lows[i] = density if density < low else low
        highs[i] = density if density > high else high


@inlined
def _sum(values):  # type: ignore[no-untyped-def]
    prefer_wide_vectors()
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


@kernel("evaluation kernel")
def _tally(  # type: ignore[no-untyped-def]
    labels, densities, certainties, floor, per_nat, occupancy, histogram, sums
):
    """Count rows; each step is a loop of vector instructions, but for the counting itself."""
    lows, highs, shares = aligned(ROWS), aligned(ROWS), aligned(ROWS)
    fill(lows, np.inf, 0)
    fill(highs, -np.inf, 0)
    slots = np.empty(ROWS, np.uint32)
    for start in range(0, densities.size, ROWS):
        stop = min(start + ROWS, densities.size)
        part = densities[start:stop]
        _write_slots(part, floor, per_nat, float(histogram.size - 1), slots)
        for i in range(start, stop):
            histogram[slots[i - start]] += 1.0
            occupancy[i & (_TABLES - 1), labels[i]] += 1.0
        _extend_range(part, lows, highs)
        sums[1] += _sum(part)
        for i in range(start, stop):
            shares[i - start] = certainties[i]
        fill(shares, 1.0, stop - start)
        sums[4] -= sum_of_logs(shares)
    sums[0] += float(densities.size)
    for i in range(ROWS):
        sums[2] = min(sums[2], lows[i])
        sums[3] = max(sums[3], highs[i])


@kernel("evaluation kernel for weighted rows")
def _tally_weights(  # type: ignore[no-untyped-def]
    labels, densities, certainties, weights, floor, per_nat, occupancy, histogram, sums
):
    last = histogram.size - 1
    surprises = aligned(ROWS)
    for start in range(0, densities.size, ROWS):  # sums of sums lose fewer digits
        stop = min(start + ROWS, densities.size)
        negative_logs(certainties[start:stop], surprises)
        weight, log_likelihood, uncertainty = 0.0, 0.0, 0.0
        for i in range(start, stop):
            density, w = densities[i], weights[i]
            place = (density - floor) * per_nat
            slot = int(min(place, last)) if place > 0.0 else 0  # 0 for NaN too
            histogram[slot] += w
            occupancy[labels[i]] += w
            weight += w
            log_likelihood += w * density
            uncertainty += w * surprises[i - start]
            sums[2] = min(sums[2], density)
            sums[3] = max(sums[3], density)
        sums[0] += weight
        sums[1] += log_likelihood
        sums[4] += uncertainty
