"""The evaluation: one scan that says how mixtures describe the rows, and how dense they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.survey import Survey
from gmm_dask.chunked.threads import available_cores
from gmm_dask.errors import InputError
from gmm_dask.events import Stage
from gmm_dask.mixture.assignment import LEAST_SLICE_ROWS, Assignment, assign
from gmm_dask.mixture.kernels.tally import tally
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.nulls import NullPolicy

#: Bins of the density histogram; the resolution of a quantile is a bin's width.
BINS = 8192
#: Share of the rows fitted that lie below a model's low-density threshold: its outliers.
LOW_DENSITY_SHARE = 0.001
#: How far below its highest possible value the histogram of log-densities reaches, nats.
DEPTH = 120.0


@dataclass(frozen=True, eq=False)
class DensitySummary:
    """Sums over rows of what a mixture says of them; merges by ``+``.

    Attributes
    ----------
    rows, weight
        Rows and the sum of their weights.
    log_likelihood
        Σ w log p(x), nats.
    occupancy
        Weight of the rows whose most probable component is each, (k,).
    lowest, highest
        Extreme log-densities, nats.
    bins
        Weight of rows per log-density bin, (BINS,), between ``ceiling − DEPTH`` and
        ``ceiling``; the first holds everything below as well.
    ceiling
        An upper bound of the log-density of this mixture, nats.
    """

    rows: int
    weight: float
    log_likelihood: float
    occupancy: FloatArray
    lowest: float
    highest: float
    bins: FloatArray
    ceiling: float

    def __add__(self, other: DensitySummary) -> DensitySummary:
        if self.ceiling != other.ceiling:
            raise InputError("density records of different mixtures cannot be added")
        return DensitySummary(
            self.rows + other.rows,
            self.weight + other.weight,
            self.log_likelihood + other.log_likelihood,
            self.occupancy + other.occupancy,
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
            self.bins + other.bins,
            self.ceiling,
        )

    @property
    def mean_log_likelihood(self) -> float:
        """Nats per unit of weight."""
        return self.log_likelihood / self.weight

    @property
    def shares(self) -> FloatArray:
        """Share of the weight in each component, (k,)."""
        return self.occupancy / self.weight

    def quantile(self, share: float) -> float:
        """The log-density below which ``share`` of the weight lies, nats.

        Linear within a bin of DEPTH/BINS ≈ 0.015 nats; from the lowest value to the floor where
        the row lies below the histogram.
        """
        occupied = np.flatnonzero(self.bins)
        cumulated = np.cumsum(self.bins[occupied])
        target = share * cumulated[-1]
        place = min(int(np.searchsorted(cumulated, target)), len(occupied) - 1)
        index = int(occupied[place])
        width = DEPTH / BINS
        low = self.ceiling - DEPTH + index * width
        if index == 0:
            low = min(self.lowest, low)
        high = self.ceiling - DEPTH + (index + 1) * width
        before = cumulated[place] - self.bins[index]
        within = (target - before) / self.bins[index]
        return float(min(max(low + within * (high - low), self.lowest), self.highest))

    def share_below(self, log_density: float) -> float:
        """Share of the weight below a log-density: the inverse of `quantile`."""
        position = (log_density - (self.ceiling - DEPTH)) * (BINS / DEPTH)
        index = int(np.floor(position))
        if index < 0:
            return 0.0 if log_density <= self.lowest else float(self.bins[0] / self.weight)
        if index >= BINS:
            return 1.0
        partial = self.bins[index] * (position - index)
        return float((self.bins[:index].sum() + partial) / self.weight)


@dataclass(frozen=True, eq=False)
class EvaluationBatch:
    """Density records of several mixtures over the same rows."""

    records: tuple[DensitySummary, ...]

    def __add__(self, other: EvaluationBatch) -> EvaluationBatch:
        return EvaluationBatch(
            tuple(mine + theirs for mine, theirs in zip(self.records, other.records, strict=True))
        )


def density_ceiling(parameters: MixtureParameters) -> float:
    """Upper bound of log p(x): log Σ_k π_k N_k(μ_k), nats."""
    k, d = parameters.means.shape
    peaks = (
        parameters.log_weights
        + parameters.covariance.log_determinants(parameters.precisions_cholesky, k, d)
        - 0.5 * d * np.log(2 * np.pi)
    )  # (k,)
    return float(np.logaddexp.reduce(peaks))


def summarize_densities(
    assigned: Assignment, sample_weight: FloatArray | None, k: int, ceiling: float
) -> DensitySummary:
    """Sum up an assignment of rows."""
    occupancy, bins, sums = tally(
        assigned.labels,
        assigned.log_densities,
        sample_weight,
        k,
        BINS,
        ceiling - DEPTH,
        DEPTH / BINS,
    )
    weight, log_likelihood, lowest, highest = sums.tolist()
    return DensitySummary(
        len(assigned.labels), weight, log_likelihood, occupancy, lowest, highest, bins, ceiling
    )


def evaluate_rows(
    rows: Rows, mixtures: tuple[MixtureParameters, ...], threads: int = 1
) -> EvaluationBatch:
    """Evaluate mixtures on one chunk."""
    return EvaluationBatch(
        tuple(
            summarize_densities(
                assign(mixture, rows.values, threads=threads),
                rows.sample_weight,
                mixture.n_components,
                density_ceiling(mixture),
            )
            for mixture in mixtures
        )
    )


def evaluate(
    scanner: Scanner, mixtures: Sequence[MixtureParameters], found: Survey | None = None
) -> tuple[DensitySummary, ...]:
    """How mixtures describe all rows: one scan for all of them together.

    No scan where ``found``, the survey of these rows, holds all of them in its sample.
    """
    if found is not None and found.in_memory:
        sample = found.sample
        rows = Rows(sample.X, sample.sample_weight, 0, 0)
        threads = available_cores() if found.rows > LEAST_SLICE_ROWS else 1
        return evaluate_rows(rows, tuple(mixtures), threads).records
    nulls = NullPolicy.ERROR if found is None else found.nulls_left
    return scanner.reduce(evaluate_rows, tuple(mixtures), Stage.EVALUATE, nulls).records
