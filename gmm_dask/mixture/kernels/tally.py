"""Weight per component and per bin of log-density, and entropy, in one pass for the evaluation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.kernels.compile import kernel
from gmm_dask.mixture.kernels.densities import negative_logs
from gmm_dask.mixture.kernels.tiles import ROWS, aligned


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
    occupancy, histogram = np.zeros(k), np.zeros(bins)
    sums = np.array([0.0, 0.0, np.inf, -np.inf, 0.0])
    weights = np.ones(1) if sample_weight is None else np.ascontiguousarray(sample_weight)
    _tally(
        np.ascontiguousarray(labels),
        np.ascontiguousarray(densities),
        np.ascontiguousarray(certainties),
        weights,
        sample_weight is not None,
        float(floor),
        1.0 / width,
        occupancy,
        histogram,
        sums,
    )
    return occupancy, histogram, sums


@kernel("evaluation kernel")
def _tally(  # type: ignore[no-untyped-def]
    labels,
    densities,
    certainties,
    weights,
    weighted,
    floor,
    per_nat,
    occupancy,
    histogram,
    sums,
):
    last = histogram.size - 1
    surprises = aligned(ROWS)
    for start in range(0, densities.size, ROWS):  # sums of sums lose fewer digits
        stop = min(start + ROWS, densities.size)
        negative_logs(certainties[start:stop], surprises)
        weight, log_likelihood, uncertainty = 0.0, 0.0, 0.0
        for i in range(start, stop):
            density = densities[i]
            w = weights[i] if weighted else 1.0
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
