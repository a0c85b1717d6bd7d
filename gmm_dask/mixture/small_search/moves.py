"""Moves of many small mixtures together: one component is given up, another is cut in two.

They are the moves of `gmm_dask.mixture.moves`, made as responsibilities instead of parameters.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.small_search.climbers import Climbers, SmallSample

#: Components of a mixture that are tried as the one given up.
_GIVEN_UP = 3
#: Below this share of d, the squared distance of a row says that it lies in the core.
_CORE = 0.9


def make_moves(sample: SmallSample, climbers: Climbers) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Return the responsibilities after each move of each mixture, and which mixture was moved.

    The rows of the component given up go to the others, by their responsibilities. One of these
    leaves it half of its own: what lies on one side of its centre, or its core.

    Returns
    -------
    moved
        (moves, t, k, ROWS), times the weights of the rows.
    mixtures
        Indices of the mixtures, (moves,).
    """
    k, weights = climbers.weights.shape[1], sample.tile_weights
    responsibilities = climbers.responsibilities  # (b, t, k, ROWS), times weights
    shares = responsibilities / np.where(weights > 0.0, weights, 1.0)[:, None, :]
    losses = -np.einsum("btkr,tr->bk", np.log(np.maximum(1.0 - shares, 1e-12)), weights)
    least = np.argsort(losses, axis=1, kind="stable")[:, :_GIVEN_UP]  # (b, ≤ 3)
    mixture, place, cut = (index.ravel() for index in np.indices((*least.shape, k)))
    given_up = least[mixture, place]
    other = given_up != cut
    mixture, given_up, cut = mixture[other], given_up[other], cut[other]  # (p,)
    every = np.arange(len(mixture))
    moved = shares[mixture] + 1e-12  # (p, t, k, ROWS); rows that no other claims are spread evenly
    moved[every, :, given_up] = 0.0
    moved *= (weights / moved.sum(axis=2))[:, :, None, :]
    halves = _halves(sample, climbers)[mixture, cut] * moved[every, :, cut][:, None]
    moved = np.repeat(moved, 2, axis=0)  # (2p, t, k, ROWS)
    halves = halves.reshape(len(moved), *weights.shape)
    every = np.arange(len(moved))
    moved[every, :, np.repeat(given_up, 2)] = halves
    moved[every, :, np.repeat(cut, 2)] -= halves
    return moved, np.repeat(mixture, 2)


def _halves(sample: SmallSample, climbers: Climbers) -> npt.NDArray[np.bool_]:
    """Cut the rows across the longest axis of each component, and its core from its halo.

    Returns
    -------
    halves
        (b, k, 2, t, ROWS).
    """
    k, d = climbers.means.shape[1:]
    matrices = np.stack(
        [sample.covariance.matrices(values, k, d) for values in sample.covariances_of(climbers)]
    )
    variances, axes = np.linalg.eigh(np.nan_to_num(matrices))  # (b, k, d), (b, k, d, d)
    residuals = sample.tiles[None, :, None] - climbers.means[:, None, :, :, None]
    along = np.einsum("btkdr,bkde->btker", residuals, axes)
    precisions = 1.0 / np.maximum(variances, 1e-300)
    squares = np.einsum("btker,bke->btkr", np.square(along), precisions)
    halves = np.stack([along[:, :, :, -1] > 0.0, squares < _CORE * d])  # (2, b, t, k, ROWS)
    return halves.transpose(1, 3, 0, 2, 4)
