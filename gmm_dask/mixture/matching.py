"""The matching of components between two mixtures, so that ids survive a retrain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.parameters import MixtureParameters


@dataclass(frozen=True)
class Match:
    """A component of a new mixture and its counterpart in the old one.

    Attributes
    ----------
    new, old
        Indices of the components.
    distance
        Bhattacharyya distance, 0 for equal Gaussians.
    moved
        Distance between the means, in standard deviations of the old component.
    weight_change
        New weight − old weight.
    """

    new: int
    old: int
    distance: float
    moved: float
    weight_change: float


def bhattacharyya(new: MixtureParameters, old: MixtureParameters) -> FloatArray:
    """Return the Bhattacharyya distances between all components, (k_new, k_old).

    D = ⅛ Δᵀ Σ⁻¹ Δ + ½ log(|Σ| / √(|Σ₁||Σ₂|)) with Σ = (Σ₁ + Σ₂)/2 (Bhattacharyya, 1943).
    """
    first, second = new.matrices[:, None], old.matrices[None]  # (k, 1, d, d), (1, k', d, d)
    middle = 0.5 * (first + second)  # (k, k', d, d)
    apart = new.means[:, None] - old.means[None]  # (k, k', d)
    solved = np.linalg.solve(middle, apart[..., None])[..., 0]  # (k, k', d)
    shape = np.linalg.slogdet(middle)[1] - 0.5 * (
        np.linalg.slogdet(first)[1] + np.linalg.slogdet(second)[1]
    )
    return 0.125 * np.einsum("jkd,jkd->jk", apart, solved) + 0.5 * shape


def match(new: MixtureParameters, old: MixtureParameters) -> tuple[Match, ...]:
    """Pair components so that the sum of D/(1 + D) over all pairs is least; ordered by ``new``.

    D is the Bhattacharyya distance. The sum of D itself would be dominated by a single large D:
    where a component vanished and a new one appeared far away, all components between the two
    would be matched to their neighbours to avoid that pair. Where the mixtures have different
    numbers of components, some have no counterpart.
    """
    # Imported here: it takes a third of a second, and only a retrain needs it.
    from scipy.optimize import linear_sum_assignment

    distances = bhattacharyya(new, old)
    pairs = zip(*linear_sum_assignment(distances / (1.0 + distances)), strict=True)
    matches = []
    for j, i in sorted((int(j), int(i)) for j, i in pairs):
        apart = new.means[j] - old.means[i]  # (d,)
        moved = float(np.sqrt(apart @ np.linalg.solve(old.matrices[i], apart)))
        change = float(new.weights[j] - old.weights[i])
        matches.append(Match(j, i, float(distances[j, i]), moved, change))
    return tuple(matches)


def matched_ids(
    matches: tuple[Match, ...], k: int, old_ids: tuple[int, ...], next_id: int
) -> tuple[int, ...]:
    """Return permanent ids for k new components: that of the counterpart, or a new one.

    New ids count from ``next_id``, the least that was never used.
    """
    ids: dict[int, int] = {pair.new: old_ids[pair.old] for pair in matches}
    for component in range(k):
        if component not in ids:
            ids[component] = next_id
            next_id += 1
    return tuple(ids[component] for component in range(k))
