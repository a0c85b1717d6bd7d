"""What a survey finds: moments, defects and a sample, which add by ``+``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.chunked.defects import Defects
from gmm_dask.chunked.draw import Draw
from gmm_dask.chunked.label_survey import (
    LabelSurvey,
    add_label_surveys,
    labelled_sample,
)
from gmm_dask.chunked.moments import Moments
from gmm_dask.mixture.initialization import seeded
from gmm_dask.mixture.labels import Ownership
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.nulls import NullPolicy

#: Rows of the sample without a search: enough for pictures, reports and warnings.
LOOK_ROWS = 20_000
#: So many bits number the buckets in which equal values are counted.
_BUCKET_BITS = 12


@dataclass(frozen=True, eq=False)
class Survey:
    """What one scan measures of the rows; surveys of their parts add by ``+``.

    Attributes
    ----------
    source_rows, outside
        Rows in the source, and how many of them are outside the filter.
    moments
        Moments of the used rows: the complete ones, or under ``MARGINALIZE`` all with a value.
    weight
        Sum of the sample weights of the used rows; without weights, the number of these rows.
    defects
        Nulls and infinities.
    draws
        Samples of the parts. Together they hold few more rows than the whole sample, so they are
        merged once, not at each addition.
    weight_squares
        Sum of the squared sample weights of the used rows; without weights, their number.
    transforms
        Those that the rows of moments and draws have had.
    log_slopes
        Σ w log dy/dx of the used rows, nats: from log-densities in model units to natural ones.
    incomplete
        Used rows with a hole.
    feature_weights
        Sum of the sample weights of the rows that have each feature, (d,), while a transform is
        pending; else None.
    labels
        Of the labelled rows; None where no labels were asked for.
    """

    source_rows: int
    moments: Moments
    weight: float
    defects: Defects
    draws: tuple[Draw, ...]
    outside: int = 0
    incomplete: int = 0
    weight_squares: float = 0.0
    transforms: Transforms | None = None
    log_slopes: float = 0.0
    feature_weights: FloatArray | None = None
    labels: LabelSurvey | None = None

    def __add__(self, other: Survey) -> Survey:
        return Survey(
            self.source_rows + other.source_rows,
            self.moments + other.moments,
            self.weight + other.weight,
            self.defects + other.defects,
            self.draws + other.draws,
            self.outside + other.outside,
            self.incomplete + other.incomplete,
            self.weight_squares + other.weight_squares,
            self.transforms,
            self.log_slopes + other.log_slopes,
            _add(self.feature_weights, other.feature_weights),
            add_label_surveys(self.labels, other.labels),
        )

    @cached_property
    def draw(self) -> Draw:
        """The sample of all parts, its rows in the order of the input."""
        return Draw.merge(self.draws)

    @property
    def rows(self) -> int:
        """Number of used rows."""
        return self.moments.rows

    @property
    def effective_rows(self) -> float:
        """Rows of equal weight that would say as much: (Σ w)² / Σ w² (Kish, 1965)."""
        return self.weight * self.weight / self.weight_squares if self.weight_squares else 0.0

    @property
    def log_slope(self) -> float:
        """Mean of log dy/dx: what a mean log-likelihood in model units lacks to natural ones."""
        return self.log_slopes / self.weight if self.transforms is not None else 0.0

    @property
    def dropped(self) -> int:
        """Number of rows inside the filter that are not used, for a null or for want of a value."""
        return self.source_rows - self.outside - self.rows

    @property
    def nulls_left(self) -> NullPolicy:
        """Null policy of later scans: ``ERROR`` where no row has a null."""
        if self.incomplete:
            return NullPolicy.MARGINALIZE
        return NullPolicy.DROP if self.dropped else NullPolicy.ERROR

    @property
    def in_memory(self) -> bool:
        """Whether the sample holds all used rows, so that no further scan is needed."""
        return len(self.draw.numbers) == self.rows

    @property
    def variances(self) -> FloatArray:
        """Variance of each feature, over the rows that have it, (d,)."""
        if self.moments.observed is None:
            return self.moments.squares / max(self.rows, 1)
        return self.moments.squares / np.maximum(self.moments.observed, 1)

    @cached_property
    def frequent_values(self) -> tuple[tuple[int, float, float], ...]:
        """Values that 1 % or more of the sample share: feature, value, share; one a feature."""
        return tuple(frequent_values(self.sample))

    @cached_property
    def sample(self) -> Sample:
        """Values of the sample, (m, d) feature-major, and their weights."""
        return Sample(self.draw.values, self.draw.weights if len(self.draw.weights) else None)

    @cached_property
    def look(self) -> Sample:
        """At most `LOOK_ROWS` rows of the sample, for pictures, reports and warnings."""
        return self.sample.head(LOOK_ROWS, seeded(0))

    def sample_for(self, ownership: Ownership | None) -> Sample:
        """Return the sample; with an owner for each label, all rows of the labels that are kept."""
        if self.labels is None or ownership is None:
            return self.sample
        return labelled_sample(self.draw, self.labels, ownership)


def _add(first: FloatArray | None, second: FloatArray | None) -> FloatArray | None:
    return None if first is None or second is None else first + second


def frequent_values(sample: Sample) -> list[tuple[int, float, float]]:
    """Find values that 1 % or more of the sample share: (feature, value, share), one a feature."""
    m = sample.X.shape[0]
    # In a small sample, a value that occurs a few times means nothing.
    least = max(20, -(-m // 100))
    frequent = []
    for column, values in enumerate(sample.X.T):
        if not _may_repeat(values, least):
            continue
        values, counts = np.unique(values[~np.isnan(values)], return_counts=True)
        most = int(counts.argmax()) if len(counts) else 0
        if len(counts) and counts[most] >= least:
            frequent.append((column, float(values[most]), float(counts[most] / m)))
    return frequent


def _may_repeat(values: RowsArray, least: int) -> bool:
    """Whether a value may occur so often, (m,): equal values meet in a bucket of a hash table.

    To sort the values would take ten times as long.
    """
    bits = (values + 0.0).view(f"u{values.itemsize}")  # −0.0 is 0.0 then
    hashes = bits.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴/φ
    buckets = (hashes >> np.uint64(64 - _BUCKET_BITS)).astype(np.intp)
    return int(np.bincount(buckets, minlength=1).max()) >= least
