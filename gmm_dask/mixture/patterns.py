"""Rows with holes: patterns of observed features, and the marginal mixture of each.

A *hole* is a missing value, NaN in the rows. A *pattern* is the set of features that a row has;
the rows of a pattern are complete rows of the marginal mixture of these features, so the kernels
take them as they are. Statistics under a marginal are lifted to those of the whole mixture by the
covariance type (`CovarianceType.lift`): the expected value of the missing part, given the rest.
Rows of rare patterns are kept together as *scattered* rows, since a pass for each would cost more
than its rows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, IndexArray, LabelsArray, MaskArray, RowsArray
from gmm_dask.mixture.parameters import MixtureParameters

#: Bytes of marginals that are kept, those that were used last.
MARGINAL_BYTES = 128 << 20
#: Patterns with fewer rows are rare. With 5 to 100 features, the pass over a pattern and its
#: marginal cost what passes over 40 to 250 scattered rows do (benchmarks/holes.py).
COMMON_ROWS = 64


@dataclass(frozen=True, eq=False)
class Pattern:
    """The rows of an array in which the same features are observed.

    Attributes
    ----------
    observed
        Indices of these features, ascending, (o,).
    rows
        Numbers of the rows, ascending, (m,).
    complete
        Whether all features are observed.
    """

    observed: IndexArray
    rows: IndexArray
    complete: bool

    def take(self, X: RowsArray) -> RowsArray:
        """Copy the observed features of the rows of X, (m, o) feature-major."""
        columns = np.empty((len(self.observed), len(self.rows)), X.dtype)
        for place, feature in enumerate(self.observed.tolist()):
            # With a mode other than "raise", numpy needs no buffer of its own.
            np.take(X[:, feature], self.rows, out=columns[place], mode="clip")
        return columns.T

    def part(self, start: int, stop: int) -> Pattern:
        """Return the pattern of some of its rows."""
        return Pattern(self.observed, self.rows[start:stop], self.complete)


@dataclass(frozen=True, eq=False)
class Scattered:
    """The rows of an array whose patterns are rare, some holes in each.

    Attributes
    ----------
    rows
        Numbers of the rows, those of the same pattern one after the other, (m,).
    """

    rows: IndexArray
    complete = False

    def take(self, X: RowsArray) -> RowsArray:
        """Copy the rows of X with their holes, (m, d)."""
        return np.ascontiguousarray(X[self.rows])

    def part(self, start: int, stop: int) -> Scattered:
        """Return some of the rows."""
        return Scattered(self.rows[start:stop])


#: Patterns that together hold every row of an array; none where all rows are complete.
Patterns = tuple[Pattern | Scattered, ...]


def find_patterns(X: RowsArray) -> Patterns:
    """Find the patterns of rows (n, d), in an order that only the rows decide.

    Costs one pass where all rows are complete, and then there are none. Complete rows are the
    first pattern, those without any value the last, and scattered rows come before these.
    """
    if not has_holes(X):
        return ()
    order, ends = _order(X)
    first, last = X[order[0]], X[order[-1]]
    rare = np.diff(ends, prepend=0) < COMMON_ROWS
    rare[0] &= bool(np.isnan(first).any())
    rare[-1] &= not np.isnan(last).all()
    scattered = order[np.repeat(rare, np.diff(ends, prepend=0))]
    found: list[Pattern | Scattered] = [
        _pattern(X, order[start:stop])
        for (start, stop), few in zip(pairwise([0, *ends.tolist()]), rare, strict=True)
        if not few
    ]
    if len(scattered):
        empty = len(found) > 0 and bool(np.isnan(last).all())
        found.insert(len(found) - empty, Scattered(scattered))
    return tuple(found)


def each_pattern(X: RowsArray, patterns: Patterns) -> Iterator[Pattern]:
    """Yield the patterns of rows X, the rare ones each by itself."""
    for pattern in patterns:
        if isinstance(pattern, Pattern):
            yield pattern
            continue
        order, ends = _order(X[pattern.rows])
        for start, stop in pairwise([0, *ends.tolist()]):
            yield _pattern(X, pattern.rows[order[start:stop]])


def count_patterns(X: RowsArray) -> int:
    """Count the patterns of rows (n, d); 0 where all rows are complete."""
    return len(_order(X)[1]) if has_holes(X) else 0


def _order(X: RowsArray) -> tuple[IndexArray, IndexArray]:
    """Order rows by their patterns: their numbers, (n,), and where each pattern ends."""
    codes = _codes(X)
    order = np.argsort(codes, kind="stable")  # of 16 bits, in linear time
    ordered = codes[order]
    ends = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return order, np.append(ends, len(order))


def _pattern(X: RowsArray, rows: IndexArray) -> Pattern:
    """Return the pattern that these rows of X have."""
    observed = np.flatnonzero(~np.isnan(X[rows[0]]))
    return Pattern(observed, rows, len(observed) == X.shape[1])


def _codes(X: RowsArray) -> npt.NDArray[np.integer[Any]]:
    """Number the patterns of rows, (n,): 0 where a row is complete, most where it has nothing."""
    masks = [missing for column in X.T if (missing := np.isnan(column)).any()]
    codes: npt.NDArray[np.integer[Any]] = _bits(masks[:16])
    for first in range(16, len(masks), 16):
        both = codes.astype(np.uint64) << 16 | _bits(masks[first : first + 16])
        codes = np.unique(both, return_inverse=True)[1]
    return codes


def _bits(masks: Sequence[MaskArray]) -> npt.NDArray[np.uint16]:
    """Put up to 16 masks (n,) into the bits of numbers, (n,)."""
    bits = np.zeros(len(masks[0]), np.uint16)
    for place, mask in enumerate(masks):
        bits |= mask.astype(np.uint16) << np.uint16(place)
    return bits


def has_holes(X: RowsArray) -> bool:
    """Whether a value is NaN; one pass."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduce(X, axis=None)
    # Infinities of both signs have no sum either.
    return bool(np.isnan(total)) and any(np.isnan(column).any() for column in X.T)


