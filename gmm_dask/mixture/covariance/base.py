"""What a covariance type is: the methods that each of the four implements in its own file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
RowsArray = npt.NDArray[np.float64] | npt.NDArray[np.float32]


class CovarianceType(ABC):
    """One form of the covariances of a mixture. Stateless; takes and returns arrays."""

    name: ClassVar[str]

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

    def reorder(self, values: FloatArray, order: npt.NDArray[np.intp]) -> FloatArray:
        """Covariances, factors or precisions with the components in another order."""
        return values[order]

    @abstractmethod
    def estimate(
        self,
        X: RowsArray,
        responsibilities: FloatArray,
        counts: FloatArray,
        means: FloatArray,
        reg_covar: float,
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
        reg_covar: float,
    ) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
        """The M-step of the covariances from statistics of whitened residuals.

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
        reg_covar
            Added to the diagonal, last.

        Returns
        -------
        covariances
            Σ', of the type's shape.
        shifts
            L δ, (k, d): what the means move by.
        guarded
            (k,) True where S/Ñ − δδᵀ cancelled and Σ was therefore kept (DESIGN, "Guard").
        """

    @abstractmethod
    def sum_statistics(
        self,
        X: RowsArray,
        sample_weight: FloatArray | None,
        log_weights: FloatArray,
        means: FloatArray,
        precisions_cholesky: FloatArray,
        counts: FloatArray,
        residual_sums: FloatArray,
        residual_products: FloatArray,
    ) -> float:
        """One fused pass over rows: adds to N (k,), F (k, d) and S in place.

        Parameters
        ----------
        X
            (n, d) float32 or float64, any order and strides; accumulated in float64.
        log_weights
            log π, (k,).

        Returns
        -------
        float
            Σ w log p(x), nats.
        """

    @abstractmethod
    def assign(
        self,
        X: RowsArray,
        log_weights: FloatArray,
        means: FloatArray,
        precisions_cholesky: FloatArray,
        labels: npt.NDArray[np.int32],
        log_densities: FloatArray,
        responsibilities: FloatArray,
    ) -> None:
        """One fused pass over rows for prediction, written into the arrays given.

        ``labels`` (n,) and ``log_densities`` (n,) are always filled (the most probable
        component, log p(x) in nats); ``responsibilities`` (n, k) is filled unless it has no
        rows, shape (0, k).
        """
