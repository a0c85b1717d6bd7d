"""The E-step over chunks: a scan for the statistics of every candidate, with evaluations if wanted.

The likelihood that finds convergence is that of the parameters before the M-step. So the scan that
takes it can take all that an evaluation says of them too, and no other is needed. As a rule no
other pass over a chunk is needed either: what the statistics need of a row is what an evaluation
needs.

A result has its components in order, and the last digits of a density go by the order of the
components. So a scan takes the statistics of a fresh candidate with its components in order, too,
and puts them back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from gmm_dask.arrays import IndexArray
from gmm_dask.chunked.conclusion import component_order
from gmm_dask.chunked.evaluation import (
    DensitySummary,
    EvaluationBatch,
    evaluate_mixture,
    evaluate_rows,
)
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.scan import Scanner
from gmm_dask.events import Stage
from gmm_dask.mixture.assignment import in_natural_units, sum_and_assign
from gmm_dask.mixture.labels import Ownership, sum_labelled
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import (
    StatisticsBatch,
    SufficientStatistics,
    reorder_statistics,
    sum_statistics,
)
from gmm_dask.nulls import NullPolicy

Batch = tuple[MixtureParameters, ...]


@dataclass(frozen=True, eq=False)
class EvaluatedSums:
    """The statistics of every candidate, and the densities of the same rows in some mixtures."""

    sums: StatisticsBatch
    evaluation: EvaluationBatch

    def __add__(self, other: EvaluatedSums) -> EvaluatedSums:
        return EvaluatedSums(self.sums + other.sums, self.evaluation + other.evaluation)


def sum_batch(rows: Rows, batch: Batch, rounded: Sequence[bool] = ()) -> StatisticsBatch:
    """Sum the statistics of every candidate over one chunk.

    Parameters
    ----------
    batch
        Parameters of each candidate.
    rounded
        For each of them, whether complete float64 rows may be computed in float32; none by default.
    """
    given = rows.values, rows.sample_weight, rows.patterns or ()
    return StatisticsBatch(
        tuple(
            sum_statistics(parameters, *given, rounded=may_round)
            for parameters, may_round in zip(batch, _each_of(rounded, batch), strict=True)
        )
    )


def _each_of(rounded: Sequence[bool], batch: Batch) -> Sequence[bool]:
    return rounded or (False,) * len(batch)


def sum_labelled_batch(
    rows: Rows,
    argument: tuple[Batch, Ownership | None],
    in_doubles: bool = False,
    rounded: Sequence[bool] = (),
) -> StatisticsBatch:
    """Sum the statistics as `sum_batch` does, of rows that have the components of their labels.

    Parameters
    ----------
    argument
        Parameters of each candidate, and the components of each label; None without labels.
    in_doubles
        Whether float32 rows are computed in float64 in any case.
    rounded
        As for `sum_batch`, for rows without labels.
    """
    batch, ownership = argument
    rows = _to_doubles(rows) if in_doubles else rows
    if ownership is None:
        return sum_batch(rows, batch, rounded)
    assert rows.labels is not None
    given = rows.values, rows.sample_weight, rows.patterns or (), rows.labels.codes, ownership
    return StatisticsBatch(tuple(sum_labelled(parameters, *given) for parameters in batch))


def sum_and_evaluate(
    rows: Rows,
    argument: tuple[Batch, Ownership | None, Batch],
    in_doubles: bool = False,
    rounded: Sequence[bool] = (),
) -> EvaluatedSums:
    """Sum the statistics over one chunk, and evaluate mixtures on it while it is in memory.

    Both have the bits that they have alone. Mixtures of the batch cost no pass more where the
    statistics go over the rows as they are, in float64.

    Parameters
    ----------
    argument
        As for `sum_labelled_batch`, and the mixtures.
    in_doubles, rounded
        As for `sum_labelled_batch`. Where statistics may be rounded, an evaluation is a pass of its
        own.
    """
    batch, ownership, mixtures = argument
    if ownership is not None or rows.patterns:  # rows are taken apart, by labels or by patterns
        sums = sum_labelled_batch(rows, (batch, ownership), in_doubles, rounded)
        return EvaluatedSums(sums, evaluate_rows(rows, mixtures))
    summed = _to_doubles(rows) if in_doubles else rows
    wanted = {mixture.digest for mixture in mixtures}
    statistics, summaries = [], dict[str, DensitySummary]()
    for parameters, may_round in zip(batch, _each_of(rounded, batch), strict=True):
        given = parameters, summed.values, summed.sample_weight
        if may_round or parameters.digest not in wanted:
            statistics.append(sum_statistics(*given, rounded=may_round))
            continue
        of_candidate, assigned = sum_and_assign(*given)
        if assigned is not None:
            assigned = in_natural_units(assigned, rows.values, rows.transforms)
        statistics.append(of_candidate)
        summaries[parameters.digest] = evaluate_mixture(rows, parameters, assigned=assigned)
    for mixture in mixtures:
        if mixture.digest not in summaries:
            summaries[mixture.digest] = evaluate_mixture(rows, mixture)
    return EvaluatedSums(
        StatisticsBatch(tuple(statistics)),
        EvaluationBatch(tuple(summaries[mixture.digest] for mixture in mixtures)),
    )


def _to_doubles(rows: Rows) -> Rows:
    """Return rows in float64."""
    if rows.values.dtype == np.float64:
        return rows
    return replace(rows, values=rows.values.astype(np.float64))


class ScannedExpectation:
    """A function from a batch of parameters to their statistics over all rows: a scan each time.

    Parameters
    ----------
    nulls
        What the scans do with incomplete rows.
    ownership
        In a fit with labels, the components of each label.
    evaluated
        What is known before the first scan.
    in_doubles
        Whether statistics of float32 rows are computed in float64 in any case.

    Attributes
    ----------
    beside
        Mixtures that the next scan evaluates.
    fresh
        For each candidate of the next scan, whether its components may be put in order.
    rounded
        For each of them, whether complete float64 rows may be computed in float32.
    evaluated
        Densities of all rows in the mixtures so far, by the digest of their parameters.
    """

    def __init__(
        self,
        scanner: Scanner,
        nulls: NullPolicy,
        ownership: Ownership | None,
        evaluated: Mapping[str, DensitySummary],
        in_doubles: bool = False,
    ) -> None:
        self.beside: Batch = ()
        self.fresh: Sequence[bool] = ()
        self.rounded: Sequence[bool] = ()
        self.evaluated = evaluated
        self._scanner = scanner
        self._nulls = nulls
        self._ownership = ownership
        self._in_doubles = in_doubles

    def __call__(self, batch: Sequence[MixtureParameters]) -> Sequence[SufficientStatistics]:
        """Take the statistics of each mixture, and evaluate those of ``beside``."""
        reduce, rules = self._scanner.reduce, (Stage.POLISH, self._nulls)
        orders = [self._order(*candidate) for candidate in zip(batch, self.fresh, strict=True)]
        candidates = tuple(
            parameters if order is None else parameters.reordered(order)
            for parameters, order in zip(batch, orders, strict=True)
        )
        rounded = () if self._in_doubles else tuple(self.rounded)
        mixtures, self.beside, self.fresh, self.rounded = self.beside, (), (), ()
        if mixtures:
            evaluate = partial(sum_and_evaluate, in_doubles=self._in_doubles, rounded=rounded)
            result = reduce(evaluate, (candidates, self._ownership, mixtures), *rules)
            digests = (mixture.digest for mixture in mixtures)
            latest = dict(zip(digests, result.evaluation.summaries, strict=True))
            self.evaluated = {**self.evaluated, **latest}
            sums = result.sums.statistics
        else:
            take = partial(sum_labelled_batch, in_doubles=self._in_doubles, rounded=rounded)
            sums = reduce(take, (candidates, self._ownership), *rules).statistics
        return [
            of_candidate if order is None else reorder_statistics(of_candidate, order, parameters)
            for of_candidate, order, parameters in zip(sums, orders, batch, strict=True)
        ]

    def _order(self, parameters: MixtureParameters, fresh: bool) -> IndexArray | None:
        """Return the order of a candidate's components in a result; None if they stay as they are.

        With labels the mixtures that are summed are parts of the candidate's.
        """
        if not fresh or self._ownership is not None:
            return None
        order = component_order(parameters)
        return None if (order[1:] > order[:-1]).all() else order
