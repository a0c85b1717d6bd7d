"""Moments of rows, which add: count, mean, centred squares and extremes of every feature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.kernels.moments import column_moments


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and centred squares of rows; they add as in Chan, Golub and LeVeque (1983).

    Attributes
    ----------
    rows
        Number of rows that are used.
    mean
        Mean of each feature, (d,).
    squares
        Σ (x − mean)² of each feature, (d,).
    minimum, maximum
        Extreme values of each feature, (d,).
    observed
        Number of rows that have each feature, d of them; None: all rows have all.
    """

    rows: int
    mean: FloatArray
    squares: FloatArray
    minimum: FloatArray
    maximum: FloatArray
    observed: tuple[int, ...] | None = None

    @np.errstate(over="ignore", invalid="ignore")
    def __add__(self, other: Moments) -> Moments:
        if not self.rows or not other.rows:
            return self if self.rows else other
        pairs = list(zip(self.counts, other.counts, strict=True))
        # Of Python's integers, which do not overflow.
        share = np.array([b / (a + b) if b else 0.0 for a, b in pairs])  # (d,)
        cross = np.array([a * b / (a + b) if b else 0.0 for a, b in pairs])  # (d,)
        shift = other.mean - self.mean  # (d,)
        whole = self.observed is None and other.observed is None
        return Moments(
            self.rows + other.rows,
            self.mean + shift * share,
            self.squares + other.squares + cross * (shift * shift),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            None if whole else tuple(a + b for a, b in pairs),
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of rows that have each feature, d of them."""
        return (self.rows,) * len(self.mean) if self.observed is None else self.observed


def take_moments(values: RowsArray, incomplete: bool = False) -> Moments:
    """Take the moments of rows (n, d); where some are incomplete, of what each feature has."""
    if not incomplete:
        return Moments(values.shape[0], *column_moments(values))
    columns = [column[~np.isnan(column)] for column in values.T]
    moments = [column_moments(column[:, None]) for column in columns]
    mean, squares, minimum, maximum = map(np.concatenate, zip(*moments, strict=True))
    counts = tuple(map(len, columns))
    return Moments(values.shape[0], mean, squares, minimum, maximum, counts)
