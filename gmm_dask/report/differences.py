"""What differs between two versions of a model: components, likelihoods and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gmm_dask.mixture.matching import Match, match, match_by_ids
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.transforms import convert_units
from gmm_dask.storage.files.sealed import Document, plain
from gmm_dask.storage.models.model import StoredModel


@dataclass(frozen=True)
class ComponentChange:
    """A component before and after; None stands for what one of the two versions lacks.

    Attributes
    ----------
    before, after
        Its permanent id in the two versions.
    weight_before, weight_after
        Its weight.
    match
        How far it moved; None if it is new or gone.
    """

    before: int | None
    after: int | None
    weight_before: float | None
    weight_after: float | None
    match: Match | None = None

    def largest_shift(self, columns: Sequence[str]) -> str:
        """Name the feature whose mean shifted most, and say by how much; empty if new or gone."""
        if self.match is None:
            return ""
        shifts = self.match.shifts
        feature = max(range(len(shifts)), key=lambda feature: abs(shifts[feature]))
        # Rounded, so that no shift at all has no sign of its own.
        return f"{columns[feature]} {round(shifts[feature], 2) + 0.0:+.2f} σ"


@dataclass(frozen=True)
class SettingChange:
    """A key of the run file, or a package, by its value in the two versions; None: not there."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True, eq=False)
class ModelComparison:
    """Two versions of a model, compared; made by `compare`.

    Attributes
    ----------
    before, after
        The versions.
    by_ids
        Whether components were matched by their permanent ids; else by their distance.
    matches
        The matched components, in the model units of the later version; None if the versions are
        not comparable.
    """

    before: StoredModel
    after: StoredModel
    by_ids: bool
    matches: tuple[Match, ...] | None

    @property
    def comparable(self) -> bool:
        """Whether both versions have the same columns, in the same order, and one unit of each.

        Center and scale of a transform may differ, for they can be converted.
        """
        return self.matches is not None

    @property
    def obstacle(self) -> str:
        """What keeps the versions from being comparable, in words; empty if they are."""
        if self.comparable:
            return ""
        before, after = self.before, self.after
        if before.columns != after.columns:
            return f"other columns: {', '.join(before.columns)}; then {', '.join(after.columns)}"
        transforms = (
            model.transforms.words(model.columns) if model.transforms else "none"
            for model in (before, after)
        )
        return f"other transforms: {'; then '.join(transforms)}"

    @cached_property
    def components(self) -> tuple[ComponentChange, ...]:
        """Every component: those of both by their id before, then new ones, then those gone.

        Empty if the versions are not comparable.
        """
        if self.matches is None:
            return ()
        before, after = self.before, self.after
        old, new = before.parameters.weights.tolist(), after.parameters.weights.tolist()
        changes = [
            ComponentChange(
                before.component_ids[pair.old],
                after.component_ids[pair.new],
                old[pair.old],
                new[pair.new],
                pair,
            )
            for pair in sorted(self.matches, key=lambda pair: before.component_ids[pair.old])
        ]
        kept = {pair.new for pair in self.matches}
        changes += [
            ComponentChange(None, after.component_ids[j], None, new[j])
            for j in range(len(new))
            if j not in kept
        ]
        kept = {pair.old for pair in self.matches}
        changes += [
            ComponentChange(before.component_ids[i], None, old[i], None)
            for i in range(len(old))
            if i not in kept
        ]
        return tuple(changes)

    @cached_property
    def settings(self) -> tuple[SettingChange, ...]:
        """What was set otherwise: keys of the run file, the filter, versions of packages."""
        before, after = dict(settings_of(self.before)), dict(settings_of(self.after))
        return tuple(
            SettingChange(name, before.get(name), after.get(name))
            for name in dict.fromkeys((*before, *after))
            if before.get(name) != after.get(name)
        )

    @property
    def before_on_rows_after(self) -> float | None:
        """Mean log-likelihood of the earlier version on the rows of the later, nats per row.

        Known where the later one was held to the earlier by the gate of a retrain.
        """
        return _on_rows_of(self.before, self.after)

    @property
    def after_on_rows_before(self) -> float | None:
        """The same of the later version on the rows of the earlier."""
        return _on_rows_of(self.after, self.before)

    def to_json(self) -> Document:
        """Return the comparison as JSON."""
        document: Document = plain(
            {
                "before": _version(self.before, self.after_on_rows_before),
                "after": _version(self.after, self.before_on_rows_after),
                "comparable": self.comparable,
                "obstacle": self.obstacle,
                "matched_by": "ids" if self.by_ids else "distance",
                "components": [
                    {
                        "before": change.before,
                        "after": change.after,
                        "weight_before": change.weight_before,
                        "weight_after": change.weight_after,
                        "moved": change.match and change.match.moved,
                        "spread": change.match and change.match.spread,
                        "distance": change.match and change.match.distance,
                        "shifts": change.match
                        and dict(zip(self.after.columns, change.match.shifts, strict=True)),
                    }
                    for change in self.components
                ],
                "settings": [vars(setting) for setting in self.settings],
            }
        )
        return document


def compare(before: StoredModel, after: StoredModel, by_ids: bool) -> ModelComparison:
    """Compare two versions of a model.

    Parameters
    ----------
    before, after
        The versions.
    by_ids
        Whether their ids are of one family (`gmm_dask.storage.models.lineage`), so that equal ids
        are the same component; else components are matched by their distance.
    """
    matches: tuple[Match, ...] | None = None
    old = _in_units_of(after, before)
    if old is not None:
        if by_ids:
            ids = after.component_ids, before.component_ids
            matches = match_by_ids(after.parameters, old, *ids)
        else:
            matches = match(after.parameters, old)
    return ModelComparison(before, after, by_ids, matches)


def _in_units_of(model: StoredModel, other: StoredModel) -> MixtureParameters | None:
    """Return the other model's parameters in the model units of this one; None: there are none."""
    if other.columns != model.columns:
        return None
    if other.transforms == model.transforms:
        return other.parameters
    return convert_units(other.parameters, other.transforms, model.transforms)


def _on_rows_of(model: StoredModel, other: StoredModel) -> float | None:
    if other.run is None or model.version is None or other.run.based_on != model.version:
        return None
    return other.run.based_on_log_likelihood


def _version(model: StoredModel, of_other: float | None) -> dict[str, Any]:
    return {
        "version": model.version,
        "created": None if model.run is None else model.run.created,
        "columns": model.columns,
        "rows": model.manifest.rows,
        "n_components": model.parameters.n_components,
        "covariance_type": model.parameters.covariance_type,
        "log_likelihood": model.manifest.log_likelihood,
        "bic": model.manifest.bic,
        "bound": model.manifest.refit and model.manifest.refit.bound,
        "log_likelihood_of_the_other_on_these_rows": of_other,
    }


def settings_of(model: StoredModel) -> Iterator[tuple[str, Any]]:
    """Give what decided a fit besides its data: names and values."""
    manifest = model.manifest
    yield from _flat(manifest.configuration)
    yield "filter, resolved", manifest.filter
    for name, version in manifest.versions.items():
        yield f"version of {name}", version
    yield "processor", manifest.machine


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give the keys of nested tables by their dotted names."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
