"""The parameters of a mixture: a frozen record, valid by construction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import xxhash

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.covariance import COVARIANCE_TYPES, CovarianceType

LOG_2_PI = float(np.log(2.0 * np.pi))


@dataclass(frozen=True, eq=False)
class MixtureParameters:
    """Weights, means and covariances of a Gaussian mixture of k components in d dimensions.

    Made by `from_covariances` or `from_precisions`, which compute the redundant part.

    Attributes
    ----------
    covariance_type
        A key of `COVARIANCE_TYPES`.
    weights
        π, (k,); they sum to 1.
    means
        μ, (k, d).
    covariances
        Σ, of the type's shape.
    precisions_cholesky
        U with Σ⁻¹ = U Uᵀ, of the type's shape.
    """

    covariance_type: str
    weights: FloatArray
    means: FloatArray
    covariances: FloatArray
    precisions_cholesky: FloatArray

    @classmethod
    def from_covariances(
        cls, covariance_type: str, weights: FloatArray, means: FloatArray, covariances: FloatArray
    ) -> MixtureParameters:
        """Make parameters from covariances.

        Raises
        ------
        IllConditionedError
            A covariance is not positive definite; the message names its component.
        """
        return cls(
            covariance_type,
            np.asarray(weights, dtype=np.float64),
            np.asarray(means, dtype=np.float64),
            np.asarray(covariances, dtype=np.float64),
            COVARIANCE_TYPES[covariance_type].precisions_cholesky(
                np.asarray(covariances, dtype=np.float64)
            ),
        )

    @classmethod
    def from_precisions(
        cls, covariance_type: str, weights: FloatArray, means: FloatArray, precisions: FloatArray
    ) -> MixtureParameters:
        """Make parameters from precisions that the user gave.

        Raises
        ------
        ConfigError
            A precision is not finite, symmetric and positive definite.
        """
        covariance = COVARIANCE_TYPES[covariance_type]
        factors = covariance.precisions_cholesky_of_precisions(
            np.asarray(precisions, dtype=np.float64)
        )
        return cls(
            covariance_type,
            np.asarray(weights, dtype=np.float64),
            np.asarray(means, dtype=np.float64),
            covariance.covariances(factors),
            factors,
        )

    @classmethod
    def each_of(
        cls,
        covariance_type: str,
        weights: FloatArray,
        means: FloatArray,
        covariances: FloatArray,
        precisions_cholesky: FloatArray,
    ) -> list[MixtureParameters]:
        """Make b mixtures from stacked arrays, (b, …), which must be valid; no weight is 0.

        Their `log_constants` are computed together, with the same bits as for each alone.
        """
        k, d = means.shape[1:]
        covariance = COVARIANCE_TYPES[covariance_type]
        determinants = covariance.log_determinants(precisions_cholesky, k, d)  # (b, k)
        constants = np.log(weights) + (determinants - 0.5 * d * LOG_2_PI)
        mixtures = []
        for index, arrays in enumerate(
            zip(weights, means, covariances, precisions_cholesky, strict=True)
        ):
            mixture = cls(covariance_type, *arrays)
            mixture.__dict__["log_constants"] = constants[index]  # as if it had been asked for
            mixtures.append(mixture)
        return mixtures

    @property
    def n_components(self) -> int:
        """The number k of components."""
        return int(self.means.shape[0])

    @property
    def n_features(self) -> int:
        """The number d of features."""
        return int(self.means.shape[1])

    @property
    def covariance(self) -> CovarianceType:
        """The covariance type, an object with the mathematics of its form."""
        return COVARIANCE_TYPES[self.covariance_type]

    @cached_property
    def log_weights(self) -> FloatArray:
        """Logarithms of the weights, log π, (k,); −inf for a weight of 0."""
        if self.weights.all():
            return np.log(self.weights)
        with np.errstate(divide="ignore"):
            return np.log(self.weights)

    @cached_property
    def log_constants(self) -> FloatArray:
        """Constant part of log π p(x), nats, (k,): log π + log|U| − d/2 · log 2π."""
        k, d = self.means.shape
        determinants = self.covariance.log_determinants(self.precisions_cholesky, k, d)
        return self.log_weights + (determinants - 0.5 * d * LOG_2_PI)

    @cached_property
    def matrices(self) -> FloatArray:
        """The covariance of each component as a full matrix, (k, d, d)."""
        return self.covariance.matrices(self.covariances, self.n_components, self.n_features)

    @cached_property
    def digest(self) -> str:
        """Digest of the exact bits, which statistics carry: others cannot be added to them."""
        digest = xxhash.xxh3_128(self.covariance_type.encode())
        for array in (self.weights, self.means, self.covariances, self.precisions_cholesky):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def reordered(self, order: npt.NDArray[np.intp]) -> MixtureParameters:
        """Return the same mixture with its components in another order."""
        return MixtureParameters(
            self.covariance_type,
            self.weights[order],
            self.means[order],
            self.covariance.reorder(self.covariances, order),
            self.covariance.reorder(self.precisions_cholesky, order),
        )
