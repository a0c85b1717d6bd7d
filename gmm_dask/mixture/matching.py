"""Which component of one mixture is which of another: yesterday's component 3 is today's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.parameters import MixtureParameters


@dataclass(frozen=True)
class Match:
    """A component of the new mixture and its counterpart in the old one.

    Attributes
    ----------
    new, old
        Indices of the components.
    distance
        Bhattacharyya's, 0 for equal Gaussians.
    moved
        How far the mean moved, in standard deviations of the old component.
    weight_change
        New weight − old weight.
    """

    new: int
    old: int
    distance: float
    moved: float
    weight_change: float


def bhattacharyya(new: MixtureParameters, old: MixtureParameters) -> FloatArray:
    """Distances between all components, (k_new, k_old).

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
    """Pair components so that the sum of their distances D is least; ordered by ``new``.

    What is summed is D/(1 + D): where one component vanished and another came far away, that
    distance would otherwise be worth shifting the components between the two by one.

    Where the mixtures have different numbers of components, some have no counterpart.
    """
    # Imported here: it takes a third of a second, and only a retrain needs it.
    from scipy.optimize import linear_sum_assignment

    distances = bhattacharyya(new, old)
    pairs = zip(*linear_sum_assignment(distances / (1.0 + distances)), strict=True)
    found = []
    for j, i in sorted((int(j), int(i)) for j, i in pairs):
        apart = new.means[j] - old.means[i]  # (d,)
        moved = float(np.sqrt(apart @ np.linalg.solve(old.matrices[i], apart)))
        change = float(new.weights[j] - old.weights[i])
        found.append(Match(j, i, float(distances[j, i]), moved, change))
    return tuple(found)


def matched_ids(
    matches: tuple[Match, ...], k: int, old_ids: tuple[int, ...], next_id: int
) -> tuple[int, ...]:
    """Permanent ids for k new components: the counterpart's, or the next never used."""
    ids: dict[int, int] = {one.new: old_ids[one.old] for one in matches}
    for component in range(k):
        if component not in ids:
            ids[component] = next_id
            next_id += 1
    return tuple(ids[component] for component in range(k))
