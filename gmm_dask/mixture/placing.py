"""A component given up for what new rows say: two are merged, and the free one is placed on them.

A mixture with as many components as it had clusters cannot describe one more. EM alone puts the
rows of a new cluster into the component that is nearest, and widens it. The rival mixture that is
made here pays for the new component with the pair of components whose merge costs least of the
bound.

Merged components are described by one Gaussian. The sums that are kept of them add exactly once
both are carried to it. Their entropy does not: of a row that belonged to both, only the sum of the
two responsibilities is left. What is lost is Σ w (r_a + r_b) h(r_a / (r_a + r_b)), with the entropy
h of the two shares, and of a unit it is at most (N_a + N_b) h(N_a / (N_a + N_b)), by Jensen's
inequality: equal where each row had the same share of both. This much is taken off, so the bound
stays a bound. By how much too much is estimated from the mixture itself, which describes the rows:
this is `Placement.slack`. Two mixtures are compared as if the rival's bound were higher by it; what
is kept and published is the bound.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gmm_dask.arrays import FloatArray, IndexArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.additions import best_addition
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.initialization import seeded
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.spec import MixtureSpec
from gmm_dask.mixture.threads import single_threaded
from gmm_dask.mixture.units import UnitStatistics, carry

#: Rows of a sample that decide where a component is placed.
PLACING_ROWS = 16_384
#: Rows drawn of each component, from which overlaps are estimated to about 0.01 nats.
_DRAWN = 1_024
_TINY = float(np.finfo(np.float64).tiny)  # where two components have no weight at all


@dataclass(frozen=True, eq=False)
class Placement:
    """A rival mixture with two components merged and the free one placed on new rows.

    Attributes
    ----------
    parameters
        Where the rival starts.
    merged
        The mixture before the free component is placed: it has no weight there.
    kept, freed
        Of the two components that are merged: the one that stands for both, which is the heavier,
        and the one that is free.
    slack
        By how much the bound is thought to be lower than it need be, nats per unit of the weight
        that is kept.
    """

    parameters: MixtureParameters
    merged: MixtureParameters
    kept: int
    freed: int
    slack: float

    def carry(
        self, units: UnitStatistics, before: MixtureParameters, after: MixtureParameters
    ) -> UnitStatistics:
        """Merge the two components of units under ``before``, and carry them to ``after``."""
        of_both = carry(units, before, self.merged)
        by_component = before.covariance.by_component
        merged = merge_units(of_both, self.kept, self.freed, by_component)
        return carry(merged, self.merged, after)


def place_component(
    parameters: MixtureParameters, sample: Sample, share: float, spec: MixtureSpec
) -> Placement | None:
    """Make the rival that promises to gain from new rows more than its merge costs.

    Costs no scan.

    Parameters
    ----------
    parameters
        The model in use.
    sample
        Of the new rows, in model units.
    share
        Of the weight of all rows, what the new ones have.
    spec
        Of the fit: its ``reg_covar`` is added to the covariance of the new component.

    Returns
    -------
    placement
        None where no rival promises to gain anything.
    """
    if parameters.n_components < 2:
        return None
    try:
        with single_threaded():
            cost, slack, (heavier, lighter) = cheapest_merge(parameters)
            chosen = sample.head(PLACING_ROWS, seeded(0))
            gain, weight, gaussian = best_addition(parameters, chosen, share, spec)
        if gaussian is None or gain <= cost:
            return None
        merged = merge_pair(parameters, heavier, lighter)
        placed = _place(merged, lighter, gaussian, weight)
    except NumericalError:
        return None
    return Placement(placed, merged, heavier, lighter, slack)


def least_gain(parameters: MixtureParameters, weight: float) -> float:
    """Return the gain, nats per unit of weight, from which a placed component is worth its place.

    It is what BIC asks of one component more, ½ p log n, although their number stays. So two
    mixtures that describe the rows alike do not take turns, night by night.
    """
    covariance, (k, d) = parameters.covariance, parameters.means.shape
    more = covariance.n_parameters(k + 1, d) - covariance.n_parameters(k, d) + d + 1
    return 0.5 * more * float(np.log(max(weight, np.e))) / weight


def cheapest_merge(parameters: MixtureParameters) -> tuple[float, float, tuple[int, int]]:
    """Find the two components whose merge costs least, as the mixture itself describes the rows.

    Returns
    -------
    cost
        Of log-likelihood, nats per unit of weight.
    slack
        What the bound loses beyond that, since the entropy of the rows is not kept by pairs.
    pair
        The heavier and the lighter component.
    """
    firsts, seconds = np.triu_indices(parameters.n_components, 1)  # (p,)
    covariance, pi = parameters.covariance, parameters.weights
    both = np.maximum(pi[firsts] + pi[seconds], _TINY)
    if covariance.by_component:
        matrices = _merged_matrices(parameters, firsts, seconds)
        factors = covariance.precisions_cholesky(covariance.from_matrices(matrices, both))
        k, d = parameters.means.shape
        before = covariance.log_determinants(parameters.precisions_cholesky, k, d)
        after = covariance.log_determinants(factors, len(both), d)  # (p,)
        of_bound = pi[firsts] * before[firsts] + pi[seconds] * before[seconds] - both * after
    else:  # one covariance grows by c ΔΔᵀ: its determinant by 1 + c |UᵀΔ|²
        apart = parameters.means[firsts] - parameters.means[seconds]  # (p, d)
        distances = np.square(apart @ parameters.precisions_cholesky).sum(axis=1)
        of_bound = 0.5 * np.log1p(pi[firsts] * pi[seconds] / both * distances)
    entropies = _shared_entropies(parameters)
    of_rows = pi[firsts] * entropies[firsts, seconds] + pi[seconds] * entropies[seconds, firsts]
    slacks = np.maximum(both * _entropy_of_two(pi[firsts] / both) - of_rows, 0.0)
    costs = np.maximum(of_bound - slacks, 0.0)
    pair = int(costs.argmin())
    a, b = int(firsts[pair]), int(seconds[pair])
    return float(costs[pair]), float(slacks[pair]), (b, a) if pi[b] > pi[a] else (a, b)


def _shared_entropies(parameters: MixtureParameters) -> FloatArray:
    """Estimate how rows of component a are shared with b, (k, k): the mean of h(r_a/(r_a+r_b)).

    From rows drawn of each component, the same random numbers for all of them.
    """
    k, d = parameters.means.shape
    drawn = seeded(0).standard_normal((_DRAWN, d))
    entropies = np.zeros((k, k))
    for a, matrix in enumerate(parameters.matrices):
        rows = parameters.means[a] + drawn @ np.linalg.cholesky(matrix).T
        shares = assign(parameters, rows, responsibilities=True).responsibilities
        assert shares is not None
        of_a = np.maximum(shares[:, [a]], _TINY)
        entropies[a] = _entropy_of_two(of_a / (of_a + shares)).mean(axis=0)
    return entropies


def _entropy_of_two(share: FloatArray) -> FloatArray:
    """Return h(t) = −t log t − (1 − t) log(1 − t), nats."""
    first, second = np.maximum(share, _TINY), np.maximum(1.0 - share, _TINY)
    return np.asarray(-first * np.log(first) - second * np.log(second))


def merge_pair(parameters: MixtureParameters, kept: int, freed: int) -> MixtureParameters:
    """Give two components the Gaussian of both, and the one that is kept the weight of both.

    Raises
    ------
    IllConditionedError
        The covariance of both is not positive definite.
    """
    pair = np.array([kept]), np.array([freed])
    pi = parameters.weights
    both = max(float(pi[kept] + pi[freed]), _TINY)
    means, matrices, weights = parameters.means.copy(), parameters.matrices.copy(), pi.copy()
    means[[kept, freed]] = (pi[kept] * means[kept] + pi[freed] * means[freed]) / both
    matrices[[kept, freed]] = _merged_matrices(parameters, *pair)
    weights[kept], weights[freed] = both, 0.0
    # Matrices of a type and their weights give back its covariances, but for the two.
    covariances = parameters.covariance.from_matrices(matrices, weights)
    return MixtureParameters.from_covariances(
        parameters.covariance_type, weights, means, covariances
    )


def merge_units(units: UnitStatistics, kept: int, freed: int, by_component: bool) -> UnitStatistics:
    """Add the statistics of two components of the same Gaussian, and bound their entropy.

    Parameters
    ----------
    units
        Under parameters where both components have the same Gaussian, as of `merge_pair`.
    kept, freed
        The component that gets the sums of both, and the one that is left with none.
    by_component
        Whether each component has an S of its own (`CovarianceType.by_component`).
    """
    counts, sums = units.counts.copy(), units.residual_sums.copy()
    products = units.residual_products
    pair = counts[:, [kept, freed]]  # (u, 2)
    both = pair.sum(axis=1)
    shares = np.divide(pair, both[:, None], out=np.ones_like(pair), where=pair > 0.0)
    lost = -(pair * np.log(shares)).sum(axis=1)
    counts[:, kept], counts[:, freed] = both, 0.0
    sums[:, kept] += sums[:, freed]
    sums[:, freed] = 0.0
    if by_component:
        products = products.copy()
        products[:, kept] += products[:, freed]
        products[:, freed] = 0.0
    return replace(
        units,
        counts=counts,
        residual_sums=sums,
        residual_products=products,
        entropy=units.entropy - lost,
    )


def _merged_matrices(
    parameters: MixtureParameters, firsts: IndexArray, seconds: IndexArray
) -> FloatArray:
    """Return the covariance of the rows of each of p pairs of components, (p, d, d)."""
    pi, matrices = parameters.weights, parameters.matrices
    both = np.maximum(pi[firsts] + pi[seconds], _TINY)
    first, second = pi[firsts] / both, pi[seconds] / both  # (p,)
    apart = parameters.means[firsts] - parameters.means[seconds]  # (p, d)
    between = (first * second)[:, None, None] * (apart[:, :, None] * apart[:, None, :])
    within = first[:, None, None] * matrices[firsts] + second[:, None, None] * matrices[seconds]
    return np.asarray(within + between)


def _place(
    merged: MixtureParameters, freed: int, gaussian: MixtureParameters, weight: float
) -> MixtureParameters:
    """Put a Gaussian in the place of the free component, with its weight among all."""
    weights, means = merged.weights * (1.0 - weight), merged.means.copy()
    weights[freed], means[freed] = weight, gaussian.means[0]
    covariances = merged.covariances
    if merged.covariance.by_component:
        covariances = covariances.copy()
        covariances[freed] = gaussian.covariances[0]
    return MixtureParameters.from_covariances(merged.covariance_type, weights, means, covariances)
