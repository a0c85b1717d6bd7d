"""Where new rows differ: which feature, in which component, by how much, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np

from gmm_dask.arrays import FloatArray, MaskArray
from gmm_dask.chunked.batches import BatchSums
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import count_observed
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.shifts import Estimates, Shifts, measure_noise, measure_shifts
from gmm_dask.printable import spread
from gmm_dask.storage.models.drift_history import (
    MOST_ESTIMATES,
    Finding,
    Kind,
    encode_drift,
)
from gmm_dask.storage.models.estimates import Estimate
from gmm_dask.storage.models.model import StoredModel

#: Findings that are named in a sentence; of more the number is given.
NAMED = 2


@dataclass(frozen=True, eq=False)
class LocatedShifts:
    """Shifts of the components of a stored model, which knows their ids, features and units."""

    model: StoredModel
    shifts: Shifts

    @property
    def means(self) -> tuple[Estimate, ...]:
        """Shifts of means, as a record keeps them."""
        return self._estimates(self.shifts.means, 0.0)

    @property
    def spreads(self) -> tuple[Estimate, ...]:
        """Ratios of standard deviations, as a record keeps them."""
        return self._estimates(self.shifts.spreads, 1.0)

    @property
    def shares(self) -> tuple[Estimate, ...]:
        """Changes of shares, as a record keeps them."""
        shares = self.shifts.shares
        return self._estimates(Estimates(*(v[:, None] for v in vars(shares).values())), 0.0, True)

    def find_means(self, level: float) -> Iterator[Finding]:
        """Yield the shifts of means that are less probable by chance, the greatest first."""
        estimates = self.shifts.means
        for component, feature in _strongest(np.abs(estimates.values), estimates.chances < level):
            yield self._finding(
                "mean", estimates, component, feature, self._mean_words(component, feature)
            )

    def find_spreads(self, level: float) -> Iterator[Finding]:
        """Yield the changes of spread that are less probable by chance, the greatest first."""
        estimates = self.shifts.spreads
        with np.errstate(divide="ignore"):
            strengths = np.abs(np.log(estimates.values))
        for component, feature in _strongest(strengths, estimates.chances < level):
            value, error = (
                estimates.values[component, feature],
                estimates.errors[component, feature],
            )
            which = f"in component {self._id(component, estimates)}"
            if estimates.values.shape[0] < self.model.parameters.n_components:
                which = "in all components"
            name = self._name(feature, estimates)
            subject = f"the spread of {name} {which}" if name else f"the spread {which}"
            words = f"{subject} is {value:.2f} ± {error:.2f} times that of the fit"
            yield self._finding("spread", estimates, component, feature, words)

    def find_shares(self, level: float) -> Iterator[Finding]:
        """Yield the changes of shares that are less probable by chance, the greatest first."""
        shares = self.shifts.shares
        for (component,) in _strongest(np.abs(shares.values), shares.chances < level):
            before = float(self.model.parameters.weights[component])
            value, error = float(shares.values[component]), float(shares.errors[component])
            identity = self.model.component_ids[component]
            words = (
                f"component {identity} has {before + value:.1%} ± {error:.1%} of the rows instead "
                f"of {before:.1%}"
            )
            yield Finding("share", identity, None, value, error, words)

    def _mean_words(self, component: int, feature: int) -> str:
        value = float(self.shifts.means.values[component, feature])
        error = float(self.shifts.means.errors[component, feature])
        way = "higher" if value > 0 else "lower"
        before, after = (self._natural(component, feature, shift) for shift in (0.0, value))
        return (
            f"the mean of {self.model.columns[feature]} in component "
            f"{self.model.component_ids[component]} lies {abs(value):.2f} ± {error:.2f} σ {way}, "
            f"at {after} instead of {before}"
        )

    def _natural(self, component: int, feature: int, shift: float) -> str:
        """Write in natural units where a mean lies that is shifted by so many σ."""
        parameters, transforms = self.model.parameters, self.model.transforms
        deviation = float(np.sqrt(parameters.matrices[component, feature, feature]))
        mean = float(parameters.means[component, feature]) + shift * deviation
        transform = transforms and transforms.by_feature[feature]
        if transform:
            low, mean, high = transform.inverse([mean - deviation, mean, mean + deviation]).tolist()
            deviation = (high - low) / 2.0
        return spread(mean, deviation / 10.0).partition(" ")[0]

    def _finding(
        self, kind: Kind, estimates: Estimates, component: int, feature: int, words: str
    ) -> Finding:
        place = component, feature
        return Finding(
            kind,
            self._id(component, estimates),
            self._name(feature, estimates),
            _rounded(float(estimates.values[place])),
            _rounded(float(estimates.errors[place])),
            words,
        )

    def _id(self, component: int, estimates: Estimates) -> int | None:
        whole = estimates.values.shape[0] == self.model.parameters.n_components
        return self.model.component_ids[component] if whole else None

    def _name(self, feature: int, estimates: Estimates) -> str | None:
        whole = estimates.values.shape[1] == self.model.parameters.n_features
        return self.model.columns[feature] if whole else None

    def _estimates(
        self, estimates: Estimates, nothing: float, of_components: bool = False
    ) -> tuple[Estimate, ...]:
        """List the estimates farthest from no change in their errors, in the model's order."""
        values, errors = estimates.values, estimates.errors
        known = np.isfinite(values) & np.isfinite(errors) & (errors > 0.0)
        distances = np.where(known, np.abs(values - nothing) / np.where(known, errors, 1.0), -1.0)
        order = np.argsort(-distances, axis=None, kind="stable")[:MOST_ESTIMATES]
        places = [np.unravel_index(place, values.shape) for place in np.sort(order)]
        return tuple(
            Estimate(
                self._id(int(row), estimates),
                None if of_components else self._name(int(column), estimates),
                _rounded(values[row, column]),
                _rounded(errors[row, column]),
            )
            for row, column in places
            if known[row, column]
        )


