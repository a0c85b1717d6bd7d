"""How near a row of one component can be to another one: two bounds for each pair.

**The bounds.** Let y = Uᵀ(x − μ) of component c, and y' that of component g. For any direction
v = V a let s = |U⁻¹ v| and s' = |U'⁻¹ v|. As vᵀ(x − μ) = (U⁻¹v)ᵀ y, by Cauchy and Schwarz

    s |y| ≥ |vᵀ(x − μ)| ≥ vᵀ(μ' − μ) + vᵀ(x − μ') ≥ vᵀ(μ' − μ) − s' |y'|.

So |y| ≥ (apart + vᵀ(x − μ'))/s for a given x, and |y| ≥ (apart − s'ρ)/s for all x with |y'| ≤ ρ,
where apart = vᵀ(μ' − μ) > 0. The best direction would be (Σ + Σ')⁻¹(μ' − μ); with variances along
the axes V in place of the matrices it is nearly as good, and for diagonal covariances the same.

**Rounding.** v is what has been computed, so it has no error. That of V's scalar products with the
means is at most (d + 4) eps |V||μ − centre|, that of U⁻¹V likewise: ``slack`` and ``added`` are
several times as much, and are taken off and added. The relative errors of the few operations that
remain are below `_ROUNDING`.
"""

from __future__ import annotations

import numpy as np

from gmm_dask.mixture.kernels.compile import exact, inlined, kernel
from gmm_dask.mixture.kernels.tiles import fill, prefer_wide_vectors

#: A component is left out where its log π p is this far below another one, and log k; in nats.
SPAN = 37.0
_ROUNDING = 1e-9
#: Components that are looked at first: where this share of others may matter, all overlap.
LOOKED = 8
MOST = 0.5
#: How far rows of a component usually reach in one direction, in standard deviations.
USUAL = 3.0


@inlined
def stray_square(d):  # type: ignore[no-untyped-def]
    """Return |y|² above which a row is a stray: hardly any row of a Gaussian has so much."""
    return d + 4.0 * np.sqrt(2.0 * d)


@exact
def _length(columns, added, a, squares):  # type: ignore[no-untyped-def]
    """Return at least |U⁻¹V a|, where the columns have d entries, or one of their own."""
    prefer_wide_vectors()
    p, d = columns.shape
    total, most = 0.0, 0.0
    if d == 1:
        for j in range(p):
            y = columns[j, 0] * a[j]
            total += y * y
            most += abs(a[j]) * added[j]
        return np.sqrt(total) * (1.0 + _ROUNDING) + most
    fill(squares, 0.0, 0)
    for j in range(p):
        column, factor = columns[j], a[j]
        for i in range(d):
            squares[i] += column[i] * factor
        most += abs(factor) * added[j]
    for i in range(d):
        total += squares[i] * squares[i]
    return np.sqrt(total) * (1.0 + _ROUNDING) + most


@exact
def find_direction(places, variances, g, c, a):  # type: ignore[no-untyped-def]
    """Write a, of the direction v = V a from component c to component g."""
    prefer_wide_vectors()
    place, other = places[g], places[c]
    variance, other_variance = variances[g], variances[c]
    for j in range(a.size):
        a[j] = (place[j] - other[j]) / (variance[j] + other_variance[j])


@exact
def _bound(g, c, places, slack, columns, variances, added, a, squares):  # type: ignore[no-untyped-def]
    """Return vᵀ(μ' − μ), rounded down but at least 0, and s' and s of components g and c."""
    shared = columns.shape[0] == 1
    of_g, of_c = 0 if shared else g, 0 if shared else c
    find_direction(places, variances, g, c, a)
    apart = 0.0
    for j in range(a.size):
        apart += a[j] * (places[g, j] - places[c, j]) * (1.0 - _ROUNDING)
        apart -= abs(a[j]) * (slack[g, j] + slack[c, j])
    at_g = _length(columns[of_g], added[of_g], a, squares)
    at_c = at_g if shared else _length(columns[of_c], added[of_c], a, squares)
    return max(apart, 0.0), at_g, at_c


@inlined
def _square(factor, v, y):  # type: ignore[no-untyped-def]
    """Return |Uᵀv|², where U is (d, d), or (1, d) and diagonal; y (d,) is scratch."""
    prefer_wide_vectors()
    d, total = v.size, 0.0
    if factor.shape[0] == 1:
        for j in range(d):
            y[j] = factor[0, j] * v[j]
    else:
        fill(y, 0.0, 0)
        for m in range(d):
            row, entry = factor[m], v[m]
            for j in range(d):
                y[j] += row[j] * entry
    for j in range(d):
        total += y[j] * y[j]
    return total


@kernel("first look at pairs of components")
def look_at_pairs(constants, means, factors):  # type: ignore[no-untyped-def]
    """Return the share of pairs of components that may matter to each other, at first sight.

    Of a few components a usual row is looked at on the way to each other one: three deviations
    from its mean. What `bound_pairs` says of pairs is proved and says the same more often, but
    needs a guide, which takes ten times as long.

    Parameters
    ----------
    factors
        U, (k or 1, d, d), or their diagonals, (k, 1, d).
    """
    prefer_wide_vectors()
    k, d = means.shape
    v, y = np.empty(d), np.empty(d)
    looked, near = 0, 0
    for g in range(0, k, max(k // LOOKED, 1)):
        least = constants[g] - 0.5 * stray_square(d) - SPAN - np.log(k)
        for c in range(k):
            for j in range(d):
                v[j] = means[g, j] - means[c, j]
            square = _square(factors[min(c, factors.shape[0] - 1)], v, y)
            reach = np.sqrt(_square(factors[min(g, factors.shape[0] - 1)], v, y))
            left = 1.0 - USUAL / reach if reach > USUAL else 0.0
            near += not constants[c] - 0.5 * square * left * left < least
        looked += k
    return near / looked


@kernel("bounds for pairs of components")
def bound_pairs(  # type: ignore[no-untyped-def]
    d, most, constants, places, slack, columns, variances, added, apart, lengths
):
    """Write vᵀ(μ' − μ) of all pairs, (k, k), and s of component c at [g, c].

    Returns whether components lie apart, as far as the parameters tell: whether less than the share
    ``most`` of the pairs that are looked at may matter to each other. If not, nothing is written.
    """
    prefer_wide_vectors()
    k, p = places.shape
    a, squares = np.empty(p), np.empty(columns.shape[2])
    looked, near = 0, 0
    for g in range(0, k, max(k // LOOKED, 1)):
        least = constants[g] - 0.5 * stray_square(d) - SPAN - np.log(k)
        looked += k
        for c in range(k):
            near += 1
            if c != g:
                gap, at_g, at_c = _bound(g, c, places, slack, columns, variances, added, a, squares)
                distance = max((gap - USUAL * at_g) / at_c, 0.0)
                near -= constants[c] - 0.5 * distance * distance < least
    if not near < most * looked:
        return False
    for g in range(k):
        apart[g, g], lengths[g, g] = 0.0, 1.0
        for c in range(g):
            gap, at_g, at_c = _bound(g, c, places, slack, columns, variances, added, a, squares)
            apart[g, c] = apart[c, g] = gap
            lengths[g, c], lengths[c, g] = at_c, at_g
    return True