def count_observed(X: RowsArray) -> LabelsArray:
    """Count the features that each row of X (n, d) has, (n,)."""
    counts = np.zeros(len(X), dtype=np.int32)
    for column in X.T:
        counts += ~np.isnan(column)
    return counts


def complete_rows(patterns: Patterns, n: int) -> MaskArray | None:
    """Tell which of n rows are complete, (n,); None if all are."""
    if not patterns:
        return None
    complete = np.zeros(n, dtype=np.bool_)
    for pattern in patterns:
        complete[pattern.rows] = pattern.complete
    return complete


@dataclass(frozen=True, eq=False)
class Marginal:
    """The marginal mixture of some of the features.

    Attributes
    ----------
    parameters
        Of the o features.
    axes
        A, which lifts its statistics (`CovarianceType.marginal`).
    """

    parameters: MixtureParameters
    axes: FloatArray

    def lift(
        self, counts: FloatArray, residual_sums: FloatArray, residual_products: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Lift F_o and S_o to F and S of all features (`CovarianceType.lift`)."""
        covariance = self.parameters.covariance
        return covariance.lift(counts, residual_sums, residual_products, self.axes)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        mixture = self.parameters
        arrays = (mixture.means, mixture.covariances, mixture.precisions_cholesky, self.axes)
        return sum(array.nbytes for array in arrays)


class _Marginals:
    """Marginals of the mixtures used last, within a budget, for all threads of a process.

    They go by digest: a worker receives the parameters again with each task.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._size = 0
        self._kept: OrderedDict[tuple[str, bytes], Marginal] = OrderedDict()
        self._changing = threading.Lock()

    def get(self, parameters: MixtureParameters, observed: IndexArray) -> Marginal:
        """Return the marginal of these features; two threads may compute the same, bit for bit."""
        key = parameters.digest, observed.tobytes()
        with self._changing:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        marginal = _marginal(parameters, observed)
        with self._changing:
            if key not in self._kept:
                self._kept[key] = marginal
                self._size += marginal.nbytes
            while self._size > self._budget:
                self._size -= self._kept.popitem(last=False)[1].nbytes
        return marginal


_marginals = _Marginals(MARGINAL_BYTES)


def marginal(parameters: MixtureParameters, observed: IndexArray) -> Marginal:
    """Return the marginal mixture of the features with these indices, ascending, (o,).

    It is computed once for the same parameters, as far as memory allows.
    """
    return _marginals.get(parameters, observed)


def _marginal(parameters: MixtureParameters, observed: IndexArray) -> Marginal:
    covariances, factors, axes = parameters.covariance.marginal(
        parameters.covariances,
        parameters.precisions_cholesky,
        observed,
        parameters.n_features,
    )
    mixture = MixtureParameters(
        parameters.covariance_type,
        parameters.weights,
        np.ascontiguousarray(parameters.means[:, observed]),
        np.ascontiguousarray(covariances),
        np.ascontiguousarray(factors),
    )
    return Marginal(mixture, axes)
