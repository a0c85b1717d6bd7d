"""Starts from rows in memory: the four methods of scikit-learn, and wide starts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, LabelsArray, RowsArray
from gmm_dask.errors import ConfigError
from gmm_dask.mixture.clustering import MANY_FEATURES, label_rows
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.imputation import Filled, first_maximization
from gmm_dask.mixture.labels import take_rows
from gmm_dask.mixture.maximization import COUNT_FLOOR, TINY_WEIGHT
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import MixtureSpec, Start
from gmm_dask.mixture.threads import single_threaded

#: Most iterations of k-means, and when it ends earlier, as in scikit-learn.
MOST_KMEANS_ITERATIONS, KMEANS_TOL = 300, 1e-4
#: Checks that scikit-learn can skip, because the survey has made them.
_SKIPPED_CHECKS = {"assume_finite": True, "skip_parameter_validation": True}
#: Components of which a start is computed at a time, where there are many.
_TOGETHER = 16

# scikit-learn's clustering is imported where it is used: it takes a second and 90 MiB, which only
# starts asked for by method and searches with labels need.


class _ThreadGenerator(threading.local):
    """A random generator for each thread: to make one takes 0.1 ms, to seed it again 2 µs."""

    def __init__(self) -> None:
        self.random_state = np.random.RandomState()


_thread_generator = _ThreadGenerator()


def seeded(seed: int) -> np.random.RandomState:
    """Return a generator that draws the numbers of ``RandomState(seed)``.

    Each thread has a single generator: the next call in the same thread seeds it again.
    """
    _thread_generator.random_state.seed(seed)
    return _thread_generator.random_state


def check_start(spec: MixtureSpec, d: int) -> None:
    """Refuse parameters of the caller that do not fit k components and d features.

    Raises
    ------
    ConfigError
        A parameter has the wrong shape or impossible values; the message says what is right.
    """
    start, k = spec.start, spec.n_components
    covariance = COVARIANCE_TYPES[spec.covariance_type]
    shapes = {
        "weights": (start.weights, (k,)),
        "means": (start.means, (k, d)),
        "precisions": (start.precisions, covariance.shape(k, d)),
    }
    for name, (array, shape) in shapes.items():
        if array is None:
            continue
        if array.shape != shape:
            raise ConfigError(
                f"The parameter '{name}_init' should have the shape of {shape}, "
                f"but got {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ConfigError(f"The parameter '{name}_init' holds NaN or infinity")
    if start.weights is not None:
        if (start.weights < 0).any() or (start.weights > 1).any():
            raise ConfigError("The parameter 'weights_init' should be in the range [0, 1]")
        # Weights that were computed in float32 sum to 1 within a millionth.
        if abs(1.0 - start.weights.sum()) > 1e-6:
            raise ConfigError(
                "The parameter 'weights_init' should be normalized, "
                f"but got sum(weights) = {start.weights.sum():.9g}"
            )


def given_start(spec: MixtureSpec) -> MixtureParameters:
    """Make the start that the caller gave in full.

    Raises
    ------
    ConfigError
        The start is given in part, or the precisions are not positive definite.
    """
    start = spec.start
    if start.weights is None or start.means is None or start.precisions is None:
        raise ConfigError("weights_init, means_init and precisions_init are needed together")
    return MixtureParameters.from_precisions(
        spec.covariance_type, start.weights, start.means, start.precisions
    )


def start_from_responsibilities(
    X: RowsArray,
    responsibilities: FloatArray,
    spec: MixtureSpec,
    filled: Filled | None = None,
) -> MixtureParameters:
    """Take the first M-step, from responsibilities (n, k) times sample weights.

    Parameters that the caller fixed replace those computed from the rows. Where rows have holes,
    ``filled`` says what may be missing.
    """
    if filled is None:
        origin = X[0].astype(np.float64)  # near the rows, so that no digits are lost far from zero
        return _start_from_moments(spec, *_moments(X, responsibilities, spec, origin))
    counts = responsibilities.sum(axis=0) + COUNT_FLOOR  # (k,)
    means, covariances = first_maximization(X, responsibilities, filled.pooled, spec)
    return _start_from_moments(spec, counts, means, covariances)


def _moments(
    X: RowsArray, responsibilities: FloatArray, spec: MixtureSpec, origin: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return N, means and covariances of components; the mean of one without rows is the origin."""
    counts = responsibilities.sum(axis=0) + COUNT_FLOOR  # (k,)
    means = responsibilities.T @ (X - origin) / counts[:, None] + origin  # (k, d)
    covariance = COVARIANCE_TYPES[spec.covariance_type]
    return counts, means, covariance.estimate(X, responsibilities, counts, means, spec)


def _start_from_moments(
    spec: MixtureSpec, counts: FloatArray, means: FloatArray, covariances: FloatArray
) -> MixtureParameters:
    given = spec.start.precisions
    return _apply_given(spec, counts / counts.sum(), means, covariances if given is None else given)


