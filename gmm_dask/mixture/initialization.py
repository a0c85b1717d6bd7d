"""First parameters from rows in memory: the four methods of scikit-learn, and wide starts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.errors import ConfigError
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.em import COUNT_FLOOR
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.threads import single_threaded

Labels = npt.NDArray[np.integer]

#: What scikit-learn need not check again: the survey has looked at the rows.
_SEEN_TO = {"assume_finite": True, "skip_parameter_validation": True}

# scikit-learn's clustering is imported where it is used: it takes a second and 90 MiB, which
# predictions, warm starts and the workers of a cluster do not need.


class _OfThread(threading.local):
    """A generator for each thread: making one takes 0.1 ms, seeding it again 2 µs."""

    def __init__(self) -> None:
        self.random_state = np.random.RandomState()


_of_thread = _OfThread()


def seeded(seed: int) -> np.random.RandomState:
    """The numbers of ``RandomState(seed)``, to be drawn before this thread seeds it again."""
    _of_thread.random_state.seed(seed)
    return _of_thread.random_state


@dataclass(frozen=True, eq=False)
class GivenParameters:
    """What the caller fixed of the first parameters; None where the data decide.

    Attributes
    ----------
    weights
        (k,), sum to 1.
    means
        (k, d).
    precisions
        Of the covariance type's shape.
    """

    weights: FloatArray | None = None
    means: FloatArray | None = None
    precisions: FloatArray | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left for the data to decide."""
        return self.weights is not None and self.means is not None and self.precisions is not None

    @property
    def free(self) -> bool:
        """Whether everything is left for the data to decide."""
        return self.weights is None and self.means is None and self.precisions is None


