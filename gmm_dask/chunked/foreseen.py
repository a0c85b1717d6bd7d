"""Which mixtures a scan of the polish evaluates: those that may be results when it ends.

What is foreseen and does not happen has cost its share of the scan; what happens and was not
foreseen costs a scan of its own at the end. Nothing else depends on it: the densities of all rows
in a mixture are the same whichever scan takes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gmm_dask.chunked.conclusion import in_order
from gmm_dask.chunked.evaluation import DensitySummary
from gmm_dask.chunked.fit_records import FitOptions, FitState
from gmm_dask.mixture.criteria import rank
from gmm_dask.mixture.em import Candidate, Ending, Status, may_converge
from gmm_dask.mixture.iterations import promised_gain
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.selection import GENEROUS, cell_of


def foresee(
    state: FitState, options: FitOptions, rivals: Sequence[MixtureParameters] = ()
) -> tuple[MixtureParameters, ...]:
    """Choose what the next scan of the polish evaluates, without what has been evaluated.

    These are candidates that have stopped, with the parameters of their last M-step, and those
    that may converge, if they can still win in their cell. Parameters are as the result has them,
    so that nothing need be put in order afterwards.

    Parameters
    ----------
    rivals
        Mixtures that are evaluated beside the result, and so with the first that may be one.
    """
    em = state.em
    assert em is not None
    mixtures = [
        in_order(candidate.parameters, fresh)
        for candidate, fresh in zip(em.candidates, state.fresh, strict=True)
        if _may_end(candidate, options) and _may_win(candidate, state, options)
    ]
    if not mixtures:
        return ()
    by_digest = {mixture.digest: mixture for mixture in (*mixtures, *rivals)}
    return tuple(mixture for digest, mixture in by_digest.items() if digest not in state.evaluated)


def drop_wrong(
    evaluated: Mapping[str, DensitySummary],
    state: FitState,
    rivals: Sequence[MixtureParameters] = (),
) -> dict[str, DensitySummary]:
    """Drop the evaluations of mixtures that did not become results; ``rivals`` as in `foresee`."""
    em = state.em
    assert em is not None
    results = [
        in_order(candidate.parameters, fresh)
        for candidate, fresh in zip(em.candidates, state.fresh, strict=True)
        if candidate.status is not Status.RUNNING
    ]
    kept = {mixture.digest for mixture in (*results, *rivals)}
    return {digest: summary for digest, summary in evaluated.items() if digest in kept}


def _may_end(candidate: Candidate, options: FitOptions) -> bool:
    """Whether the parameters at present may be those of a result."""
    if candidate.status is Status.RUNNING:
        return candidate.ending is not Ending.STEPPED and may_converge(candidate, options.em)
    return candidate.status is not Status.ILL_CONDITIONED


def _may_win(candidate: Candidate, state: FitState, options: FitOptions) -> bool:
    """Whether a candidate may still end as the best of its cell."""
    assert state.em is not None
    cell = cell_of(candidate.parameters)
    others = tuple(other for other in state.em.candidates if cell_of(other.parameters) == cell)
    if len(others) == 1:
        return True
    best = others[rank(others, state.survey.variances, options.spec.reg_covar)[0]]
    gain = (
        GENEROUS * promised_gain(candidate.history) if candidate.status is Status.RUNNING else 0.0
    )
    return candidate.log_likelihood + max(gain, options.em.tol) >= best.log_likelihood
