"""The starts of a search: a sample of rows, and first parameters of several kinds from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.criteria import deviations
from gmm_dask.mixture.imputation import Filled, fit_pooled, observed_moments
from gmm_dask.mixture.initialization import (
    initial_parameters,
    kmeans_labels,
    labelled_start,
    nearest_seed_labels,
    seeded,
    wide_start,
)
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import has_holes
from gmm_dask.mixture.spec import MixtureSpec


class StartKind(StrEnum):
    """How a start of the search is made."""

    METHOD = "by the method asked for"
    KMEANS = "k-means on standardised features"
    SEEDS = "nearest of the seeds of k-means++"
    WIDE = "random rows with wide covariances"
    NEIGHBOUR = "a mixture of another cell of the selection, changed"


#: The kinds that take turns where the caller asks for k-means.
TURNS = (StartKind.KMEANS, StartKind.SEEDS, StartKind.WIDE)


@dataclass(frozen=True, eq=False)
class Sample:
    """The rows in memory on which a search runs.

    Attributes
    ----------
    X
        (m, d) float32 or float64, preferably feature-major; finite but for holes.
    sample_weight
        (m,) or None.
    """

    X: RowsArray
    sample_weight: FloatArray | None

    @cached_property
    def incomplete(self) -> bool:
        """Whether a row has a hole; one pass, once."""
        return has_holes(self.X)

    @cached_property
    def variances(self) -> FloatArray:
        """Of what each feature has, (d,)."""
        if self.incomplete:
            return observed_moments(self.X)[1]
        return np.asarray(self.X.var(axis=0, dtype=np.float64))

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
        """Draw that many rows at random; return the sample itself if it has no more."""
        m = self.X.shape[0]
        if rows >= m:
            return self
        chosen = np.sort(random_state.choice(m, size=rows, replace=False))
        X = np.ascontiguousarray(self.X.T[:, chosen]).T  # (rows, d), feature-major
        return Sample(X, None if self.sample_weight is None else self.sample_weight[chosen])


@dataclass(frozen=True, eq=False)
class Starts:
    """The maker of first parameters, each seeded by its number.

    Attributes
    ----------
    rows
        The rows of the first round.
    variances
        Of the features, (d,).
    spec
        The mixture wanted.
    random_state
        The seed of start 0; start i has seed ``random_state + i``.
    """

    rows: Sample
    variances: FloatArray
    spec: MixtureSpec
    random_state: int

    @property
    def multiplications(self) -> int:
        """The multiplications of a start by k-means, which takes about twenty iterations."""
        return 20 * self.spec.n_components * self.rows.X.size

    def kinds(self, starts: int) -> list[StartKind]:
        """Return the kinds of that many starts.

        They take turns if the caller asks for k-means; else all are of the method asked for.
        """
        if self.spec.start.init_params != "kmeans":
            return [StartKind.METHOD] * starts
        return [TURNS[number % len(TURNS)] for number in range(starts)]

    def make_by_method(self, rows: Sample, number: int = 0) -> MixtureParameters:
        """Make a start from these rows as scikit-learn would, by the method asked for."""
        filled = self._filled if rows is self.rows else rows.filled(self.spec)
        random_state = seeded((self.random_state + number) % 2**32)
        return initial_parameters(rows.X, rows.sample_weight, self.spec, random_state, filled)

    @cached_property
    def _filled(self) -> Filled | None:
        return self.rows.filled(self.spec)

    def make(self, number: int, kind: StartKind) -> MixtureParameters:
        """Make a start; number 0 is made as by scikit-learn, whatever its kind."""
        if number == 0 or kind is StartKind.METHOD:
            return self.make_by_method(self.rows, number)
        X, weight, k = self.rows.X, self.rows.sample_weight, self.spec.n_components
        filled = self._filled
        random_state = seeded((self.random_state + number) % 2**32)
        if kind is StartKind.WIDE:
            return wide_start(X, self.spec, random_state, filled)
        label = kmeans_labels if kind is StartKind.KMEANS else nearest_seed_labels
        values = _standardise(X if filled is None else filled.values, self.variances)
        labels = label(values, weight, k, random_state)
        return labelled_start(X, labels, weight, self.spec, filled)


def _standardise(X: RowsArray, variances: FloatArray) -> RowsArray:
    """Return rows with unit variances, which only k-means needs, as it has no covariances."""
    return (X - X.mean(axis=0, dtype=np.float64)) / deviations(variances)  # (m, d)
