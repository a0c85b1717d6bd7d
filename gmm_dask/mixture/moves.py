"""Moves out of a local optimum: one component is dropped, another is split into two.

EM climbs to the nearest maximum. Where two components share a cluster while another has to cover
two clusters, no iteration helps, but a move does (Ueda and others, 2000: split and merge).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice, takewhile
from typing import NamedTuple

import numpy as np

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.covariance import CovarianceType
from gmm_dask.mixture.criteria import rank
from gmm_dask.mixture.em import Candidate, fit_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.imputation import Filled
from gmm_dask.mixture.initialization import start_from_responsibilities
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import find_patterns, has_holes
from gmm_dask.mixture.race import race_for
from gmm_dask.mixture.rounds.fit import fit_runs
from gmm_dask.mixture.small_search.halves import climb_halves
from gmm_dask.mixture.spec import EMOptions, MixtureSpec, Start
from gmm_dask.mixture.starts import MANY
from gmm_dask.mixture.statistics import sum_statistics
from gmm_dask.mixture.threads import WORTH_THREADS

#: Iterations for the halves of a split component.
SPLIT_ITERATIONS = 6
#: All splits together take as long as so many passes of one component over the rows.
_SPLIT_PASSES = 64
#: A row with a smaller share in a component is ignored when that is split.
_LEAST_SHARE = 0.02


@dataclass(frozen=True)
class MoveEffort:
    """The extent of moves.

    Attributes
    ----------
    runs
        Resting runs that are moved, the best first.
    moves
        Moves of a run at the most.
    tries
        Mixtures that are tried for each move.
    iterations
        EM iterations of the whole mixture after a move.
    patience
        Iterations after which a mixture that cannot win is given up; None if all are done.
    """

    runs: int
    moves: int
    tries: int
    iterations: int
    patience: int | None = None


class _Swap(NamedTuple):
    """A move: component c is split into its halves, of which one takes the place of another.

    ``promise`` is the gain of log-likelihood that it promises, nats per unit of weight.
    """

    promise: float
    dropped: int
    c: int
    halves: MixtureParameters


#: Moves of more runs took a third of the search and gained nothing (benchmarks/RESULTS.md).
_BY_COMPONENT = MoveEffort(1, 4, 2, 12)
#: After a move the shared covariance is wrong for every component, until more iterations have
#: mended it. With less effort, fits of many clusters ended up to 0.06 nats lower. Three runs are
#: moved: ten components for 31 clusters reach the best known in 7 of 8 fits, with two in 6 of 10.
_SHARED = MoveEffort(3, 12, 6, 20)


def effort_of_moves(covariance: CovarianceType) -> MoveEffort:
    """Choose the effort by whether each component has its own covariance."""
    return _BY_COMPONENT if covariance.by_component else _SHARED


def improve_by_moves(
    expectation: ExpectationOn,
    candidate: Candidate,
    spec: MixtureSpec,
    variances: FloatArray,
    effort: MoveEffort,
) -> tuple[Candidate, int]:
    """Improve a resting candidate by moves, as long as they help.

    Parameters
    ----------
    expectation
        Over a few thousand rows.
    candidate
        EM must have brought it to rest.
    spec
        The mixture wanted.
    variances
        Of the features, (d,).
    effort
        Of `effort_of_moves`, for example.

    Returns
    -------
    candidate
        The best found; the given one itself if no move helps.
    iterations
        EM iterations of whole mixtures.
    """
    options = EMOptions(0.0, effort.iterations)
    iterations = 0
    for _ in range(effort.moves):
        # A move must gain more than plain EM could in as many iterations.
        bounds = candidate.lower_bounds
        pending = max(bounds[-1] - bounds[-2], 0.0) if len(bounds) > 1 else 0.0
        least = candidate.log_likelihood + effort.iterations * pending + 1.0 / len(expectation.X)
        moves = islice(_moves(expectation, candidate.parameters, spec), effort.tries)
        compare = race_for(effort.patience, variances, spec.reg_covar, least=least)
        trials = fit_runs(expectation, [*moves], spec, options, compare, effort.patience or 0)
        iterations += sum(trial.n_iter for trial in trials)
        rivals = (candidate, *trials)
        best = rivals[rank(rivals, variances, spec.reg_covar)[0]]
        if best is candidate or best.log_likelihood <= least:
            break
        candidate = best
    return candidate, iterations


def _moves(
    expectation: ExpectationOn, parameters: MixtureParameters, spec: MixtureSpec
) -> Iterator[MixtureParameters]:
    """Yield the mixtures that are one move away, the most promising first."""
    X, sample_weight, k = expectation.X, expectation.sample_weight, parameters.n_components
    shares = assign(parameters, X, responsibilities=True).responsibilities  # (m, k)
    assert shares is not None
    weight = np.ones(len(X)) if sample_weight is None else sample_weight
    # The loss of likelihood when a component is dropped, as if no other component filled the gap.
    losses = -(weight @ np.log(np.maximum(1.0 - shares, 1e-12))) / weight.sum()  # (k,)
    splits = split_each(X, shares * weight[:, None], parameters, spec, expectation.pool)
    gains = np.array([gain for gain, _ in splits]) / weight.sum()  # (k,)
    promises = gains - losses[:, None]  # (dropped, split)
    np.fill_diagonal(promises, -np.inf)
    # Among many components several are misplaced at once.
    together = _disjoint(_swaps(promises, splits)) if k >= MANY else []
    if len(together) > 1:
        with suppress(NumericalError):
            yield reduce(_replace_components, together, parameters)
    for swap in _swaps(promises, splits):
        with suppress(NumericalError):
            yield _replace_components(parameters, swap)


def _swaps(
    promises: FloatArray, splits: Sequence[tuple[float, MixtureParameters | None]]
) -> Iterator[_Swap]:
    """Yield the swaps by what they promise, (k dropped, k split), the best first."""
    for place in np.argsort(-promises, axis=None, kind="stable").tolist():
        dropped, c = divmod(place, len(splits))
        halves = splits[c][1]
        if halves is not None and dropped != c:
            yield _Swap(float(promises[dropped, c]), dropped, c, halves)


def _disjoint(swaps: Iterator[_Swap]) -> list[_Swap]:
    """Choose swaps that promise a gain and have no component in common, the best first."""
    chosen, used = list[_Swap](), set[int]()
    for swap in takewhile(lambda swap: swap.promise > 0.0, swaps):
        if used.isdisjoint((swap.dropped, swap.c)):
            used |= {swap.dropped, swap.c}
            chosen.append(swap)
    return chosen


def _replace_components(parameters: MixtureParameters, swap: _Swap) -> MixtureParameters:
    """Put the two halves of a component in its place and in that of a dropped component."""
    c, halves, indices = swap.c, swap.halves, [swap.c, swap.dropped]
    weights, means = parameters.weights.copy(), parameters.means.copy()
    covariances = parameters.covariances
    weights[indices] = weights[c] * halves.weights
    means[indices] = halves.means
    if parameters.covariance.by_component:
        covariances = covariances.copy()
        covariances[indices] = halves.covariances
    return MixtureParameters.from_covariances(
        parameters.covariance_type, weights / weights.sum(), means, covariances
    )


def split_each(
    X: RowsArray,
    shares: FloatArray,
    parameters: MixtureParameters,
    spec: MixtureSpec,
    pool: ThreadPoolExecutor | None = None,
) -> list[tuple[float, MixtureParameters | None]]:
    """Split each component in two, as `split` does, on a pool's threads if that pays.

    The compiled EM takes complete rows. ``shares`` are (m, k).
    """
    (m, k), d = shares.shape, X.shape[1]
    if has_holes(X):
        return [split(X, shares[:, c], parameters, spec, c) for c in range(k)]
    worth = _SPLIT_PASSES * m * d * d >= WORTH_THREADS
    apply = pool.map if pool and worth else map
    return [*apply(lambda c: split_compiled(X, shares[:, c], parameters, spec, c), range(k))]


def split(
    X: RowsArray, share: FloatArray, parameters: MixtureParameters, spec: MixtureSpec, c: int
) -> tuple[float, MixtureParameters | None]:
    """Split component c in two; return the gain of log-likelihood (nats) and the two halves.

    Parameters
    ----------
    share
        Responsibility of the component for each row, times the row's weight, (m,).

    Returns
    -------
    gain
        −inf if the component cannot be split.
    halves
        A mixture of two components; None if the component cannot be split.
    """
    d = parameters.n_features
    free_spec = replace(spec, start=Start())  # what the caller fixed belongs to the whole mixture
    rows = np.flatnonzero(share > _LEAST_SHARE)
    best: tuple[float, MixtureParameters | None] = (-np.inf, None)
    least = max(parameters.covariance.least_rows(d), 1)
    if len(rows) < 4 * least:
        return best
    members = np.ascontiguousarray(X.T[:, rows]).T  # (r, d), feature-major
    share = share[rows]
    options = EMOptions(0.0, SPLIT_ITERATIONS)
    try:
        filled = _filled(members, parameters, c)
        gaussian = start_from_responsibilities(members, share[:, None], free_spec, filled)
        patterns = () if filled is None else find_patterns(members)
        unsplit = sum_statistics(gaussian, members, share, patterns).log_likelihood
        starts = []
        for half in _cuts(members if filled is None else filled.values, gaussian):
            sides = np.column_stack([half * share, ~half * share])  # (r, 2)
            with suppress(NumericalError):
                starts.append(start_from_responsibilities(members, sides, free_spec, filled))
        for pair in fit_em(ExpectationOn(members, share), starts, free_spec, options):
            if pair.counts is None or pair.counts.min() < least:
                continue
            gain = pair.log_likelihood * share.sum() - unsplit
            if np.isfinite(gain) and gain > best[0]:
                best = (gain, pair.parameters)
    except NumericalError:
        return best
    return best


def _filled(members: RowsArray, parameters: MixtureParameters, c: int) -> Filled | None:
    """Fill the holes of rows by their component; None where there are none."""
    if not has_holes(members):
        return None
    component = MixtureParameters.from_covariances(
        "full", np.ones(1), parameters.means[c : c + 1], parameters.matrices[c : c + 1]
    )
    return Filled.of(members, component)


def split_compiled(
    X: RowsArray, share: FloatArray, parameters: MixtureParameters, spec: MixtureSpec, c: int
) -> tuple[float, MixtureParameters | None]:
    """Split a component as `split` does, in a quarter of the time; the last digits differ."""
    rows = np.flatnonzero(share > _LEAST_SHARE)
    least = max(parameters.covariance.least_rows(parameters.n_features), 1)
    if len(rows) < 4 * least:
        return -np.inf, None
    members = np.ascontiguousarray(X.T[:, rows]).T  # (r, d), feature-major
    return climb_halves(members, share[rows], spec, least, SPLIT_ITERATIONS)


def _cuts(
    X: RowsArray, gaussian: MixtureParameters
) -> Iterator[np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Yield two ways to cut the rows of a Gaussian: across its longest axis, and core from halo."""
    values, vectors = np.linalg.eigh(gaussian.matrices[0])  # ascending
    along = (X - gaussian.means[0]) @ vectors  # (r, d), on the principal axes
    yield along[:, -1] > 0.0
    distances = (along * along / values).sum(axis=1)  # (r,), Mahalanobis
    yield distances < np.median(distances)
