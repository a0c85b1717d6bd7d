"""The content of a model's JSON files as records.

A later gmm-dask may write keys that these records do not know. Such keys are ignored: versions are
never rewritten, so nothing is lost. A key that a later record adds has a default, for older files
that lack it. If a key without a default is missing, the file is unreadable, and the error names
the key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
class RefitRecord:
    """What an incremental fit read and reached: ``refit`` in the manifest.

    Attributes
    ----------
    bound, bound_before
        Bound of the log-likelihood of all rows, from below, nats per row: under this model, and
        under the one before it.
    bounds
        The bound after each step.
    rows_read, rows_all, scans
        Rows that were read, and those of all units, before any was filtered out or dropped; and
        how often the former were read.
    log_likelihood_read, log_likelihood_read_before
        Mean log-likelihood of the used rows among them, nats per row, under this model and under
        the one before it; None if there are none.
    units_read, units_kept, units_changed, units_gone, units_again
        Units that were read, and that were not; and of those of the night before, how many were
        left out since a file was changed, since their files are gone, and how many were read again
        though nothing has changed.
    nights
        Incremental fits since the last full one.
    sample_rows, sample_log_likelihood
        Rows of the sample from which occupancy, quantiles, low-density threshold, clusters and
        report come; and their mean log-likelihood, nats per row: an estimate of that of all rows.
    """

    bound: float
    bound_before: float
    bounds: tuple[float, ...]
    rows_read: int
    rows_all: int
    scans: int
    log_likelihood_read: float | None
    log_likelihood_read_before: float | None
    units_read: int
    units_kept: int
    units_changed: int
    units_gone: int
    units_again: int
    nights: int
    sample_rows: int
    sample_log_likelihood: float

    def describe(self) -> str:
        """Say what was read: 3 of 61 units (2.0% of the rows)."""
        units, share = self.units_read + self.units_kept, self.rows_read / max(self.rows_all, 1)
        return f"{self.units_read:,} of {units:,} units ({share:.1%} of the rows)"


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
        How the polish ended, and its number of M-steps.
    history
        Mean log-likelihood of each E-step, nats per row: one more than the M-steps after a
        searched fit that has converged, and the last is that of the parameters.
    last_moved
        How far the last M-step moved the means; None if there was no M-step.
    counts
        Weight in each component, (k,); None if there was no iteration.
    log_likelihood, aic, bic, icl
        Criteria under the final parameters; ``log_likelihood`` is the mean, nats per row. ``icl``
        is None in a manifest of an older version. All are None after an incremental fit, which
        does not read all rows: then ``refit`` has a bound.
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
        After an incremental fit it is that of the sample.
    refit
        What an incremental fit read and reached; None after a full one. Then ``history`` is empty,
        ``n_iter`` and ``scans`` are 0, and ``quantiles``, ``low_density_threshold``, ``occupancy``
        and ``clusters`` are of its sample.
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
    log_likelihood: float | None
    aic: float | None
    bic: float | None
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
    refit: RefitRecord | None = None
    labels: ComponentLabels | None = None

    def describe_log_likelihood(self, write: Callable[[float], str]) -> str:
        """Write the mean log-likelihood; after an incremental fit, what it is at least."""
        if self.log_likelihood is not None:
            return write(self.log_likelihood)
        return "" if self.refit is None else f"at least {write(self.refit.bound)}"

    def describe_bic(self, write: Callable[[float], str]) -> str:
        """Write the BIC; after an incremental fit, that it is not known."""
        return "not known" if self.bic is None else write(self.bic)

    def to_json(self) -> Document:
        """Return the manifest as JSON; raises `ModelError` if a value has no JSON form."""
        document: Document = plain(
            {
                **vars(self),
                "search": self.search and vars(self.search),
                "selection": self.selection and self.selection.to_json(),
                "features": {name: vars(feature) for name, feature in self.features.items()},
                "clusters": self.clusters and vars(self.clusters),
                "refit": self.refit and vars(self.refit),
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
        clusters, refit = content.get("clusters"), content.get("refit")
        labels = content.get("labels")
        return _record(
            cls,
            {
                **content,
                "search": None if search is None else _record(Search, search),
                "selection": selection and SelectionTable.from_json(selection),
                "quantiles": {float(share): value for share, value in quantiles.items()},
                "features": {name: _record(Feature, values) for name, values in features.items()},
                "clusters": None if clusters is None else Clusters.from_json(clusters),
                "refit": None if refit is None else _record(RefitRecord, refit),
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
