"""What a covariance type is: the methods that each of the four implements in its own file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.spec import MixtureSpec


def belonging(X: RowsArray, shares: FloatArray) -> tuple[RowsArray, FloatArray]:
    """Rows with a share in a component, (m, d), and those shares, (m,).

    Most starts put each row into one component: then the others need not look at it.
    """
    own = np.flatnonzero(shares)
    if 2 * len(own) > len(shares):  # a copy would cost more than it saves
        return X, shares
    rows = X.T.take(own, axis=1).T if X.flags.f_contiguous else X[own]  # (m, d)
    return rows, shares[own]


class CovarianceType(ABC):
    """One form of the covariances of a mixture. Stateless; takes and returns arrays."""

    name: ClassVar[str]
    #: Form of the factors U and of S, by which the engine chooses its passes over rows.
    factor_form: ClassVar[Literal["full", "tied", "diag", "spherical"]]
    #: Whether each component has a covariance of its own: all arrays begin with an axis of k.
    by_component: ClassVar[bool] = True

    @abstractmethod
    def shape(self, k: int, d: int) -> tuple[int, ...]:
        """Shape of the covariances, of their precisions' Cholesky factors, and of S."""

    @abstractmethod
    def n_parameters(self, k: int, d: int) -> int:
        """Free parameters in the covariances, for AIC and BIC."""

    @abstractmethod
    def precisions_cholesky(self, covariances: FloatArray) -> FloatArray:
        """U of Σ⁻¹ = U Uᵀ.

        Raises
        ------
        IllConditionedError
            A covariance is not finite or not positive definite; names the component.
        """

    @abstractmethod
    def precisions_cholesky_of_precisions(self, precisions: FloatArray) -> FloatArray:
        """U of given precisions (``precisions_init``), checked for symmetry and definiteness.

        Raises
        ------
        ConfigError
            A precision is not symmetric, not positive definite or not finite.
        """

    @abstractmethod
    def covariances(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Σ = (U Uᵀ)⁻¹."""

    @abstractmethod
    def precisions(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Σ⁻¹ = U Uᵀ."""

    @abstractmethod
    def log_determinants(self, precisions_cholesky: FloatArray, k: int, d: int) -> FloatArray:
        """log|U| of each component, (k,)."""

    @abstractmethod
    def matrices(self, covariances: FloatArray, k: int, d: int) -> FloatArray:
        """Each component's covariance as a full matrix, (k, d, d)."""

    @abstractmethod
    def scaled(self, covariances: FloatArray, scale: FloatArray) -> FloatArray:
        """Σ of features divided by ``scale`` (d,), of the type's shape."""

    def least_variances(self, covariances: FloatArray, scale: FloatArray, k: int) -> FloatArray:
        """Smallest eigenvalue of each Σ of features divided by ``scale`` (d,), (k,)."""
        matrices = self.matrices(covariances, k, len(scale))  # (k, d, d)
        smallest = np.linalg.eigvalsh(matrices / (scale[:, None] * scale))[:, 0]
        return np.asarray(smallest, np.float64)

    def reorder(self, values: FloatArray, order: npt.NDArray[np.intp]) -> FloatArray:
        """Covariances, factors or precisions with the components in another order."""
        return values[order] if self.by_component else values

    @abstractmethod
    def estimate(
        self,
        X: RowsArray,
        responsibilities: FloatArray,
        counts: FloatArray,
        means: FloatArray,
        spec: MixtureSpec,
    ) -> FloatArray:
        """Covariances from given responsibilities of rows in memory, in two passes.

        For initialisation only: X (n, d) and responsibilities (n, k, sample weights multiplied
        in) are held in memory. ``counts`` is Σ r + 10·eps, (k,).
        """

    @abstractmethod
    def update(
        self,
        covariances: FloatArray,
        precisions_cholesky: FloatArray,
        counts: FloatArray,
        residual_means: FloatArray,
        residual_products: FloatArray,
        spec: MixtureSpec,
    ) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
        """Compute the M-step of the covariances from statistics of whitened residuals.

        Parameters
        ----------
        covariances, precisions_cholesky
            Σ and U of the parameters that produced the statistics.
        counts
            Ñ = N + 10·eps, (k,).
        residual_means
            δ = F / Ñ, (k, d).
        residual_products
            S, of the type's shape.
        spec
            Its ``reg_covar`` is added to the diagonal, last.

        Returns
        -------
        covariances
            Σ', of the type's shape.
        shifts
            L δ, (k, d): what the means move by.
        guarded
            (k,) True where S/Ñ − δδᵀ cancelled and Σ was therefore kept (DESIGN, "Guard").
        """
