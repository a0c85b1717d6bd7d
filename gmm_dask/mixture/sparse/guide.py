"""The guide of a mixture: what rows need to find their region, and regions their components."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.covariance.factors import inverse_of_lower
from gmm_dask.mixture.kernels.addresses import writable
from gmm_dask.mixture.kernels.tied import NEAR
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.sparse.desk import GUESSED
from gmm_dask.mixture.sparse.pairs import MOST, bound_pairs, look_at_pairs
from gmm_dask.mixture.threads import single_threaded

_EPS = float(np.finfo(np.float64).eps)
#: What passes take, roughly, in ns on the processor of benchmarks/RESULTS.md; proportions count.
#: Of a row and a component, with matrices and without: a constant, times d, times d².
_PLAIN = {True: (1.5, 0.2, 0.045), False: (1.25, 0.13, 0.0)}
#: To divide a row and copy it: a constant, times k, times d.
_DIVIDING = 10.0, 0.33, 8.0
#: To look at a row and a component closely: a constant, times the axes.
_LOOK = 1.0, 0.12
#: Of the time of a plain pass, what a divided one should take at the most; of its pairs likewise.
_GAIN, _MOST_PAIRS = 0.9, 0.6
#: Of the pairs that are near at first sight, so many times their share will be passed over, and so
#: many times it and d will be looked at closely.
_COST_OF_NEAR, _LOOKS_AT_NEAR = 1.25, 0.2
#: The most axes in which directions between components are sought.
_AXES = 32
#: Least eigenvalue of the pooled correlations, beside the largest. Axes need not be exact.
_LEAST = 1e-10


class Guide(NamedTuple):
    """Arrays of a mixture with k components.

    Attributes
    ----------
    centre, axes
        A row is z = Vᵀ(x − centre), (d,) and (d, p). V whitens the pooled covariance, and has the
        axes along which the means lie farthest apart first. p is a multiple of `GUESSED`; where
        there are fewer axes, the last are 0.
    terms, offsets
        Of the score by which a component is guessed: z·terms + |z|²·(the last term) + offset,
        (k, GUESSED + 1) and (k,), float32.
    places, variances
        z of the means, and variances along the axes, (k, p); these need not be exact.
    added
        An error of a column of U⁻¹V, and of z' = Vᵀ(x − μ) where |y| = 1, is below this, (k, p).
    apart
        vᵀ(μ' − μ) of pairs of components, (k, k) (`pairs`).
    lengths, lengths_of
        s of component c, and s' of component g, at [g, c], (k, k).
    ranks
        The place of each component in an order in which near ones are near, (k,).
    constants
        log π + log|U| − d/2 log 2π, (k,).
    means
        (k, d).
    factors
        U, (k or 1, d, d), or their diagonals, (k, 1, d).
    worth
        The share of all pairs of a row and a component up to which dividing gains time.
    look
        What it costs to look at a pair closely, beside what a plain pass takes for it.
    """

    centre: FloatArray
    axes: FloatArray
    terms: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32]
    places: FloatArray
    variances: FloatArray
    added: FloatArray
    apart: FloatArray
    lengths: FloatArray
    lengths_of: FloatArray
    ranks: npt.NDArray[np.int64]
    constants: FloatArray
    means: FloatArray
    factors: FloatArray
    worth: float
    look: float


def plain_time(parameters: MixtureParameters) -> float:
    """Return the least that a plain pass takes, roughly, in ns per row."""
    return _time(parameters, parameters.covariance.factor_form == "full")


def _time(parameters: MixtureParameters, with_matrices: bool) -> float:
    k, d = parameters.means.shape
    constant, by_d, by_square = _PLAIN[with_matrices]
    return k * (constant + by_d * d + by_square * d * d)


def _expected_time(parameters: MixtureParameters) -> float:
    """Return what a plain pass takes with these means: under a tied U, more if they lie far apart.

    Rows are then whitened for each component, as in the pass (`gmm_dask.mixture.kernels.tied`).
    """
    form = parameters.covariance.factor_form
    if form != "tied":
        return plain_time(parameters)
    whitened = (parameters.means - parameters.means.mean(axis=0)) @ parameters.precisions_cholesky
    return _time(parameters, bool(np.abs(whitened).max() > NEAR))


def worth_of(parameters: MixtureParameters) -> float:
    """Return the share of all pairs up to which dividing gains time; below 0 it never does."""
    k, d = parameters.means.shape
    constant, by_k, by_d = _DIVIDING
    dividing = constant + by_k * k + by_d * d
    return min(_GAIN - dividing / _expected_time(parameters), _MOST_PAIRS)


def _look_of(parameters: MixtureParameters) -> float:
    """Return what a close look at a pair costs, beside what a plain pass takes for it."""
    k, d = parameters.means.shape
    constant, by_axis = _LOOK
    axes = -(-min(d, _AXES) // GUESSED) * GUESSED
    return (constant + by_axis * axes) * k / _expected_time(parameters)


def guide_of(parameters: MixtureParameters) -> Guide | None:
    """Make the guide of a mixture.

    Returns
    -------
    Guide or None
        None where components overlap so much that dividing gains nothing, or their numbers are too
        far apart to calculate with.
    """
    k, d = parameters.means.shape
    with np.errstate(all="ignore"):
        worth, look = worth_of(parameters), _look_of(parameters)
    if not worth > 0.0:
        return None
    factors = writable(_factors(parameters))
    near = look_at_pairs(parameters.log_constants, writable(parameters.means), factors)
    if not near * (_COST_OF_NEAR + _LOOKS_AT_NEAR * d * look) < worth:
        return None
    by_feature = parameters.covariance.factor_form in ("diag", "spherical")
    with np.errstate(all="ignore"), single_threaded():
        centre = parameters.weights @ parameters.means
        apart = parameters.means - centre
        axes = (_feature_axes if by_feature else _axes)(parameters, apart)
        if not np.isfinite(axes).all():
            return None
        places = apart @ axes  # (k, p)
        columns, added = (_along_features if by_feature else _along)(parameters, axes)
        variances = np.broadcast_to(np.square(columns).sum(axis=2), places.shape)
        terms, offsets = _scores(parameters, places, variances)
        finite = all(np.isfinite(a).all() for a in (places, columns, variances, terms))
        if not finite or np.isnan(offsets).any() or not variances.all():
            return None
        apart_pairs, lengths = np.empty((k, k)), np.empty((k, k))
        slack = 2 * (d + 4) * _EPS * (np.abs(apart) @ np.abs(axes))
        constants = parameters.log_constants
        variances = np.ascontiguousarray(variances)
        if not bound_pairs(
            d,
            min(worth, MOST),
            constants,
            places,
            slack,
            columns,
            variances,
            added,
            apart_pairs,
            lengths,
        ):
            return None
    return Guide(
        centre,
        _padded(axes, 0.0),
        terms,
        offsets,
        _padded(places, 0.0),
        _padded(variances, 1.0),
        _padded(np.broadcast_to(added, places.shape), 0.0),
        apart_pairs,
        lengths,
        np.ascontiguousarray(lengths.T),
        _ranks(places),
        constants,
        writable(parameters.means),
        factors,
        worth,
        look,
    )


def _padded(array: FloatArray, value: float) -> FloatArray:
    """Return a copy with columns added up to a multiple of `GUESSED`."""
    missing = -array.shape[1] % GUESSED
    return np.pad(array, ((0, 0), (0, missing)), constant_values=value)


def _factors(parameters: MixtureParameters) -> FloatArray:
    k, d = parameters.means.shape
    factors = parameters.precisions_cholesky
    form = parameters.covariance.factor_form
    if form == "spherical":
        return np.repeat(factors, d).reshape(k, 1, d)
    return factors.reshape(k, 1, d) if form == "diag" else factors.reshape(-1, d, d)


def _feature_axes(parameters: MixtureParameters, apart: FloatArray) -> FloatArray:
    """Return features in units of their pooled deviation, those that tell most first, (d, p)."""
    d = apart.shape[1]
    variances = np.square(1.0 / _factors(parameters)[:, 0])  # (k, d)
    scale = 1.0 / np.sqrt(parameters.weights @ variances)
    between = parameters.weights @ np.square(apart * scale)
    chosen = np.argsort(-between, kind="stable")[: min(d, _AXES)]
    axes = np.zeros((d, len(chosen)))
    axes[chosen, np.arange(len(chosen))] = scale[chosen]
    return axes


def _axes(parameters: MixtureParameters, apart: FloatArray) -> FloatArray:
    """Return discriminant axes, those that tell most first, (d, p)."""
    k, d = apart.shape
    pooled = parameters.covariances
    if parameters.covariance.factor_form != "tied":
        pooled = (parameters.weights @ pooled.reshape(k, d * d)).reshape(d, d)
    scale = 1.0 / np.sqrt(np.diagonal(pooled))
    correlations = pooled * scale * scale[:, None]
    if not np.isfinite(correlations).all():
        return np.full((d, 1), np.nan)
    values, vectors = np.linalg.eigh(correlations)
    whitening = vectors / np.sqrt(np.maximum(values, _LEAST * values[-1]))
    means = (apart * scale) @ whitening
    between = (means.T * parameters.weights) @ means
    if not np.isfinite(between).all():
        return np.full((d, 1), np.nan)
    rotation = np.linalg.eigh(between)[1][:, ::-1]
    axes: FloatArray = scale[:, None] * (whitening @ rotation[:, : min(d, _AXES)])
    return axes


def _along_features(
    parameters: MixtureParameters, axes: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return U⁻¹V as the one number that a column has, (k, p, 1), and what to add to lengths."""
    feature = np.abs(axes).argmax(axis=0)
    scale = axes[feature, np.arange(axes.shape[1])]
    columns = scale / _factors(parameters)[:, 0][:, feature]
    return columns[:, :, None], 8 * (axes.shape[1] + 4) * _EPS * columns


def _along(parameters: MixtureParameters, axes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return U⁻¹V, its columns one after the other, (k or 1, p, d), and what to add to lengths.

    Rounding changes a column by at most (d + 4) eps |U⁻¹||V|; several times that is added.
    """
    d = parameters.n_features
    lower = inverse_of_lower(_factors(parameters).mT)  # the transpose of U⁻¹
    columns = np.ascontiguousarray(axes.T @ lower)
    sizes = np.abs(axes.T) @ np.abs(lower)
    return columns, 8 * (d + 4) * _EPS * np.sqrt(np.square(sizes).sum(axis=2))


def _scores(
    parameters: MixtureParameters, places: FloatArray, variances: FloatArray
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return terms and offsets of the scores: log π p as if components were round."""
    q = min(GUESSED, places.shape[1])
    means = places[:, :q]
    variances = variances[:, :q].mean(axis=1)
    terms = np.zeros((len(places), GUESSED + 1), dtype=np.float32)
    terms[:, :q] = means / variances[:, None]
    terms[:, GUESSED] = -0.5 / variances
    offsets = parameters.log_weights - 0.5 * q * np.log(variances)
    offsets -= 0.5 * np.square(means).sum(axis=1) / variances
    return terms, offsets.astype(np.float32)


def _ranks(places: FloatArray) -> npt.NDArray[np.int64]:
    """Return the place of each component in strips across the first axis, to and fro."""
    k, p = places.shape
    strips = np.empty(k, dtype=np.int64)
    strips[np.argsort(places[:, 0], kind="stable")] = np.arange(k) // max(int(np.sqrt(k)), 1)
    second = places[:, min(1, p - 1)]
    ranks = np.empty(k, dtype=np.int64)
    ranks[np.lexsort((np.where(strips % 2, -second, second), strips))] = np.arange(k)
    return ranks
