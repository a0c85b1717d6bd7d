"""Methods of `GaussianMixture` that make clusters of its components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import dask.array as da
import numpy as np
from sklearn.utils.validation import check_is_fitted

from gmm_dask.chunked.survey import survey_source
from gmm_dask.mixture.merging import (
    MergeTree,
    assign_clusters,
    merge_on_sample,
    rows_to_merge,
)
from gmm_dask.nulls import NullPolicy

if TYPE_CHECKING:
    from gmm_dask.arrays import IndexArray
    from gmm_dask.chunked.scan import Scanner
    from gmm_dask.mixture.parameters import MixtureParameters

SEED = 0  # of the rows drawn: the same rows, the same tree


class ClustersMixin:
    """Clusters of a fitted mixture: which components make one, and which rows belong to it."""

    merge_tree_: MergeTree
    nulls: str

    if TYPE_CHECKING:  # what it needs of the estimator

        def _parameters(self) -> MixtureParameters: ...
        def _scanner(
            self, X: Any, sample_weight: Any, client: Any = None, *, reset: bool = True
        ) -> Scanner: ...
        def predict_proba(self, X: Any) -> Any:
            """Responsibilities, (n, k)."""

    def merge_components(self, X: Any, sample_weight: Any = None) -> Self:
        """Find which components make one cluster, and set ``merge_tree_``.

        A Gaussian is not a cluster: several may together describe one that is curved or skewed.
        They are joined two by two, always the two that are hardest to tell apart in sum (Baudry
        and others, 2010). At most 10,000 rows decide, a uniform sample of X, for which X is
        scanned once.

        Parameters
        ----------
        X
            (n, d), whatever `fit` takes: usually the rows of the fit.
        sample_weight
            (n,), ≥ 0; a row of weight 2 counts as two rows.

        Returns
        -------
        GaussianMixture
            This estimator. Its ``merge_tree_`` has ``n_clusters``, the suggested number of
            clusters, ``merges``, ``entropies`` and ``overlaps``, and ``cut(n_clusters)``, the
            cluster of each component.

        Raises
        ------
        NotFittedError
            There is no mixture yet.
        NonFiniteError, ValueError
            X holds infinity, or NaN that ``nulls`` refuses, or other features than those of the
            fit.

        Examples
        --------
        >>> import numpy as np
        >>> from gmm_dask import GaussianMixture
        >>> random = np.random.default_rng(0)
        >>> angle = random.uniform(0, np.pi, 2000)
        >>> arch = 5 * np.column_stack([np.cos(angle), np.sin(angle)])
        >>> X = np.vstack([arch, arch + [0, 20]]) + random.normal(scale=0.5, size=(4000, 2))
        >>> gm = GaussianMixture(8, random_state=0).fit(X).merge_components(X)
        >>> gm.merge_tree_.n_clusters
        2
        >>> gm.predict_clusters([[-5.0, 0.0], [0.0, 5.0], [0.0, 25.0]])
        array([0, 0, 1])
        """
        parameters = self._parameters()
        rows = rows_to_merge(parameters.n_components)
        with self._scanner(X, sample_weight, reset=False) as scanner:
            sample = survey_source(scanner, rows, SEED, NullPolicy(self.nulls)).sample
        self.merge_tree_ = merge_on_sample(parameters, sample)
        return self

    def predict_clusters(self, X: Any, n_clusters: int | None = None) -> Any:
        """Number of the cluster to which each row most probably belongs, (n,) int64.

        That is the cluster with the highest sum of responsibilities; near a border it need not be
        that of the row's most probable component, which `predict` returns. Clusters are numbered
        from 0 in the order of their first components. For dask arrays and frames the result is
        lazy.

        Parameters
        ----------
        X
            (n, d), whatever `predict` takes.
        n_clusters
            From 1 to k; None: the number that ``merge_tree_`` suggests.

        Raises
        ------
        NotFittedError
            `merge_components` was not called since the fit.
        ConfigError
            Fewer components than clusters.
        """
        cut = self._cut(n_clusters)
        responsibilities = self.predict_proba(X)
        if isinstance(responsibilities, da.Array):
            return responsibilities.map_blocks(assign_clusters, cut, dtype=np.int64, drop_axis=1)
        return assign_clusters(responsibilities, cut)

    def _cut(self, n_clusters: int | None) -> IndexArray:
        """Return the cluster of each component, (k,); raises as `predict_clusters` does."""
        check_is_fitted(
            self,
            "merge_tree_",
            msg="This %(name)s has no clusters yet. Call 'merge_components' after 'fit', with the "
            "same rows.",
        )
        return self.merge_tree_.cut(n_clusters)
