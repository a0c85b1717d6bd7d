"""The second cure of a singular covariance: a lost component is placed again.

A component that shrinks onto repeated values, or that has hardly any rows, is *lost*. The first
cure is a floor for its variances, ``reg_covar``. This is the other: the component is put on a row
that the mixture describes worst, with the covariance of all rows and the weight of an equal share,
and EM goes on. The likelihood falls at first, since a collapsed component is rewarded for its
collapse. Each component is placed again `MOST_REPLACEMENTS` times at the most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.covariance import CovarianceType
from gmm_dask.mixture.criteria import deviations, find_collapsed, health
from gmm_dask.mixture.em import Candidate, EMState, Status
from gmm_dask.mixture.iterations import Iteration
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import count_observed, has_holes
from gmm_dask.mixture.sample import Sample

#: How often a component is placed again.
MOST_REPLACEMENTS = 3
#: Rows of lowest density that are kept: more than components are ever lost at once.
LOWEST_ROWS = 64


@dataclass(frozen=True, eq=False)
class LowestRows:
    """The rows of lowest density in a mixture; those of parts merge by ``+``.

    Attributes
    ----------
    log_likelihood, weight
        Σ w log p(x) in nats, and Σ w, over all rows.
    values
        (m, d) float64, the lowest first; m is at most `LOWEST_ROWS`.
    log_densities
        log p(x), nats, (m,).
    numbers
        Of the rows in the input, (m,): where densities are equal, the first row counts as lower.
    """

    log_likelihood: float
    weight: float
    values: FloatArray
    log_densities: FloatArray
    numbers: npt.NDArray[np.int64]

    def __add__(self, other: LowestRows) -> LowestRows:
        return LowestRows(
            self.log_likelihood + other.log_likelihood,
            self.weight + other.weight,
            np.concatenate([self.values, other.values]),
            np.concatenate([self.log_densities, other.log_densities]),
            np.concatenate([self.numbers, other.numbers]),
        )._head()

    def _head(self) -> LowestRows:
        order = np.lexsort((self.numbers, self.log_densities))[:LOWEST_ROWS]
        return replace(
            self,
            values=self.values[order],
            log_densities=self.log_densities[order],
            numbers=self.numbers[order],
        )


@dataclass(frozen=True, eq=False)
class LowestBatch:
    """The rows of lowest density in each of several mixtures, of the same rows."""

    lowest: tuple[LowestRows, ...]

    def __add__(self, other: LowestBatch) -> LowestBatch:
        pairs = zip(self.lowest, other.lowest, strict=True)
        return LowestBatch(tuple(first + second for first, second in pairs))


#: From mixtures to their rows of lowest density: one scan for all of them.
FindLowest = Callable[[Sequence[MixtureParameters]], Sequence[LowestRows]]


def find_lowest(
    parameters: MixtureParameters,
    X: RowsArray,
    sample_weight: FloatArray | None,
    numbers: npt.NDArray[np.int64],
) -> LowestRows:
    """Find the rows of lowest density among rows in memory.

    Rows of weight 0 do not count, nor do rows with holes, whose densities are of fewer features.

    Parameters
    ----------
    X
        (n, d), without infinities.
    sample_weight
        (n,) or None.
    numbers
        Of the rows in the input, (n,).
    """
    if has_holes(X):
        complete = np.flatnonzero(count_observed(X) == X.shape[1])
        X, numbers = X[complete], numbers[complete]
        sample_weight = None if sample_weight is None else sample_weight[complete]
    log_densities = assign(parameters, X).log_densities
    log_likelihood, weight = float(log_densities.sum()), float(len(X))
    eligible = np.arange(len(X))
    if sample_weight is not None:
        log_likelihood = float(sample_weight @ log_densities)
        weight = float(sample_weight.sum())
        eligible = np.flatnonzero(sample_weight > 0.0)
    if len(eligible) > LOWEST_ROWS:  # every row that could be among the lowest, ties too
        limit = np.partition(log_densities[eligible], LOWEST_ROWS)[LOWEST_ROWS]
        eligible = eligible[log_densities[eligible] <= limit]
    lowest = LowestRows(
        log_likelihood,
        weight,
        np.ascontiguousarray(X[eligible], dtype=np.float64),
        log_densities[eligible],
        numbers[eligible],
    )
    return lowest._head()


@dataclass(frozen=True, eq=False)
class Replacement:
    """How lost components of a fit are placed again.

    Attributes
    ----------
    max_iter
        The largest number of iterations of the fit.
    reg_covar
        Added to the diagonal of every covariance.
    variances
        Of the features over all rows, (d,).
    pooled
        Covariance of all rows, (d, d), which a component is given.
    """

    max_iter: int
    reg_covar: float
    variances: FloatArray
    pooled: FloatArray

    @classmethod
    def over(
        cls, sample: Sample, max_iter: int, reg_covar: float, variances: FloatArray
    ) -> Replacement:
        """Take the covariance of all rows from the complete ones of a sample of them."""
        X, weight, d = sample.X.astype(np.float64), sample.sample_weight, len(variances)
        pooled = np.diag(variances)
        if has_holes(X):
            complete = np.flatnonzero(count_observed(X) == d)
            X, weight = X[complete], None if weight is None else weight[complete]
        if len(X) > 2 * d:
            pooled = np.atleast_2d(np.cov(X, rowvar=False, bias=True, aweights=weight))
        pooled[np.diag_indices(len(pooled))] += reg_covar
        return cls(max_iter, reg_covar, variances, pooled)

    def __call__(self, em: EMState, find: FindLowest, spared: Sequence[bool] = ()) -> EMState:
        """Place the lost components of all candidates again; the same state where none is lost.

        Costs one scan where a component is lost, of the lost components' mixtures alone.

        Parameters
        ----------
        spared
            Candidates that are left as they are; by default none.
        """
        spared = spared or (False,) * len(em.candidates)
        lost = {
            index: components
            for index, candidate in enumerate(em.candidates)
            if not spared[index] and (components := self.find_lost(candidate))
        }
        if not lost:
            return em
        candidates = list(em.candidates)
        lowest = find([candidates[index].parameters for index in lost])
        for (index, components), rows in zip(lost.items(), lowest, strict=True):
            if len(rows.values):
                candidates[index] = self.replace_lost(candidates[index], components, rows)
        return replace(em, candidates=tuple(candidates))

    def find_lost(self, candidate: Candidate) -> tuple[int, ...]:
        """Tell which components are lost and may be placed again."""
        parameters = candidate.parameters
        broken = candidate.status is Status.ILL_CONDITIONED
        if candidate.status is Status.BEATEN or (broken and candidate.broken is None):
            return ()
        if len(candidate.history) + broken >= self.max_iter:
            return ()
        covariance = parameters.covariance
        judged = health(parameters, candidate.row_counts, self.variances, self.reg_covar)
        lost = judged.starved
        # A covariance that components share is not mended by moving one of them; nor is that of
        # one component where all rows together are as narrow: a feature depends on others.
        if covariance.by_component and not self._is_narrow(covariance):
            lost = lost | judged.collapsed
            if candidate.broken is not None:
                lost[candidate.broken] = True
        if lost.sum() == parameters.n_components == 1:  # it holds all rows
            return ()
        replaced = count_replacements(candidate)
        return tuple(np.flatnonzero(lost & (replaced < MOST_REPLACEMENTS)).tolist())

    def covariance_of_all(self, covariance: CovarianceType) -> FloatArray:
        """Return the covariance of all rows in the form of a type, for one component."""
        return covariance.from_matrices(self.pooled[None], np.ones(1))

    def _is_narrow(self, covariance: CovarianceType) -> bool:
        covariances = self.covariance_of_all(covariance)
        narrow = find_collapsed(covariance, covariances, 1, self.variances, self.reg_covar)
        return bool(narrow.any())

    def replace_lost(
        self, candidate: Candidate, lost: tuple[int, ...], lowest: LowestRows
    ) -> Candidate:
        """Place components again on rows of lowest density, and let the candidate go on.

        Each gets another row: the first is the lowest, the next the farthest from those chosen,
        so that repeated values are taken once.
        """
        parameters = candidate.parameters
        k = parameters.n_components
        attempts = int(count_replacements(candidate).sum())
        chosen = _spread_out(lowest.values / deviations(self.variances), attempts + len(lost))
        components = list(lost)
        weights, means = parameters.weights.copy(), parameters.means.copy()
        weights[components] = np.maximum(weights[components], 1.0 / k)
        means[components] = lowest.values[chosen[attempts:]]
        covariances = parameters.covariances
        if parameters.covariance.by_component:
            covariances = covariances.copy()
            covariances[components] = self.covariance_of_all(parameters.covariance)[0]
        placed = MixtureParameters.from_covariances(
            parameters.covariance_type, weights / weights.sum(), means, covariances
        )
        history = candidate.history
        if candidate.status is Status.ILL_CONDITIONED:  # this iteration had no M-step
            mean = lowest.log_likelihood / lowest.weight
            broken = Iteration(mean, parameters.weights, parameters.means, (), 0.0, replaced=lost)
            history = (*history, broken)
        else:
            history = (*history[:-1], replace(history[-1], replaced=lost))
        return replace(
            candidate,
            parameters=placed,
            status=Status.RUNNING,
            history=history,
            problem="",
            broken=None,
        )


def count_replacements(candidate: Candidate) -> npt.NDArray[np.int64]:
    """Count how often each component was placed again, (k,)."""
    counts = np.zeros(candidate.parameters.n_components, dtype=np.int64)
    for iteration in candidate.history:
        counts[list(iteration.replaced)] += 1
    return counts


def _spread_out(points: FloatArray, wanted: int) -> list[int]:
    """Choose points far from each other: the first point, then always the farthest; (m, d).

    Where there are fewer points than wanted, they are taken again from the first on.
    """
    chosen = [0]
    distances = np.full(len(points), np.inf)
    for _ in range(min(wanted, len(points)) - 1):
        steps = points - points[chosen[-1]]
        distances = np.minimum(distances, np.einsum("md,md->m", steps, steps))
        chosen.append(int(distances.argmax()))
    return [chosen[index % len(chosen)] for index in range(wanted)]
