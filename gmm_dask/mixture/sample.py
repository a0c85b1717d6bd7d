"""The rows in memory on which a search runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gmm_dask.arrays import FloatArray, IndexArray, RowsArray
from gmm_dask.mixture.clustering import MANY_FEATURES
from gmm_dask.mixture.imputation import Filled, fit_pooled, observed_moments
from gmm_dask.mixture.labels import UNLABELLED, Labelling, group_rows_by_label
from gmm_dask.mixture.patterns import has_holes
from gmm_dask.mixture.spec import MixtureSpec
from gmm_dask.mixture.transforms import Transforms

#: In float32, numbers keep 24 bits. Of a value up to this many standard deviations of its feature
#: from 0, steps are then 1e-4 of one or less, and so they are in narrow components too.
NEAR = 1_024.0
#: Standard deviations lie between 1 over this and this.
_MOST_SCALE = 1e12
#: Rows of each label that are among those drawn from a sample.
KEPT_OF_LABEL = 64


@dataclass(frozen=True, eq=False)
class Sample:
    """The rows in memory on which a search runs.

    Attributes
    ----------
    X
        (m, d) float32 or float64, preferably feature-major; finite but for holes.
    sample_weight
        (m,) or None.
    labelling
        Labels of the rows and what they own, in a fit with labels; else None.
    """

    X: RowsArray
    sample_weight: FloatArray | None
    labelling: Labelling | None = None

    @cached_property
    def incomplete(self) -> bool:
        """Whether a row has a hole; one pass, once."""
        return has_holes(self.X)

    @cached_property
    def variances(self) -> FloatArray:
        """Of what each feature has, (d,)."""
        if self.incomplete:
            return observed_moments(self.X)[1]
        d = self.X.shape[1]
        step = d if d < MANY_FEATURES else 4  # of so few features, what is computed stays in cache
        parts = [self.X[:, j : j + step].var(axis=0, dtype=np.float64) for j in range(0, d, step)]
        return np.concatenate(parts)

    def filled(self, spec: MixtureSpec) -> Filled | None:
        """Fill the holes by a Gaussian that is fitted to the rows; None where there are none.

        Raises
        ------
        NumericalError
            The Gaussian is singular.
        """
        if not self.incomplete:
            return None
        return Filled.of(self.X, fit_pooled(self.X, self.sample_weight, spec))

    def head(self, rows: int, random_state: np.random.RandomState) -> Sample:
        """Draw that many rows at random; return the sample itself if it has no more.

        In a fit with labels a few rows of each label are drawn in any case.
        """
        m = self.X.shape[0]
        return self if rows >= m else self.take_first(rows, random_state.permutation(m))

    def take_first(self, rows: int, order: IndexArray) -> Sample:
        """Return the rows that come first in an order, as `head` does."""
        among = np.zeros(len(order), np.bool_)
        among[order[:rows]] = True
        chosen = np.flatnonzero(among)  # in order, in less time than a sort
        if self.labelling is not None:
            groups = group_rows_by_label(self.labelling.codes)
            kept = [of_label[:KEPT_OF_LABEL] for code, of_label in groups if code != UNLABELLED]
            chosen = np.unique(np.concatenate([chosen, *kept]))
        return self.take(chosen)

    def in_singles(self) -> Sample:
        """Return the rows in float32, or as they are where that would cost digits that matter.

        Passes over float32 rows take about half of the time (`gmm_dask.mixture.engine`).
        """
        scale = np.sqrt(self.variances)  # (d,)
        magnitude = np.maximum(self.X.max(axis=0), -self.X.min(axis=0))  # (d,), NaN with holes
        keeps = (magnitude <= NEAR * scale) & (scale > 1 / _MOST_SCALE) & (scale < _MOST_SCALE)
        if self.X.dtype == np.float32 or not keeps.all():
            return self
        return Sample(self.X.astype(np.float32), self.sample_weight, self.labelling)

    def in_doubles(self) -> Sample:
        """Return the rows in float64, in which passes over them then compute."""
        if self.X.dtype == np.float64:
            return self
        return replace(self, X=self.X.astype(np.float64))

    def take(self, chosen: IndexArray) -> Sample:
        """Return some of the rows, feature-major."""
        X = np.ascontiguousarray(self.X.T[:, chosen]).T  # (rows, d), feature-major
        weight = None if self.sample_weight is None else self.sample_weight[chosen]
        return Sample(X, weight, self.labelling and self.labelling.take(chosen))


def sample_slope(sample: Sample, transforms: Transforms | None) -> float:
    """Return the mean of log dy/dx over a sample, nats: what its log-likelihood lacks in y."""
    if transforms is None:
        return 0.0
    return float(np.average(transforms.log_slopes(sample.X), weights=sample.sample_weight))
