"""Rows with holes: patterns of observed features, and the marginal mixture of each.

A *hole* is a missing value, NaN in the rows. A *pattern* is the set of features that a row has;
the rows of a pattern are complete rows of the marginal mixture of these features, so the kernels
take them as they are. Statistics under a marginal are lifted to those of the whole mixture by the
covariance type (`CovarianceType.lift`): the expected value of the missing part, given the rest.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from gmm_dask.arrays import FloatArray, IndexArray, LabelsArray, MaskArray, RowsArray
from gmm_dask.mixture.parameters import MixtureParameters

#: Bytes of marginals that are kept, those that were used last.
MARGINAL_BYTES = 128 << 20


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


#: Patterns that together hold every row of an array; none where all rows are complete.
Patterns = tuple[Pattern, ...]


def find_patterns(X: RowsArray) -> Patterns:
    """Find the patterns of rows (n, d), in an order that only the rows decide.

    Costs one pass where all rows are complete, and then there are none. Complete rows are the
    first pattern, those without any value the last.
    """
    if not has_holes(X):
        return ()
    d = X.shape[1]
    missing = np.isnan(X.T)  # (d, n)
    packed = np.packbits(missing[missing.any(axis=1)], axis=0)  # (b, n), eight features a byte
    if len(packed) == 1:
        codes = packed[0]
    elif len(packed) == 2:
        codes = packed[0].astype(np.uint16) << 8 | packed[1]
    else:
        names = np.ascontiguousarray(packed.T).view(f"V{len(packed)}")[:, 0]
        codes = np.unique(names, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")  # of 16 bits or fewer, in linear time
    starts = np.flatnonzero(np.diff(codes[order], prepend=codes[order[0]] ^ 1))
    runs = np.split(order, starts[1:])
    observed = [np.flatnonzero(~missing[:, rows[0]]) for rows in runs]
    return tuple(
        Pattern(features, rows, len(features) == d)
        for features, rows in zip(observed, runs, strict=True)
    )


def has_holes(X: RowsArray) -> bool:
    """Whether a value is NaN; one pass."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduce(X, axis=None)
    if np.isfinite(total):
        return False
    return bool(np.isnan(total)) and bool(np.isnan(X).any())


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
