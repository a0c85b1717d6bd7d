"""The division of a block of rows into regions, and of these into bundles with their components.

A region holds rows that are guessed to belong to one component g; those far away from it, strays,
are in a region of their own. A bad guess costs time, never digits.

**What may be left out.** For each row of a region, log p(x) ≥ log π_g p_g(x) = constant_g − ½|y'|²,
and |y'| is computed. For component c, |y| is at least a bound (`pairs`), first that for all rows
of which |y'| is at most the largest of the region, then, if that does not decide, the one for each
row. So where in each row

    constant_c − ½ bound² < constant_g − ½|y'|² − SPAN − log k,

the share of component c is below e^−37/k in each of them. All that are left out together have less
than e^−37 < 1e-16 of a row, by which its log-likelihood is too small at the most.

**Rounding.** |y|², here and in the pass, has a relative error of about d eps cond(U): `_ERROR` is
allowed for it on both sides. vᵀ(x − μ') is aᵀz' with z' = Vᵀ(x − μ'); the error of z' is below
(d + 2) eps |V||U'⁻ᵀ||y'|, that of the sum below (p + 2) eps |a||z'|, and |a| times `added` times ρ
is more than both. a itself has the bits with which `apart` and `lengths` were computed. Where a row
is not finite, or farther than `_FAR`, no component is left out of its region.
"""

from __future__ import annotations

import numpy as np

from gmm_dask.mixture.kernels.addresses import doubles, singles
from gmm_dask.mixture.kernels.compile import allocating, exact, inlined, kernel
from gmm_dask.mixture.kernels.tiles import (
    ROWS,
    fill,
    load_tile,
    prefer_wide_vectors,
)
from gmm_dask.mixture.sparse.desk import GUESSED, begin_desk
from gmm_dask.mixture.sparse.pairs import SPAN, find_direction, stray_square

#: Relative error of |y|².
_ERROR = 1e-6
#: |y|² of a row from which on nothing is left out.
_FAR = 1e100
#: What a component of a bundle costs beside its rows, in rows.
_EXTRA = 48
#: Rows of a region are filled up to a multiple of this.
_FILLED = 16


@exact
def _place(tile, width, centre, axes, used, places):  # type: ignore[no-untyped-def]
    """Write Vᵀ(x − centre) of the first rows of a tile along the first axes."""
    prefer_wide_vectors()
    for j in range(used):
        fill(places[j], 0.0, 0)
    for m in range(centre.size):
        x, middle = tile[m * ROWS : (m + 1) * ROWS], centre[m]
        for j in range(0, used, 4):
            z0, z1, z2, z3 = places[j], places[j + 1], places[j + 2], places[j + 3]
            v0, v1, v2, v3 = axes[m, j], axes[m, j + 1], axes[m, j + 2], axes[m, j + 3]
            for i in range(width):
                apart = x[i] - middle
                z0[i] += v0 * apart
                z1[i] += v1 * apart
                z2[i] += v2 * apart
                z3[i] += v3 * apart


@exact
def _raise_powers(places, powers):  # type: ignore[no-untyped-def]
    """Write z and |z|² along the axes by which components are guessed."""
    prefer_wide_vectors()
    square = powers[GUESSED]
    for i in range(ROWS):
        square[i] = 0.0
    for j in range(GUESSED):
        z, power = places[j], powers[j]
        for i in range(ROWS):
            single = np.float32(z[i])
            power[i] = single
            square[i] += single * single


@inlined
def _guess(powers, terms, offsets, best, guess):  # type: ignore[no-untyped-def]
    """Guess the component of each row of a tile; whatever is guessed where a score is NaN."""
    prefer_wide_vectors()
    for i in range(ROWS):
        best[i] = -np.inf
        guess[i] = 0.0
    z0, z1, z2, z3, z4, z5, z6, z7, z8 = (
        powers[0],
        powers[1],
        powers[2],
        powers[3],
        powers[4],
        powers[5],
        powers[6],
        powers[7],
        powers[8],
    )
    for c in range(terms.shape[0]):
        t, offset, component = terms[c], offsets[c], np.float32(c)
        t0, t1, t2, t3, t4 = t[0], t[1], t[2], t[3], t[4]
        t5, t6, t7, t8 = t[5], t[6], t[7], t[8]
        for i in range(ROWS):
            score = offset + t0 * z0[i] + t1 * z1[i] + t2 * z2[i] + t3 * z3[i] + t4 * z4[i]
            score = score + t5 * z5[i] + t6 * z6[i] + t7 * z7[i] + t8 * z8[i]
            better = score > best[i]
            best[i] = score if better else best[i]
            guess[i] = component if better else guess[i]


@exact
def _take_rows(desk, source, mean, numbers):  # type: ignore[no-untyped-def]
    """Write x − μ' of up to ROWS rows; return how many there are with those that fill them up."""
    prefer_wide_vectors()
    width = (numbers.size + _FILLED - 1) // _FILLED * _FILLED
    for m in range(mean.size):
        x, middle = desk.tile[m * ROWS : (m + 1) * ROWS], mean[m]
        column = source.address + m * source.column_stride
        if source.itemsize == 4:
            for i in range(numbers.size):
                x[i] = singles(column + numbers[i] * source.row_stride)[0] - middle
        else:
            for i in range(numbers.size):
                x[i] = doubles(column + numbers[i] * source.row_stride)[0] - middle
        for i in range(numbers.size, width):
            x[i] = 0.0
    return width


