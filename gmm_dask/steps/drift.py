"""Drift: how far new rows differ from those that a model was fitted to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import erfc, sqrt

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.batches import BatchSums
from gmm_dask.chunked.evaluation import LOW_DENSITY_SHARE, DensitySummary
from gmm_dask.config import PredictSection
from gmm_dask.mixture.shifts import (
    FALSE_ALARMS,
    LEAST_ROWS,
    chances_of_more,
    exchange_chance,
)
from gmm_dask.steps.shifts import in_a_clause, locate_shifts, spread_change
from gmm_dask.storage.models.drift_history import DriftRecord, Finding
from gmm_dask.storage.models.manifest import Manifest
from gmm_dask.storage.models.model import StoredModel

NOTHING = "no complete rows to compare by density"
#: Below this sum, squares of weights are lost, and with them how many rows the weights stand for.
LEAST_SQUARED_WEIGHT = float(np.finfo(np.float64).tiny)


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
        Whether the value is allowed: within the limit, or no more than so few rows show by chance.
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
    """How rows differ from the training rows, as the model's manifest describes those.

    Attributes
    ----------
    checks
        One for each limit of ``[predict]``; those of shifts only if there are new rows.
    quantile_shifts
        Quantiles of the log-density under the model, those of these rows minus those of the
        training rows, nats, by probability.
    record
        Where the new rows differ, for the history; None without new rows.
    """

    checks: tuple[Check, ...]
    quantile_shifts: dict[float, float]
    record: DriftRecord | None = None

    @property
    def drifted(self) -> bool:
        """Whether any check failed."""
        return not all(check.passed for check in self.checks)

    def is_of(self, model: StoredModel) -> bool:
        """Whether new rows were compared with those that this very version was fitted to."""
        return self.record is not None and self.record.version == model.version

    @property
    def words(self) -> str:
        """The checks that failed, in clauses; empty if none did."""
        return "; ".join(self.clauses)

    @property
    def clauses(self) -> tuple[str, ...]:
        """The checks that failed, a clause each."""
        return tuple(check.explanation for check in self.checks if not check.passed)


@dataclass(frozen=True, eq=False)
class NewRows:
    """The rows of the files that are new to a run, under the model in use before them.

    Attributes
    ----------
    by, run_id
        Kind and id of the run.
    files
        Number of the files.
    sums
        Over their used rows, whose squared weights add up to `LEAST_SQUARED_WEIGHT` or more.
    """

    by: str
    run_id: str
    files: int
    sums: BatchSums


@dataclass(frozen=True, eq=False)
class NewFiles:
    """The files that are new to a model, as a scan of a run has seen them.

    Attributes
    ----------
    count
        Number of those with rows.
    sums
        Over their used rows, under the model; None without a file.
    """

    count: int
    sums: BatchSums | None


def measure_drift(
    section: PredictSection,
    model: StoredModel,
    densities: DensitySummary,
    squared_weight: float,
) -> Drift:
    """Compare rows with the training rows, under the model that was fitted to those.

    A value beyond its limit counts only where chance does not explain it: over all that is
    measured in a batch, a false alarm has a probability of at most `FALSE_ALARMS`.

    Only complete rows are compared by density: that of a row with holes is of fewer features, on
    another scale, and a change of what is missing would look like drift. All rows are compared by
    their components.

    Parameters
    ----------
    section
        The limits.
    densities, squared_weight
        Densities of the rows, and the sum of their squared weights: `LEAST_SQUARED_WEIGHT` or more.
    """
    rows = densities.weight**2 / squared_weight
    batch = _Batch(densities, rows, _counted_rows(model), FALSE_ALARMS / 3)
    return Drift(batch.checks(section, model.manifest), _quantile_shifts(model, densities))


def measure_new_rows(
    section: PredictSection, model: StoredModel, new: NewRows, noise: FloatArray | None = None
) -> Drift:
    """Compare new rows with the training rows as `measure_drift` does, and say where they differ.

    Parameters
    ----------
    section
        The limits.
    model
        The model that the sums of the new rows are of.
    noise
        How the squares of its training rows scatter (`gmm_dask.mixture.shifts.measure_noise`).
    """
    densities, deviations = new.sums.densities, new.sums.deviations
    located = locate_shifts(model, new.sums, _fitted_rows(model), noise)
    level = FALSE_ALARMS / (3 + located.shifts.n_tests)
    batch = _Batch(densities, deviations.effective_rows, _counted_rows(model), level)
    *others, occupancy = batch.checks(section, model.manifest)
    means = [*located.find_means(level)]
    spreads = [*located.find_spreads(level)]
    shares = [] if occupancy.passed else [*located.find_shares(level)]
    if shares:
        words = f"{occupancy.explanation}: {in_a_clause(shares)}"
        occupancy = replace(occupancy, explanation=words)
    mean, shifted = _mean_check(section, means)
    spread, widened = _spread_check(section, spreads)
    checks = (*others, occupancy, mean, spread)
    record = DriftRecord(
        run_id=new.run_id,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        by=new.by,
        version=model.version,
        files=new.files,
        rows=densities.rows,
        effective_rows=deviations.effective_rows,
        checks={check.name: (check.value, check.limit, check.passed) for check in checks},
        findings=(*shifted, *widened, *shares),
        means=located.means,
        spreads=located.spreads,
        shares=located.shares,
    )
    return Drift(checks, _quantile_shifts(model, densities), record)


def with_new_rows(predicted: Drift, new: Drift) -> Drift:
    """Return the drift of predicted rows, and of the new ones among them where that is worse."""
    of_new = {check.name: check for check in new.checks}
    checks = [
        check if of_new[check.name].passed else of_new[check.name] for check in predicted.checks
    ]
    checks += new.checks[len(checks) :]
    return replace(predicted, checks=tuple(checks), record=new.record)


def _fitted_rows(model: StoredModel) -> float:
    return float(model.manifest.effective_rows or model.manifest.rows)


def _counted_rows(model: StoredModel) -> float:
    """Rows of which the manifest tells occupancy, quantiles and likelihood: perhaps a sample."""
    refit = model.manifest.refit
    return _fitted_rows(model) if refit is None else min(_fitted_rows(model), refit.sample_rows)


def _quantile_shifts(model: StoredModel, densities: DensitySummary) -> dict[float, float]:
    return {
        share: densities.quantile(share) - quantile
        for share, quantile in model.manifest.quantiles.items()
        if densities.has_complete_rows
    }


def _mean_check(section: PredictSection, means: list[Finding]) -> tuple[Check, list[Finding]]:
    """Check the shifts that chance does not explain; return those beyond the limit too."""
    value = max((abs(finding.value) for finding in means), default=0.0)
    limit = section.max_mean_shift
    shifted = [finding for finding in means if abs(finding.value) > limit]
    words = in_a_clause(shifted) or f"no mean has shifted by more than {limit:g} σ"
    return Check("mean shift", value, limit, not shifted, words), shifted


def _spread_check(section: PredictSection, spreads: list[Finding]) -> tuple[Check, list[Finding]]:
    """Check the changes that chance does not explain; return those beyond the limit too."""
    value = max((spread_change(finding.value) for finding in spreads), default=0.0)
    limit = section.max_spread_change
    widened = [finding for finding in spreads if spread_change(finding.value) > limit]
    words = in_a_clause(widened) or f"no spread has changed by more than {limit:.0%}"
    return Check("spread change", value, limit, not widened, words), widened


@dataclass(frozen=True, eq=False)
class _Batch:
    """Densities of rows, how many rows they say as much as, and what is too rare for chance."""

    densities: DensitySummary
    rows: float
    fitted_rows: float
    level: float

    def checks(self, section: PredictSection, manifest: Manifest) -> tuple[Check, ...]:
        """Return one for each limit of densities and components."""
        return (
            self._log_likelihood_check(section, manifest),
            self._low_density_check(section, manifest),
            self._occupancy_check(section, manifest),
        )

    def _comparable(self, manifest: Manifest) -> bool:
        return manifest.low_density_threshold is not None and self.densities.has_complete_rows

    def _complete_rows(self, manifest: Manifest) -> tuple[float, float]:
        """Effective complete rows of these and of the fit."""
        share = self.densities.complete_weight / self.densities.weight
        fitted = 1.0 - manifest.rows_incomplete / manifest.rows
        return self.rows * share, self.fitted_rows * fitted

    def _log_likelihood_check(self, section: PredictSection, manifest: Manifest) -> Check:
        name, limit = "log-likelihood drop", section.max_log_likelihood_drop
        trained = manifest.complete_log_likelihood
        if trained is None:  # all training rows are complete
            trained = manifest.log_likelihood
        if trained is None or not self._comparable(manifest):
            return Check(name, 0.0, limit, True, NOTHING)
        reached = self.densities.complete_mean_log_likelihood
        drop = trained - reached
        rows, fitted = self._complete_rows(manifest)
        error = sqrt(self.densities.variance * (1.0 / rows + 1.0 / fitted))
        judged = rows >= LEAST_ROWS and error > 0.0
        chance = 0.5 * erfc(drop / error / sqrt(2.0)) if judged else 1.0
        words = f"mean log-likelihood {reached:.4f} nats per row, {trained:.4f} in training"
        if manifest.refit is not None:
            words += ", as its sample says"
        return self._check(name, drop, limit, chance, words)

    def _low_density_check(self, section: PredictSection, manifest: Manifest) -> Check:
        name, limit = "low-density share", section.max_low_density_share
        threshold = manifest.low_density_threshold
        if threshold is None or not self._comparable(manifest):
            return Check(name, 0.0, limit, True, NOTHING)
        low = self.densities.share_below(threshold)
        rows, fitted = self._complete_rows(manifest)
        of_fit = max(LOW_DENSITY_SHARE * fitted, 1.0)  # the threshold is below few rows of the fit
        chance = float(chances_of_more(low * rows, rows, of_fit, fitted))
        words = f"{low:.2%} of the rows lie below the low-density threshold"
        return self._check(name, low, limit, chance, words)

    def _occupancy_check(self, section: PredictSection, manifest: Manifest) -> Check:
        # Total variation distance: the share of rows that would have to change their component.
        occupancy = np.asarray(manifest.occupancy)
        change = 0.5 * float(np.abs(self.densities.shares - occupancy).sum())
        chance = exchange_chance(change, len(occupancy), self.rows, self.fitted_rows)
        words = f"{change:.1%} of the rows lie in other components than in training"
        return self._check("occupancy change", change, section.max_occupancy_change, chance, words)

    def _check(self, name: str, value: float, limit: float, chance: float, words: str) -> Check:
        return Check(name, value, limit, value <= limit or chance >= self.level, words)