def _apply_given(
    spec: MixtureSpec, weights: FloatArray, means: FloatArray, spread: FloatArray
) -> MixtureParameters:
    """Make parameters in which those that the caller fixed replace the given ones.

    ``spread`` holds the precisions if the caller fixed them, else covariances.
    """
    start, covariance_type = spec.start, spec.covariance_type
    weights = weights if start.weights is None else start.weights
    means = means if start.means is None else start.means
    if start.precisions is not None:
        return MixtureParameters.from_precisions(covariance_type, weights, means, spread)
    return MixtureParameters.from_covariances(covariance_type, weights, means, spread)


def kmeans_labels(
    X: RowsArray, sample_weight: FloatArray | None, k: int, random_state: np.random.RandomState
) -> LabelsArray:
    """Label rows by scikit-learn's k-means, from a single start."""
    if k == 1:
        return np.zeros(len(X), dtype=np.int32)
    from sklearn import config_context
    from sklearn.cluster import KMeans

    X = _squarable(X)

    kmeans = KMeans(n_clusters=k, n_init=1, random_state=random_state)
    with single_threaded(), config_context(**_SKIPPED_CHECKS):
        return kmeans.fit(X, sample_weight=_summable(X, sample_weight)).labels_


def _seeds(
    X: RowsArray, sample_weight: FloatArray | None, k: int, random_state: np.random.RandomState
) -> tuple[RowsArray, LabelsArray]:
    """Draw k rows by k-means++; return their values (k, d) and their indices (k,)."""
    from sklearn import config_context
    from sklearn.cluster import kmeans_plusplus

    X = _squarable(X)

    with single_threaded(), config_context(**_SKIPPED_CHECKS):
        values, indices = kmeans_plusplus(
            X, k, sample_weight=_summable(X, sample_weight), random_state=random_state
        )
    return values, indices


def _squarable(X: RowsArray) -> RowsArray:
    """Return rows whose squares, summed, stay in the range of their type."""
    if X.dtype == np.float32 and np.abs(X).max() > 1e15:
        return X.astype(np.float64)
    return X


def _summable(X: RowsArray, sample_weight: FloatArray | None) -> FloatArray | None:
    """Return weights whose sums stay in the range of the rows' type, which k-means gives them too.

    The weights are divided by a power of two, and no label changes.
    """
    if sample_weight is None or X.dtype != np.float32 or not sample_weight.max() > 1e15:
        return sample_weight
    return np.ldexp(sample_weight, -int(np.frexp(sample_weight.max())[1]))


def scale_weights(sample_weight: FloatArray | None) -> FloatArray | None:
    """Return weights of mean 1 if the given ones are tiny, beside which `COUNT_FLOOR` is felt."""
    if sample_weight is None or not 0.0 < (mean := sample_weight.mean()) < TINY_WEIGHT:
        return sample_weight
    return sample_weight / mean


def one_hot(labels: LabelsArray, k: int, sample_weight: FloatArray | None) -> FloatArray:
    """Return responsibilities (n, k) for rows that each belong to one component."""
    responsibilities = np.zeros((labels.shape[0], k))
    responsibilities[np.arange(labels.shape[0]), labels] = (
        1.0 if sample_weight is None else sample_weight
    )
    return responsibilities


def _kmeans(
    X: RowsArray, sample_weight: FloatArray | None, k: int, random_state: np.random.RandomState
) -> FloatArray:
    return one_hot(kmeans_labels(X, sample_weight, k, random_state), k, sample_weight)


def _compiled_kmeans(
    X: RowsArray, sample_weight: FloatArray | None, k: int, random_state: np.random.RandomState
) -> FloatArray:
    labels = label_rows(X, sample_weight, k, random_state, MOST_KMEANS_ITERATIONS, KMEANS_TOL)
    return one_hot(labels, k, sample_weight)


def _kmeans_plusplus(
    X: RowsArray, sample_weight: FloatArray | None, k: int, random_state: np.random.RandomState
) -> FloatArray:
    _, indices = _seeds(X, sample_weight, k, random_state)
    return _rows_as_components(X.shape[0], indices, k)


def _random(
    X: RowsArray, sample_weight: FloatArray | None, k: int, random_state: np.random.RandomState
) -> FloatArray:
    responsibilities = random_state.uniform(size=(X.shape[0], k))
    responsibilities /= responsibilities.sum(axis=1)[:, None]
    return responsibilities if sample_weight is None else responsibilities * sample_weight[:, None]


def _random_from_data(
    X: RowsArray, sample_weight: FloatArray | None, k: int, random_state: np.random.RandomState
) -> FloatArray:
    share = None if sample_weight is None else sample_weight / sample_weight.sum()
    indices = random_state.choice(X.shape[0], size=k, replace=False, p=share)
    return _rows_as_components(X.shape[0], indices, k)


def _rows_as_components(n: int, indices: npt.NDArray[np.integer], k: int) -> FloatArray:
    responsibilities = np.zeros((n, k))
    responsibilities[indices, np.arange(k)] = 1.0
    return responsibilities