@exact
def _square(tile, width, U, y, squares):  # type: ignore[no-untyped-def]
    """Write |y'|² of the rows of a tile of x − μ', for a matrix U, or for its diagonal (1, d)."""
    prefer_wide_vectors()
    diagonal = U.shape[0] == 1
    fill(squares, 0.0, 0)
    for j in range(U.shape[1]):
        fill(y, 0.0, 0)
        first = j if diagonal else 0
        blocks = first + (j + 1 - first) // 4 * 4
        for m in range(first, blocks, 4):
            x = tile[m * ROWS : (m + 4) * ROWS]
            u0, u1, u2, u3 = U[m, j], U[m + 1, j], U[m + 2, j], U[m + 3, j]
            for i in range(width):
                y[i] += (u0 * x[i] + u1 * x[i + ROWS]) + (
                    u2 * x[i + 2 * ROWS] + u3 * x[i + 3 * ROWS]
                )
        for m in range(blocks, j + 1):
            x, u = tile[m * ROWS : (m + 1) * ROWS], U[0 if diagonal else m, j]
            for i in range(width):
                y[i] += u * x[i]
        for i in range(width):
            squares[i] += y[i] * y[i]


@exact
def _find_strays(desk, guide, source, places, order, keys, least, squares, counts):  # type: ignore[no-untyped-def]
    """Put strays into regions of their own; write log π p of the guessed component to least.

    ``squares`` (2k,) receives the largest |y'|² of each region, ``counts`` (2k,) its rows.
    """
    k, d = guide.means.shape
    most = stray_square(d)
    for c in range(k):
        rank, constant = guide.ranks[c], guide.constants[c]
        U = guide.factors[c if guide.factors.shape[0] > 1 else 0]
        for start in range(places[rank], places[rank + 1], ROWS):
            numbers = order[start : min(start + ROWS, places[rank + 1])]
            width = _take_rows(desk, source, guide.means[c], numbers)
            _square(desk.tile, width, U, desk.whitened, desk.squares)
            for i in range(numbers.size):
                square = desk.squares[i]
                region = rank if square < most else k + rank
                keys[numbers[i]] = region
                least[numbers[i]] = constant - 0.5 * (1.0 + _ERROR) * square
                counts[region] += 1
                if not square < _FAR:
                    squares[region] = np.nan
                elif square > squares[region]:
                    squares[region] = square


@exact
def _mark(guide, g, square, marked):  # type: ignore[no-untyped-def]
    """Mark the components that may matter to rows with |y'|² up to a square of component g."""
    prefer_wide_vectors()
    k = guide.means.shape[0]
    square *= 1.0 + _ERROR
    rho = np.sqrt(square)
    enough = guide.constants[g] - 0.5 * square - SPAN - np.log(k)
    apart, lengths, constants = guide.apart[g], guide.lengths[g], guide.constants
    of_g = guide.lengths_of[g]
    for c in range(k):
        distance = (apart[c] - of_g[c] * rho) / lengths[c]
        distance = distance if distance > 0.0 else 0.0
        marked[c] = not constants[c] - 0.5 * (1.0 - _ERROR) * distance * distance < enough
    marked[g] = True


@inlined
def _count(marked):  # type: ignore[no-untyped-def]
    count = 0
    for c in range(marked.size):
        count += marked[c]
    return count


@exact
def _matters(desk, width, guide, g, c, rho):  # type: ignore[no-untyped-def]
    """Whether component c may matter to one of the rows of a tile, which are of component g."""
    prefer_wide_vectors()
    a, along, places, least = desk.direction, desk.along, desk.places, desk.least
    find_direction(guide.places, guide.variances, g, c, a)
    error = 0.0
    for j in range(a.size):
        error += abs(a[j]) * guide.added[g, j]
    gap = guide.apart[g, c] - error * rho
    for j in range(0, a.size, 4):
        z0, z1, z2, z3 = places[j], places[j + 1], places[j + 2], places[j + 3]
        a0, a1, a2, a3 = a[j], a[j + 1], a[j + 2], a[j + 3]
        for i in range(width):
            before = along[i] if j > 0 else gap
            along[i] = before + ((a0 * z0[i] + a1 * z1[i]) + (a2 * z2[i] + a3 * z3[i]))
    inverse, constant = 1.0 / guide.lengths[g, c], guide.constants[c]
    rows = 0
    for i in range(width):
        distance = along[i] * inverse if along[i] > 0.0 else 0.0
        rows += not constant - 0.5 * (1.0 - _ERROR) * distance * distance < least[i]
    return rows > 0


