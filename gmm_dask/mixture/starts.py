"""Where the search begins: a sample of the rows, and first parameters of several kinds on it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.criteria import deviations
from gmm_dask.mixture.initialization import (
    initial_parameters,
    kmeans_labels,
    labelled_start,
    nearest_seed_labels,
    seeded,
    wide_start,
)
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import MixtureSpec


class StartKind(StrEnum):
    """How a start of the search is made."""

    METHOD = "by the method asked for"
    KMEANS = "k-means on standardised features"
    SEEDS = "nearest of the seeds of k-means++"
    WIDE = "random rows with wide covariances"


#: Kinds of starts that take turns where the caller asks for k-means.
TURNS = (StartKind.KMEANS, StartKind.SEEDS, StartKind.WIDE)


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows in memory to search on.

    Attributes
    ----------
    X
        (m, d) float32 or float64, best feature-major.
    sample_weight
        (m,) or None.
    """

    X: RowsArray
    sample_weight: FloatArray | None

    def head(self, rows: int, random_state: np.random.RandomState) -> Sample:
        """Draw ``rows`` of them at random, or all if there are no more."""
        m = self.X.shape[0]
        if rows >= m:
            return self
        chosen = np.sort(random_state.choice(m, size=rows, replace=False))
        X = np.ascontiguousarray(self.X.T[:, chosen]).T  # (rows, d), feature-major
        return Sample(X, None if self.sample_weight is None else self.sample_weight[chosen])


@dataclass(frozen=True, eq=False)
class Starts:
    """First parameters by number, on the rows of the first round."""

    rows: Sample
    variances: FloatArray
    spec: MixtureSpec
    random_state: int

    @property
    def multiplications(self) -> int:
        """Of one start by k-means, which takes about twenty iterations."""
        return 20 * self.spec.n_components * self.rows.X.size

    def kinds(self, starts: int) -> list[StartKind]:
        """Kinds of so many starts: they take turns, unless another method than k-means is asked."""
        if self.spec.start.init_params != "kmeans":
            return [StartKind.METHOD] * starts
        return [TURNS[number % len(TURNS)] for number in range(starts)]

    def own(self, rows: Sample, number: int = 0) -> MixtureParameters:
        """As scikit-learn starts on these rows."""
        random_state = seeded((self.random_state + number) % 2**32)
        return initial_parameters(rows.X, rows.sample_weight, self.spec, random_state)

    def make(self, number: int, kind: StartKind) -> MixtureParameters:
        """Make start ``number``; the first is as scikit-learn makes it, whatever its kind."""
        if number == 0 or kind is StartKind.METHOD:
            return self.own(self.rows, number)
        X, weight, k = self.rows.X, self.rows.sample_weight, self.spec.n_components
        random_state = seeded((self.random_state + number) % 2**32)
        if kind is StartKind.WIDE:
            return wide_start(X, self.spec, random_state)
        label = kmeans_labels if kind is StartKind.KMEANS else nearest_seed_labels
        labels = label(_standardised(self.rows, self.variances), weight, k, random_state)
        return labelled_start(X, labels, weight, self.spec)


def _standardised(sample: Sample, variances: FloatArray) -> RowsArray:
    """Rows with unit variances: only k-means, which has no covariances, needs them."""
    return (sample.X - sample.X.mean(axis=0, dtype=np.float64)) / deviations(variances)  # (m, d)
