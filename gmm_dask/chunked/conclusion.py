"""The end of a fit: choose the best candidate, order its components, and write the warnings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.fit_records import FitOptions, FitResult, FitState
from gmm_dask.chunked.precision import tell_change
from gmm_dask.chunked.replay import replay_of
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.criteria import Health, health, rank
from gmm_dask.mixture.em import Candidate
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import count_patterns
from gmm_dask.mixture.replacing import count_replacements
from gmm_dask.mixture.sample import sample_slope
from gmm_dask.mixture.search import SearchSummary

#: Patterns of missing values from which a fit says what they cost (benchmarks/RESULTS.md).
MANY_PATTERNS = 100
#: Components that a warning names, of all that it is about.
MOST_NAMED = 10

logger = logging.getLogger("gmm_dask")


def conclude(scanner: Scanner, state: FitState, options: FitOptions) -> FitResult:
    """Choose the best candidate, order its components, and warn of its weaknesses.

    All log-likelihoods of the result are in natural units.

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
    replay = replay_of(state.frames, order[0], initial, best.parameters, best.n_iter)
    firsts = state.search.firsts if state.search else ()
    first = firsts[order[0]] if order[0] < len(firsts) else None
    if state.ownership is not None:  # the report would climb from it without the labels
        first = None
    ownership = state.ownership
    if state.fresh[order[0]]:
        places = component_order(best.parameters)
        ownership = ownership and ownership.reordered(places)
        replay = {number: mixture.reordered(places) for number, mixture in replay.items()}
        initial = initial.reordered(places)
        first = first and first.reordered(places)
        best = _reordered(best, places)
    tell_change(scanner, initial, best.parameters, options.em.tol)
    slope = state.survey.log_slope
    best = replace(
        best,
        history=tuple(
            replace(iteration, log_likelihood=iteration.log_likelihood + slope)
            for iteration in best.history
        ),
    )
    judgement = health(best.parameters, best.row_counts, variances, options.spec.reg_covar)
    return FitResult(
        best,
        initial,
        em.candidates,
        state.survey,
        _in_natural_units(state.search, state.survey),
        judgement,
        scanner.scans,
        tuple(_warnings(scanner.chunks.columns, state, best, judgement, options)),
        replay,
        first,
        state.replaced_on_sample,
        ownership,
        state.evaluated,
    )


def _reordered(candidate: Candidate, places: npt.NDArray[np.intp]) -> Candidate:
    """Return a candidate with its components in another order, in its history too."""
    numbers = {int(place): number for number, place in enumerate(places)}
    return replace(
        candidate,
        parameters=candidate.parameters.reordered(places),
        counts=None if candidate.counts is None else candidate.counts[places],
        history=tuple(
            replace(
                iteration,
                weights=iteration.weights[places],
                means=iteration.means[places],
                guarded=tuple(sorted(numbers[c] for c in iteration.guarded)),
                replaced=tuple(sorted(numbers[c] for c in iteration.replaced)),
            )
            for iteration in candidate.history
        ),
    )


def _in_natural_units(search: SearchSummary | None, survey: Survey) -> SearchSummary | None:
    if search is None or survey.transforms is None:
        return search
    slope = sample_slope(survey.sample, survey.transforms)
    natural = tuple(value + slope for value in search.log_likelihoods)
    return replace(search, log_likelihoods=natural)


def _warnings_of_holes(columns: tuple[str, ...], survey: Survey) -> list[str]:
    """Say what rows with holes cost, and what they cannot tell; the sample knows it."""
    X = survey.sample.X
    sentences = []
    patterns = count_patterns(X)
    if patterns > MANY_PATTERNS:
        sentences.append(
            f"{len(X):,} sampled rows have {patterns:,} patterns of missing values; rows of rare "
            "patterns take three to forty times as long as complete ones, with tied covariances "
            "and many components more; leave out columns that are rarely there"
        )
    observed = (~np.isnan(X)).astype(np.float64)
    together = observed.T @ observed  # (d, d)
    for first, second in np.argwhere(np.triu(together == 0.0)).tolist():
        sentences.append(
            f"columns {columns[first]!r} and {columns[second]!r} are never there in the same row "
            "of the sample, so that their covariance within a component is not known"
        )
    return sentences


