"""Drift: how far new rows differ from those that a model was fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gmm_dask.chunked.evaluation import DensitySummary
from gmm_dask.config import PredictSection
from gmm_dask.storage.models.model import StoredModel


@dataclass(frozen=True)
class Check:
    """A measured value and the limit that it is held to.

    Attributes
    ----------
    name
        What was measured.
    value
        The measured value.
    limit
        The least or greatest value that is allowed.
    passed
        Whether the value is allowed.
    explanation
        The result in words.
    """

    name: str
    value: float
    limit: float
    passed: bool
    explanation: str


@dataclass(frozen=True)
class Drift:
    """How predicted rows differ from the training rows, as the model's manifest describes those.

    Attributes
    ----------
    checks
        One for each limit of ``[predict]``.
    quantile_shifts
        Quantiles of the log-density under the model, those of the predicted rows minus those of
        the training rows, nats, by probability.
    """

    checks: tuple[Check, ...]
    quantile_shifts: dict[float, float]

    @property
    def drifted(self) -> bool:
        """Whether any check failed."""
        return not all(check.passed for check in self.checks)


def measure_drift(section: PredictSection, model: StoredModel, densities: DensitySummary) -> Drift:
    """Compare predicted rows with the training rows by their densities under the model.

    Only complete rows are compared by density: that of a row with holes is of fewer features, on
    another scale, and a change of what is missing would look like drift. All rows are compared by
    their components.

    Parameters
    ----------
    section
        The limits.
    densities
        Densities of the predicted rows; their weights must not all be 0.
    """
    manifest = model.manifest
    trained, threshold = manifest.complete_log_likelihood, manifest.low_density_threshold
    if trained is None:  # all training rows are complete, or none is
        trained = manifest.log_likelihood
    estimated = "" if manifest.refit is None else ", as its sample says"
    reached = densities.complete_mean_log_likelihood
    drop = low = 0.0
    comparable = threshold is not None and densities.has_complete_rows
    if threshold is not None and trained is not None and comparable:
        drop, low = trained - reached, densities.share_below(threshold)
    nothing = "no complete rows to compare by density"
    # Total variation distance: the share of rows that would have to change their component.
    change = 0.5 * float(np.abs(densities.shares - np.asarray(manifest.occupancy)).sum())
    checks = (
        _check(
            "log-likelihood drop",
            drop,
            section.max_log_likelihood_drop,
            f"mean log-likelihood {reached:.4f} nats per row, {trained:.4f} in training{estimated}"
            if comparable
            else nothing,
        ),
        _check(
            "low-density share",
            low,
            section.max_low_density_share,
            f"{low:.2%} of the rows lie below the low-density threshold" if comparable else nothing,
        ),
        _check(
            "occupancy change",
            change,
            section.max_occupancy_change,
            f"{change:.1%} of the rows lie in other components than in training",
        ),
    )
    shifts = {
        share: densities.quantile(share) - quantile
        for share, quantile in manifest.quantiles.items()
        if densities.has_complete_rows
    }
    return Drift(checks, shifts)


def _check(name: str, value: float, limit: float, explanation: str) -> Check:
    return Check(name, value, limit, value <= limit, explanation)
