"""What a report is about: a version of a model, its aggregates, and the batches since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gmm_dask.report.aggregates import Aggregates, outline
from gmm_dask.report.axes import FeatureAxis, axes_of
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
    """

    created: str
    rows: int
    checks: Mapping[str, tuple[float, float]]

    def to_json(self) -> dict[str, Any]:
        """Return the batch as JSON."""
        checks = {name: list(values) for name, values in self.checks.items()}
        return {"created": self.created, "rows": self.rows, "checks": checks}

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
        return cls(str(content["created"]), int(content["rows"]), checks)

    @property
    def passed(self) -> bool:
        """Whether every value is within its limit."""
        return all(value <= limit for value, limit in self.checks.values())


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
    """

    name: str
    model: StoredModel
    known: Aggregates | None = None
    drift: tuple[Batch, ...] = ()

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
