"""The E-step over rows in memory, in pieces that threads share out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import islice
from operator import add
from typing import Any

from gmm_dask.arrays import FloatArray, IndexArray, RowsArray
from gmm_dask.mixture import engine
from gmm_dask.mixture.labels import Labelling, group_rows_by_label, scatter, take_rows
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import Pattern, Scattered, find_patterns
from gmm_dask.mixture.statistics import SufficientStatistics, sum_pattern, sum_statistics
from gmm_dask.mixture.threads import WORTH_THREADS

#: Rows of a piece. Fixed, so that sums do not depend on the number of threads.
PIECE_ROWS = 8_192
#: The same where rows are divided among many components, which have few rows each.
DIVIDED_PIECE_ROWS = 16_384
#: Of many features even few rows are worth threads: at least so many pieces, and rows of a piece.
#: Each piece has sums as large as the covariances, so there are no more.
_PIECES, _LEAST_PIECE_ROWS = 4, 512


@dataclass(frozen=True, eq=False)
class _Piece:
    """Rows of which a thread sums the statistics at once.

    Attributes
    ----------
    X, sample_weight
        (m, o) and (m,) or None.
    sharing
        How many rows take a pass with the same mixture: all complete ones, or all of a pattern.
        It is 0 where a label has a mixture of its own: that is made again for each piece.
    pattern
        The pattern of rows with holes, of which X has the observed features; or scattered rows.
    components
        Those of the label of all these rows; None: all components.
    """

    X: RowsArray
    sample_weight: FloatArray | None
    sharing: int
    pattern: Pattern | Scattered | None = None
    components: IndexArray | None = None

    def sum(self, parameters: MixtureParameters) -> SufficientStatistics:
        """Take its statistics."""
        if self.components is not None:
            of_label = parameters.reordered(self.components)
            return scatter(self._sum(of_label), parameters, self.components)
        return self._sum(parameters)

    def _sum(self, parameters: MixtureParameters) -> SufficientStatistics:
        X, weights = self.X, self.sample_weight
        if self.pattern is None:
            return sum_statistics(parameters, X, weights, sharing=self.sharing)
        return sum_pattern(parameters, self.pattern, X, weights, self.sharing)


#: A mixture, and rows for it.
_Work = tuple[MixtureParameters, _Piece]


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
    _cuts: dict[int, list[_Piece]] = field(default_factory=dict, init=False)

    def __call__(self, batch: Sequence[MixtureParameters]) -> list[SufficientStatistics]:
        """Take the statistics of each mixture."""
        cuts = [self._cut_for(parameters) for parameters in batch]
        works = [work for cut in cuts for work in cut]
        sizes = (parameters.means.size + parameters.covariances.size for parameters in batch)
        multiplications = self.X.shape[0] * sum(sizes)
        sums: list[Any] = [None] * len(works)
        if self.pool is None or len(works) == 1 or multiplications < WORTH_THREADS:
            sums = _sum_each(works)
        else:
            portions = [works[first :: self.threads] for first in range(self.threads)]
            for first, portion in enumerate(self.pool.map(_sum_each, portions)):
                sums[first :: self.threads] = portion
        ordered = iter(sums)
        return [reduce(add, islice(ordered, len(cut))) for cut in cuts]

    def _cut_for(self, parameters: MixtureParameters) -> list[_Work]:
        """Cut the rows as a mixture needs them, whatever others are in the batch."""
        n, most = len(self.X), PIECE_ROWS
        if engine.divides(parameters, n):
            most = DIVIDED_PIECE_ROWS
        elif engine.sums_by_blocks(parameters, self.X.dtype):
            most = min(max(-(-n // _PIECES), _LEAST_PIECE_ROWS), PIECE_ROWS)
        return [(parameters, piece) for piece in self._cut_pieces(most)]

    def _cut_pieces(self, most: int) -> list[_Piece]:
        """Cut the rows into pieces; those with labels by these, those with holes by patterns."""
        if most not in self._cuts:
            self._cuts[most] = self._cut(most)
        return self._cuts[most]

    def _cut(self, most: int) -> list[_Piece]:
        if self.labelling is None:
            return _cut(self.X, self.sample_weight, most)
        labelling, pieces = self.labelling, list[_Piece]()
        for code, rows in group_rows_by_label(labelling.codes):
            weights = None if self.sample_weight is None else self.sample_weight[rows]
            components = labelling.components(code)
            pieces += [
                piece if components is None else replace(piece, sharing=0, components=components)
                for piece in _cut(take_rows(self.X, rows), weights, most)
            ]
        return pieces


def _cut(X: RowsArray, weights: FloatArray | None, most: int) -> list[_Piece]:
    """Cut rows into pieces of at most so many; those with holes by their patterns."""
    patterns = find_patterns(X)
    if not patterns:
        slices = [slice(start, start + most) for start in range(0, len(X), most)]
        return [
            _Piece(X[rows], None if weights is None else weights[rows], len(X)) for rows in slices
        ]
    parts = [
        (pattern.part(start, start + most), len(pattern.rows))
        for pattern in patterns
        if isinstance(pattern, Scattered) or len(pattern.observed)
        for start in range(0, len(pattern.rows), most)
    ]
    return [
        _Piece(part.take(X), None if weights is None else weights[part.rows], sharing, part)
        for part, sharing in parts
    ]


def _sum_each(works: Sequence[_Work]) -> list[SufficientStatistics]:
    return [piece.sum(parameters) for parameters, piece in works]
