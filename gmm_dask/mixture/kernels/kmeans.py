"""k-means of a few thousand rows: seeds or given centres, and iterations, in one compiled call.

A search labels a few thousand rows a dozen times. scikit-learn's calls check and copy for longer
than that takes, and its import takes a second.
"""

from __future__ import annotations

import numpy as np

from gmm_dask.arrays import FloatArray, LabelsArray, RowsArray
from gmm_dask.mixture.kernels.compile import inlined, kernel
from gmm_dask.mixture.kernels.distances import add_residuals, distances
from gmm_dask.mixture.kernels.tiles import ROWS, aligned, aligned_rows, fill, prefer_wide_vectors

#: From so many clusters on, rows are added to the sums of their own cluster, one by one.
_MANY = 24


def label_by_kmeans(
    X: RowsArray,
    sample_weight: FloatArray | None,
    k: int,
    random_state: np.random.RandomState,
    iterations: int,
    tol: float | None = None,
) -> LabelsArray:
    """Label rows by the nearest of k centres of k-means, (n,).

    Each seed is the best of a few draws, as in scikit-learn (Arthur and Vassilvitskii, 2007). A
    cluster that no row is nearest to keeps its centre.

    Parameters
    ----------
    X
        (n, d), finite.
    sample_weight
        (n,) or None.
    iterations
        Of Lloyd's algorithm at the most; with none, rows have the label of the nearest seed.
    tol
        It ends too where all squared steps of the centres together are at most this times the mean
        variance of the features, as in scikit-learn. None: where no label changes.
    """
    n = len(X)
    labels = np.zeros(n, np.int32)
    if k == 1:
        return labels
    weight = np.ones(n) if sample_weight is None else sample_weight / sample_weight.mean()
    first = int(random_state.choice(n, p=weight / n))
    uniforms = random_state.uniform(size=(k - 1, 2 + int(np.log(k))))
    columns = np.require(X.T, np.float64, ["C", "W"])
    weight = np.require(weight, np.float64, ["C", "W"])
    least = -1.0 if tol is None else tol * float(columns.var(axis=1).mean())
    given = np.empty((k, X.shape[1]))
    _label(columns, weight, first, uniforms, given, iterations, least, labels)
    return labels


def cluster_from(
    X: RowsArray, centres: FloatArray, iterations: int
) -> tuple[LabelsArray, FloatArray]:
    """Run k-means from given centres; return the labels (n,) and the centres (k, d).

    A row has the label of the centre that is nearest to it. A cluster that no row is nearest to
    keeps its centre.

    Parameters
    ----------
    X
        (n, d), finite.
    centres
        (k, d).
    iterations
        Of Lloyd's algorithm at the most.
    """
    labels, columns = np.zeros(len(X), np.int32), np.require(X.T, np.float64, ["C", "W"])
    centres = np.array(centres, np.float64, order="C")
    draws = np.empty((len(centres) - 1, 0))
    _label(columns, np.ones(len(X)), 0, draws, centres, iterations, -1.0, labels)
    return labels, centres


@inlined
def _lay_in_tiles(X, weight, tiles, weights):  # type: ignore[no-untyped-def]
    """Lay rows and weights in tiles, (t, d · ROWS) and (t, ROWS); those that fill up weigh 0."""
    d, n = X.shape
    for t in range(len(tiles)):
        first = t * ROWS
        rows = min(ROWS, n - first)
        for i in range(ROWS):
            weights[t, i] = weight[first + i] if i < rows else 0.0
        for j in range(d):
            for i in range(ROWS):
                tiles[t, j * ROWS + i] = X[j, first + (i if i < rows else 0)]


@inlined
def _draw(closest, weights, sums, target):  # type: ignore[no-untyped-def]
    """Return the row at which the sum of weighted distances reaches the target."""
    t = 0
    while t < len(sums) - 1 and target > sums[t]:
        target -= sums[t]
        t += 1
    row, last = t * ROWS, 0
    for i in range(ROWS):
        if weights[t, i] > 0.0:
            last = i
            target -= closest[t, i] * weights[t, i]
            if target <= 0.0:
                break
    return row + last


@inlined
def _best_of(tiles, weights, closest, candidates, squares, left):  # type: ignore[no-untyped-def]
    """Return the candidate that leaves the least sum of weighted distances."""
    prefer_wide_vectors()
    fill(left, 0.0, 0)
    for t in range(len(tiles)):
        distances(tiles[t], candidates, squares)
        for a in range(len(candidates)):
            total = 0.0
            for i in range(ROWS):
                total += min(squares[a, i], closest[t, i]) * weights[t, i]
            left[a] += total
    best = 0
    for a in range(len(candidates)):
        if left[a] < left[best]:
            best = a
    return best


