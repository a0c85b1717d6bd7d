"""The interface of a covariance type, which each of the four implements in a file of its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, IndexArray, RowsArray
from gmm_dask.mixture.covariance.matrices import Update
from gmm_dask.mixture.spec import MixtureSpec


def select_rows(X: RowsArray, shares: FloatArray) -> tuple[RowsArray, FloatArray]:
    """Select the rows that have a share in a component, (m, d), and their shares, (m,).

    Most starts put each row into a single component, and the others can skip it. Where more than
    half of the rows have a share, X and the shares are returned as they are.
    """
    numbers = np.flatnonzero(shares)
    if 2 * len(numbers) > len(shares):  # a copy would cost more than it saves
        return X, shares
    rows = X.T.take(numbers, axis=1).T if X.flags.f_contiguous else X[numbers]  # (m, d)
    return rows, shares[numbers]


class CovarianceType(ABC):
    """A form of the covariances of a mixture: stateless, from arrays to arrays."""

    name: ClassVar[str]
    #: Form of the factors U and of S, by which the engine chooses the passes over rows.
    factor_form: ClassVar[Literal["full", "tied", "diag", "spherical"]]
    #: Whether each component has its own covariance: then the first axis of all arrays is k long.
    by_component: ClassVar[bool] = True

    @abstractmethod
    def shape(self, k: int, d: int) -> tuple[int, ...]:
        """Return the shape of the covariances, of the factors of the precisions, and of S."""

    @abstractmethod
    def n_parameters(self, k: int, d: int) -> int:
        """Count the free parameters of the covariances, for AIC and BIC."""

    @abstractmethod
    def least_rows(self, d: int) -> int:
        """Rows that keep the likelihood of a component bounded; 0 where it always is.

        A component of fewer rows is starved: the likelihood rewards it for shrinking onto them.
        """

    @abstractmethod
    def precisions_cholesky(self, covariances: FloatArray) -> FloatArray:
        """Compute the factors U of the precisions, Σ⁻¹ = U Uᵀ.

        Raises
        ------
        IllConditionedError
            A covariance is not finite or not positive definite; the message names its component.
        """

    @abstractmethod
    def precisions_cholesky_of_precisions(self, precisions: FloatArray) -> FloatArray:
        """Compute the factors U of given precisions (``precisions_init``), and check these.

        Raises
        ------
        ConfigError
            A precision is not symmetric, not positive definite or not finite; the message names
            its component.
        """

    @abstractmethod
    def covariances(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Compute the covariances Σ = (U Uᵀ)⁻¹ from the factors U."""

    @abstractmethod
    def precisions(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Compute the precisions Σ⁻¹ = U Uᵀ from the factors U."""

    @abstractmethod
    def log_determinants(self, precisions_cholesky: FloatArray, k: int, d: int) -> FloatArray:
        """Compute log|U| of each component, (…, k), of one mixture or of many."""

    @abstractmethod
    def matrices(self, covariances: FloatArray, k: int, d: int) -> FloatArray:
        """Return the covariance of each component as a full matrix, (k, d, d)."""

    @abstractmethod
    def from_matrices(self, matrices: FloatArray, weights: FloatArray) -> FloatArray:
        """Return the covariances of this type that are nearest to matrices (k, d, d) of any form.

        Nearest in likelihood, for components with these weights (k,) that keep their means.
        """

    @abstractmethod
    def scaled(self, covariances: FloatArray, scale: FloatArray) -> FloatArray:
        """Return the covariances of features divided by ``scale`` (d,), of the type's shape."""

    @abstractmethod
    def marginal(
        self,
        covariances: FloatArray,
        precisions_cholesky: FloatArray,
        observed: IndexArray,
        d: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Compute the covariances of some of the features, which are those of the marginals.

        Parameters
        ----------
        covariances, precisions_cholesky
            Σ and U of all d features.
        observed
            Indices of the o features, ascending, (o,).
        d
            The number of all features.

        Returns
        -------
        covariances, precisions_cholesky
            Of the o features, of the type's shape.
        axes
            A with E[y | x_o] = A y_o for whitened residuals y of all features and y_o of the
            observed ones, which `lift` takes. AᵀA = I.
        """

    @abstractmethod
    def lift(
        self,
        counts: FloatArray,
        residual_sums: FloatArray,
        residual_products: FloatArray,
        axes: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Lift statistics of the observed features to those of all features.

        They are what the sums over y have as expected values, given what is observed:
        F = A F_o, and S = A S_o Aᵀ + N (I − A Aᵀ) in the form of the type, since y given y_o has
        the mean A y_o and the covariance I − A Aᵀ.

        Parameters
        ----------
        counts
            N, (k,).
        residual_sums, residual_products
            F_o (k, o) and S_o under the marginals.
        axes
            From `marginal`.

        Returns
        -------
        residual_sums, residual_products
            F (k, d) and S of the type's shape for all features.
        """

    @abstractmethod
    def carry(
        self,
        counts: FloatArray,
        residual_sums: FloatArray,
        residual_products: FloatArray,
        factors: tuple[FloatArray, FloatArray],
        apart: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Carry statistics of many units to the whitened residuals of other parameters.

        With U, μ the old and U', μ' the new parameters, y' = U'ᵀ (x − μ') is A y + c, where
        A = U'ᵀ L and c = U'ᵀ (μ − μ'). So F' = A F + N c, and
        S' = A S Aᵀ + A F cᵀ + c (A F)ᵀ + N c cᵀ in the form of the type: no row is needed. In
        each form S' follows from N, F and S of the same form alone.

        Parameters
        ----------
        counts
            N, (u, k).
        residual_sums, residual_products
            F (u, k, d), and S with the axis u before the type's shape.
        factors
            U and U', of the type's shape.
        apart
            μ − μ', (k, d).

        Returns
        -------
        residual_sums, residual_products
            F' and S'.
        """

    @abstractmethod
    def find_narrow(
        self, covariances: FloatArray, scale: FloatArray, k: int, least: float
    ) -> npt.NDArray[np.bool_]:
        """Tell which components have a variance of at most ``least`` in any direction, (…, k).

        The features are divided by ``scale`` (d,). Axes before those of the type's shape are kept.
        """

    def sum_squares(self, residual_products: FloatArray) -> FloatArray:
        """Sum the squares of whitened residuals of b mixtures: the trace of S (b, …), (b,)."""
        sums: FloatArray = residual_products.reshape(len(residual_products), -1).sum(axis=1)
        return sums

    def sum_precisions(
        self, precisions_cholesky: FloatArray, counts: FloatArray, d: int
    ) -> FloatArray:
        """Sum N tr Σ⁻¹ over the components of b mixtures, (b,), for factors (b, …) and N (b, k)."""
        factors = precisions_cholesky.reshape(*counts.shape, -1)
        return (np.einsum("bki,bki->bk", factors, factors) * counts).sum(axis=1)

    def reorder(self, values: FloatArray, order: npt.NDArray[np.intp]) -> FloatArray:
        """Return covariances, factors or precisions with the components in another order."""
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
        """Compute covariances from the responsibilities for rows in memory, for a start.

        Parameters
        ----------
        X
            (n, d).
        responsibilities
            r times the sample weight, (n, k).
        counts
            Σ r + 10·eps, (k,).
        means
            Of the components, (k, d).
        spec
            Its ``reg_covar`` is added to the diagonal, last.
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
    ) -> Update:
        """Compute the M-step of the covariances of b mixtures from sums of whitened residuals.

        Parameters
        ----------
        covariances, precisions_cholesky
            Σ and U of the parameters that produced the statistics, (b, …).
        counts
            Ñ = N + 10·eps, (b, k).
        residual_means
            δ = F / Ñ, (b, k, d).
        residual_products
            S, (b, …).
        spec
            Its ``reg_covar`` is added to the diagonal, last.
        """