def locate_shifts(
    model: StoredModel, sums: BatchSums, fitted_rows: float, noise: FloatArray | None
) -> LocatedShifts:
    """Measure how rows differ from those that a stored model was fitted to.

    Parameters
    ----------
    noise
        As `gmm_dask.mixture.shifts.measure_shifts`; one of another shape is not of this model.
    """
    deviations, parameters = sums.deviations, model.parameters
    reg_covar = float(model.manifest.configuration.get("model", {}).get("reg_covar", 0.0))
    if noise is not None and noise.shape != deviations.squares.shape:
        noise = None
    return LocatedShifts(
        model, measure_shifts(parameters, deviations, fitted_rows, reg_covar, noise)
    )


def begin_history(parameters: MixtureParameters, sample: Sample) -> bytes:
    """Return ``drift.json`` of a fit, which knows no night yet, but how its rows scatter.

    ``sample`` is of the survey, in model units: some thousand of its rows are enough
    (`Survey.look`).
    """
    complete = count_observed(sample.X) == sample.X.shape[1]
    weight = None if sample.sample_weight is None else sample.sample_weight[complete]
    return encode_drift(measure_noise(parameters, sample.X[complete], weight))


def spread_change(ratio: float) -> float:
    """Return by what share a spread is wider than that of the fit, or that wider than it."""
    return max(ratio, 1.0 / ratio) - 1.0


def in_a_clause(findings: list[Finding]) -> str:
    """Say the first findings, and how many there are besides."""
    words = [finding.words for finding in findings[:NAMED]]
    if len(findings) > NAMED:
        words.append(f"{len(findings) - NAMED} more")
    return ", and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _strongest(strengths: FloatArray, chosen: MaskArray) -> list[tuple[int, ...]]:
    """Return the places that are chosen, the strongest first."""
    places = [tuple(int(index) for index in place) for place in np.argwhere(chosen)]
    return sorted(places, key=lambda place: -float(strengths[place]))


def _rounded(value: SupportsFloat) -> float:
    """Four digits are enough for a history."""
    return float(f"{float(value):.4g}")
