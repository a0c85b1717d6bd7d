"""What a covariance type is: the methods that each of the four implements in its own file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.kernels.addresses import native_rows, rows_at, vector_at, writable
from gmm_dask.mixture.kernels.compile import KernelFunction

LOG_2_PI = float(np.log(2.0 * np.pi))


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

    @property
    @abstractmethod
    def statistics_kernel(self) -> KernelFunction:
        """The compiled pass from rows to N, F, S and the log-likelihood."""

    @property
    @abstractmethod
    def assign_kernel(self) -> KernelFunction:
        """The compiled pass from rows to labels, log-densities and responsibilities."""

    def sum_statistics(
        self,
        X: RowsArray,
        sample_weight: FloatArray | None,
        log_weights: FloatArray,
        means: FloatArray,
        precisions_cholesky: FloatArray,
    ) -> tuple[FloatArray, FloatArray, FloatArray, float]:
        """One fused pass over rows.

        Parameters
        ----------
        X
            (n, d) float32 or float64, any order and strides; accumulated in float64.
        sample_weight
            (n,) float64, ≥ 0, or None.
        log_weights
            log π, (k,).

        Returns
        -------
        counts, residual_sums, residual_products
            N (k,), F (k, d) and S.
        log_likelihood
            Σ w log p(x), nats.
        """
        X = native_rows(X)
        k, d = means.shape
        sums = np.zeros(k), np.zeros((k, d)), np.zeros(self.shape(k, d))
        log_likelihood: float = self.statistics_kernel(
            rows_at(X),
            vector_at(sample_weight),
            log_weights + (self.log_determinants(precisions_cholesky, k, d) - 0.5 * d * LOG_2_PI),
            writable(means),
            writable(precisions_cholesky),
            *sums,
        )
        return *sums, log_likelihood

    def assign(
        self,
        X: RowsArray,
        log_weights: FloatArray,
        means: FloatArray,
        precisions_cholesky: FloatArray,
        labels: npt.NDArray[np.int32],
        log_densities: FloatArray,
        responsibilities: FloatArray,
    ) -> bool:
        """One fused pass over rows for prediction, written into the arrays given.

        Returns whether all values were finite, and small enough for that to be seen at once.
        ``labels`` (n,) and ``log_densities`` (n,) are always filled (the most probable
        component, log p(x) in nats); ``responsibilities`` (n, k) is filled unless it has no
        rows, shape (0, k). All three may be strided.
        """
        k, d = means.shape
        X = native_rows(X)
        finite: bool = self.assign_kernel(
            rows_at(X),
            log_weights + (self.log_determinants(precisions_cholesky, k, d) - 0.5 * d * LOG_2_PI),
            writable(means),
            writable(precisions_cholesky),
            vector_at(labels),
            vector_at(log_densities),
            rows_at(responsibilities),
        )
        return finite
