"""Drift: how far a batch lies from the rows that a model was fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gmm_dask.chunked.evaluation import DensitySummary
from gmm_dask.config import PredictSection
from gmm_dask.storage.models.model import StoredModel


@dataclass(frozen=True)
class Check:
    """One figure against its limit.

    Attributes
    ----------
    name
        What is measured.
    value
        What was found.
    limit
        What is allowed.
    passed
        Whether it is.
    explanation
        The finding in words.
    """

    name: str
    value: float
    limit: float
    passed: bool
    explanation: str


@dataclass(frozen=True)
class Drift:
    """A batch against the training record in a model's manifest.

    Attributes
    ----------
    checks
        Each limit of ``[predict]``.
    quantile_shifts
        By probability, the batch's quantile of the log-density minus the training's, nats.
    """

    checks: tuple[Check, ...]
    quantile_shifts: dict[float, float]

    @property
    def drifted(self) -> bool:
        """Whether any limit is passed."""
        return not all(check.passed for check in self.checks)


def measure_drift(section: PredictSection, model: StoredModel, record: DensitySummary) -> Drift:
    """Compare the densities of a batch with the model's own training record.

    Parameters
    ----------
    record
        Of the batch under the model; at least one row.
    """
    manifest = model.manifest
    drop = manifest.log_likelihood - record.mean_log_likelihood
    low = record.share_below(manifest.low_density_threshold)
    # Total variation distance: the share of rows that would have to change their component.
    change = 0.5 * float(np.abs(record.shares - np.asarray(manifest.occupancy)).sum())
    checks = (
        _check(
            "log-likelihood drop",
            drop,
            section.max_log_likelihood_drop,
            f"mean log-likelihood {record.mean_log_likelihood:.4f} nats per row, "
            f"{manifest.log_likelihood:.4f} in training",
        ),
        _check(
            "low-density share",
            low,
            section.max_low_density_share,
            f"{low:.2%} of the rows lie below the low-density threshold",
        ),
        _check(
            "occupancy change",
            change,
            section.max_occupancy_change,
            f"{change:.1%} of the rows lie in other components than in training",
        ),
    )
    shifts = {share: record.quantile(share) - was for share, was in manifest.quantiles.items()}
    return Drift(checks, shifts)


def _check(name: str, value: float, limit: float, explanation: str) -> Check:
    return Check(name, value, limit, value <= limit, explanation)