def check_given(given: GivenParameters, covariance_type: str, k: int, d: int) -> None:
    """Refuse given parameters of the wrong shape or range.

    Raises
    ------
    ConfigError
        Names the keyword and what it should be.
    """
    shapes = {
        "weights": (given.weights, (k,)),
        "means": (given.means, (k, d)),
        "precisions": (given.precisions, COVARIANCE_TYPES[covariance_type].shape(k, d)),
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
    if given.weights is not None:
        if (given.weights < 0).any() or (given.weights > 1).any():
            raise ConfigError("The parameter 'weights_init' should be in the range [0, 1]")
        if abs(1.0 - given.weights.sum()) > 1e-8:
            raise ConfigError(
                "The parameter 'weights_init' should be normalized, "
                f"but got sum(weights) = {given.weights.sum():.5f}"
            )


def given_start(given: GivenParameters, covariance_type: str) -> MixtureParameters:
    """Parameters that the caller gave in full."""
    if given.weights is None or given.means is None or given.precisions is None:
        raise ConfigError("weights_init, means_init and precisions_init are needed together")
    return MixtureParameters.from_precisions(
        covariance_type, given.weights, given.means, given.precisions
    )


def start_from_responsibilities(
    X: RowsArray,
    responsibilities: FloatArray,
    covariance_type: str,
    reg_covar: float,
    given: GivenParameters,
) -> MixtureParameters:
    """First M-step, from responsibilities (n, k) with sample weights multiplied in.

    What the caller gave replaces what the rows say, part by part.
    """
    counts = responsibilities.sum(axis=0) + COUNT_FLOOR  # (k,)
    origin = X[0].astype(np.float64)  # near the rows, so that a far origin costs no digits
    means = responsibilities.T @ (X - origin) / counts[:, None] + origin  # (k, d)
    weights = counts / counts.sum() if given.weights is None else given.weights
    if given.precisions is not None:
        return MixtureParameters.from_precisions(
            covariance_type,
            weights,
            means if given.means is None else given.means,
            given.precisions,
        )
    covariances = COVARIANCE_TYPES[covariance_type].estimate(
        X, responsibilities, counts, means, reg_covar
    )
    return MixtureParameters.from_covariances(
        covariance_type, weights, means if given.means is None else given.means, covariances
    )


def kmeans_labels(
    X: RowsArray, sample_weight: FloatArray | None, k: int, random_state: np.random.RandomState
) -> Labels:
    """Label rows by scikit-learn's k-means, one start."""
    from sklearn import config_context
    from sklearn.cluster import KMeans

    kmeans = KMeans(n_clusters=k, n_init=1, random_state=random_state)
    with single_threaded(), config_context(**_SEEN_TO):
        return kmeans.fit(X, sample_weight=sample_weight).labels_


def nearest_seed_labels(
    X: RowsArray, sample_weight: FloatArray | None, k: int, random_state: np.random.RandomState
) -> Labels:
    """Label rows by the nearest of k seeds drawn by k-means++: k-means without its iterations."""
    seeds, _ = _seeds(X, sample_weight, k, random_state)
    distances = (seeds * seeds).sum(axis=1) - 2.0 * (X @ seeds.T)  # (n, k), up to |x|²
    return distances.argmin(axis=1)


def _seeds(
    X: RowsArray, sample_weight: FloatArray | None, k: int, random_state: np.random.RandomState
) -> tuple[RowsArray, Labels]:
    """Draw k rows by k-means++: their values (k, d) and their numbers (k,)."""
    from sklearn import config_context
    from sklearn.cluster import kmeans_plusplus

    with single_threaded(), config_context(**_SEEN_TO):
        values, numbers = kmeans_plusplus(
            X, k, sample_weight=sample_weight, random_state=random_state
        )
    return values, numbers


def one_hot(labels: Labels, k: int, sample_weight: FloatArray | None) -> FloatArray:
    """Responsibilities (n, k) of rows that each belong to one component."""
    responsibilities = np.zeros((labels.shape[0], k))
    responsibilities[np.arange(labels.shape[0]), labels] = (
        1.0 if sample_weight is None else sample_weight
    )
    return responsibilities


def _kmeans(
    X: RowsArray, sample_weight: FloatArray | None, k: int, random_state: np.random.RandomState
) -> FloatArray:
    return one_hot(kmeans_labels(X, sample_weight, k, random_state), k, sample_weight)


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

#: scikit-learn's ``init_params``: rows, weights, k and random state to responsibilities (n, k).
INITIALIZATIONS: dict[str, Initialization] = {
    "kmeans": _kmeans,
    "k-means++": _kmeans_plusplus,
    "random": _random,
    "random_from_data": _random_from_data,
}


def initial_parameters(
    X: RowsArray,
    sample_weight: FloatArray | None,
    k: int,
    covariance_type: str,
    init_params: str,
    reg_covar: float,
    random_state: np.random.RandomState,
    given: GivenParameters,
) -> MixtureParameters:
    """Start as scikit-learn does: the same random state gives the same start.

    Parameters
    ----------
    X
        (n, d), in memory.
    sample_weight
        (n,) or None.
    init_params
        A key of `INITIALIZATIONS`.
    """
    responsibilities = INITIALIZATIONS[init_params](X, sample_weight, k, random_state)
    return start_from_responsibilities(X, responsibilities, covariance_type, reg_covar, given)


def labelled_start(
    X: RowsArray,
    labels: Labels,
    sample_weight: FloatArray | None,
    k: int,
    covariance_type: str,
    reg_covar: float,
    given: GivenParameters,
) -> MixtureParameters:
    """Start from a label for each row of X (n, d)."""
    return start_from_responsibilities(
        X, one_hot(labels, k, sample_weight), covariance_type, reg_covar, given
    )


def wide_start(
    X: RowsArray,
    k: int,
    covariance_type: str,
    reg_covar: float,
    random_state: np.random.RandomState,
    given: GivenParameters,
) -> MixtureParameters:
    """Random rows as means, with the covariance of the whole at random widths, e⁻³ to √e.

    K-means cuts overlapping or concentric components apart; from wide ones EM can settle on
    them. Of components that share a centre only different widths find the narrow ones.
    """
    d = X.shape[1]
    everything = np.ones((X.shape[0], 1))
    pooled = start_from_responsibilities(
        X, everything, covariance_type, reg_covar, GivenParameters()
    )
    indices = random_state.choice(X.shape[0], size=k, replace=False)
    means = X[indices].astype(np.float64)  # (k, d)
    if given.precisions is not None:
        return MixtureParameters.from_precisions(
            covariance_type,
            np.full(k, 1.0 / k) if given.weights is None else given.weights,
            means if given.means is None else given.means,
            given.precisions,
        )
    covariances = pooled.covariances
    if pooled.covariance.by_component:
        widths = np.exp(random_state.uniform(-3.0, 0.5, size=k))  # (k,)
        covariances = (covariances.T * widths).T  # (1, …) becomes (k, …)
    return MixtureParameters.from_covariances(
        covariance_type,
        np.full(k, 1.0 / k) if given.weights is None else given.weights,
        means.reshape(k, d) if given.means is None else given.means,
        np.ascontiguousarray(covariances),
    )
