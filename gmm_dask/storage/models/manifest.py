"""The content of a model's JSON files as records.

A later gmm-dask may write keys that these records do not know. Such keys are ignored: versions are
never rewritten, so nothing is lost. A key that a later record adds has a default, for older files
that lack it. If a key without a default is missing, the file is unreadable, and the error names
the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

from gmm_dask.chunked.selection_records import SelectionTable
from gmm_dask.mixture.labels import ComponentLabels
from gmm_dask.storage.files.sealed import Document, plain
from gmm_dask.storage.models.clusters import Clusters

Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class Feature:
    """Statistics of a column over the rows that were fitted."""

    minimum: float
    maximum: float
    mean: float
    standard_deviation: float


@dataclass(frozen=True, kw_only=True)
class Search:
    """Summary of the search for a start; see `gmm_dask.mixture.search.SearchSummary`."""

    rows: int
    starts: int
    failed: int
    iterations: int
    log_likelihoods: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The configuration and results of a fit with k components: the same fit, the same manifest.

    The fields have the order of ``manifest.json``.

    Attributes
    ----------
    configuration
        Sections input, model and fit of the run file, as JSON; with ``[select]`` that section too,
        and in ``model`` what was chosen.
    snapshot
        Digest of the input plan.
    files, rows, rows_dropped, weight
        Number of input files; rows that were used; rows dropped for nulls; sum of the sample
        weights.
    status, n_iter
        How the polish ended, and its number of iterations.
    history
        Mean log-likelihood before each M-step, nats per row.
    last_moved
        How far the last M-step moved the means; None if there was no M-step.
    counts
        Weight in each component, (k,); None if there was no iteration.
    log_likelihood, aic, bic, icl
        Criteria under the final parameters; ``log_likelihood`` is the mean, nats per row. ``icl``
        is None in a manifest of an older version.
    collapsed, starved
        Components that lost their data.
    replaced, replaced_on_sample
        Components that were placed again, as pairs of the iteration after which and the component;
        and how often one was on the sample, before the iterations over all rows.
    occupancy
        Share of the weight for which each component is the most probable, (k,).
    quantiles
        Quantiles of the complete rows' log-density, nats, by probability.
    low_density_threshold
        The log-density below which a complete row is an outlier, nats; None, and no quantiles,
        without complete rows.
    scans
        Number of times that all rows were read.
    search
        Summary of the search; None if there was no search.
    selection
        The table that the model was chosen from; None if it was not chosen by this fit.
    features
        Statistics of each feature, by column.
    warnings
        Sentences for a human reader.
    mixed
        Workers that differ from the client; if there are any, bits may differ too.
    versions, python, machine
        Versions of the packages and of Python, and the processor's name.
    fit_key
        Digest of configuration, snapshot and package version.
    next_component_id
        The lowest component id that has never been used.
    clusters
        The merge tree; None if an older gmm-dask stored the model.
    filter, rows_outside
        The filter with the present put in, None without one; and the rows that were read and lie
        outside it. Files and row groups that it excludes unread are not counted.
    effective_rows
        Rows of equal weight that would say as much, (Σ w)² / Σ w²; None without weights.
    transforms
        For each feature ``name``, ``center`` and ``scale`` of its transform, or None; None
        without any. Parameters and ``features`` are of transformed values, in model units; all
        densities and criteria are in natural units.
    files_skipped
        Input files that could not be used and were left out, and why; None in a manifest of an
        older version.
    labels
        The label of each component, and the counts of labelled rows by which it has it; None of a
        model without labels.
    rows_incomplete, complete_log_likelihood
        Used rows with a hole, and the mean log-likelihood of the rows without, nats per row; None
        if there are none, or in a manifest of an older version, whose used rows are all complete.
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
    icl: float | None = None
    collapsed: tuple[int, ...]
    starved: tuple[int, ...]
    occupancy: tuple[float, ...]
    quantiles: Mapping[float, float]
    low_density_threshold: float | None
    scans: int
    search: Search | None
    selection: SelectionTable | None = None
    features: Mapping[str, Feature]
    warnings: tuple[str, ...]
    mixed: tuple[str, ...]
    versions: Mapping[str, str]
    python: str
    machine: str
    fit_key: str
    next_component_id: int
    clusters: Clusters | None = None
    filter: str | None = None
    rows_outside: int = 0
    replaced: tuple[tuple[int, int], ...] = ()
    replaced_on_sample: int = 0
    files_skipped: Mapping[str, str] | None = None
    rows_incomplete: int = 0
    complete_log_likelihood: float | None = None
    effective_rows: float | None = None
    transforms: tuple[Mapping[str, Any] | None, ...] | None = None
    labels: ComponentLabels | None = None

    def to_json(self) -> Document:
        """Return the manifest as JSON; raises `ModelError` if a value has no JSON form."""
        document: Document = plain(
            {
                **vars(self),
                "search": self.search and vars(self.search),
                "selection": self.selection and self.selection.to_json(),
                "features": {name: vars(feature) for name, feature in self.features.items()},
                "clusters": self.clusters and vars(self.clusters),
                "labels": self.labels and self.labels.to_json(),
            }
        )
        return document

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Manifest:
        """Read the manifest back.

        Raises
        ------
        KeyError, TypeError, ValueError, AttributeError
            The content is not a manifest.
        """
        search, quantiles = content["search"], content["quantiles"]
        features, selection = content["features"], content.get("selection")
        clusters, labels = content.get("clusters"), content.get("labels")
        return _record(
            cls,
            {
                **content,
                "search": None if search is None else _record(Search, search),
                "selection": selection and SelectionTable.from_json(selection),
                "quantiles": {float(share): value for share, value in quantiles.items()},
                "features": {name: _record(Feature, values) for name, values in features.items()},
                "clusters": None if clusters is None else Clusters.from_json(clusters),
                "labels": labels and ComponentLabels.from_json(labels),
                "replaced": [tuple(pair) for pair in content.get("replaced", ())],
            },
        )


@dataclass(frozen=True, kw_only=True)
class Publication:
    """The run that stored a model: ``run`` in ``run.json``, different for each run of a fit.

    Attributes
    ----------
    run_id, created, host
        Id of the run, its time (ISO 8601 in UTC), and its host.
    version, based_on
        Number in the registry, and the version that was current when the fit began, if any.
    rejected
        The reason why the model did not become a version; None if it did.
    based_on_log_likelihood
        Mean log-likelihood of the version ``based_on`` on the rows of this model, nats per row;
        None where it was not measured.
    """

    run_id: str
    created: str
    host: str
    version: int | None = None
    based_on: int | None = None
    rejected: str | None = None
    based_on_log_likelihood: float | None = None

    def to_json(self) -> Document:
        """Return the publication as JSON, with the keys of a version or of a rejected model."""
        absent = {"rejected"} if self.rejected is None else {"version", "based_on"}
        if self.based_on_log_likelihood is None:
            absent.add("based_on_log_likelihood")
        return {key: value for key, value in vars(self).items() if key not in absent}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Publication:
        """Read the publication back; raises as `Manifest.from_json` does."""
        return _record(cls, content)


def _record(kind: type[Record], content: Mapping[str, Any]) -> Record:
    """Make a record from a mapping; lists become tuples, and unknown keys are dropped."""
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in content or field.default is MISSING:
            value = content[field.name]
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