Initialization = Callable[[RowsArray, FloatArray | None, int, np.random.RandomState], FloatArray]

#: The methods of scikit-learn's ``init_params``. Each returns responsibilities (n, k).
INITIALIZATIONS: dict[str, Initialization] = {
    "kmeans": _kmeans,
    "k-means++": _kmeans_plusplus,
    "random": _random,
    "random_from_data": _random_from_data,
}
#: The same for a search, where k-means is a kernel: the same labels but for rounding,
#: and no import of scikit-learn, which takes a second.
SEARCH_INITIALIZATIONS: dict[str, Initialization] = {
    **INITIALIZATIONS,
    "kmeans": _compiled_kmeans,
}


def initial_parameters(
    X: RowsArray,
    sample_weight: FloatArray | None,
    spec: MixtureSpec,
    random_state: np.random.RandomState,
    filled: Filled | None = None,
    methods: Mapping[str, Initialization] = INITIALIZATIONS,
) -> MixtureParameters:
    """Make the start that scikit-learn makes for the same random state.

    Parameters
    ----------
    X
        (n, d), in memory.
    sample_weight
        (n,) or None.
    filled
        Where rows have holes: the rows without.
    methods
        `INITIALIZATIONS`, or those of a search.
    """
    sample_weight = scale_weights(sample_weight)
    initialize = methods[spec.start.init_params]
    values = X if filled is None else filled.values
    responsibilities = initialize(values, sample_weight, spec.n_components, random_state)
    return start_from_responsibilities(X, responsibilities, spec, filled)


def labelled_start(
    X: RowsArray,
    labels: LabelsArray,
    sample_weight: FloatArray | None,
    spec: MixtureSpec,
    filled: Filled | None = None,
) -> MixtureParameters:
    """Make a start from a label for each row of X (n, d)."""
    k = spec.n_components
    if filled is None and COVARIANCE_TYPES[spec.covariance_type].by_component:
        together = 1 if X.shape[1] >= MANY_FEATURES else _TOGETHER
        if k >= 2 * together:
            return _start_in_parts(X, labels, scale_weights(sample_weight), spec, together)
    responsibilities = one_hot(labels, spec.n_components, scale_weights(sample_weight))
    return start_from_responsibilities(X, responsibilities, spec, filled)


def _start_in_parts(
    X: RowsArray,
    labels: LabelsArray,
    sample_weight: FloatArray | None,
    spec: MixtureSpec,
    together: int,
) -> MixtureParameters:
    """Make a start of many components or features, a few components at a time from their own rows.

    Responsibilities of all rows for all components would be k times as large as the labels, and of
    many features most of the products would be with zeros.
    """
    origin, order = X[0].astype(np.float64), np.argsort(labels, kind="stable")
    ordered = labels[order]
    parts = []
    for first in range(0, spec.n_components, together):
        last = min(first + together, spec.n_components)
        rows = slice(*np.searchsorted(ordered, [first, last]))
        weight = None if sample_weight is None else sample_weight[order[rows]]
        shares = one_hot(ordered[rows] - first, last - first, weight)
        parts.append(_moments(take_rows(X, order[rows]), shares, spec, origin))
    return _start_from_moments(spec, *map(np.concatenate, zip(*parts, strict=True)))


def pooled_gaussian(
    X: RowsArray, spec: MixtureSpec, filled: Filled | None = None
) -> MixtureParameters:
    """Return a mixture of one component that all rows belong to."""
    everything = np.ones((X.shape[0], 1))
    return start_from_responsibilities(X, everything, replace(spec, start=Start()), filled)


def wide_start(
    X: RowsArray,
    spec: MixtureSpec,
    random_state: np.random.RandomState,
    filled: Filled | None = None,
    pooled: MixtureParameters | None = None,
) -> MixtureParameters:
    """Make a start of random rows as means, and the covariance of all rows at random scales.

    The scales lie between e⁻³ and √e. Where components overlap or share a centre, k-means cuts them
    to pieces, while EM can find them from wide starts; narrow ones among them are found only
    from different scales. ``pooled`` is the Gaussian of all rows, by default computed.
    """
    k = spec.n_components
    pooled = pooled or pooled_gaussian(X, spec, filled)
    indices = random_state.choice(X.shape[0], size=k, replace=False)
    values = X if filled is None else filled.values
    weights, means = np.full(k, 1.0 / k), values[indices].astype(np.float64)  # (k,), (k, d)
    if spec.start.precisions is not None:
        return _apply_given(spec, weights, means, spec.start.precisions)
    covariances = pooled.covariances
    if pooled.covariance.by_component:
        widths = np.exp(random_state.uniform(-3.0, 0.5, size=k))  # (k,)
        covariances = (covariances.T * widths).T  # (1, …) becomes (k, …)
    return _apply_given(spec, weights, means, np.ascontiguousarray(covariances))
