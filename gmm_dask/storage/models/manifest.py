"""What the JSON files of a model say, as records: each has one reader and one writer.

A key that these records do not know, of a later gmm-dask that writes the same format, is passed
over: versions are never written again, so nothing is lost. A key that a later record adds has a
default there, for the files that lack it; a key without one that is missing makes the file
unreadable, with an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

from gmm_dask.storage.files.sealed import Document, plain

Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A column over the rows that were fitted."""

    minimum: float
    maximum: float
    mean: float
    standard_deviation: float


@dataclass(frozen=True, kw_only=True)
class Search:
    """What the search for a start did; see `gmm_dask.mixture.search.SearchSummary`."""

    rows: int
    starts: int
    failed: int
    iterations: int
    log_likelihoods: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a fit was and found, for a mixture of k components: the same fit, the same manifest.

    The order of the fields is that of ``manifest.json``.

    Attributes
    ----------
    configuration
        Sections input, model and fit of the run file, as JSON.
    snapshot
        Digest of the input plan.
    files, rows, rows_dropped, weight
        Input files; rows that were used, and dropped for nulls; sum of the sample weights.
    status, n_iter
        How the polish ended, and after how many iterations.
    history
        Mean log-likelihood before each M-step, nats per row.
    last_moved
        How far the last M-step moved the means; None without one.
    counts
        Weight in each component, k; None without an iteration.
    log_likelihood, aic, bic
        Under the final parameters; the first is the mean, nats per row.
    collapsed, starved
        Components that lost their data.
    occupancy
        Share of the weight whose most probable component is each, k.
    quantiles
        Of the log-density of the rows, nats, by probability.
    low_density_threshold
        The log-density below which a row is an outlier, nats.
    scans
        How often all rows were read.
    search
        None where there was no search.
    features
        By column.
    warnings
        Sentences for a person.
    mixed
        Workers that differ from the client; where there are any, bits may.
    versions, python, machine
        Of the packages, of Python, and the processor's name.
    fit_key
        Digest of configuration, snapshot and package version.
    next_component_id
        The least component id that was never given.
    """

    configuration: Mapping[str, Any]
    snapshot: str
    files: int
    rows: int
    rows_dropped: int
    weight: float
    status: str
    n_iter: int
    history: tuple[float, ...]
    last_moved: float | None
    counts: tuple[float, ...] | None
    log_likelihood: float
    aic: float
    bic: float
    collapsed: tuple[int, ...]
    starved: tuple[int, ...]
    occupancy: tuple[float, ...]
    quantiles: Mapping[float, float]
    low_density_threshold: float
    scans: int
    search: Search | None
    features: Mapping[str, Feature]
    warnings: tuple[str, ...]
    mixed: tuple[str, ...]
    versions: Mapping[str, str]
    python: str
    machine: str
    fit_key: str
    next_component_id: int

    def to_json(self) -> Document:
        """Return the manifest as JSON; raises `ModelError` where a value has no such form."""
        document: Document = plain(
            {
                **vars(self),
                "search": self.search and vars(self.search),
                "features": {name: vars(feature) for name, feature in self.features.items()},
            }
        )
        return document

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Manifest:
        """Read the manifest back.

        Raises
        ------
        KeyError, TypeError, ValueError, AttributeError
            This is no manifest.
        """
        search, quantiles = content["search"], content["quantiles"]
        features = content["features"]
        return _record(
            cls,
            {
                **content,
                "search": None if search is None else _record(Search, search),
                "quantiles": {float(share): value for share, value in quantiles.items()},
                "features": {name: _record(Feature, said) for name, said in features.items()},
            },
        )


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What differs between two runs of the same fit: ``run`` in ``run.json``.

    Attributes
    ----------
    run_id, created, host
        Of the run that stored the model; when, ISO 8601 in UTC; where.
    version, based_on
        Number in the registry, and the version that was current when the fit began, if any.
    rejected
        Why the model did not become a version; None if it did.
    """

    run_id: str
    created: str
    host: str
    version: int | None = None
    based_on: int | None = None
    rejected: str | None = None

    def to_json(self) -> Document:
        """Return the publication as JSON: of a version, or of what was rejected."""
        absent = ("rejected",) if self.rejected is None else ("version", "based_on")
        return {key: value for key, value in vars(self).items() if key not in absent}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Publication:
        """Read it back; raises as `Manifest.from_json` does."""
        return _record(cls, content)


def _record(kind: type[Record], content: Mapping[str, Any]) -> Record:
    """Make a record from a mapping with its keys; lists become tuples, further keys are dropped."""
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in content or field.default is MISSING:
            value = content[field.name]
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
