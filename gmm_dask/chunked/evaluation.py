"""The evaluation: one scan that measures how well mixtures describe all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from types import MappingProxyType
from typing import Any

import numpy as np

from gmm_dask.arrays import FloatArray, MaskArray
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.errors import InputError
from gmm_dask.events import Stage
from gmm_dask.mixture.assignment import Assignment, assign
from gmm_dask.mixture.kernels.tally import tally
from gmm_dask.mixture.labels import LabelCounts, add_counts, count_labels
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import complete_rows, find_patterns
from gmm_dask.mixture.threads import available_cores
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.nulls import NullPolicy

#: Bins of the density histogram; quantiles are exact to the width of a bin.
BINS = 8192
#: Share of the fitted rows that lie below a model's low-density threshold, its outliers.
LOW_DENSITY_SHARE = 0.001
#: How far the density histogram reaches below the mixture's highest possible log-density, nats.
DEPTH = 120.0


@dataclass(frozen=True, eq=False)
class DensitySummary:
    """Sums over rows of their densities in one mixture; summaries add by ``+``.

    Densities are in natural units, also where the features are transformed.

    Attributes
    ----------
    rows, weight
        Number of rows, and the sum of their weights.
    log_likelihood
        Σ w log p(x), nats.
    uncertainty
        −Σ w log r of the most probable component of each row, nats: 0 where components are far
        apart. ICL adds twice this to BIC.
    occupancy
        For each component, the weight of the rows to which it is the most probable, (k,).
    lowest, highest
        Extreme log-densities of complete rows, nats.
    bins
        Histogram of the log-densities between ``ceiling − DEPTH`` and ``ceiling``: weight of the
        complete rows in each bin, (BINS,). Rows below all bins are in the first, those above in
        the last. Rows with holes are in no bin: their densities are of fewer features, on another
        scale.
    ceiling
        Upper bound of the log-density in this mixture, nats; with transforms, of all but few rows.
    complete_weight, complete_log_likelihood
        Of the complete rows.
    label_counts
        For each label, the weight of its rows in each component, (k,); empty without labels.
    """

    rows: int
    weight: float
    log_likelihood: float
    uncertainty: float
    occupancy: FloatArray
    lowest: float
    highest: float
    bins: FloatArray
    ceiling: float
    complete_weight: float
    complete_log_likelihood: float
    label_counts: LabelCounts = field(default_factory=dict)

    def __add__(self, other: DensitySummary) -> DensitySummary:
        if self.ceiling != other.ceiling:
            raise InputError("density summaries of different mixtures cannot be added")
        return DensitySummary(
            self.rows + other.rows,
            self.weight + other.weight,
            self.log_likelihood + other.log_likelihood,
            self.uncertainty + other.uncertainty,
            self.occupancy + other.occupancy,
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
            self.bins + other.bins,
            self.ceiling,
            self.complete_weight + other.complete_weight,
            self.complete_log_likelihood + other.complete_log_likelihood,
            add_counts(self.label_counts, other.label_counts),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the empty ends of the histogram: a selection has a summary for each cell."""
        occupied = np.flatnonzero(self.bins)
        first, last = (occupied[0], occupied[-1] + 1) if len(occupied) else (0, 0)
        return {**vars(self), "bins": (int(first), self.bins[first:last])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Put the histogram back between its empty ends."""
        first, occupied = state["bins"]
        bins = np.zeros(BINS)
        bins[first : first + len(occupied)] = occupied
        self.__dict__.update(state, bins=bins)

    @property
    def mean_log_likelihood(self) -> float:
        """Mean log-likelihood, nats per unit of weight."""
        return self.log_likelihood / self.weight

    @property
    def has_complete_rows(self) -> bool:
        """Whether complete rows have a weight, without which there is no quantile."""
        return self.complete_weight > 0.0

    @property
    def complete_mean_log_likelihood(self) -> float:
        """Mean log-likelihood of the complete rows, nats per unit of weight; NaN without any."""
        return (
            self.complete_log_likelihood / self.complete_weight if self.has_complete_rows else nan
        )

    @property
    def variance(self) -> float:
        """Variance of the complete rows' log-density, from the histogram; NaN without any.

        The first bin is taken to lie at the lowest log-density, so that it is no less, but for
        densities that have no square.
        """
        if not self.has_complete_rows:
            return nan
        values = self.ceiling - DEPTH + (np.arange(BINS) + 0.5) * (DEPTH / BINS)
        values[0] = min(values[0], max(self.lowest, -1e150))
        shares = self.bins / self.complete_weight
        within = (DEPTH / BINS) ** 2 / 12.0  # of rows spread over a bin
        return float(shares @ np.square(values - shares @ values)) + within

    @property
    def shares(self) -> FloatArray:
        """Share of the weight that each component occupies, (k,)."""
        return self.occupancy / self.weight

    def quantile(self, share: float) -> float:
        """Return the log-density below which ``share`` of the complete rows' weight lies, nats.

        NaN where no complete row has a weight.

        It is interpolated linearly within a bin of DEPTH/BINS ≈ 0.015 nats. The first bin is
        taken to begin at the lowest log-density if that lies below the histogram.
        """
        occupied = np.flatnonzero(self.bins)
        if not len(occupied):
            return nan
        cumulated = np.cumsum(self.bins[occupied])
        target = share * cumulated[-1]
        position = min(int(np.searchsorted(cumulated, target)), len(occupied) - 1)
        index = int(occupied[position])
        width = DEPTH / BINS
        low = self.ceiling - DEPTH + index * width
        if index == 0:
            low = min(self.lowest, low)
        high = self.ceiling - DEPTH + (index + 1) * width
        before = cumulated[position] - self.bins[index]
        within = (target - before) / self.bins[index]
        return float(min(max(low + within * (high - low), self.lowest), self.highest))

    def share_below(self, log_density: float) -> float:
        """Return the share of the complete rows below a log-density, the inverse of `quantile`.

        ``log_density`` is in nats, and shares are of weight. NaN where no complete row has any.
        """
        if not self.has_complete_rows:
            return nan
        position = (log_density - (self.ceiling - DEPTH)) * (BINS / DEPTH)
        index = int(np.floor(position))
        if index < 0:
            return 0.0 if log_density <= self.lowest else float(self.bins[0] / self.complete_weight)
        if index >= BINS:
            return 1.0
        partial = self.bins[index] * (position - index)
        return float((self.bins[:index].sum() + partial) / self.complete_weight)


@dataclass(frozen=True, eq=False)
class EvaluationBatch:
    """Density summaries of several mixtures over the same rows."""

    summaries: tuple[DensitySummary, ...]

    def __add__(self, other: EvaluationBatch) -> EvaluationBatch:
        pairs = zip(self.summaries, other.summaries, strict=True)
        return EvaluationBatch(tuple(first + second for first, second in pairs))


def density_ceiling(parameters: MixtureParameters, transforms: Transforms | None = None) -> float:
    """Upper bound of log p(x), nats: log Σ_k π_k N_k(μ_k).

    With transforms there may be no bound: the slope of a logarithm has none. Then it is that of
    rows within four standard deviations of the means, which few rows exceed.
    """
    k, d = parameters.means.shape
    peaks = (
        parameters.log_weights
        + parameters.covariance.log_determinants(parameters.precisions_cholesky, k, d)
        - 0.5 * d * np.log(2 * np.pi)
    )  # (k,)
    if transforms is not None:
        deviations = np.sqrt(np.diagonal(parameters.matrices, axis1=1, axis2=2))  # (k, d)
        peaks = peaks + transforms.steepest(parameters.means, deviations)
    return float(np.logaddexp.reduce(peaks))


def summarize_densities(
    assigned: Assignment,
    sample_weight: FloatArray | None,
    k: int,
    ceiling: float,
    complete: MaskArray | None = None,
) -> DensitySummary:
    """Summarize the densities of rows assigned to a mixture.

    Parameters
    ----------
    assigned
        Labels, log-densities and certainties of the m rows.
    sample_weight
        (m,), or None.
    k
        Number of components of the mixture.
    ceiling
        Upper bound of its log-density, nats.
    complete
        Which rows are complete, (m,); None: all.
    """
    if complete is not None:
        whole = _summarize(assigned, sample_weight, k, ceiling, complete)
        rest = _summarize(assigned, sample_weight, k, ceiling, ~complete)
        nothing = np.zeros_like(rest.bins)
        rest = replace(
            rest, lowest=np.inf, highest=-np.inf, bins=nothing, complete_weight=0.0,
            complete_log_likelihood=0.0,
        )  # fmt: skip
        return whole + rest
    assert assigned.certainties is not None
    occupancy, bins, sums = tally(
        assigned.labels,
        assigned.log_densities,
        assigned.certainties,
        sample_weight,
        k,
        BINS,
        ceiling - DEPTH,
        DEPTH / BINS,
    )
    weight, log_likelihood, lowest, highest, uncertainty = sums.tolist()
    return DensitySummary(
        len(assigned.labels),
        weight,
        log_likelihood,
        uncertainty,
        occupancy,
        lowest,
        highest,
        bins,
        ceiling,
        weight,
        log_likelihood,
    )


def _summarize(
    assigned: Assignment,
    sample_weight: FloatArray | None,
    k: int,
    ceiling: float,
    chosen: MaskArray,
) -> DensitySummary:
    """Summarize the densities of some of the rows."""
    assert assigned.certainties is not None
    some = Assignment(
        assigned.labels[chosen],
        assigned.log_densities[chosen],
        None,
        assigned.certainties[chosen],
    )
    weight = None if sample_weight is None else sample_weight[chosen]
    return summarize_densities(some, weight, k, ceiling)


def evaluate_rows(
    rows: Rows, mixtures: tuple[MixtureParameters, ...], threads: int = 1
) -> EvaluationBatch:
    """Evaluate mixtures on one chunk, with ``threads`` threads."""
    return EvaluationBatch(tuple(evaluate_mixture(rows, mixture, threads) for mixture in mixtures))


def evaluate_mixture(
    rows: Rows,
    mixture: MixtureParameters,
    threads: int = 1,
    assigned: Assignment | None = None,
) -> DensitySummary:
    """Evaluate a mixture on one chunk.

    Parameters
    ----------
    threads
        Threads that share the rows.
    assigned
        The rows under the mixture with their certainties, if they have been assigned already.
    """
    patterns = rows.patterns or ()
    if assigned is None:
        assigned = assign(
            mixture,
            rows.values,
            certainties=True,
            threads=threads,
            patterns=patterns,
            transforms=rows.transforms,
            repeated=True,
        )
    summary = summarize_densities(
        assigned,
        rows.sample_weight,
        mixture.n_components,
        density_ceiling(mixture, rows.transforms),
        complete_rows(patterns, len(rows.values)),
    )
    if rows.labels is None:
        return summary
    counts = count_labels(mixture, rows.values, rows.sample_weight, rows.labels)
    return replace(summary, label_counts=counts)


def evaluate(
    scanner: Scanner,
    mixtures: Sequence[MixtureParameters],
    survey: Survey | None = None,
    nulls: NullPolicy = NullPolicy.ERROR,
    known: Mapping[str, DensitySummary] = MappingProxyType({}),
) -> tuple[DensitySummary, ...]:
    """Summarize the densities of all rows in each mixture.

    Costs one scan for all mixtures together, or none where the sample of the survey holds all
    used rows, or all are known.

    Parameters
    ----------
    survey
        Survey of these rows, in the units of the mixtures; it says how nulls are treated.
    nulls
        How nulls are treated, where there is no survey.
    known
        Summaries that were taken of these rows already, by the digest of the parameters
        (`FitResult.evaluated`).

    Raises
    ------
    InputChangedError
        A chunk is not what the plan or the first scan saw.
    ClusterError
        The workers are gone, or a deadline has passed.
    """
    unknown = tuple(mixture for mixture in mixtures if mixture.digest not in known)
    summaries = iter(_evaluate(scanner, unknown, survey, nulls) if unknown else ())
    return tuple(
        known[mixture.digest] if mixture.digest in known else next(summaries)
        for mixture in mixtures
    )


def _evaluate(
    scanner: Scanner,
    mixtures: tuple[MixtureParameters, ...],
    survey: Survey | None,
    nulls: NullPolicy,
) -> tuple[DensitySummary, ...]:
    """Evaluate mixtures on the sample where it holds all rows, else by a scan."""
    if survey is not None and survey.in_memory:
        sample = survey.sample
        holes = find_patterns(sample.X) if survey.incomplete else ()
        transforms = survey.transforms
        labels = None if survey.labels is None else survey.labels.label(survey.draw)
        rows = Rows(
            sample.X, sample.sample_weight, 0, 0,
            patterns=holes, transforms=transforms, labels=labels,
        )  # fmt: skip
        return evaluate_rows(rows, mixtures, available_cores()).summaries
    nulls = nulls if survey is None else survey.nulls_left
    return scanner.reduce(evaluate_rows, mixtures, Stage.EVALUATE, nulls).summaries
