"""Moves out of a local optimum: one component is given up, another becomes two.

EM climbs to the nearest top. Where two components share what one could describe while one has to
describe two things, no iteration helps, but a move does (Ueda and others, 2000: split and merge).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice

import numpy as np

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.criteria import rank
from gmm_dask.mixture.em import Candidate, fit_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.initialization import start_from_responsibilities
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec, Start
from gmm_dask.mixture.statistics import sum_statistics

#: Iterations of a component that is split, alone, and of the mixture after a move.
SPLIT_ITERATIONS, MOVE_ITERATIONS = 6, 12
MOST_MOVES = 4
TRIES = 2
#: Rows that belong to a component by less say nothing about how to split it.
_LEAST_SHARE = 0.02


def moved(
    expectation: ExpectationOn,
    candidate: Candidate,
    spec: MixtureSpec,
    variances: FloatArray,
) -> tuple[Candidate, int]:
    """Improve a candidate that EM has brought to rest, by moves, as long as they help.

    Parameters
    ----------
    expectation
        On a few thousand rows.
    spec
        What the candidate is to be.
    variances
        Of the features, (d,).

    Returns
    -------
    candidate
        The best found.
    iterations
        EM iterations spent on whole mixtures.
    """
    options = EMOptions(0.0, MOVE_ITERATIONS)
    iterations = 0
    for _ in range(MOST_MOVES):
        # What as many more iterations could still give to the candidate as it is.
        bounds = candidate.lower_bounds
        pending = max(bounds[-1] - bounds[-2], 0.0) if len(bounds) > 1 else 0.0
        least = candidate.log_likelihood + MOVE_ITERATIONS * pending + 1.0 / len(expectation.X)
        moves = _moves(expectation, candidate.parameters, spec)
        tried = fit_em(expectation, [*islice(moves, TRIES)], spec, options)
        iterations += sum(one.n_iter for one in tried)
        field = (candidate, *tried)
        best = field[rank(field, variances, spec.reg_covar)[0]]
        if best is candidate or best.log_likelihood <= least:
            break
        candidate = best
    return candidate, iterations


def _moves(
    expectation: ExpectationOn, parameters: MixtureParameters, spec: MixtureSpec
) -> Iterator[MixtureParameters]:
    """Mixtures one move away, the most promising first."""
    X, sample_weight, k = expectation.X, expectation.sample_weight, parameters.n_components
    shares = assign(parameters, X, responsibilities=True).responsibilities  # (m, k)
    assert shares is not None
    weight = np.ones(len(X)) if sample_weight is None else sample_weight
    # What the rows lose if nothing fills the gap: an upper bound, since the others will.
    losses = -(weight @ np.log(np.maximum(1.0 - shares, 1e-12))) / weight.sum()  # (k,)
    splits = [_split(X, shares[:, c] * weight, parameters, spec) for c in range(k)]
    pairs = [
        (gain / weight.sum() - losses[dropped], dropped, c, halves)
        for c, (gain, halves) in enumerate(splits)
        for dropped in range(k)
        if halves is not None and dropped != c
    ]
    for _, dropped, c, halves in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        assert halves is not None
        with suppress(NumericalError):
            yield _replaced(parameters, c, dropped, halves)


def _replaced(
    parameters: MixtureParameters, c: int, dropped: int, halves: MixtureParameters
) -> MixtureParameters:
    """Put two halves in the places of component c and of one that is given up."""
    places = [c, dropped]
    weights, means = parameters.weights.copy(), parameters.means.copy()
    covariances = parameters.covariances
    weights[places] = weights[c] * halves.weights
    means[places] = halves.means
    if parameters.covariance.by_component:
        covariances = covariances.copy()
        covariances[places] = halves.covariances
    return MixtureParameters.from_covariances(
        parameters.covariance_type, weights / weights.sum(), means, covariances
    )


def _split(
    X: RowsArray, share: FloatArray, parameters: MixtureParameters, spec: MixtureSpec
) -> tuple[float, MixtureParameters | None]:
    """The best two components for the rows of one, and the log-likelihood they gain, nats.

    Parameters
    ----------
    share
        How far each row belongs to the component, times its weight, (m,).
    """
    d = parameters.n_features
    part = replace(spec, start=Start())  # of the whole, the caller may have fixed something
    rows = np.flatnonzero(share > _LEAST_SHARE)
    best: tuple[float, MixtureParameters | None] = (-np.inf, None)
    if len(rows) < 4 * (d + 1):
        return best
    own = np.ascontiguousarray(X.T[:, rows]).T  # (r, d), feature-major
    share = share[rows]
    options = EMOptions(0.0, SPLIT_ITERATIONS)
    try:
        one = start_from_responsibilities(own, share[:, None], part)
        alone = sum_statistics(one, own, share).log_likelihood
        starts = []
        for half in _halves(own, one):
            sides = np.column_stack([half * share, ~half * share])  # (r, 2)
            with suppress(NumericalError):
                starts.append(start_from_responsibilities(own, sides, part))
        for two in fit_em(ExpectationOn(own, share), starts, part, options):
            if two.counts is None or two.counts.min() < d + 1:
                continue
            gain = two.log_likelihood * share.sum() - alone
            if np.isfinite(gain) and gain > best[0]:
                best = (gain, two.parameters)
    except NumericalError:
        return best
    return best


def _halves(
    X: RowsArray, one: MixtureParameters
) -> Iterator[np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Two ways to cut the rows of a Gaussian: across its longest axis, and core from halo."""
    values, vectors = np.linalg.eigh(one.matrices[0])  # ascending
    along = (X - one.means[0]) @ vectors  # (r, d), on the principal axes
    yield along[:, -1] > 0.0
    distances = (along * along / values).sum(axis=1)  # (r,), Mahalanobis
    yield distances < np.median(distances)
