"""A race between candidates: what they promise, and which of them are given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.criteria import health
from gmm_dask.mixture.em import Candidate, EMState, Status
from gmm_dask.mixture.iterations import promised_gain

#: On few rows, a candidate may still gain this many times what it promises.
GENEROUS = 3.0


@dataclass(frozen=True, eq=False)
class Race:
    """What decides between candidates of the same form while they run.

    Attributes
    ----------
    variances
        Of the features, (d,).
    reg_covar
        Of all candidates.
    places
        Candidates that are wanted.
    least
        Mean log-likelihood that must be reached, nats per row.
    margin
        By how much more than that of the last place, nats per row.
    patience
        Iterations before any candidate is given up.
    """

    variances: FloatArray
    reg_covar: float
    places: int = 1
    least: float = -np.inf
    margin: float = 0.0
    patience: int = 3

    def give_up(self, state: EMState) -> EMState:
        """Stop the candidates that cannot reach a place, even if they gain generously.

        Candidates with defects take no place: their likelihood may grow without bound.
        """
        if state.iteration < self.patience:
            return state
        bar = max(self._last_place(state), self.least) + self.margin
        return replace(
            state, candidates=tuple(self._judge(candidate, bar) for candidate in state.candidates)
        )

    def _last_place(self, state: EMState) -> float:
        taken = 0
        for candidate in sorted(state.candidates, key=lambda runner: -runner.log_likelihood):
            taken += self._is_sound(candidate)
            if taken == self.places:
                return candidate.log_likelihood
        return -np.inf

    def _is_sound(self, candidate: Candidate) -> bool:
        if not np.isfinite(candidate.log_likelihood):
            return False
        counts = candidate.row_counts
        return not health(candidate.parameters, counts, self.variances, self.reg_covar).defects

    def _judge(self, candidate: Candidate, bar: float) -> Candidate:
        if candidate.status is not Status.RUNNING:
            return candidate
        if candidate.log_likelihood + GENEROUS * promised_gain(candidate.history) >= bar:
            return candidate
        return replace(candidate, status=Status.BEATEN)


def race_for(
    patience: int | None,
    variances: FloatArray,
    reg_covar: float,
    places: int = 1,
    least: float = -np.inf,
) -> Callable[[EMState], EMState] | None:
    """Return `Race.give_up` with that patience; None without a limit."""
    if patience is None:
        return None
    return Race(variances, reg_covar, places, least, patience=patience).give_up
