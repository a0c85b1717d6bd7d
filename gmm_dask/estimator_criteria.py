"""Criteria of `GaussianMixture`, by which models of the same rows are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gmm_dask.chunked.array import sum_array
from gmm_dask.input_checks import columns_of, lazy_array, unit_of
from gmm_dask.mixture.assignment import sum_assignment
from gmm_dask.mixture.criteria import aic, bic, icl

if TYPE_CHECKING:
    from gmm_dask.mixture.assignment import Assignment
    from gmm_dask.mixture.parameters import MixtureParameters
    from gmm_dask.mixture.transforms import Transforms
    from gmm_dask.nulls import NullPolicy


class CriteriaMixin:
    """Criteria of a fitted mixture on given rows."""

    if TYPE_CHECKING:  # what it needs of the estimator

        def _parameters(self) -> MixtureParameters: ...
        def _fitted_transforms(self) -> Transforms | None: ...
        def _assign(self, X: Any, **wanted: Any) -> Assignment: ...
        @property
        def _nulls(self) -> NullPolicy: ...

    def aic(self, X: Any) -> float:
        """Akaike's criterion on X; lower is better. One scan."""
        return aic(self._parameters(), self._sums(X)[0])

    def bic(self, X: Any) -> float:
        """Schwarz's criterion on X; lower is better. One scan."""
        return bic(self._parameters(), *self._sums(X)[:2])

    def icl(self, X: Any) -> float:
        """Integrated completed likelihood on X; lower is better. One scan.

        It is BIC plus twice −Σ log r of the most probable component of each row, so that it
        prefers components that are apart. R's mclust calls −1 times this ICL.
        """
        return icl(self._parameters(), *self._sums(X))

    def _sums(self, X: Any) -> tuple[float, float, float]:
        """Sum over rows: log p(x) in nats, 1, and −log r of the most probable component."""
        parameters = self._parameters()
        array = lazy_array(self, X, reset=False)
        if array is not None:
            rules = self._nulls, self._fitted_transforms()
            return sum_array(array, parameters, columns_of(self), unit_of(X), *rules)
        return sum_assignment(self._assign(X, certainties=True))
