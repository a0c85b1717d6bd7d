"""Which mixture: the cells of a selection, their criteria, and which of them can still win.

A cell is a number of components and a covariance type. All cells of a selection are candidates of
the same scans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.criteria import aic, bic, health
from gmm_dask.mixture.em import Candidate, EMState, Status
from gmm_dask.mixture.iterations import promised_gain
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import Cell, EMOptions

#: Cells that a reader compares, and that therefore all run to their end.
PLACES = 3
#: A candidate may still gain this many times what it promises.
GENEROUS = 10.0
#: Promised nats per row up to which a candidate may be stopped: the default tolerance.
SETTLED = EMOptions.tol


def cell_of(parameters: MixtureParameters) -> Cell:
    """Return the cell that a mixture belongs to."""
    return Cell(parameters.n_components, parameters.covariance_type)


@dataclass(frozen=True, eq=False)
class Contest:
    """What decides between the candidates of a selection while they run.

    Attributes
    ----------
    criterion
        ``"bic"``, ``"icl"`` or ``"aic"``; lower is better.
    weight
        Number of the rows, or the sum of their weights.
    variances
        Of the features, (d,).
    reg_covar
        Of all cells.
    allow_collapsed
        Whether a cell with collapsed or starved components may win.
    """

    criterion: str
    weight: float
    variances: FloatArray
    reg_covar: float
    allow_collapsed: bool = False

    def stop_beaten(self, state: EMState) -> EMState:
        """Stop the candidates that cannot end among the best cells; let others go on.

        A candidate is beaten if two things hold. Its criterion would be worse than that of the
        third best cell at present even if it gained `GENEROUS` times what it promises to gain. And
        it promises at most `SETTLED`, so that its row in the table is as exact as a fit with the
        default ``tol``. The promise is `promised_gain`; a candidate that promises nothing certain
        runs on. Should one of the best collapse, candidates that it had beaten go on.
        """
        best: dict[Cell, float] = {}
        for candidate in state.candidates:
            if self._may_win(candidate):
                cell = cell_of(candidate.parameters)
                most = self._criterion(candidate, 0.0) + self._most_uncertainty(candidate)
                best[cell] = min(most, best.get(cell, np.inf))
        bar = sorted(best.values())[PLACES - 1] if len(best) >= PLACES else np.inf
        return replace(
            state, candidates=tuple(self._judge(candidate, bar) for candidate in state.candidates)
        )

    def _judge(self, candidate: Candidate, bar: float) -> Candidate:
        if candidate.status not in (Status.RUNNING, Status.BEATEN):
            return candidate
        promise = promised_gain(candidate.history)
        beaten = promise <= SETTLED and self._criterion(candidate, GENEROUS * promise) > bar
        status = Status.BEATEN if beaten else Status.RUNNING
        return candidate if status is candidate.status else replace(candidate, status=status)

    def _may_win(self, candidate: Candidate) -> bool:
        if not np.isfinite(candidate.log_likelihood):
            return False
        parameters, counts = candidate.parameters, candidate.row_counts
        judged = health(parameters, counts, self.variances, self.reg_covar)
        return self.allow_collapsed or not judged.defects

    def _criterion(self, candidate: Candidate, gain: float) -> float:
        """Return the criterion after a gain in nats per row; for ICL, the least that it can be."""
        log_likelihood = (candidate.log_likelihood + gain) * self.weight
        if self.criterion == "aic":
            return aic(candidate.parameters, log_likelihood)
        return bic(candidate.parameters, log_likelihood, self.weight)

    def _most_uncertainty(self, candidate: Candidate) -> float:
        """Return how far ICL can lie above BIC: rows that are spread evenly over k components."""
        if self.criterion != "icl":
            return 0.0
        return 2.0 * self.weight * float(np.log(candidate.parameters.n_components))
