"""The statistics of units: what is kept of rows, so that they need not be read again.

A *unit* is a run of rows that are kept, replaced or given up together: a file, or some files. Its
statistics are the sums of an E-step, and the *entropy* of its responsibilities

    H = Σ w (−Σ r log r), and of what is missing in rows with holes: H = log-likelihood − Q,

where Q = Σ w Σ r log(π p(x)) is the expected log-likelihood, which N and S hold. For parameters θ
that change later, Q(θ) + H is the negative free energy of Neal and Hinton (1998, "A view of the EM
algorithm that justifies incremental, sparse, and other variants"): the **bound**. It is never above
the log-likelihood of the rows under θ, and equal to it where the responsibilities are those of θ.

Statistics belong to the parameters that whitened their residuals. `carry` expresses them under
others: the residuals change by an affine map, so no row is needed, and the responsibilities stay
what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, LabelsArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import SufficientStatistics
from gmm_dask.mixture.threads import single_threaded

#: Numbers of the statistics that are carried at once: what the map needs beside them stays small.
_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class UnitTotals:
    """The sum of the statistics of units: what an M-step and the bound are taken from.

    Attributes
    ----------
    counts, residual_sums, residual_products, rows, weight, parameters_digest
        As in `SufficientStatistics`.
    entropy
        H, nats.
    slope
        Σ w · slope of the transforms, nats; 0 without transforms.
    """

    counts: FloatArray
    residual_sums: FloatArray
    residual_products: FloatArray
    rows: int
    weight: float
    entropy: float
    slope: float
    parameters_digest: str

    def __add__(self, other: UnitTotals) -> UnitTotals:
        _check_digests(self.parameters_digest, other.parameters_digest)
        return UnitTotals(
            self.counts + other.counts,
            self.residual_sums + other.residual_sums,
            self.residual_products + other.residual_products,
            self.rows + other.rows,
            self.weight + other.weight,
            self.entropy + other.entropy,
            self.slope + other.slope,
            self.parameters_digest,
        )

    @property
    def finite(self) -> bool:
        """Whether no sum overflowed."""
        return isfinite(self.entropy) and bool(np.isfinite(self.residual_products).all())

    def bound(self, parameters: MixtureParameters) -> float:
        """Return Q + H in natural units, nats; ``parameters`` are those of the statistics."""
        _check_digests(self.parameters_digest, parameters.digest)
        expected = _expected(parameters, self.counts, self.residual_products)
        return expected + self.entropy + self.slope

    def mean_bound(self, parameters: MixtureParameters) -> float:
        """Return the bound per unit of weight, nats."""
        return self.bound(parameters) / self.weight


@dataclass(frozen=True, eq=False)
class UnitStatistics:
    """The sums of u units under one mixture; the first axis of each array is u long.

    Attributes
    ----------
    counts
        N, (u, k).
    residual_sums
        F, (u, k, d).
    residual_products
        S, (u, …) with the shape of the covariance type.
    rows
        Number of rows, (u,).
    weight
        Sum of the sample weights, (u,).
    entropy
        H of the responsibilities under which the rows were read last, nats, (u,).
    slope
        Σ w · slope of the transforms, nats, (u,); 0 without transforms.
    parameters_digest
        Digest of the parameters that whiten the residuals.
    """

    counts: FloatArray
    residual_sums: FloatArray
    residual_products: FloatArray
    rows: npt.NDArray[np.int64]
    weight: FloatArray
    entropy: FloatArray
    slope: FloatArray
    parameters_digest: str

    @classmethod
    def of(
        cls,
        parameters: MixtureParameters,
        statistics: Sequence[SufficientStatistics],
        slopes: Sequence[float] | None = None,
    ) -> UnitStatistics:
        """Make the record of units from an E-step of each; without any, that of no units.

        Parameters
        ----------
        parameters
            Those of the E-step.
        slopes
            Σ w · slope of the transforms of each unit, nats; None without transforms.

        Raises
        ------
        NumericalError
            Statistics belong to other parameters.
        """
        for sums in statistics:
            _check_digests(parameters.digest, sums.parameters_digest)
        u, (k, d) = len(statistics), parameters.means.shape
        with np.errstate(invalid="ignore"):  # what overflowed is refused by the M-step
            entropies = [
                sums.log_likelihood - _expected(parameters, sums.counts, sums.residual_products)
                for sums in statistics
            ]
        return cls(
            np.array([sums.counts for sums in statistics]).reshape(u, k),
            np.array([sums.residual_sums for sums in statistics]).reshape(u, k, d),
            np.array([sums.residual_products for sums in statistics]).reshape(
                u, *parameters.covariance.shape(k, d)
            ),
            np.array([sums.rows for sums in statistics], dtype=np.int64),
            np.array([sums.weight for sums in statistics], dtype=np.float64),
            np.array(entropies, dtype=np.float64),
            np.zeros(u) if slopes is None else np.array(slopes, dtype=np.float64),
            parameters.digest,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: LabelsArray | Sequence[int] | slice) -> UnitStatistics:
        """Return the units with these indices, in their order: a unit left out is forgotten."""
        chosen = indices if isinstance(indices, slice) else np.asarray(indices, dtype=np.intp)
        return self._of_each(lambda array: array[chosen])

    def joined(self, other: UnitStatistics) -> UnitStatistics:
        """Return these units, and then the others, of the same parameters."""
        _check_digests(self.parameters_digest, other.parameters_digest)
        return self._of_each(lambda *pair: np.concatenate(pair), other)

    def merged(self, starts: LabelsArray | Sequence[int]) -> UnitStatistics:
        """Make one unit of each run of units.

        Parameters
        ----------
        starts
            The first unit of each run, ascending; the first is 0.

        Raises
        ------
        ValueError
            The runs do not hold every unit once.
        """
        firsts = np.asarray(starts, dtype=np.intp)
        whole = len(firsts) and firsts[0] == 0 and firsts[-1] < len(self)
        if not whole or (np.diff(firsts) <= 0).any():
            raise ValueError(f"runs of {len(self)} units cannot begin at {firsts.tolist()}")
        return self._of_each(lambda array: np.add.reduceat(array, firsts, axis=0))

    def scaled(self, factors: FloatArray) -> UnitStatistics:
        """Multiply the weights of all rows of a unit by its factor, (u,); ``rows`` stays."""

        def times(array: FloatArray) -> FloatArray:
            return array * factors.reshape(-1, *[1] * (array.ndim - 1))

        return replace(
            self,
            counts=times(self.counts),
            residual_sums=times(self.residual_sums),
            residual_products=times(self.residual_products),
            weight=times(self.weight),
            entropy=times(self.entropy),
            slope=times(self.slope),
        )

    def total(self) -> UnitTotals:
        """Add all units up in their order."""
        return UnitTotals(
            self.counts.sum(axis=0),
            self.residual_sums.sum(axis=0),
            self.residual_products.sum(axis=0),
            int(self.rows.sum()),
            float(self.weight.sum()),
            float(self.entropy.sum()),
            float(self.slope.sum()),
            self.parameters_digest,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(getattr(self, name).nbytes for name in _ARRAYS)

    def _of_each(
        self, function: Callable[..., npt.NDArray[Any]], *others: UnitStatistics
    ) -> UnitStatistics:
        """Return a record of what the function makes of each array, and of those of others."""
        arrays: dict[str, Any] = {
            name: function(*(getattr(units, name) for units in (self, *others))) for name in _ARRAYS
        }
        return replace(self, **arrays)


#: The fields of `UnitStatistics` with an axis of units.
_ARRAYS = (
    "counts",
    "residual_sums",
    "residual_products",
    "rows",
    "weight",
    "entropy",
    "slope",
)


def carry(
    units: UnitStatistics, before: MixtureParameters, after: MixtureParameters
) -> UnitStatistics:
    """Express the statistics of units under other parameters of the same form, without a row.

    Responsibilities, and so N and the entropy, stay those under which the rows were read. Only
    the difference of the means enters, so no digits are lost where the data lie far from the
    origin.

    Parameters
    ----------
    before
        The parameters of the units.
    after
        Those under which they are wanted, of the same type, k and d.

    Raises
    ------
    NumericalError
        The units belong to other parameters than ``before``.
    """
    _check_digests(units.parameters_digest, before.digest)
    covariance, (k, d) = before.covariance, before.means.shape
    sums, products = np.empty_like(units.residual_sums), np.empty_like(units.residual_products)
    factors = before.precisions_cholesky, after.precisions_cholesky
    step = max(1, _BLOCK // (k * d + products[:1].size))
    with single_threaded():
        for first in range(0, len(units), step):
            block = slice(first, first + step)
            sums[block], products[block] = covariance.carry(
                units.counts[block],
                units.residual_sums[block],
                units.residual_products[block],
                factors,
                before.means - after.means,
            )
    return replace(
        units, residual_sums=sums, residual_products=products, parameters_digest=after.digest
    )


def _expected(parameters: MixtureParameters, counts: FloatArray, products: FloatArray) -> float:
    """Return Q, nats, from N and S under the same parameters."""
    occupied = counts > 0.0  # a weight of 0 has no logarithm
    constants = float(counts[occupied] @ parameters.log_constants[occupied])
    return constants - 0.5 * parameters.covariance.sum_squares(products)


def _check_digests(first: str, second: str) -> None:
    if first != second:
        raise NumericalError(
            f"statistics of different parameters cannot be used together: {first} and {second}"
        )
