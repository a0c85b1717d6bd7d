"""The matching of components between two mixtures, so that ids survive a retrain."""

from __future__ import annotations

from collections.abc import Sequence
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
    spread
        New standard deviation / old one, the geometric mean over all directions:
        (|Σ| / |Σ_old|)^(1/2d).
    shifts
        New mean − old mean of each feature, in standard deviations of the old component, (d,).
    """

    new: int
    old: int
    distance: float
    moved: float
    weight_change: float
    spread: float
    shifts: tuple[float, ...]


def bhattacharyya(new: MixtureParameters, old: MixtureParameters) -> FloatArray:
    """Return the Bhattacharyya distances between all components, (k_new, k_old).

    D = ⅛ Δᵀ Σ⁻¹ Δ + ½ log(|Σ| / √(|Σ₁||Σ₂|)) with Σ = (Σ₁ + Σ₂)/2 (Bhattacharyya, 1943).
    """
    apart = new.means[:, None] - old.means[None]  # (k, k', d)
    return _distances(apart, new.matrices[:, None], old.matrices[None])


def _distances(apart: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    """Return the distances of Gaussians whose means are apart, (…), from (…, d) and (…, d, d)."""
    middle = 0.5 * (first + second)
    solved = np.linalg.solve(middle, apart[..., None])[..., 0]
    shape = np.linalg.slogdet(middle)[1] - 0.5 * (
        np.linalg.slogdet(first)[1] + np.linalg.slogdet(second)[1]
    )
    return 0.125 * np.einsum("...d,...d->...", apart, solved) + 0.5 * shape


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
    return measure(new, old, [(int(j), int(i)) for j, i in pairs])


def match_by_ids(
    new: MixtureParameters, old: MixtureParameters, new_ids: Sequence[int], old_ids: Sequence[int]
) -> tuple[Match, ...]:
    """Pair components that have the same permanent id; ordered by ``new``."""
    place = {identity: i for i, identity in enumerate(old_ids)}
    pairs = [(j, place[identity]) for j, identity in enumerate(new_ids) if identity in place]
    return measure(new, old, pairs)


def measure(
    new: MixtureParameters, old: MixtureParameters, pairs: Sequence[tuple[int, int]]
) -> tuple[Match, ...]:
    """Say how far the components of each pair (new, old) are apart; ordered by ``new``."""
    if not pairs:
        return ()
    j, i = np.array(sorted(pairs)).T  # (m,) each
    first, second = new.matrices[j], old.matrices[i]  # (m, d, d)
    apart = new.means[j] - old.means[i]  # (m, d)
    distances = _distances(apart, first, second)
    solved = np.linalg.solve(second, apart[..., None])[..., 0]
    moved = np.sqrt(np.einsum("md,md->m", apart, solved))
    volumes = np.linalg.slogdet(first)[1] - np.linalg.slogdet(second)[1]
    spreads = np.exp(0.5 * volumes / new.n_features)
    shifts = apart / np.sqrt(np.diagonal(second, axis1=1, axis2=2))
    return tuple(
        Match(
            new=int(j[m]),
            old=int(i[m]),
            distance=float(distances[m]),
            moved=float(moved[m]),
            weight_change=float(new.weights[j[m]] - old.weights[i[m]]),
            spread=float(spreads[m]),
            shifts=tuple(shifts[m].tolist()),
        )
        for m in range(len(j))
    )


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
