"""Rows to components: the most probable component, the density, the responsibilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gmm_dask.mixture.covariance.base import FloatArray, RowsArray
from gmm_dask.mixture.parameters import MixtureParameters


@dataclass(frozen=True, eq=False)
class Assignment:
    """What a mixture says of n rows.

    Attributes
    ----------
    labels
        Index of the most probable component, (n,) int32.
    log_densities
        log p(x), nats, (n,).
    responsibilities
        p(component | x), (n, k), rows sum to 1; None unless asked for.
    """

    labels: npt.NDArray[np.int32]
    log_densities: FloatArray
    responsibilities: FloatArray | None


def assign(
    parameters: MixtureParameters, X: RowsArray, *, responsibilities: bool = False
) -> Assignment:
    """Evaluate a mixture on rows in memory, X (n, d) finite."""
    n = X.shape[0]
    labels = np.empty(n, dtype=np.int32)
    log_densities = np.empty(n)
    shares = np.empty((n if responsibilities else 0, parameters.n_components))
    parameters.covariance.assign(
        X,
        parameters.log_weights,
        parameters.means,
        parameters.precisions_cholesky,
        labels,
        log_densities,
        shares,
    )
    return Assignment(labels, log_densities, shares if responsibilities else None)
