"""What a report is about: a version of a model, its aggregates, and the batches since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gmm_dask.report.aggregates import Aggregates, outline
from gmm_dask.report.axes import FeatureAxis, axes_of
from gmm_dask.storage.models.drift_history import DriftRecord
from gmm_dask.storage.models.model import StoredModel

#: Name of the page beside a model.
REPORT = "report.html"


@dataclass(frozen=True)
class Batch:
    """The drift of rows that were predicted at once.

    Attributes
    ----------
    created
        When, ISO 8601 in UTC.
    rows
        Rows predicted.
    checks
        Measured value and limit by name.
    by_chance
        Names of checks whose value is beyond the limit, but no more than so few rows show by
        chance.
    """

    created: str
    rows: int
    checks: Mapping[str, tuple[float, float]]
    by_chance: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the batch as JSON."""
        checks = {name: list(values) for name, values in self.checks.items()}
        content = {"created": self.created, "rows": self.rows, "checks": checks}
        return content | ({"by_chance": list(self.by_chance)} if self.by_chance else {})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Batch:
        """Read a batch back.

        Raises
        ------
        KeyError, TypeError, ValueError
            The content is no batch.
        """
        checks = {
            str(name): (float(value), float(limit))
            for name, (value, limit) in content["checks"].items()
        }
        by_chance = tuple(map(str, content.get("by_chance", ())))
        return cls(str(content["created"]), int(content["rows"]), checks, by_chance)

    @property
    def passed(self) -> bool:
        """Whether every value is within its limit, or beyond it by chance."""
        return all(
            value <= limit or name in self.by_chance for name, (value, limit) in self.checks.items()
        )


@dataclass(frozen=True, eq=False)
class Subject:
    """A version of a model as a report shows it.

    Attributes
    ----------
    name
        Of the model.
    model
        The version.
    known
        Its aggregates; None where an older gmm-dask wrote it.
    drift
        The batches that it has predicted, the oldest first.
    nights
        The history of drift, of this version and those before it, the oldest first.
    """

    name: str
    model: StoredModel
    known: Aggregates | None = None
    drift: tuple[Batch, ...] = ()
    nights: tuple[DriftRecord, ...] = ()

    @cached_property
    def aggregates(self) -> Aggregates:
        """The aggregates, or what the model alone tells."""
        if self.known is not None:
            return self.known
        features = self.model.manifest.features.values()
        ranges = [(feature.minimum, feature.maximum) for feature in features]
        return outline(self.model.parameters, ranges)

    @property
    def axes(self) -> tuple[FeatureAxis, ...]:
        """Axes of the features, which are drawn as the mixture sees them."""
        return axes_of(self.model.columns, self.model.transforms)

    @property
    def label(self) -> str:
        """The version in a word or two."""
        if self.model.version is not None:
            return f"version {self.model.version}"
        return "refused candidate" if self.model.run else "not published"

    @property
    def title(self) -> str:
        """The name, the version and its date."""
        created = self.model.run.created[:10] if self.model.run else None
        return " · ".join(filter(None, [self.name, self.label, created]))

    def section(self, name: str) -> Any:
        """Return a part of the manifest that older versions lack; None where it is missing."""
        return self.model.manifest.to_json().get(name)

    @property
    def drawn_ids(self) -> tuple[int, ...]:
        """Ids of the components drawn, from heavy to light."""
        return tuple(self.model.component_ids[j] for j in self.aggregates.components)