@inlined
def _choose_seeds(X, tiles, weights, first, uniforms, centres, scratch):  # type: ignore[no-untyped-def]
    """Write seeds of k-means++ into the centres, (k, d).

    The scratch: distances from the nearest seed (t, ROWS), their sums (t,), and of as many
    candidates as there are draws places (draws, d), distances (draws, ROWS) and what they leave.
    """
    prefer_wide_vectors()
    k, d = centres.shape
    draws = uniforms.shape[1]
    closest, sums, candidates, squares, left = scratch
    fill(closest.reshape(closest.size), np.inf, 0)
    for j in range(d):
        centres[0, j] = X[j, first]
    for c in range(1, k):
        total = 0.0
        for t in range(len(tiles)):
            distances(tiles[t], centres[c - 1 : c], squares)
            sums[t] = 0.0
            for i in range(ROWS):
                closest[t, i] = min(closest[t, i], squares[0, i])
                sums[t] += closest[t, i] * weights[t, i]
            total += sums[t]
        for a in range(draws):
            row = _draw(closest, weights, sums, uniforms[c - 1, a] * total)
            for j in range(d):
                candidates[a, j] = X[j, row]
        best = _best_of(tiles, weights, closest, candidates, squares, left)
        for j in range(d):
            centres[c, j] = candidates[best, j]


@inlined
def _copy(source, target):  # type: ignore[no-untyped-def]
    """Write a matrix over another: as a loop, since an assignment compiles to a megabyte."""
    rows, columns = source.shape
    for i in range(rows):
        for j in range(columns):
            target[i, j] = source[i, j]


@inlined
def _label_tile(tile, centres, squares, nearest, scratch):  # type: ignore[no-untyped-def]
    """Write the number of the nearest centre of each row; return whether one has changed."""
    prefer_wide_vectors()
    distances(tile, centres, squares)
    least, labels = scratch[:ROWS], scratch[ROWS : 2 * ROWS]
    for i in range(ROWS):
        least[i] = squares[0, i]
        labels[i] = 0.0
    for c in range(1, len(centres)):
        for i in range(ROWS):
            nearer = squares[c, i] < least[i]
            least[i] = squares[c, i] if nearer else least[i]
            labels[i] = float(c) if nearer else labels[i]
    changes = 0.0
    for i in range(ROWS):
        changes += abs(labels[i] - nearest[i])
        nearest[i] = labels[i]
    return changes > 0.0


@inlined
def _add_members(tile, weights, centres, nearest, members, sums, sizes):  # type: ignore[no-untyped-def]
    """Add the rows of a tile, less their centres, to the sums of their clusters, and weights."""
    prefer_wide_vectors()
    k, d = centres.shape
    if k < _MANY:
        for c in range(k):
            for i in range(ROWS):
                members[c, i] = weights[i] if nearest[i] == float(c) else 0.0
                sizes[c] += members[c, i]
        add_residuals(tile, centres, members, sums)
        return
    for i in range(ROWS):
        c, weight = int(nearest[i]), weights[i]
        sizes[c] += weight
        for j in range(d):
            sums[c, j] += weight * (tile[j * ROWS + i] - centres[c, j])


@inlined
def _label_tiles(  # type: ignore[no-untyped-def]
    tiles, weights, centres, squares, nearest, scratch, members, sums, sizes
):
    """Label all rows, and sum the rows of each cluster; return whether a label has changed."""
    changed = False
    fill(sums.reshape(sums.size), 0.0, 0)
    fill(sizes, 0.0, 0)
    for t in range(tiles.shape[0]):
        changed |= _label_tile(tiles[t], centres, squares, nearest[t], scratch)
        _add_members(tiles[t], weights[t], centres, nearest[t], members, sums, sizes)
    return changed


@kernel("k-means")
def _label(X, weight, first, uniforms, given, iterations, least, labels):  # type: ignore[no-untyped-def]
    """Label the columns of X (d, n) by the nearest of k centres.

    Parameters
    ----------
    weight
        (n,), of mean 1.
    first
        The row that is the first seed.
    uniforms
        Numbers in [0, 1) by which the others are drawn, (k − 1, draws); without draws, the given
        centres are the first ones.
    given
        First centres (k, d); the last ones are written in their place.
    iterations
        Of Lloyd's algorithm.
    least
        It ends once the squared steps of the centres add up to this or less.
    labels
        Filled, (n,).
    """
    prefer_wide_vectors()
    d, n = X.shape
    k = len(uniforms) + 1
    count = (n + ROWS - 1) // ROWS
    tiles, weights = aligned_rows(count, d * ROWS), aligned_rows(count, ROWS)
    _lay_in_tiles(X, weight, tiles, weights)
    centres, squares = np.empty((k, d)), aligned_rows(k, ROWS)
    nearest, members = aligned_rows(count, ROWS), aligned_rows(k, ROWS)
    draws = uniforms.shape[1]
    if draws > 0:
        chosen, left = np.empty((draws, d)), np.empty(draws)
        buffers = nearest, np.empty(count), chosen, aligned_rows(draws, ROWS), left
        _choose_seeds(X, tiles, weights, first, uniforms, centres, buffers)
    else:
        _copy(given, centres)
    scratch = aligned(2 * ROWS)
    fill(nearest.reshape(nearest.size), -1.0, 0)
    sums, sizes = np.empty((k, d)), np.empty(k)
    ending = False
    for iteration in range(iterations + 1):
        changed = _label_tiles(
            tiles, weights, centres, squares, nearest, scratch, members, sums, sizes
        )
        if not changed or ending or iteration == iterations:
            break
        steps = 0.0
        for c in range(k):
            if sizes[c] > 0.0:
                for j in range(d):
                    step = sums[c, j] / sizes[c]
                    centres[c, j] += step
                    steps += step * step
        ending = steps <= least
    for i in range(n):
        labels[i] = int(nearest[i // ROWS, i % ROWS])
    _copy(centres, given)
