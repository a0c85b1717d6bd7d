"""k-means for starts: in one compiled call, or by products of matrices where features are many.

From `MANY_FEATURES` on, |x − c|² is |x|² − 2 x·c + |c|² about the mean of all rows, and x·c and the
sums of clusters are products of BLAS over blocks that stay in cache: at 384 features in half of the
time of the kernel, in float32 in a quarter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gmm_dask.arrays import FloatArray, IndexArray, LabelsArray, RowsArray
from gmm_dask.mixture.kernels.kmeans import label_by_kmeans
from gmm_dask.mixture.threads import single_threaded

#: From so many features on, k-means goes by products.
MANY_FEATURES = 64
#: Values of a block at the most: 1 MB in float32.
_BLOCK = 262_144
#: The mean of a feature is taken off where its square is this many times the variance or more.
_NEAR = 4.0
#: Of float32 rows between 1 over this and this, squares and their sums are in the range of float32.
_MOST_SINGLE = 1e15
#: Of rows that weigh 1 in the mean, a cluster that weighs less has none left but rounding.
_EMPTY = 1e-9
#: Of two labellings, clusters are alike that have this share of their rows in common.
_ALIKE = 0.95


def label_rows(
    X: RowsArray,
    sample_weight: FloatArray | None,
    k: int,
    random_state: np.random.RandomState,
    iterations: int,
    tol: float | None = None,
) -> LabelsArray:
    """Label rows by the nearest of k centres of k-means, (n,).

    The arguments are those of `label_by_kmeans`. Both ways draw the same seeds, but for rounding.
    Products are computed in the precision of the rows, or in float64 where float32 would overflow;
    with few features all is in float64.
    """
    if k == 1 or X.shape[1] < MANY_FEATURES:
        return label_by_kmeans(X, sample_weight, k, random_state, iterations, tol)
    n = len(X)
    weight = np.ones(n) if sample_weight is None else sample_weight / sample_weight.mean()
    first = int(random_state.choice(n, p=weight / n))
    uniforms = random_state.uniform(size=(k - 1, 2 + int(np.log(k))))
    with single_threaded():
        rows = _centred(X)
        least = -1.0 if tol is None else tol * float(X.var(axis=0, dtype=np.float64).mean())
        seeds = _choose_seeds(rows, weight, first, uniforms)
        return _iterate(rows, weight, seeds, iterations, least)


def alike(labels: LabelsArray, others: LabelsArray, k: int) -> bool:
    """Whether two labellings of the same rows have nearly the same clusters, in any order."""
    common = np.bincount(labels.astype(np.int64) * k + others, minlength=k * k).reshape(k, k)
    partners = common.argmax(axis=1)  # (k,)
    if len(np.unique(partners)) < k:
        return False
    shared = common[np.arange(k), partners]
    either = common.sum(axis=1) + common.sum(axis=0)[partners] - shared
    return bool((shared >= _ALIKE * either).all())


def _centred(X: RowsArray) -> _CentredRows:
    """Take rows less their mean; where that is near 0, as they are."""
    if X.dtype == np.float32 and not 1 / _MOST_SINGLE < max(X.max(), -X.min()) < _MOST_SINGLE:
        X = X.astype(np.float64)
    mean = X.mean(axis=0, dtype=np.float64)
    far = np.square(mean) > _NEAR * np.square(X[:: len(X) // 256 + 1] - mean).mean(axis=0)
    return _CentredRows(X, mean if far.any() else None)


@dataclass(frozen=True, eq=False)
class _CentredRows:
    """Rows less their mean, of which a block at a time is computed.

    Attributes
    ----------
    X
        (n, d), C-ordered or feature-major.
    mean
        (d,); None if nothing is taken off.
    """

    X: RowsArray
    mean: FloatArray | None

    def blocks(self) -> Iterator[tuple[slice, RowsArray]]:
        """Yield slices of the rows, and these rows less the mean, in one buffer."""
        n, d = self.X.shape
        size = max(_BLOCK // d, 1)
        by_feature = self.X.strides[0] < self.X.strides[1]
        shape = (d, size) if by_feature else (size, d)
        buffer = np.empty(shape if self.mean is not None else (0, 0), self.X.dtype)
        buffer = buffer.T if by_feature else buffer
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            if self.mean is None:
                yield rows, self.X[rows]
                continue
            mean = self.mean.astype(self.X.dtype)
            yield rows, np.subtract(self.X[rows], mean, out=buffer[: rows.stop - start])

    def take(self, numbers: IndexArray) -> FloatArray:
        """Return some of the rows less the mean, in float64."""
        rows = self.X[numbers].astype(np.float64)
        return rows if self.mean is None else rows - self.mean

    @cached_property
    def squares(self) -> FloatArray:
        """|x|² of each row, (n,)."""
        squares = np.empty(len(self.X))
        for rows, block in self.blocks():
            squares[rows] = np.einsum("ij,ij->i", block, block)
        return squares

    def distances(self, centres: FloatArray) -> FloatArray:
        """Compute |x − c|² of all rows and centres (k, d), (k, n)."""
        distances = np.empty((len(centres), len(self.X)))
        singles = centres.astype(self.X.dtype)
        for rows, block in self.blocks():
            distances[:, rows] = singles @ block.T
        distances *= -2.0
        distances += self.squares
        distances += np.einsum("ij,ij->i", centres, centres)[:, None]
        return np.maximum(distances, 0.0, out=distances)


def _choose_seeds(
    rows: _CentredRows, weight: FloatArray, first: int, uniforms: FloatArray
) -> FloatArray:
    """Choose seeds of k-means++, each the best of a few draws, (k, d)."""
    seeds = [rows.take(np.array([first]))]
    closest = rows.distances(seeds[0])[0]
    last = int(np.flatnonzero(weight)[-1])
    for draws in uniforms:
        sums = np.cumsum(closest * weight)
        drawn = np.minimum(np.searchsorted(sums, draws * sums[-1]), last)
        candidates = rows.take(drawn)
        left = np.minimum(rows.distances(candidates), closest)  # (draws, n)
        best = int(np.argmin(left @ weight))
        closest = left[best].copy()
        seeds.append(candidates[best : best + 1])
    return np.concatenate(seeds)


def _iterate(
    rows: _CentredRows, weight: FloatArray, centres: FloatArray, iterations: int, least: float
) -> LabelsArray:
    """Take iterations of Lloyd's algorithm from given centres; return the last labels.

    The sums of clusters change by the rows that changed theirs; ``least`` is as in the kernel.
    """
    k, dtype = len(centres), rows.X.dtype
    labels = np.full(len(rows.X), k, np.int32)  # in no cluster yet
    sums, sizes = np.zeros(centres.shape), np.zeros(k)
    ending = False
    for _ in range(iterations + 1):
        changed, turned = False, centres.astype(dtype)
        halves = (0.5 * np.einsum("ij,ij->i", centres, centres)).astype(dtype)[:, None]
        for part, block in rows.blocks():
            nearest = np.argmin(halves - turned @ block.T, axis=0)
            (moved,) = np.nonzero(nearest != labels[part])
            if not len(moved):
                continue
            changed = True
            members = np.zeros((k + 1, len(moved)), dtype)
            places = np.arange(len(moved))
            members[nearest[moved], places] = weight[part][moved]
            members[labels[part][moved], places] -= weight[part][moved].astype(dtype)
            labels[part] = nearest
            sizes += members[:k].sum(axis=1, dtype=np.float64)
            sums += members[:k] @ (block if len(moved) == len(block) else block[moved])
        if not changed or ending:
            break
        filled = sizes > _EMPTY
        means = np.where(filled[:, None], sums / np.where(filled, sizes, 1.0)[:, None], centres)
        ending = bool(np.square(means - centres).sum() <= least)
        centres = means
    return labels
