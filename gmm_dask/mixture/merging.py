"""The merge tree: which components of a mixture make one cluster.

A Gaussian is not a cluster: two or more may together describe a group of rows that is curved or
skewed. Baudry, Raftery, Celeux, Lo and Gottardo (2010, Journal of Computational and Graphical
Statistics 19, 332–353) join clusters two by two, always the two whose union takes most from the
entropy of the assignment, Σ −t log t over rows and clusters. A row's responsibility t of a cluster
is the sum over its components. The rows decide every step again: the entropy after a merge is not
a sum of pairwise ones.

**Overlap.** What a merge takes from the entropy, divided by the weight of the cluster that it
makes, is how uncertain it was to which of the two a row of that cluster belongs: from 0 nats, told
apart for certain, to log 2. It is the slope of the entropy plot over the weight merged so far.

**The suggested number of clusters** is where the plot breaks: before the merge whose overlap falls
most, as a ratio, below that of the merge before it. Before the first merge stands the overlap of
components that are one hump, after the last that of components that are clearly apart, so that no
merge and all merges can be suggested too. mclust's ``clustCombiOptim`` fits two lines to the plot
by least squares instead; they always meet somewhere from 2 to k − 1, also where all components are
separate or all are one cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, IndexArray
from gmm_dask.errors import ConfigError
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.initialization import seeded
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.sample import Sample

#: Overlap of two equal Gaussians whose means are 2 σ apart, nats: up to here they have one mode.
ONE_HUMP = 0.3563
#: Overlap at 5 σ, where one row in 160 lies nearer to the other mean: clearly apart.
APART = 0.0172
#: Overlap at 6 σ. Whatever is below counts as this: beyond it, farther apart says nothing more.
LEAST_OVERLAP = 0.0038

_NEGLIGIBLE = float(np.finfo(np.float64).eps)  # a responsibility that counts as 0
_DIGITS = 12  # of the entropies that are compared: what differs beyond them is a tie


def rows_to_merge(k: int) -> int:
    """Return how many rows of a sample decide on the merges of k components.

    10,000, with which an overlap is known to some thousandths of a nat and 30 components take a
    fifth of a second at most; fewer from 51 components on, but not below 2,000.
    """
    return min(10_000, max(2_000, 25_000_000 // k**2))


@dataclass(frozen=True)
class MergeTree:
    """The merges that make one cluster of k components, step by step.

    Attributes
    ----------
    rows
        Number of rows, m, whose responsibilities decided.
    merges
        The k − 1 merges in their order, as pairs (a, b), a < b: cluster b joins cluster a. A
        cluster has the number of its first component.
    entropies
        Entropy of the assignment to k, k − 1, …, 1 clusters, nats per row (with sample weights:
        per unit of weight), (k,). The last is 0.
    shares
        Share of the weight in the cluster that each merge makes, (k − 1,).
    n_clusters
        The suggested number of clusters.
    """

    rows: int
    merges: tuple[tuple[int, int], ...]
    entropies: tuple[float, ...]
    shares: tuple[float, ...]
    n_clusters: int

    @property
    def n_components(self) -> int:
        """The number of components, k."""
        return len(self.entropies)

    @property
    def overlaps(self) -> FloatArray:
        """Overlap of the two clusters of each merge, nats, from 0 to log 2, (k − 1,)."""
        return overlaps_of(self.entropies, self.shares)

    def cut(self, n_clusters: int | None = None) -> IndexArray:
        """Return the cluster of each component, 0 … n_clusters − 1 by their first ones, (k,).

        Parameters
        ----------
        n_clusters
            From 1 to k; None: the suggested number.

        Raises
        ------
        ConfigError
            There are fewer components than clusters, or no cluster at all is asked for.
        """
        k = self.n_components
        n = self.n_clusters if n_clusters is None else n_clusters
        if not 1 <= n <= k:
            raise ConfigError(
                f"{n} clusters cannot be made of {k} component{'s' if k > 1 else ''}; "
                f"ask for {'1 to ' if k > 1 else ''}{k}"
            )
        firsts = np.arange(k)
        for a, b in self.merges[: k - n]:
            firsts[firsts == b] = a
        return np.unique(firsts, return_inverse=True)[1]


def merge_components(
    responsibilities: FloatArray, sample_weight: FloatArray | None = None
) -> MergeTree:
    """Merge components two by two until one cluster is left (Baudry and others, 2010).

    Each step joins the two clusters whose union takes most from the entropy. Of equal ones, to 12
    digits, the first are joined. Time grows with the number of responsibilities above 0, times k.

    Parameters
    ----------
    responsibilities
        (m, k), each row sums to 1. Those below 2e-16 count as 0, and 0 log 0 is 0.
    sample_weight
        (m,), ≥ 0; None: all alike. Where all are 0, they are taken as alike.
    """
    m, k = responsibilities.shape
    shares = np.where(responsibilities < _NEGLIGIBLE, 0.0, responsibilities).T.copy()  # (k, m)
    weights = np.full(m, 1.0 / m)
    if sample_weight is not None and sample_weight.any():
        weights = sample_weight / sample_weight.sum()
    terms = weights * _entropy_terms(shares)  # (k, m)
    gains = np.full((k, k), -np.inf)  # a < b: what joining b to a takes from the entropy
    for a in range(k - 1):
        gains[a, a + 1 :] = _gains(a, np.arange(a + 1, k), shares, terms, weights)
    live = np.arange(k)
    merges, entropies, joined = [], [float(terms.sum())], []
    while len(live) > 1:
        a, b = divmod(int(np.round(gains, _DIGITS).argmax()), k)
        shares[a] += shares[b]
        terms[a] = weights * _entropy_terms(shares[a])
        gains[b], gains[:, b] = -np.inf, -np.inf
        live = live[live != b]
        others = live[live != a]
        row, column = np.minimum(a, others), np.maximum(a, others)
        gains[row, column] = _gains(a, others, shares, terms, weights)
        merges.append((a, b))
        joined.append(float((weights * shares[a]).sum()))
        entropies.append(float(terms[live].sum()))
    # One cluster has every row: what is left there is rounding.
    entropies = [*(max(entropy, 0.0) for entropy in entropies[:-1]), 0.0]
    overlaps = overlaps_of(entropies, joined)
    return MergeTree(
        m, tuple(merges), tuple(entropies), tuple(joined), _suggest_n_clusters(overlaps)
    )


def merge_on_sample(parameters: MixtureParameters, sample: Sample) -> MergeTree:
    """Merge the components of a mixture by the rows of a sample, at most `rows_to_merge`(k)."""
    chosen = sample.head(rows_to_merge(parameters.n_components), seeded(0))
    responsibilities = assign(parameters, chosen.X, responsibilities=True).responsibilities
    assert responsibilities is not None
    return merge_components(responsibilities, chosen.sample_weight)


def overlaps_of(entropies: Sequence[float], shares: Sequence[float]) -> FloatArray:
    """Return the overlap of each merge, nats, (k − 1,); arguments as the fields of `MergeTree`."""
    falls, weights = np.maximum(-np.diff(entropies), 0.0), np.asarray(shares)
    return np.divide(falls, weights, out=np.zeros_like(falls), where=weights > 0.0)


def assign_clusters(responsibilities: FloatArray, clusters: npt.ArrayLike) -> IndexArray:
    """Return the cluster to which each row most probably belongs, (n,).

    It need not be the cluster of the row's most probable component: two components of another
    cluster may together be more probable.

    Parameters
    ----------
    responsibilities
        (n, k).
    clusters
        Number of the cluster of each component, (k,): what is returned. Of equally probable
        clusters the lowest number is. For a row without responsibilities (NaN) −1 is.
    """
    numbers, places = np.unique(np.asarray(clusters), return_inverse=True)
    shares = np.zeros((len(responsibilities), len(numbers)))
    for component, place in enumerate(places):
        shares[:, place] += responsibilities[:, component]
    assigned = np.asarray(numbers[shares.argmax(axis=1)])
    return np.where(np.isnan(shares[:, 0]), -1, assigned)


def _entropy_terms(shares: FloatArray) -> FloatArray:
    """Return −t log t of each share t, 0 for 0."""
    # In place, and without a mask, with which logarithms take six times as long.
    terms = np.maximum(shares, np.finfo(np.float64).tiny)
    np.log(terms, out=terms)
    terms *= shares
    return np.negative(terms, out=terms)


def _gains(
    a: int, others: IndexArray, shares: FloatArray, terms: FloatArray, weights: FloatArray
) -> FloatArray:
    """Return what joining each of the others to cluster a takes from the entropy, (others,)."""
    # Where a row does not belong to a at all, joining changes nothing.
    rows = np.flatnonzero(shares[a])
    apart = terms[np.ix_(others, rows)] + terms[a, rows]
    joined = weights[rows] * _entropy_terms(shares[np.ix_(others, rows)] + shares[a, rows])
    return np.asarray((apart - joined).sum(axis=1))


def _suggest_n_clusters(overlaps: FloatArray) -> int:
    """Return the number of clusters that are left before the overlap falls most."""
    within = np.clip(overlaps, LEAST_OVERLAP, ONE_HUMP)
    levels = np.concatenate([[ONE_HUMP], within, [APART]])
    ratios = np.round(levels[:-1] / levels[1:], _DIGITS)
    return len(overlaps) + 1 - int(ratios.argmax())