def component_order(parameters: MixtureParameters) -> npt.NDArray[np.intp]:
    """Order of components, (k,): the heaviest first, components of equal weight by their means."""
    return np.lexsort((*parameters.means.T[::-1], -parameters.weights))


def in_order(parameters: MixtureParameters, fresh: bool) -> MixtureParameters:
    """Return the mixture as a result has it: its components in order, if the fit made its start."""
    return parameters.reordered(component_order(parameters)) if fresh else parameters


def times(number: int) -> str:
    """Say how often."""
    return "once" if number == 1 else f"{number} times"


def _could_collapse(parameters: MixtureParameters, share: float) -> bool:
    """Whether a component could hold nothing but rows that share a value.

    A value of fewer rows than a component's even share rarely fills one; and a covariance that
    components share is held up by the other rows.
    """
    return parameters.covariance.by_component and share * parameters.n_components >= 1.0


def _name_components(components: Sequence[int]) -> str:
    """Name components; of more than `MOST_NAMED`, the first and how many there are besides."""
    left = len(components) - MOST_NAMED
    numbers = ", ".join(map(str, components[:MOST_NAMED]))
    word = "component" if len(components) == 1 else "components"
    return f"{word} {numbers}" + (f" and {left:,} more" if left > 0 else "")


def _warnings(
    columns: tuple[str, ...],
    state: FitState,
    best: Candidate,
    judgement: Health,
    options: FitOptions,
) -> list[str]:
    sentences = []
    survey = state.survey
    variances: FloatArray = survey.variances
    reg_covar, transforms = options.spec.reg_covar, survey.transforms
    labels = columns if transforms is None else transforms.labels(columns)
    flat = np.flatnonzero((variances > 0) & (reg_covar > 1e-3 * variances))
    if len(flat):  # of hundreds of columns, embeddings say, one sentence is read
        narrowest = flat[variances[flat].argmin()]
        variance = float(variances[narrowest])
        others = f" and {len(flat) - 1} more" if len(flat) > 1 else ""
        sentences.append(
            f"reg_covar {reg_covar:g} is {reg_covar / variance:.2g} times the variance of "
            f"column {labels[narrowest]!r} and flattens it{others}; try {variance * 1e-6:.1g}"
        )
    for feature, value, share in survey.frequent_values:
        column = columns[feature]
        transform = None if transforms is None else transforms.by_feature[feature]
        if transform is not None:
            value = float(transform.inverse(value))
        if judgement.collapsed.any() or _could_collapse(best.parameters, share):
            sentences.append(
                f"{share:.1%} of the rows have column {column!r} = {value:g}; a component can "
                "collapse on it"
            )
    for defect, mask in (("collapsed", judgement.collapsed), ("starved", judgement.starved)):
        if mask.any():
            sentences.append(
                f"{_name_components(np.flatnonzero(mask).tolist())} {defect}; "
                "try fewer components" + (" or a larger reg_covar" if defect == "collapsed" else "")
            )
    replaced = state.replaced_on_sample + int(count_replacements(best).sum())
    if replaced and judgement.defects:
        sentences.append(
            f"components were placed again {times(replaced)}, and no mixture of "
            f"{best.parameters.n_components} components was found of which none is lost"
        )
    if survey.incomplete:
        sentences += _warnings_of_holes(columns, survey)
    guarded = best.last_step.guarded if best.last_step else ()
    if guarded:
        sentences.append(
            f"{_name_components(guarded)} moved too far in the last iteration for a new "
            "covariance; run more iterations"
        )
    return sentences
