"""The starts of a search on a small sample, made together.

They need no k-means: a call of it takes as long as some hundred iterations on a hundred rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.criteria import deviations
from gmm_dask.mixture.initialization import SEARCH_INITIALIZATIONS
from gmm_dask.mixture.small_search.climbers import Climbers, SmallSample
from gmm_dask.mixture.spec import EMOptions

#: Numbers of the kinds of starts.
STANDARDISED, RAW, WIDE = range(3)


def climb_starts(
    sample: SmallSample, starts: int, options: EMOptions, random_state: np.random.RandomState
) -> tuple[Climbers, npt.NDArray[np.intp]]:
    """Make starts of three kinds, or by the method asked for, and run a few iterations.

    The kinds are the nearest of the seeds of k-means++, on standardised features and on the
    features as they are, and random rows with wide covariances.

    Returns
    -------
    climbers
        As many as there are starts.
    kinds
        Number of the kind of each.
    """
    k = sample.spec.n_components
    if sample.spec.start.init_params != "kmeans":
        climbers = _climb_by_method(sample, starts, options, random_state)
        return climbers, np.zeros(starts, np.intp)
    third = starts // 3
    standardised = sample.rows / deviations(sample.variances)
    labels = np.concatenate(
        [
            _label_by_seeds(sample, standardised, starts - 2 * third, random_state),
            _label_by_seeds(sample, sample.rows, third, random_state),
        ]
    )  # (b, m)
    one_hot = labels[:, None, :] == np.arange(k)[:, None]  # (b, k, m)
    narrow = sample.start_from(sample.in_tiles(one_hot * sample.row_weights), options)
    wide = sample.climb(_wide_starts(sample, third, random_state), options)
    kinds = np.repeat([STANDARDISED, RAW, WIDE], [starts - 2 * third, third, third])
    return narrow.join(wide), kinds


def climb_as_scikit_learn(
    sample: SmallSample, options: EMOptions, random_state: np.random.RandomState
) -> Climbers:
    """Make the start that scikit-learn makes for the same random state, and run it."""
    return _climb_by_method(sample, 1, options, random_state)


def _climb_by_method(
    sample: SmallSample, starts: int, options: EMOptions, random_state: np.random.RandomState
) -> Climbers:
    """Make starts by the method asked for, one after another, and run them."""
    initialize = SEARCH_INITIALIZATIONS[sample.spec.start.init_params]
    rows, weights, k = sample.rows, sample.row_weights, sample.spec.n_components
    responsibilities = [initialize(rows, weights, k, random_state).T for _ in range(starts)]
    return sample.start_from(sample.in_tiles(np.stack(responsibilities)), options)


def _label_by_seeds(
    sample: SmallSample, X: FloatArray, starts: int, random_state: np.random.RandomState
) -> npt.NDArray[np.intp]:
    """Label rows by the nearest of k seeds of k-means++, for every start.

    Each seed is the best of a few draws, as in scikit-learn (Arthur and Vassilvitskii, 2007).

    Parameters
    ----------
    X
        The rows in the units in which distances are taken, (m, d).

    Returns
    -------
    labels
        (starts, m).
    """
    m, k, weights = len(X), sample.spec.n_components, sample.row_weights
    squares = np.square(X).sum(axis=1)  # (m,)
    draws = 2 + int(np.log(k))

    def distances_to(rows: npt.NDArray[np.intp]) -> FloatArray:
        distances: FloatArray = squares[rows][..., None] - 2.0 * (X[rows] @ X.T) + squares
        return np.maximum(distances, 0.0, out=distances)

    closest = distances_to(random_state.choice(m, size=starts, p=weights / weights.sum()))
    labels = np.zeros((starts, m), np.intp)
    every = np.arange(starts)
    for c in range(1, k):
        sums = np.cumsum(closest * weights, axis=1)  # (starts, m)
        targets = random_state.uniform(size=(starts, draws)) * sums[:, -1:]
        drawn = np.count_nonzero(sums[:, None, :] < targets[:, :, None], axis=2)
        distances = distances_to(np.minimum(drawn, m - 1))  # (starts, draws, m)
        potentials = np.minimum(distances, closest[:, None, :]) @ weights
        nearest = distances[every, potentials.argmin(axis=1)]  # (starts, m)
        labels[nearest < closest] = c
        closest = np.minimum(closest, nearest)
    return labels


def _wide_starts(sample: SmallSample, starts: int, random_state: np.random.RandomState) -> Climbers:
    """Make starts as `gmm_dask.mixture.initialization.wide_start` does."""
    k, m = sample.spec.n_components, len(sample.rows)
    rows = np.argsort(random_state.uniform(size=(starts, m)), axis=1)[:, :k]  # (starts, k)
    covariances = np.tile(sample.pooled, (starts, 1))
    if sample.covariance.by_component:
        widths = np.exp(random_state.uniform(-3.0, 0.5, size=(starts, k)))
        covariances = (widths[:, :, None] * sample.pooled).reshape(starts, -1)
    return sample.start(np.full((starts, k), 1.0 / k), sample.rows[rows], covariances)
