"""The end of a fit: which candidate won, in which order its components stand, what to warn of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.fit_records import FitOptions, FitResult, FitState
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.survey import Survey, frequent_values
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.criteria import Health, health, rank
from gmm_dask.mixture.em import Candidate
from gmm_dask.mixture.parameters import MixtureParameters


def conclude(scanner: Scanner, state: FitState, options: FitOptions) -> FitResult:
    """Choose the best candidate, put its components in order, and say what is wrong with it.

    Raises
    ------
    NumericalError
        Every candidate broke down.
    """
    em = state.em
    assert em is not None
    variances = state.survey.variances
    order = rank(em.candidates, variances, options.spec.reg_covar)
    best, initial = em.candidates[order[0]], state.starts[order[0]]
    if best.problem:
        raise NumericalError(f"every start broke down: {best.problem}")
    if state.fresh[order[0]]:
        places = component_order(best.parameters)
        initial = initial.reordered(places)
        best = replace(
            best,
            parameters=best.parameters.reordered(places),
            counts=None if best.counts is None else best.counts[places],
            history=tuple(
                replace(one, weights=one.weights[places], means=one.means[places])
                for one in best.history
            ),
        )
    judged = health(best.parameters, best.counts, variances, options.spec.reg_covar)
    return FitResult(
        best,
        initial,
        em.candidates,
        state.survey,
        state.search,
        judged,
        scanner.scans,
        tuple(_warnings(scanner, state.survey, best, judged, options)),
    )


def component_order(parameters: MixtureParameters) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Heaviest first; equal weights by their means."""
    return np.lexsort((*parameters.means.T[::-1], -parameters.weights))


def _warnings(
    scanner: Scanner, found: Survey, best: Candidate, judged: Health, options: FitOptions
) -> list[str]:
    columns = scanner.chunks.columns
    sentences = []
    variances: FloatArray = found.variances
    reg_covar = options.spec.reg_covar
    for column, variance in zip(columns, variances.tolist(), strict=True):
        if variance > 0 and reg_covar > 1e-3 * variance:
            sentences.append(
                f"reg_covar {reg_covar:g} is {reg_covar / variance:.2g} times the variance of "
                f"column {column!r} and flattens it; try {variance * 1e-6:.1g}"
            )
    for column, value, share in frequent_values(found.sample, columns):
        sentences.append(
            f"{share:.1%} of the rows have {column} = {value:g}; a component can collapse on it"
        )
    for name, which in (("collapsed", judged.collapsed), ("starved", judged.starved)):
        if which.any():
            numbers = ", ".join(str(number) for number in np.flatnonzero(which))
            sentences.append(
                f"{'component' if which.sum() == 1 else 'components'} {numbers} {name}; "
                "try fewer components" + (" or a larger reg_covar" if name == "collapsed" else "")
            )
    guarded = best.history[-1].guarded if best.history else ()
    if guarded:
        sentences.append(
            f"the covariance of component {', '.join(map(str, guarded))} was still kept in the "
            "last iteration; run more iterations"
        )
    return sentences
