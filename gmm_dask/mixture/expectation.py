"""The E-step over rows in memory, in pieces that threads share."""

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

#: Rows of a piece: fixed, so that the sums do not depend on the number of threads.
PIECE_ROWS = 8_192


@dataclass(frozen=True, eq=False)
class ExpectationOn:
    """Statistics of mixtures over the same rows, a function of a batch of parameters.

    Attributes
    ----------
    X
        (m, d) float32 or float64, finite, m > 0.
    sample_weight
        (m,) or None.
    pool, threads
        What shares the pieces, and how many of its threads; None: the caller's own.
    """

    X: RowsArray
    sample_weight: FloatArray | None
    pool: ThreadPoolExecutor | None = None
    threads: int = 1

    def __call__(self, batch: Sequence[MixtureParameters]) -> list[SufficientStatistics]:
        """Take the statistics of each mixture."""
        m = self.X.shape[0]
        if self.pool is None and m <= PIECE_ROWS:
            return [sum_statistics(one, self.X, self.sample_weight) for one in batch]
        starts = range(0, m, PIECE_ROWS)
        works = [(one, start) for one in batch for start in starts]
        multiplications = m * sum(one.means.size + one.covariances.size for one in batch)
        sums: list[Any] = [None] * len(works)
        if self.pool is None or multiplications < WORTH_THREADS:
            sums = self._sum(works)
        else:
            hands = [works[first :: self.threads] for first in range(self.threads)]
            for first, done in enumerate(self.pool.map(self._sum, hands)):
                sums[first :: self.threads] = done
        return [
            reduce(add, sums[first : first + len(starts)])
            for first in range(0, len(sums), len(starts))
        ]

    def _sum(self, works: Sequence[tuple[MixtureParameters, int]]) -> list[SufficientStatistics]:
        return [self._piece(one, slice(start, start + PIECE_ROWS)) for one, start in works]

    def _piece(self, one: MixtureParameters, rows: slice) -> SufficientStatistics:
        weight = None if self.sample_weight is None else self.sample_weight[rows]
        return sum_statistics(one, self.X[rows], weight)