@exact
def _look_at_rows(desk, guide, source, g, square, numbers, least, near, marked):  # type: ignore[no-untyped-def]
    """Of the components marked for a region, leave those that may matter to one of its rows.

    Returns how many pairs of a row, or one that fills up, and a component were looked at.
    """
    looks = 0
    rho, span = np.sqrt(square * (1.0 + _ERROR)), SPAN + np.log(marked.size)
    for c in range(marked.size):
        near[c] = marked[c] and c != g
        marked[c] = c == g
    for start in range(0, numbers.size, ROWS):
        some = numbers[start : start + ROWS]
        width = _take_rows(desk, source, guide.means[g], some)
        used = guide.axes.shape[1]
        _place(desk.tile, width, desk.origin, guide.axes, used, desk.places)
        for i in range(some.size):
            desk.least[i] = least[some[i]] - span
        fill(desk.least, np.inf, some.size)
        for c in range(marked.size):
            if near[c]:
                looks += width
                if _matters(desk, width, guide, g, c, rho):
                    marked[c] = True
                    near[c] = False
    return looks


@inlined
def _cost(rows, components):  # type: ignore[no-untyped-def]
    return ((rows + ROWS - 1) // ROWS * ROWS + _EXTRA) * components


@allocating
@exact
def _bundle(desk, guide, source, squares, places, order, least, bounds, active):  # type: ignore[no-untyped-def]
    """Put neighbouring regions together where that is cheaper.

    Returns how many bundles there are, cost, pairs and looks.
    """
    k = guide.means.shape[0]
    marked, near = np.empty(k, np.bool_), np.empty(k, np.bool_)
    component = np.empty(k, np.int64)
    for c in range(k):
        component[guide.ranks[c]] = c
    bundles, total, pairs, looks = 0, 0, 0, 0
    rows, count = 0, 0  # of the last bundle
    bounds[0] = 0
    for region in range(2 * k):
        numbers = order[places[region] : places[region + 1]]
        more = numbers.size
        if more == 0:
            continue
        g, square = component[region % k], squares[region]
        _mark(guide, g, square, marked)
        if square < _FAR and _count(marked) > 1:
            looks += _look_at_rows(desk, guide, source, g, square, numbers, least, near, marked)
        fresh = _count(marked)
        pairs += more * fresh
        joint = fresh
        last = active[max(bundles - 1, 0)]
        if bundles > 0:
            joint = 0
            for c in range(k):
                joint += last[c] or marked[c]
        together = _cost(rows + more, joint)
        if bundles > 0 and together <= _cost(rows, count) + _cost(more, fresh):
            for c in range(k):
                last[c] = last[c] or marked[c]
            total += together - _cost(rows, count)
            rows, count = rows + more, joint
        else:
            for c in range(k):
                active[bundles, c] = marked[c]
            bundles += 1
            rows, count = more, fresh
            total += _cost(rows, count)
        bounds[bundles] = places[region + 1]
    return bundles, total, pairs, looks


@exact
def _order(counts, places, keys, order):  # type: ignore[no-untyped-def]
    """Write the numbers of the rows by region; those of a region keep their order.

    ``places`` (2k + 1,) receives where each region begins.
    """
    places[0] = 0
    for region in range(counts.size):
        places[region + 1] = places[region] + counts[region]
        counts[region] = places[region]
    for i in range(keys.size):
        region = keys[i]
        order[counts[region]] = i
        counts[region] += 1


@kernel("division of rows among many components")
def divide(source, guide, keys, least, order, bounds, active):  # type: ignore[no-untyped-def]
    """Divide rows into bundles.

    Parameters
    ----------
    guide
        A `Guide`.
    keys, least
        Scratch, (n,).
    order
        Receives the numbers of the rows, bundle by bundle, (n,).
    bounds
        Receives where each bundle begins in it, and where the last one ends, (2k + 1,).
    active
        Receives which components may matter in each bundle, (2k, k).

    Returns
    -------
    bundles, cost, pairs, looks
        How many bundles there are; what passes over them cost, in pairs of a row and a component;
        the pairs that may matter: what more rows, in fuller tiles, would cost; and the pairs that
        were looked at to tell.
    """
    prefer_wide_vectors()
    k, d = guide.means.shape
    desk = begin_desk(d, guide.axes.shape[1])
    squares, counts = np.zeros(2 * k), np.zeros(2 * k, np.int64)
    places = np.empty(2 * k + 1, np.int64)
    for start in range(0, source.n, ROWS):
        rows = min(ROWS, source.n - start)
        load_tile(desk.tile, source, start, rows)
        _place(desk.tile, ROWS, guide.centre, guide.axes, GUESSED, desk.places)
        _raise_powers(desk.places, desk.powers)
        _guess(desk.powers, guide.terms, guide.offsets, desk.best, desk.guess)
        for i in range(rows):
            region = guide.ranks[int(desk.guess[i])]
            keys[start + i] = region
            counts[region] += 1
    _order(counts, places, keys, order)
    for region in range(2 * k):
        counts[region] = 0
    _find_strays(desk, guide, source, places, order, keys, least, squares, counts)
    _order(counts, places, keys, order)
    return _bundle(desk, guide, source, squares, places, order, least, bounds, active)
