"""Parameters narrowed to float32, and whether a pass with them is safe.

What a pass computes, and with which error. u = 2⁻²⁴ is the rounding of float32, x is exact.

- μ is split into ν, its nearest float32, and the rest. x − ν has the relative error u, since a
  difference is rounded once. So a residual is as exact as it is small, wherever the data lie.
- A float64 row is rounded first, by u of |x|. Of a row at t standard deviations that is at most
  (`MOST_ROUNDED_OFFSET` + t)·u of each, about 4e-6, and κ times that of y. Rows that have the same
  value err alike.
- y = Vᵀ(x − ν) + a, where V is U in float32 and a = Vᵀ(ν − μ). A sum of d products in any order
  errs by at most (d + 2)·u·Σ|V||x − ν|, and typically by √d times u. For a row at t standard
  deviations of each feature, |x − ν| ≤ t·σ + |ν − μ|; so the error of y is at most
  (d + 2)·u·t·κ, where κ = max over components and whitened features of Σ_m |U_mj|·σ_m. κ is 1
  without correlations, does not depend on the units of features, and is about 2/√(1 − ρ²) for
  two features with the correlation ρ. `MOST_CONDITION` bounds it.
- V instead of U is the same for all rows. It moves y by at most u·t·κ, so S by about 2·u·κ of
  itself: 8e-6 with the largest κ. The constants log π p have log|V|, so that the densities are
  those of a mixture with the factors V: where EM stands still, the likelihood is stationary in U,
  and errs by the square of this only.
- log π p is rounded at its own size, less the largest constant. A tile with a row farther than
  `FARTHEST` nats below is left to float64, and so rounding moves no log π p that matters by more
  than 2⁻¹⁴ nats. Nor does x − ν overflow: a row that is near some mean is within 2⁶¹ of all. |y|²
  may, and log π p is then −∞; the pass that sums |y|² itself asks for more (`spherical`).
- ½|y|² has steps of 2⁻²³ of a power of two, and d/2 as its mean. A constant between two steps would
  be rounded in all rows alike, by 1e-6 nats at 100 features; so constants are whole steps.
- A sum over the 128 rows of a tile, or the 256 of a pair of tiles, is one of at most 64 terms in
  each lane, and a tree: it errs by at most 66·u of the sum of magnitudes, and typically by u. Tiles
  are added in float64.

The errors of different rows have either sign. Over n rows they fall as 1/√n, beside that of V.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gmm_dask.mixture.kernels.compile import allocating, exact, inlined
from gmm_dask.mixture.kernels.tiles import fill

#: The largest κ, above which a pass in float32 is not safe.
MOST_CONDITION = 64.0
#: Standard deviations lie between 1 over this and this: neither squares nor products of a residual
#: with a responsibility leave the range of normal numbers.
MOST_SCALE = 2.0**40
#: Means are below this.
MOST_MEAN = 2.0**60
#: A mean must not exceed this many standard deviations: float32 has no finer steps there.
MOST_OFFSET = 2.0**23
#: The same for float64 rows, which are rounded first.
MOST_ROUNDED_OFFSET = 2.0**6
#: The lowest log π p of a row that is computed in float32, below the largest constant, nats.
FARTHEST = 1024.0

# Smaller entries of a factor would lead to denormal numbers.
_LEAST_ENTRY = 2.0**-100


class Narrowed(NamedTuple):
    """The parameters of a mixture in float32.

    Attributes
    ----------
    constants
        log π + log|V| − d/2 · log 2π, less ``base``, (k,).
    means
        ν, (k, d).
    factors
        V, of the shape of U.
    shifts
        a = Vᵀ(ν − μ), (k, d).
    base
        The largest constant, nats.
    roundings
        What is too much in the constants, (k,), nats.
    safe
        Whether a pass in float32 is.
    """

    constants: Any
    means: Any
    factors: Any
    shifts: Any
    base: float
    roundings: Any
    safe: bool


@exact
def _narrow_mean(mean, scales, narrowed):  # type: ignore[no-untyped-def]
    """Write ν; return whether means and standard deviations are such as float32 can tell apart."""
    safe = True
    for j in range(mean.size):
        scale, magnitude = scales[j], abs(mean[j])
        safe = safe and 1.0 / MOST_SCALE <= scale <= MOST_SCALE
        safe = safe and magnitude <= MOST_MEAN and magnitude <= MOST_OFFSET * scale
        narrowed[j] = mean[j]
    return safe


@exact
def _narrow_factor(U, V):  # type: ignore[no-untyped-def]
    """Write V (d, d); return log|V| − log|U|, to first order."""
    d, gain = U.shape[0], 0.0
    for m in range(d):
        for j in range(d):
            V[m, j] = U[m, j] if j >= m and abs(U[m, j]) > _LEAST_ENTRY else 0.0
        gain += (V[m, m] - U[m, m]) / U[m, m]
    return gain


@exact
def _shift(V, mean, narrowed, shift, total):  # type: ignore[no-untyped-def]
    """Write a = Vᵀ(ν − μ); ``total`` (d,) is scratch."""
    fill(total, 0.0, 0)
    for m in range(mean.size):
        rest = narrowed[m] - mean[m]
        for j in range(m, mean.size):
            total[j] += V[m, j] * rest
    for j in range(mean.size):
        shift[j] = total[j]


@exact
def _condition(V, scales, total):  # type: ignore[no-untyped-def]
    """Return max_j Σ_m |V_mj|·σ_m, infinity for NaN; ``total`` (d,) is scratch."""
    fill(total, 0.0, 0)
    for m in range(scales.size):
        for j in range(m, scales.size):
            total[j] += abs(V[m, j]) * scales[m]
    condition = 0.0
    for j in range(scales.size):
        condition = max(condition, total[j] if total[j] < np.inf else np.inf)
    return condition


@exact
def _narrow_constants(constants, gains, d, narrowed, roundings):  # type: ignore[no-untyped-def]
    """Write the constants of the mixture with the factors V; return the largest.

    They are multiples of the steps that ½|y|² of most rows has.
    """
    base, step = -np.inf, 2.0 ** (np.floor(np.log2(d)) - 23.0)
    for c in range(constants.size):
        base = max(base, constants[c] + gains[c])
    for c in range(constants.size):
        exact_value = constants[c] + gains[c] - base
        narrowed[c] = np.floor(exact_value / step + 0.5) * step
        roundings[c] = narrowed[c] - exact_value if exact_value > -np.inf else 0.0
    return base


@allocating
@inlined
def _empty(k, factors, d):  # type: ignore[no-untyped-def]
    """Allocate the parameters."""
    means, shifts = np.empty((k, d), np.float32), np.empty((k, d), np.float32)
    return Narrowed(np.empty(k, np.float32), means, factors, shifts, 0.0, np.empty(k), True)


@allocating
@inlined
def _complete(narrowed, base, safe):  # type: ignore[no-untyped-def]
    """Return the parameters with what is known last."""
    return Narrowed(
        narrowed.constants,
        narrowed.means,
        narrowed.factors,
        narrowed.shifts,
        base,
        narrowed.roundings,
        safe,
    )


@allocating
@exact
def narrow_matrices(constants, means, factors, covariances):  # type: ignore[no-untyped-def]
    """Narrow a mixture with full covariances, or a tied one: (1, d, d) factors and covariances."""
    k, d = means.shape
    parts = factors.shape[0]
    narrowed = _empty(k, np.empty((parts, d, d), np.float32), d)
    scales, scratch, gains = np.empty(d), np.empty(d), np.empty(k)
    safe = True
    for c in range(k):
        part = min(c, parts - 1)
        V = narrowed.factors[part]
        for j in range(d):
            scales[j] = np.sqrt(covariances[part, j, j])
        if c < parts:
            gains[c] = _narrow_factor(factors[c], V)
            safe = _condition(V, scales, scratch) <= MOST_CONDITION and safe
        else:
            gains[c] = gains[0]
        safe = _narrow_mean(means[c], scales, narrowed.means[c]) and safe
        _shift(V, means[c], narrowed.means[c], narrowed.shifts[c], scratch)
    base = _narrow_constants(constants, gains, d, narrowed.constants, narrowed.roundings)
    return _complete(narrowed, base, safe)


@allocating
@exact
def narrow_axes(constants, means, factors, covariances):  # type: ignore[no-untyped-def]
    """Narrow a mixture with diagonal covariances: (k, d) factors and variances."""
    k, d = means.shape
    narrowed = _empty(k, np.empty((k, d), np.float32), d)
    scales, gains = np.empty(d), np.zeros(k)
    safe = True
    for c in range(k):
        for j in range(d):
            scales[j] = np.sqrt(covariances[c, j])
        safe = _narrow_mean(means[c], scales, narrowed.means[c]) and safe
        for j in range(d):
            u = factors[c, j]
            narrowed.factors[c, j] = u
            gains[c] += (narrowed.factors[c, j] - u) / u
            narrowed.shifts[c, j] = (narrowed.means[c, j] - means[c, j]) * u
    base = _narrow_constants(constants, gains, d, narrowed.constants, narrowed.roundings)
    return _complete(narrowed, base, safe)


@allocating
@exact
def repeat_features(values, d):  # type: ignore[no-untyped-def]
    """Return what each component has, (k,), for each of its features, (k, d)."""
    repeated = np.empty((values.size, d))
    for c in range(values.size):
        fill(repeated[c], values[c], 0)
    return repeated


@inlined
def total_likelihood(narrowed, log_likelihood, weight, counts):  # type: ignore[no-untyped-def]
    """Return Σ w log p(x) from its sum less the largest constant."""
    log_likelihood += narrowed.base * weight
    for c in range(counts.size):
        log_likelihood -= narrowed.roundings[c] * counts[c]
    return log_likelihood
