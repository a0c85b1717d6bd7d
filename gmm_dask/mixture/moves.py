"""Moves out of a local optimum: one component is given up, another becomes two.

EM climbs to the nearest top. Where two components share what one could describe while one has to
describe two things, no iteration helps, but a move does (Ueda and others, 2000: split and merge).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gmm_dask.errors import NumericalError
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.covariance.base import FloatArray, RowsArray
from gmm_dask.mixture.criteria import rank
from gmm_dask.mixture.em import Candidate, EMOptions, fit_em
from gmm_dask.mixture.initialization import GivenParameters, start_from_responsibilities
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import sum_statistics

#: Iterations of a component that is split, alone, and of the mixture after a move.
SPLIT_ITERATIONS, MOVE_ITERATIONS = 6, 12
MOST_MOVES = 4
TRIES = 2
#: Rows that belong to a component by less say nothing about how to split it.
_LEAST_SHARE = 0.02
_FREE = GivenParameters()


def fit_rows(
    X: RowsArray,
    sample_weight: FloatArray | None,
    parameters: MixtureParameters,
    options: EMOptions,
) -> Candidate:
    """Run EM on rows in memory, X (m, d)."""
    (candidate,) = fit_em(
        lambda batch: [sum_statistics(one, X, sample_weight) for one in batch],
        [parameters],
        options,
    )
    return candidate


def moved(
    X: RowsArray,
    sample_weight: FloatArray | None,
    candidate: Candidate,
    variances: FloatArray,
    reg_covar: float,
) -> tuple[Candidate, int]:
    """Improve a candidate that EM has brought to rest, by moves, as long as they help.

    Parameters
    ----------
    X
        (m, d), a few thousand rows in memory.
    variances
        Of the features, (d,).

    Returns
    -------
    candidate
        The best found.
    iterations
        EM iterations spent on whole mixtures.
    """
    options = EMOptions(0.0, MOVE_ITERATIONS, reg_covar)
    iterations = 0
    for _ in range(MOST_MOVES):
        # What as many more iterations could still give to the candidate as it is.
        bounds = candidate.lower_bounds
        pending = max(bounds[-1] - bounds[-2], 0.0) if len(bounds) > 1 else 0.0
        least = candidate.log_likelihood + MOVE_ITERATIONS * pending + 1.0 / len(X)
        for number, start in enumerate(_moves(X, sample_weight, candidate.parameters, reg_covar)):
            tried = fit_rows(X, sample_weight, start, options)
            iterations += tried.n_iter
            ahead = rank((candidate, tried), variances, reg_covar)[0] == 1
            if ahead and tried.log_likelihood > least:
                candidate = tried
                break
            if number + 1 == TRIES:
                return candidate, iterations
        else:
            return candidate, iterations
    return candidate, iterations


def _moves(
    X: RowsArray, sample_weight: FloatArray | None, parameters: MixtureParameters, reg_covar: float
) -> Iterator[MixtureParameters]:
    """Mixtures one move away, the most promising first."""
    k = parameters.n_components
    shares = assign(parameters, X, responsibilities=True).responsibilities  # (m, k)
    assert shares is not None
    weight = np.ones(len(X)) if sample_weight is None else sample_weight
    # What the rows lose if nothing fills the gap: an upper bound, since the others will.
    losses = -(weight @ np.log(np.maximum(1.0 - shares, 1e-12))) / weight.sum()  # (k,)
    splits = [_split(X, shares[:, c] * weight, parameters, reg_covar) for c in range(k)]
    pairs = [
        (gain / weight.sum() - losses[dropped], dropped, c, halves)
        for c, (gain, halves) in enumerate(splits)
        for dropped in range(k)
        if halves is not None and dropped != c
    ]
    for _, dropped, c, halves in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        assert halves is not None
        divided = assign(halves, X, responsibilities=True).responsibilities  # (m, 2)
        assert divided is not None
        left = shares.copy()
        left[:, dropped] = 0.0
        left /= np.maximum(left.sum(axis=1), 1e-300)[:, None]
        left[:, dropped] = left[:, c] * divided[:, 1]
        left[:, c] *= divided[:, 0]
        try:
            yield start_from_responsibilities(
                X, left * weight[:, None], parameters.covariance_type, reg_covar, _FREE
            )
        except NumericalError:
            continue


def _split(
    X: RowsArray, share: FloatArray, parameters: MixtureParameters, reg_covar: float
) -> tuple[float, MixtureParameters | None]:
    """The best two components for the rows of one, and the log-likelihood they gain, nats.

    Parameters
    ----------
    share
        How far each row belongs to the component, times its weight, (m,).
    """
    kind, d = parameters.covariance_type, parameters.n_features
    rows = np.flatnonzero(share > _LEAST_SHARE)
    best: tuple[float, MixtureParameters | None] = (-np.inf, None)
    if len(rows) < 4 * (d + 1):
        return best
    own = np.ascontiguousarray(X.T[:, rows]).T  # (r, d), feature-major
    share = share[rows]
    options = EMOptions(0.0, SPLIT_ITERATIONS, reg_covar)
    try:
        one = start_from_responsibilities(own, share[:, None], kind, reg_covar, _FREE)
        alone = sum_statistics(one, own, share).log_likelihood
        for first in _halves(own, one):
            sides = np.column_stack([first * share, ~first * share])  # (r, 2)
            start = start_from_responsibilities(own, sides, kind, reg_covar, _FREE)
            two = fit_rows(own, share, start, options)
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
