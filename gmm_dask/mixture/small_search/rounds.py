"""The rounds of a search on a small sample, and the moves of its finalists.

It is the search of `gmm_dask.mixture.search` in other proportions: iterations cost so little that
more starts, more finalists and the moves of all finalists pay (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmm_dask.mixture.initialization import seeded
from gmm_dask.mixture.small_search.climbers import Climbers, SmallSample
from gmm_dask.mixture.small_search.moves import make_moves
from gmm_dask.mixture.small_search.seeds import climb_as_scikit_learn, climb_starts
from gmm_dask.mixture.spec import EMOptions

#: Starts, and the runs that remain after each of two rounds.
STARTS, REMAINING, FINALISTS = 32, 16, 4
#: From this number of components on, the start that scikit-learn would make is among the finalists.
#: It needs a call of k-means, which is long beside a search for fewer.
_WORTH_KMEANS = 6
#: A round; then finalists come to rest, are moved, and finish.
_ROUND, _REST, _FINISH = EMOptions(1e-6, 8), EMOptions(1e-4, 60), EMOptions(1e-5, 300)
#: Rounds of moves at the most. In each, all moves are glanced at, and a few go on.
_MOST_MOVES, _TRIES = 8, 4
_GLANCE, _MOVE = EMOptions(1e-6, 3), EMOptions(1e-6, 9)
#: Mixtures whose likelihoods differ by less than this are the same, nats per row.
_SAME = 1e-5


def climb_rounds(sample: SmallSample, random_state: int, keep: int) -> tuple[Climbers, int]:
    """Find the best mixtures for a small sample.

    Parameters
    ----------
    random_state
        Seed of all starts.
    keep
        Mixtures wanted.

    Returns
    -------
    climbers
        At least ``keep`` mixtures, best first; those that broke down come last.
    failed
        Starts that broke down.
    """
    started, kinds = climb_starts(sample, max(STARTS, keep), _ROUND, seeded(random_state))
    climbers = started
    for remaining in (REMAINING, FINALISTS):
        chosen = _thin_out(sample, climbers, kinds, remaining)
        climbers, kinds = sample.climb(climbers.take(chosen), _ROUND), kinds[chosen]
    if sample.spec.n_components >= _WORTH_KMEANS:
        climbers = climbers.join(climb_as_scikit_learn(sample, _ROUND, seeded(random_state)))
    climbers = sample.climb(climbers, _REST)
    climbers = climbers.take(sample.rank(climbers))
    if not climbers.broken[0]:
        climbers = _improve_by_moves(sample, climbers)
    if keep > len(climbers):  # whose search must not end lower than that of fewer
        others = started.take(sample.rank(started)[: keep - len(climbers)])
        climbers = climbers.join(sample.climb(others, _REST))
    climbers = sample.climb(climbers, _FINISH)
    failed = int(np.count_nonzero(started.broken))
    return climbers.take(sample.rank(climbers)), failed


def _thin_out(
    sample: SmallSample, climbers: Climbers, kinds: npt.NDArray[np.intp], remaining: int
) -> npt.NDArray[np.intp]:
    """Choose the runs that remain: the best of each kind, and the best of all.

    Of runs that reached the same likelihood one remains.
    """
    order = sample.rank(climbers)
    repeats = _repeats(climbers, order)
    _, firsts = np.unique(kinds[order], return_index=True)
    follows = np.ones(len(order), np.bool_)
    follows[firsts] = False
    places = np.lexsort((follows, repeats))
    distinct = len(order) - int(np.count_nonzero(repeats))
    return order[np.sort(places[: min(remaining, distinct)])]


def _improve_by_moves(sample: SmallSample, finalists: Climbers) -> Climbers:
    """Move finalists, best first, as long as the best of them gains."""
    for _ in range(_MOST_MOVES):
        moved, mixtures = make_moves(sample, finalists)
        trials = sample.climb_from(moved, _GLANCE, finalists.firsts[mixtures])
        trials = sample.climb(trials.take(sample.rank(trials)[:_TRIES]), _MOVE)
        rivals = finalists.join(sample.climb(trials, _REST))
        order = sample.rank(rivals)
        gain = rivals.log_likelihoods[order[0]] - finalists.log_likelihoods[0]
        gains = order[0] >= len(finalists) and abs(gain) > _SAME
        distinct_first = np.argsort(_repeats(rivals, order), kind="stable")
        finalists = rivals.take(order[distinct_first[: len(finalists)]])
        if not gains:
            break
    return finalists


def _repeats(climbers: Climbers, order: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Tell which mixtures equal the one before them in the order."""
    log_likelihoods = np.maximum(climbers.log_likelihoods[order], -1e300)  # −∞ − −∞ is no number
    return np.concatenate([[False], np.abs(np.diff(log_likelihoods)) < _SAME])
