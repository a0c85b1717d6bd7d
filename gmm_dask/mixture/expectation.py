"""The E-step over rows in memory, in pieces that threads share out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add
from typing import Any

from gmm_dask.arrays import FloatArray, IndexArray, RowsArray
from gmm_dask.mixture.labels import Labelling, group_rows_by_label, scatter, take_rows
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import Pattern, Scattered, find_patterns
from gmm_dask.mixture.statistics import SufficientStatistics, sum_pattern, sum_statistics
from gmm_dask.mixture.threads import WORTH_THREADS

#: Rows of a piece. Fixed, so that sums do not depend on the number of threads.
PIECE_ROWS = 8_192


@dataclass(frozen=True, eq=False)
class _Piece:
    """Rows of which a thread sums the statistics at once.

    Attributes
    ----------
    X, sample_weight
        (m, o) and (m,) or None.
    pattern
        The pattern of rows with holes, of which X has the observed features; or scattered rows.
    components
        Those of the label of all these rows; None: all components.
    """

    X: RowsArray
    sample_weight: FloatArray | None
    pattern: Pattern | Scattered | None = None
    components: IndexArray | None = None

    def sum(self, parameters: MixtureParameters) -> SufficientStatistics:
        """Take its statistics."""
        if self.components is not None:
            of_label = parameters.reordered(self.components)
            return scatter(self._sum(of_label), parameters, self.components)
        return self._sum(parameters)

    def _sum(self, parameters: MixtureParameters) -> SufficientStatistics:
        if self.pattern is None:
            return sum_statistics(parameters, self.X, self.sample_weight)
        return sum_pattern(parameters, self.pattern, self.X, self.sample_weight)


@dataclass(frozen=True, eq=False)
class ExpectationOn:
    """A function from a batch of parameters to their statistics over the same rows.

    Attributes
    ----------
    X
        (m, d) float32 or float64, finite but for holes, m > 0.
    sample_weight
        (m,) or None.
    labelling
        Labels of the rows, which then have the components of their label alone; None: without.
    pool, threads
        The pool that sums the pieces, and how many of its threads; without one, the calling thread.
    """

    X: RowsArray
    sample_weight: FloatArray | None
    pool: ThreadPoolExecutor | None = None
    threads: int = 1
    labelling: Labelling | None = None

    def __call__(self, batch: Sequence[MixtureParameters]) -> list[SufficientStatistics]:
        """Take the statistics of each mixture."""
        pieces = self._pieces
        if self.pool is None and len(pieces) == 1:
            return [pieces[0].sum(parameters) for parameters in batch]
        works = [(parameters, piece) for parameters in batch for piece in pieces]
        sizes = (parameters.means.size + parameters.covariances.size for parameters in batch)
        multiplications = self.X.shape[0] * sum(sizes)
        sums: list[Any] = [None] * len(works)
        if self.pool is None or multiplications < WORTH_THREADS:
            sums = _sum_each(works)
        else:
            portions = [works[first :: self.threads] for first in range(self.threads)]
            for first, portion in enumerate(self.pool.map(_sum_each, portions)):
                sums[first :: self.threads] = portion
        return [
            reduce(add, sums[first : first + len(pieces)])
            for first in range(0, len(sums), len(pieces))
        ]

    @cached_property
    def _pieces(self) -> list[_Piece]:
        """The rows in pieces; those with labels by these, those with holes by their patterns."""
        if self.labelling is None:
            return _cut(self.X, self.sample_weight)
        labelling, pieces = self.labelling, list[_Piece]()
        for code, rows in group_rows_by_label(labelling.codes):
            weights = None if self.sample_weight is None else self.sample_weight[rows]
            components = labelling.components(code)
            pieces += [
                replace(piece, components=components)
                for piece in _cut(take_rows(self.X, rows), weights)
            ]
        return pieces


def _cut(X: RowsArray, weights: FloatArray | None) -> list[_Piece]:
    """Cut rows into pieces; those with holes by their patterns."""
    patterns = find_patterns(X)
    if not patterns:
        slices = [slice(start, start + PIECE_ROWS) for start in range(0, len(X), PIECE_ROWS)]
        return [_Piece(X[rows], None if weights is None else weights[rows]) for rows in slices]
    parts = [
        pattern.part(start, start + PIECE_ROWS)
        for pattern in patterns
        if isinstance(pattern, Scattered) or len(pattern.observed)
        for start in range(0, len(pattern.rows), PIECE_ROWS)
    ]
    return [
        _Piece(part.take(X), None if weights is None else weights[part.rows], part)
        for part in parts
    ]


def _sum_each(
    works: Sequence[tuple[MixtureParameters, _Piece]],
) -> list[SufficientStatistics]:
    return [piece.sum(parameters) for parameters, piece in works]
