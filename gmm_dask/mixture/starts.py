"""The starts of a search: first parameters of several kinds from a sample of rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice
from threading import Lock
from typing import Any

import numpy as np

from gmm_dask.arrays import FloatArray, LabelsArray, RowsArray
from gmm_dask.mixture.clustering import MANY_FEATURES, label_rows
from gmm_dask.mixture.criteria import deviations
from gmm_dask.mixture.imputation import Filled
from gmm_dask.mixture.initialization import (
    SEARCH_INITIALIZATIONS,
    initial_parameters,
    labelled_start,
    pooled_gaussian,
    scale_weights,
    seeded,
    wide_start,
)
from gmm_dask.mixture.owned_starts import owned_start
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.spec import MixtureSpec


class StartKind(StrEnum):
    """How a start of the search is made."""

    METHOD = "by the method asked for"
    KMEANS = "k-means on standardised features"
    SEEDS = "nearest of the seeds of k-means++"
    WIDE = "random rows with wide covariances"
    OWNED = "rows of the labels, and the others by the nearest of their centres"
    OWNED_WIDE = "centres of the labels with wide covariances"
    SCOUTED = "the clusters of a search on principal components"
    NEIGHBOUR = "a mixture of another cell of the selection, changed"


#: So many components are many to a search. Then a single start is wide: in five sets of 32 to 128
#: components none ended near the best (benchmarks/RESULTS.md).
MANY = 32
#: Iterations of k-means at the most: EM goes on from where it is by then.
KMEANS_ITERATIONS = 10
#: Iterations of scikit-learn's k-means at the most, and its tolerance.
SCIKIT_LEARN_KMEANS = 300, 1e-4

#: The kinds that take turns where the caller asks for k-means.
TURNS = (StartKind.KMEANS, StartKind.SEEDS, StartKind.WIDE)
#: Those of a fit with labels.
OWNED_TURNS = (StartKind.OWNED, StartKind.OWNED_WIDE)


class SharedSample:
    """A sample, and what every search on it needs alike, computed by the first that asks.

    In a selection, the searches of all cells share the rows that are drawn from the sample, and
    those of one number of components the labels of starts, which no covariance type changes.

    Parameters
    ----------
    sample
        Rows of weight above 0.
    random_state
        Seed of everything that is drawn.
    """

    def __init__(self, sample: Sample, random_state: int) -> None:
        self.sample = sample
        self.random_state = random_state
        self._lock = Lock()
        self._values: dict[Hashable, Future[Any]] = {}
        self._asked: set[Hashable] = set()

    @property
    def variances(self) -> FloatArray:
        """Variances of the features, (d,)."""
        variances: FloatArray = self._once("variances", lambda: self.sample.variances)
        return variances

    def head(self, rows: int) -> Sample:
        """Draw that many rows, the same each time; return the sample itself if it has no more.

        Fewer rows are among more rows.
        """
        m = len(self.sample.X)
        if rows >= m:
            return self.sample

        def draw() -> Sample:
            order = self._once("order", lambda: seeded(self.random_state).permutation(m))
            return self.sample.take_first(rows, order)

        head: Sample = self._once(rows, draw)
        return head

    def draft(self, rows: int) -> Sample:
        """Return the rows of `head` for what need not be exact (`Sample.in_singles`)."""
        draft: Sample = self._once(("draft", rows), self.head(rows).in_singles)
        return draft

    def filled(self, rows: int, spec: MixtureSpec) -> Filled | None:
        """Fill the holes of the rows of `head`; None where there are none.

        Of the specification it depends on ``reg_covar`` alone, which all cells share.

        Raises
        ------
        NumericalError
            As `Sample.filled` does.
        """
        filled: Filled | None = self._once(("filled", rows), lambda: self.head(rows).filled(spec))
        return filled

    def standardised(self, rows: int, spec: MixtureSpec) -> RowsArray:
        """Return the rows of `head`, their holes filled, with unit variances, (rows, d).

        Only k-means needs them, as it has no covariances.
        """

        def compute() -> RowsArray:
            filled = self.filled(rows, spec)
            X = self.head(rows).X if filled is None else filled.values
            standardised = (X - X.mean(axis=0, dtype=np.float64)) / deviations(self.variances)
            if X.shape[1] < MANY_FEATURES:
                return standardised
            return np.ascontiguousarray(standardised, np.float32)  # enough for labels

        X: RowsArray = self._once(("standardised", rows), compute)
        return X

    def pooled(self, rows: int, spec: MixtureSpec) -> MixtureParameters:
        """Return the Gaussian of the rows of `head`, in the form of a covariance type.

        Of the specification it depends on ``reg_covar`` too, which all cells share.
        """
        key = ("pooled", rows, spec.covariance_type)
        pooled: MixtureParameters = self._once(
            key, lambda: pooled_gaussian(self.head(rows).X, spec, self.filled(rows, spec))
        )
        return pooled

    def labels(
        self, rows: int, k: int, number: int, make: Callable[[], LabelsArray]
    ) -> LabelsArray:
        """Return labels of the rows of `head` for k components, made by the first that asks."""
        labels: LabelsArray = self._once((rows, k, number), make)
        return labels

    def forget_unused(self) -> None:
        """Free what nobody has asked for since the last call."""
        with self._lock:
            self._values = {key: self._values[key] for key in self._asked}
            self._asked = set()

    def _once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        with self._lock:
            self._asked.add(key)
            future = self._values.get(key)
            first = future is None
            if future is None:
                future = self._values[key] = Future()
        if first:
            try:
                future.set_result(compute())
            except BaseException as error:
                future.set_exception(error)
        return future.result()


@dataclass(frozen=True, eq=False)
class Starts:
    """The maker of first parameters, each seeded by its number.

    Attributes
    ----------
    shared
        The sample, whose seed is that of start 0; start i has its seed + i.
    rows
        How many rows of it are used: those of the first round.
    spec
        The mixture wanted.
    """

    shared: SharedSample
    rows: int
    spec: MixtureSpec

    @property
    def multiplications(self) -> int:
        """The multiplications of a pass that take as long as a start by k-means."""
        return 4 * KMEANS_ITERATIONS * self.spec.n_components * self.shared.head(self.rows).X.size

    def kinds(self, starts: int) -> list[StartKind]:
        """Return the kinds of that many starts.

        They take turns if the caller asks for k-means; else all are of the method asked for. Those
        of a fit with labels are of kinds of their own.
        """
        if self.shared.sample.labelling is not None:
            return [OWNED_TURNS[number % len(OWNED_TURNS)] for number in range(starts)]
        if self.spec.start.init_params != "kmeans":
            return [StartKind.METHOD] * starts
        if self.spec.n_components >= MANY:
            others = islice(cycle((StartKind.KMEANS, StartKind.SEEDS)), starts)
            return [*TURNS, *others][:starts]
        return [TURNS[number % len(TURNS)] for number in range(starts)]

    def make_by_method(self, rows: Sample, number: int = 0) -> MixtureParameters:
        """Make a start from these rows as scikit-learn would, by the method asked for."""
        if self.labels_by_method:
            labels = self.label_by_method(rows, number)
            return labelled_start(rows.X, labels, rows.sample_weight, self.spec)
        filled = self._filled if rows is self.shared.head(self.rows) else rows.filled(self.spec)
        random_state = self._seeded(number)
        return initial_parameters(
            rows.X, rows.sample_weight, self.spec, random_state, filled, SEARCH_INITIALIZATIONS
        )

    @property
    def labels_by_method(self) -> bool:
        """Whether starts by the method asked for come from labels, in half of the time."""
        sample = self.shared.sample
        by_kmeans = self.spec.start.init_params == "kmeans"
        return by_kmeans and sample.X.shape[1] >= MANY_FEATURES and not sample.incomplete

    def label_by_method(self, rows: Sample, number: int = 0) -> LabelsArray:
        """Label complete rows by the seeds of scikit-learn's k-means, and its iterations.

        Where covariances are matrices, k-means goes on until it rests, as there: all of it costs
        less than an iteration of EM, which would not get to these clusters from others.
        """
        weight, k = scale_weights(rows.sample_weight), self.spec.n_components
        extent: tuple[int, float | None] = KMEANS_ITERATIONS, None
        if self.spec.covariance_type in ("full", "tied"):
            extent = SCIKIT_LEARN_KMEANS
        return label_rows(rows.X, weight, k, self._seeded(number), *extent)

    def make(self, number: int, kind: StartKind) -> MixtureParameters:
        """Make a start; number 0 is made as by scikit-learn, whatever its kind."""
        rows = self.shared.head(self.rows)
        if rows.labelling is not None:
            return owned_start(
                rows.X,
                rows.sample_weight,
                rows.labelling,
                self.shared.standardised(self.rows, self.spec),
                self.spec,
                self._seeded(number),
                self._filled,
                wide=kind is StartKind.OWNED_WIDE,
            )
        if kind is StartKind.METHOD:
            return self.make_by_method(rows, number)
        if kind is StartKind.WIDE:
            pooled = self.shared.pooled(self.rows, self.spec)
            return wide_start(rows.X, self.spec, self._seeded(number), self._filled, pooled)
        labels, weight = self.labels(number, kind), rows.sample_weight
        return labelled_start(rows.X, labels, weight, self.spec, self._filled)

    def labels(self, number: int, kind: StartKind) -> LabelsArray:
        """Label the rows for a start by k-means or its seeds; all covariance types share them."""
        k = self.spec.n_components

        def make() -> LabelsArray:
            rows, random_state = self.shared.head(self.rows), self._seeded(number)
            if number > 0:
                X = self.shared.standardised(self.rows, self.spec)
            else:
                X = self._draft_values(rows)
            iterations = KMEANS_ITERATIONS if kind is StartKind.KMEANS else 0
            return label_rows(X, rows.sample_weight, k, random_state, iterations)

        return self.shared.labels(self.rows, k, number, make)

    def _draft_values(self, rows: Sample) -> RowsArray:
        """Return the rows for k-means, their holes filled; of many features, in float32."""
        if self._filled is not None:
            return self._filled.values
        many = rows.X.shape[1] >= MANY_FEATURES
        return self.shared.draft(self.rows).X if many else rows.X

    @property
    def _filled(self) -> Filled | None:
        return self.shared.filled(self.rows, self.spec)

    def _seeded(self, number: int) -> np.random.RandomState:
        return seeded((self.shared.random_state + number) % 2**32)
