"""The engine: two functions that choose the pass over rows for a mixture, and run it.

Passes over tiles (`kernels/`) serve any number of features, passes over row-major blocks
(`row_major/`) many, passes in single precision (`single_precision/`) the statistics of float32
rows and of rounded ones. Among many components that lie apart, rows are put in order first
(`sparse/`). Another engine would be a folder beside these with the same passes, and a choice here.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, LabelsArray, RowsArray
from gmm_dask.mixture.kernels.addresses import (
    NO_ANSWERS,
    Answers,
    native_rows,
    rows_at,
    vector_at,
    writable,
)
from gmm_dask.mixture.kernels.passes import PASSES, Passes
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.row_major import diag as diag_by_rows
from gmm_dask.mixture.row_major import full as full_by_rows
from gmm_dask.mixture.single_precision import passes as single_precision
from gmm_dask.mixture.sparse.blocks import assign_blocks, guide_for, is_worth, sum_blocks
from gmm_dask.mixture.threads import single_threaded

_ROW_MAJOR = {
    "full": Passes(full_by_rows.statistics, full_by_rows.assign),
    "diag": Passes(diag_by_rows.statistics, diag_by_rows.assign),
}
#: From this many features on, row-major blocks are faster (benchmarks/RESULTS.md). The number of
#: rows does not matter: neither kind of pass has costs that a few hundred rows would not cover.
MANY_FEATURES = {"full": 128, "diag": 128}
#: The same for float32 rows, of which tiles are computed in float32 and blocks in float64.
MANY_SINGLE_FEATURES = {"full": 128, "diag": 512}
#: Fewer float32 rows are computed in float64: that is soon done, and compiles no other kernel.
LEAST_SINGLE_ROWS = 1_024
#: From this many components on, rows are divided among them (benchmarks/RESULTS.md).
MANY_COMPONENTS = {"full": 32, "tied": 64, "diag": 64, "spherical": 64}
#: Up to so many, since a guide has tables of k² numbers, and up to so many features.
_MOST_COMPONENTS, _MOST_FEATURES = 2_048, 127


def takes_blocks(parameters: MixtureParameters) -> bool:
    """Whether the pass for a mixture is one over row-major blocks."""
    least = MANY_FEATURES.get(parameters.covariance.factor_form)
    return least is not None and parameters.n_features >= least


def sums_by_blocks(parameters: MixtureParameters, dtype: npt.DTypeLike) -> bool:
    """Whether the statistics of rows of a type are taken over row-major blocks."""
    if dtype == np.float32 and _few_enough_for_singles(parameters):
        return False
    return takes_blocks(parameters)


def _few_enough_for_singles(parameters: MixtureParameters) -> bool:
    """Whether float32 rows are computed faster over tiles in float32 than over blocks."""
    many = MANY_SINGLE_FEATURES.get(parameters.covariance.factor_form)
    return many is None or parameters.n_features < many


def divides(parameters: MixtureParameters, n: int, repeated: bool = False) -> bool:
    """Whether n rows are many enough to be divided among the components, unless these overlap.

    With ``repeated``, the rows are a part of many more, as a chunk is of a scan's.
    """
    many = MANY_COMPONENTS[parameters.covariance.factor_form]
    if not many <= parameters.n_components <= _MOST_COMPONENTS:
        return False
    return parameters.n_features <= _MOST_FEATURES and is_worth(parameters, n, repeated)


def assigns_too(parameters: MixtureParameters, X: RowsArray) -> bool:
    """Whether the pass for the statistics of rows can assign them, with the bits of `assign`.

    That is the pass over tiles in float64. The others differ from what `assign` does in precision,
    in the order of the rows, or in the components that they leave out.
    """
    if X.dtype == np.float32 or takes_blocks(parameters):
        return False
    return not divides(parameters, len(X), repeated=True) or guide_for(parameters) is None


def statistics(
    parameters: MixtureParameters,
    X: RowsArray,
    sample_weight: FloatArray | None,
    *,
    divided: bool | None = None,
    assigned: tuple[LabelsArray, FloatArray, FloatArray] | None = None,
    rounded: bool = False,
) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """Take the sums of an E-step in one pass over rows in memory.

    Parameters
    ----------
    X
        (n, d) float32 or float64, any order and strides; summed in float64. float32 rows are
        computed in float32 where that is safe (`why_doubles`).
    sample_weight
        (n,), ≥ 0, or None.
    divided
        Whether the rows may be divided among the components; None: if `divides` says so of rows
        that are a part of many more.
    assigned
        Filled with labels, log-densities and certainties, as by `assign`; only where `assigns_too`
        says so.
    rounded
        Whether float64 rows may be rounded, and computed in float32, where that is safe.

    Returns
    -------
    counts, residual_sums, residual_products
        N (k,), F (k, d), and S of the covariance type's shape.
    log_likelihood
        Σ w log p(x), nats.
    """
    # Both must stay alive: a kernel gets only their addresses.
    X = native_rows(X)
    if sample_weight is not None:
        sample_weight = np.asarray(sample_weight, dtype=np.float64)
    if divides(parameters, len(X), repeated=True) if divided is None else divided:
        guide = guide_for(parameters)
        if guide is not None:
            whole = partial(statistics, parameters, divided=False)
            return sum_blocks(parameters, guide, X, sample_weight, whole)
    in_singles = X.dtype == np.float32 or rounded
    in_singles = in_singles and _few_enough_for_singles(parameters)
    if X.dtype == np.float64:
        in_singles = in_singles and single_precision.rounds(parameters)
    if not in_singles or len(X) < LEAST_SINGLE_ROWS:
        return _statistics_in_doubles(parameters, X, sample_weight, assigned)
    computed = single_precision.statistics(parameters, X, sample_weight)
    if computed is None or len(computed[1]) == len(X):
        return _statistics_in_doubles(parameters, X, sample_weight)
    sums, left_out = computed
    if not len(left_out):
        return sums
    X = X.T.take(left_out, axis=1).T
    sample_weight = None if sample_weight is None else sample_weight[left_out]
    rest = _statistics_in_doubles(parameters, X, sample_weight)
    return sums[0] + rest[0], sums[1] + rest[1], sums[2] + rest[2], sums[3] + rest[3]


def least_single_tol(d: int) -> float:
    """Return the smallest ``tol``, nats, of EM that computes rows of d features in float32.

    Rounding alone changes their mean log-likelihood by about 1e-8 from one iteration to the next,
    with a hundred features by 1e-7 and with six hundred by 2e-6: EM might never stop.
    """
    return 1e-6 * max(1.0, d / 100)


def least_rounded_tol(d: int) -> float:
    """Return the smallest ``tol``, nats, with which EM may round float64 rows of d features.

    A likelihood of rounded rows is compared with one that is exact. Where many rows have the same
    value, its rounding moves the mean by about 1e-6 for each feature.
    """
    return 100.0 * least_single_tol(d)


def why_doubles(parameters: MixtureParameters, n: int) -> str:
    """Say why the statistics of n float32 rows are computed in float64; empty if they are not."""
    if divides(parameters, n, repeated=True) and guide_for(parameters) is not None:
        return "rows are divided among many components that lie apart"
    if not _few_enough_for_singles(parameters):
        return "the features are many"
    if not single_precision.is_safe(parameters):
        return "a component is too narrow for float32, beside its mean or its correlations"
    return ""


def _statistics_in_doubles(
    parameters: MixtureParameters,
    X: RowsArray,
    sample_weight: FloatArray | None,
    assigned: tuple[LabelsArray, FloatArray, FloatArray] | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """Take the sums of an E-step in float64; the arguments are those of the kernels."""
    answers = NO_ANSWERS if assigned is None else Answers(*map(vector_at, assigned))
    covariance = parameters.covariance
    k, d = parameters.means.shape
    form, shape = covariance.factor_form, covariance.shape(k, d)
    mixture = (
        parameters.log_constants,
        writable(parameters.means),
        writable(parameters.precisions_cholesky),
    )
    sums = np.zeros(k), np.zeros((k, d)), np.zeros(shape)
    if not takes_blocks(parameters):
        log_likelihood: float = PASSES[form].statistics(
            rows_at(X), vector_at(sample_weight), *mixture, *sums, answers
        )
        return *sums, log_likelihood
    with single_threaded():
        log_likelihood, done = _ROW_MAJOR[form].statistics(
            rows_at(X), vector_at(sample_weight), *mixture, *sums
        )
    if done == len(X):
        return *sums, log_likelihood
    # Components overlap: the other rows are for the pass over tiles.
    X = X[done:]
    sample_weight = None if sample_weight is None else sample_weight[done:]
    rest = np.zeros(k), np.zeros((k, d)), np.zeros(shape)
    log_likelihood += PASSES[form].statistics(
        rows_at(X), vector_at(sample_weight), *mixture, *rest, NO_ANSWERS
    )
    counts, residual_sums, residual_products = (a + b for a, b in zip(sums, rest, strict=True))
    return counts, residual_sums, residual_products, log_likelihood


def assign(
    parameters: MixtureParameters,
    X: RowsArray,
    labels: npt.NDArray[np.int32],
    log_densities: FloatArray,
    responsibilities: FloatArray,
    certainties: FloatArray | None = None,
    *,
    divided: bool | None = None,
) -> bool:
    """Predict rows in memory in one pass, into the given arrays, which may be strided.

    Parameters
    ----------
    X
        (n, d) float32 or float64, any order and strides.
    labels
        Filled with the most probable component, (n,).
    log_densities
        Filled with log p(x), nats, (n,).
    responsibilities
        Filled with p(component | x), (n, k), unless it has no rows, (0, k).
    certainties
        Filled with the largest p(component | x) of each row, (n,); or None.
    divided
        Whether the rows may be divided among the components; None: if `divides` says so.

    Returns
    -------
    bool
        Whether all values were finite, and small enough that their sum is.
    """
    X = native_rows(X)
    if divides(parameters, len(X)) if divided is None else divided:
        guide = guide_for(parameters)
        if guide is not None:
            answers = labels, log_densities, responsibilities, certainties
            return assign_blocks(
                parameters, guide, X, answers, partial(assign, parameters, divided=False)
            )
    by_blocks = takes_blocks(parameters)
    passes = (_ROW_MAJOR if by_blocks else PASSES)[parameters.covariance.factor_form]
    # BLAS is called by the passes over blocks alone.
    with single_threaded() if by_blocks else nullcontext():
        finite: bool = passes.assign(
            rows_at(X),
            parameters.log_constants,
            writable(parameters.means),
            writable(parameters.precisions_cholesky),
            vector_at(labels),
            vector_at(log_densities),
            vector_at(certainties),
            rows_at(responsibilities),
        )
    return finite
