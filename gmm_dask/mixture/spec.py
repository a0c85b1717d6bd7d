"""The specification of a fit: the mixture wanted, its start, when EM stops; cells of a selection.

The names and defaults of these hyperparameters are defined in this file alone: run files and the
estimator take theirs from it, and a test checks that they agree. Imports numpy and the errors only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from gmm_dask.arrays import FloatArray
from gmm_dask.errors import ConfigError

CovarianceName = Literal["full", "tied", "diag", "spherical"]
InitializationName = Literal["kmeans", "k-means++", "random", "random_from_data"]

CriterionName = Literal["bic", "icl", "aic"]
CollapseName = Literal["report", "replace"]
TransformName = Literal["log", "log1p", "asinh", "sqrt", "logit", "standardise"]

COVARIANCE_NAMES: tuple[str, ...] = get_args(CovarianceName)
INITIALIZATION_NAMES: tuple[str, ...] = get_args(InitializationName)
CRITERION_NAMES: tuple[str, ...] = get_args(CriterionName)
COLLAPSE_NAMES: tuple[str, ...] = get_args(CollapseName)
TRANSFORM_NAMES: tuple[str, ...] = get_args(TransformName)

#: Labelled rows that a component needs to have a label, unless the caller says otherwise.
LEAST_LABEL_WEIGHT = 1.5


@dataclass(frozen=True, eq=False)
class Start:
    """How the first parameters are found, and which of them the caller fixed.

    Attributes
    ----------
    init_params
        A key of `gmm_dask.mixture.initialization.INITIALIZATIONS`.
    weights
        π fixed by the caller, (k,), which sum to 1; None if the rows decide.
    means
        μ fixed by the caller, (k, d); None if the rows decide.
    precisions
        Σ⁻¹ fixed by the caller, of the covariance type's shape; None if the rows decide.
    """

    init_params: str = "kmeans"
    weights: FloatArray | None = None
    means: FloatArray | None = None
    precisions: FloatArray | None = None

    @property
    def complete(self) -> bool:
        """Whether the caller fixed all three."""
        return self.weights is not None and self.means is not None and self.precisions is not None

    @property
    def free(self) -> bool:
        """Whether the caller fixed none of the three."""
        return self.weights is None and self.means is None and self.precisions is None


@dataclass(frozen=True, eq=False)
class MixtureSpec:
    """The mixture wanted.

    Attributes
    ----------
    n_components
        k, the number of Gaussians.
    covariance_type
        A key of `gmm_dask.mixture.covariance.COVARIANCE_TYPES`.
    reg_covar
        Added to the diagonal of every covariance at every M-step.
    start
        How the first parameters are found.
    """

    n_components: int = 1
    covariance_type: str = "full"
    reg_covar: float = 1e-6
    start: Start = field(default_factory=Start)


@dataclass(frozen=True)
class EMOptions:
    """When EM stops, and what it does where a component collapses.

    Attributes
    ----------
    tol
        A change of the mean log-likelihood (nats per unit of weight) strictly below this ends
        the run; with an `Ending` that is foretold, also where all further changes promise to add up
        to less.
    max_iter
        The largest number of iterations.
    on_collapse
        ``"replace"``: a component that collapses or starves is placed again where the density is
        lowest (`gmm_dask.mixture.replacing`). ``"report"``: it is left, and named at the end.
    """

    tol: float = 1e-3
    max_iter: int = 100
    on_collapse: str = "report"


class Cell(NamedTuple):
    """A number of components and a covariance type."""

    n_components: int
    covariance_type: str

    def __str__(self) -> str:
        return f"{self.n_components} {self.covariance_type}"


def make_cells(n_components: Sequence[int], covariance_types: Sequence[str]) -> tuple[Cell, ...]:
    """Return every pair once: by the number of components, ascending, then in the types' order.

    Raises
    ------
    ConfigError
        Nothing is to be compared, a number is below 1, or a covariance type is unknown.
    """
    for name, values in (("n_components", n_components), ("covariance_types", covariance_types)):
        if not values:
            raise ConfigError(f"{name} is empty; give at least one to choose from")
    if min(n_components) < 1:
        raise ConfigError(f"n_components holds {min(n_components)}; a mixture has at least 1")
    unknown = [kind for kind in covariance_types if kind not in COVARIANCE_NAMES]
    if unknown:
        raise ConfigError(
            f"covariance_types holds {unknown[0]!r}; there are {', '.join(COVARIANCE_NAMES)}"
        )
    types = tuple(dict.fromkeys(covariance_types))
    return tuple(Cell(k, kind) for k in sorted({*map(int, n_components)}) for kind in types)


def check_criterion(criterion: str) -> None:
    """Refuse the name of a criterion that is unknown, by a `ConfigError`."""
    if criterion not in CRITERION_NAMES:
        raise ConfigError(f"criterion is {criterion!r}; there are {', '.join(CRITERION_NAMES)}")
