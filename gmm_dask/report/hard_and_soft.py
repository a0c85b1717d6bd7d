"""How sure an assignment is, and where k-means would have drawn the borders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gmm_dask.arrays import FloatArray, LabelsArray
from gmm_dask.mixture.kernels.kmeans import cluster_from
from gmm_dask.mixture.parameters import MixtureParameters

#: Bounds of the largest responsibility between torn, uncertain, fairly sure and sure rows.
BANDS = (0.5, 0.9, 0.99)
#: Most rows, components and pairs of components of a comparison with k-means.
MOST_KMEANS_ROWS, MOST_KMEANS_COMPONENTS, MOST_FLOWS = 20_000, 100, 12
#: Most iterations of that k-means.
KMEANS_ITERATIONS = 100


@dataclass(frozen=True, eq=False)
class HardClusters:
    """Clusters of k-means.

    Attributes
    ----------
    labels
        Cluster of each row, (m,).
    centres
        In the data's units, (k, d).
    """

    labels: LabelsArray
    centres: FloatArray


def nearest_centres(sample: FloatArray, mixture: MixtureParameters) -> HardClusters | None:
    """Run k-means from the means of a mixture, on standardised features.

    So cluster j is what becomes of component j. None where that says nothing: one component, more
    than a hundred, or fewer rows than components.
    """
    k = mixture.n_components
    if not 1 < k <= min(MOST_KMEANS_COMPONENTS, len(sample)):
        return None
    deviations = sample.std(axis=0)
    deviations[~(deviations > 0.0)] = 1.0
    middle = sample.mean(axis=0)
    rows = (sample[:MOST_KMEANS_ROWS] - middle) / deviations
    start = (mixture.means - middle) / deviations
    _, centres = cluster_from(rows, start, KMEANS_ITERATIONS)
    labels, _ = cluster_from((sample - middle) / deviations, centres, 0)
    return HardClusters(labels, centres * deviations + middle)


def compare_with_kmeans(
    clusters: HardClusters,
    labels: LabelsArray,
    features: Sequence[int],
    limits: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    """Compare the labels of a mixture with clusters of k-means that began at its means.

    Returns
    -------
    dict
        ``moved``, the share of rows that k-means assigns to another component; ``kept`` (k,), of
        the rows of each component, None if it has none; ``flows``, the largest (from, to, share
        of all rows); ``centres`` (k, f), in the coordinates of the axes.
    """
    k = len(clusters.centres)
    table = np.zeros((k, k))
    np.add.at(table, (labels, clusters.labels), 1.0)
    rows = table.sum(axis=1)
    kept = table.diagonal() / np.maximum(rows, 1.0)
    moves = table - np.diag(table.diagonal())
    largest = np.argsort(-moves, axis=None, kind="stable")[:MOST_FLOWS]
    lows, highs = np.transpose(limits)
    centres = (clusters.centres[:, list(features)] - lows) / (highs - lows)
    return {
        "moved": float(moves.sum() / len(labels)),
        "kept": tuple(float(share) if row else None for share, row in zip(kept, rows, strict=True)),
        "flows": tuple(
            (int(place // k), int(place % k), float(moves.flat[place] / len(labels)))
            for place in largest
            if moves.flat[place]
        ),
        "centres": tuple(tuple(round(float(value), 4) for value in row) for row in centres),
    }


def largest_shares(shares: FloatArray) -> FloatArray:
    """Return the largest responsibility of each row, (m,)."""
    # By component: along rows of eight numbers it takes five times as long.
    return np.asarray(np.ascontiguousarray(shares.T).max(axis=0))


def certainty_bands(shares: FloatArray, labels: LabelsArray) -> tuple[tuple[float, ...], ...]:
    """Divide the rows of each component by their largest responsibility.

    Parameters
    ----------
    shares
        Responsibilities, (m, k).
    labels
        Most probable component, (m,).

    Returns
    -------
    tuple
        For each component the shares of its rows below 0.5, below 0.9, below 0.99 and above;
        zeros if no row is assigned to it.
    """
    k = shares.shape[1]
    band = np.searchsorted(BANDS, largest_shares(shares), side="right")  # (m,)
    table = np.zeros((k, len(BANDS) + 1))
    np.add.at(table, (labels, band), 1.0)
    table /= np.maximum(table.sum(axis=1, keepdims=True), 1.0)
    return tuple(tuple(round(value, 5) for value in row) for row in table.tolist())


def confusions(shares: FloatArray) -> tuple[tuple[int, float], ...]:
    """Return for each component the one it shares most with, and Σ r_i r_j / Σ r_i of the two."""
    overlap = shares.T @ shares  # (k, k)
    totals = np.maximum(shares.sum(axis=0), np.finfo(float).tiny)
    np.fill_diagonal(overlap, -1.0 if len(overlap) > 1 else 0.0)
    partners = overlap.argmax(axis=1)
    return tuple(
        (int(partner), round(float(max(overlap[j, partner], 0.0) / totals[j]), 5))
        for j, partner in enumerate(partners)
    )
