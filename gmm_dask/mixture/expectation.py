"""The E-step over rows in memory, in pieces that threads share out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import SufficientStatistics, sum_statistics
from gmm_dask.mixture.threads import WORTH_THREADS

#: Rows of a piece. Fixed, so that sums do not depend on the number of threads.
PIECE_ROWS = 8_192


@dataclass(frozen=True, eq=False)
class ExpectationOn:
    """A function from a batch of parameters to their statistics over the same rows.

    Attributes
    ----------
    X
        (m, d) float32 or float64, finite, m > 0.
    sample_weight
        (m,) or None.
    pool, threads
        The pool that sums the pieces, and how many of its threads; without one, the calling thread.
    """

    X: RowsArray
    sample_weight: FloatArray | None
    pool: ThreadPoolExecutor | None = None
    threads: int = 1

    def __call__(self, batch: Sequence[MixtureParameters]) -> list[SufficientStatistics]:
        """Take the statistics of each mixture."""
        m = self.X.shape[0]
        if self.pool is None and m <= PIECE_ROWS:
            return [sum_statistics(parameters, self.X, self.sample_weight) for parameters in batch]
        starts = range(0, m, PIECE_ROWS)
        pieces = [(parameters, start) for parameters in batch for start in starts]
        sizes = (parameters.means.size + parameters.covariances.size for parameters in batch)
        multiplications = m * sum(sizes)
        sums: list[Any] = [None] * len(pieces)
        if self.pool is None or multiplications < WORTH_THREADS:
            sums = self._sum_pieces(pieces)
        else:
            portions = [pieces[first :: self.threads] for first in range(self.threads)]
            for first, portion in enumerate(self.pool.map(self._sum_pieces, portions)):
                sums[first :: self.threads] = portion
        return [
            reduce(add, sums[first : first + len(starts)])
            for first in range(0, len(sums), len(starts))
        ]

    def _sum_pieces(
        self, pieces: Sequence[tuple[MixtureParameters, int]]
    ) -> list[SufficientStatistics]:
        return [self._sum_piece(parameters, start) for parameters, start in pieces]

    def _sum_piece(self, parameters: MixtureParameters, start: int) -> SufficientStatistics:
        rows = slice(start, start + PIECE_ROWS)
        weight = None if self.sample_weight is None else self.sample_weight[rows]
        return sum_statistics(parameters, self.X[rows], weight)
