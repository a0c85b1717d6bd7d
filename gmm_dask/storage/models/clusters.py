"""The merge tree of a model as it is stored: in the manifest, by permanent component ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmm_dask.arrays import FloatArray, IndexArray
from gmm_dask.errors import ModelError
from gmm_dask.mixture.merging import MergeTree, overlaps_of

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """The merge tree of a model: ``clusters`` in the manifest.

    The id of a cluster is the smallest id of its components. So it is the same in every version
    in which that component lives and stays the oldest of its cluster.

    Attributes
    ----------
    rows
        Number of rows of the sample that decided.
    merges
        Pairs of ids (a, b), a < b, in the order of the merges: cluster b joins cluster a.
    entropies
        Entropy of the assignment to k, k − 1, …, 1 clusters, nats per row.
    shares
        Share of the weight in the cluster that each merge makes.
    n_clusters
        The suggested number of clusters.
    cluster_ids
        Id of the cluster of each component where there are ``n_clusters``, in the order of the
        components, (k,).
    """

    rows: int
    merges: Pairs
    entropies: tuple[float, ...]
    shares: tuple[float, ...]
    n_clusters: int
    cluster_ids: tuple[int, ...]

    @property
    def overlaps(self) -> FloatArray:
        """Overlap of the two clusters of each merge, nats, from 0 to log 2, (k − 1,)."""
        return overlaps_of(self.entropies, self.shares)

    @classmethod
    def of(cls, tree: MergeTree, component_ids: Sequence[int]) -> Clusters:
        """Write down a merge tree by the ids of its components, (k,)."""
        return cls(
            rows=tree.rows,
            merges=_rename(tree.merges, component_ids),
            entropies=tree.entropies,
            shares=tree.shares,
            n_clusters=tree.n_clusters,
            cluster_ids=name_clusters(tree.cut(), component_ids),
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Clusters:
        """Read the clusters back; raises as `Manifest.from_json` does."""
        return cls(
            rows=int(content["rows"]),
            merges=tuple((int(a), int(b)) for a, b in content["merges"]),
            entropies=tuple(map(float, content["entropies"])),
            shares=tuple(map(float, content["shares"])),
            n_clusters=int(content["n_clusters"]),
            cluster_ids=tuple(map(int, content["cluster_ids"])),
        )

    def tree(self, component_ids: Sequence[int]) -> MergeTree:
        """Return the merge tree of the components with these ids, (k,).

        Raises
        ------
        ModelError
            It is not the tree of these components.
        """
        k = len(component_ids)
        place = {identity: component for component, identity in enumerate(component_ids)}
        # Each cluster but that of the smallest id joins another once.
        whole = sorted(b for _, b in self.merges) == sorted(component_ids)[1:]
        known = all(a in place and a < b for a, b in self.merges)
        counts = (len(self.entropies), len(self.shares) + 1)
        if whole and known and counts == (k, k) and 1 <= self.n_clusters <= k:
            merges = _rename([(place[a], place[b]) for a, b in self.merges], range(k))
            tree = MergeTree(self.rows, merges, self.entropies, self.shares, self.n_clusters)
            if self.cluster_ids == name_clusters(tree.cut(), component_ids):
                return tree
        raise ModelError(
            f"clusters is not the merge tree of components {list(component_ids)}; "
            "restore the model from a backup, or use another version"
        )


def name_clusters(cut: IndexArray, component_ids: Sequence[int]) -> tuple[int, ...]:
    """Return the id of each component's cluster, (k,): the smallest id in it.

    Parameters
    ----------
    cut
        Number of each component's cluster, (k,).
    """
    labels = cut.tolist()
    names = {
        label: min(
            identity for identity, of in zip(component_ids, labels, strict=True) if of == label
        )
        for label in labels
    }
    return tuple(names[label] for label in labels)


def _rename(merges: Iterable[tuple[int, int]], names: Sequence[int]) -> Pairs:
    """Name merged clusters by the smallest names of their components.

    Parameters
    ----------
    merges
        Pairs of components, each standing for its cluster.
    names
        A name for each component, (k,).
    """
    cluster_of = [{component} for component in range(len(names))]
    renamed = []
    for first, second in merges:
        a, b = (min(names[component] for component in cluster_of[i]) for i in (first, second))
        renamed.append((min(a, b), max(a, b)))
        union = cluster_of[first] | cluster_of[second]
        for component in union:
            cluster_of[component] = union
    return tuple(renamed)
