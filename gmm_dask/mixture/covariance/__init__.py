"""The four covariance types, and the registry that holds them by name.

A covariance type is a stateless object whose methods take and return plain arrays. k is the number
of components, d of features, n of rows. For a given type, the covariances, the Cholesky factors of
the precisions, and the second moments S all have the same shape:

========== ========= ==================================================
type       shape     Σ of component j
========== ========= ==================================================
full       (k, d, d) its own matrix
tied       (d, d)    one matrix for all
diag       (k, d)    its own variance per feature
spherical  (k,)      one variance for all its features
========== ========= ==================================================

U is the upper Cholesky factor of a precision, Σ⁻¹ = U Uᵀ, and L = U⁻ᵀ, so that Σ = L Lᵀ.
"""

from __future__ import annotations

from gmm_dask.mixture.covariance.covariance_type import CovarianceType
from gmm_dask.mixture.covariance.diag import Diag
from gmm_dask.mixture.covariance.full import Full
from gmm_dask.mixture.covariance.spherical import Spherical
from gmm_dask.mixture.covariance.tied import Tied

COVARIANCE_TYPES: dict[str, CovarianceType] = {
    covariance.name: covariance for covariance in (Full(), Tied(), Diag(), Spherical())
}

__all__ = ["COVARIANCE_TYPES", "CovarianceType"]
