"""The new rows of a run: their densities in a mixture, and their deviations from its components."""

from __future__ import annotations

from dataclasses import dataclass

from gmm_dask.chunked.evaluation import DensitySummary, evaluate_rows
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.scan import Scanner
from gmm_dask.events import Stage
from gmm_dask.mixture.deviations import DeviationSums, deviations_of, sum_deviations
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import SufficientStatistics
from gmm_dask.nulls import NullPolicy


@dataclass(frozen=True, eq=False)
class BatchSums:
    """Sums over the rows of a batch under one mixture; they add by ``+``."""

    densities: DensitySummary
    deviations: DeviationSums

    def __add__(self, other: BatchSums) -> BatchSums:
        return BatchSums(self.densities + other.densities, self.deviations + other.deviations)


def sum_batch(
    rows: Rows, parameters: MixtureParameters, statistics: SufficientStatistics | None = None
) -> BatchSums:
    """Sum over a chunk: two passes, or one where the statistics of complete rows are known."""
    (densities,) = evaluate_rows(rows, (parameters,)).summaries
    if statistics is None or rows.patterns:
        return BatchSums(densities, deviations_of_rows(rows, parameters))
    weight = rows.sample_weight
    squared = float(len(rows.values)) if weight is None else float(weight @ weight)
    return BatchSums(densities, deviations_of(parameters, statistics, squared))


def deviations_of_rows(rows: Rows, parameters: MixtureParameters) -> DeviationSums:
    """Sum the deviations of the rows of a chunk, whose values are in model units: one pass."""
    return sum_deviations(parameters, rows.values, rows.sample_weight, rows.patterns or ())


def scan_batch(scanner: Scanner, parameters: MixtureParameters, nulls: NullPolicy) -> BatchSums:
    """Sum over all rows of a source: one scan.

    Raises
    ------
    InputError, TooFewRowsError, ClusterError
        As `Scanner.reduce`.
    """
    return scanner.reduce(sum_batch, parameters, Stage.EVALUATE, nulls)
