"""What a mixture is to be, before there are any parameters, and when EM is to stop.

The names and defaults of these hyperparameters stand here and nowhere else: run files and
the estimator take theirs from this file, and a test holds them to it. Imports numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from gmm_dask.arrays import FloatArray

CovarianceName = Literal["full", "tied", "diag", "spherical"]
InitializationName = Literal["kmeans", "k-means++", "random", "random_from_data"]

COVARIANCE_NAMES: tuple[str, ...] = get_args(CovarianceName)
INITIALIZATION_NAMES: tuple[str, ...] = get_args(InitializationName)


@dataclass(frozen=True, eq=False)
class Start:
    """How first parameters are found, and what the caller fixed of them.

    Attributes
    ----------
    init_params
        A key of `gmm_dask.mixture.initialization.INITIALIZATIONS`.
    weights
        Fixed by the caller, (k,), sum to 1; None where the rows decide.
    means
        Likewise, (k, d).
    precisions
        Likewise, of the covariance type's shape.
    """

    init_params: str = "kmeans"
    weights: FloatArray | None = None
    means: FloatArray | None = None
    precisions: FloatArray | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left for the rows to decide."""
        return self.weights is not None and self.means is not None and self.precisions is not None

    @property
    def free(self) -> bool:
        """Whether everything is left for the rows to decide."""
        return self.weights is None and self.means is None and self.precisions is None


@dataclass(frozen=True, eq=False)
class MixtureSpec:
    """A mixture to be fitted.

    Attributes
    ----------
    n_components
        k, the number of Gaussians.
    covariance_type
        A key of `gmm_dask.mixture.covariance.COVARIANCE_TYPES`.
    reg_covar
        Added to the diagonal of every covariance at every M-step.
    start
        How first parameters are found.
    """

    n_components: int = 1
    covariance_type: str = "full"
    reg_covar: float = 1e-6
    start: Start = field(default_factory=Start)


@dataclass(frozen=True)
class EMOptions:
    """When to stop.

    Attributes
    ----------
    tol
        A change of the mean log-likelihood (nats per unit of weight) strictly below this ends
        the run.
    max_iter
        Iterations at the most.
    """

    tol: float = 1e-3
    max_iter: int = 100
