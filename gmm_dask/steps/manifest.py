"""The manifest of a fitted model, and the fit key: the digest of what decides a fit."""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from importlib import metadata

import numpy as np

from gmm_dask.chunked.evaluation import LOW_DENSITY_SHARE, DensitySummary
from gmm_dask.chunked.fit_records import FitResult
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.selection_records import SelectionTable
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.config import RunConfig
from gmm_dask.mixture.criteria import aic, bic, icl
from gmm_dask.mixture.labels import ComponentLabels
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.clusters import Clusters
from gmm_dask.storage.models.manifest import Feature, Manifest, Search

#: Probabilities of the log-density's quantiles in a manifest.
QUANTILES = (0.0001, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
#: Distributions whose versions decide the bits of a result.
RECORDED = ("gmm-dask", "numpy", "scipy", "numba", "scikit-learn", "pyarrow", "dask")
_IN_THE_SNAPSHOT = {"path", "filter", "bad_files", "max_bad_files", "settled_for"}


@cache
def version_of(distribution: str) -> str:
    """Return the version of an installed distribution, read once in a process."""
    return metadata.version(distribution)


def fit_key(run: RunConfig, plan: InputPlan) -> str:
    """Digest of what a run file says of a fit, of its input and of the package version.

    The addresses of input and output are left out. With ``[select]``, number of components and
    covariance type are results and not part of it.
    """
    chosen = set() if run.select is None else {"n_components", "covariance_type"}
    content = {
        "model": run.model.model_dump(mode="json", exclude=chosen),
        "fit": run.fit.model_dump(mode="json"),
        # The snapshot holds the filter, with the present put in, and the files that are read.
        "input": run.input.model_dump(mode="json", exclude=_IN_THE_SNAPSHOT),
        "snapshot": plan.digest,
        "version": version_of("gmm-dask"),
    }
    if run.labels is not None:
        content["labels"] = run.labels.model_dump(mode="json")
    if run.select is not None:
        content["select"] = run.select.model_dump(mode="json")
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def compose_manifest(
    run: RunConfig,
    plan: InputPlan,
    scanner: Scanner,
    result: FitResult,
    densities: DensitySummary,
    next_component_id: int,
    clusters: Clusters,
    selection: SelectionTable | None = None,
) -> Manifest:
    """Compose the manifest of a fitted model.

    Parameters
    ----------
    densities
        Densities of all rows under the model.
    next_component_id
        The least component id that was never used.
    clusters
        The merge tree.
    selection
        The table that the model was chosen from, if it was.
    """
    sections = {"input", "model", "fit"} | ({"select"} if run.select is not None else set())
    sections |= {"labels"} if run.labels is not None else set()
    labels = _labels(run, result, densities)
    best, survey, parameters = result.best, result.survey, result.parameters
    comparable = densities.has_complete_rows
    return Manifest(
        configuration=run.model_dump(mode="json", include=sections),
        snapshot=plan.digest,
        files=len(plan.files),
        rows=survey.rows,
        rows_dropped=survey.dropped,
        weight=survey.weight,
        status=best.status.value,
        n_iter=best.n_iter,
        history=tuple(best.lower_bounds),
        last_moved=best.last_step.moved if best.last_step else None,
        counts=None if best.counts is None else tuple(best.counts.tolist()),
        log_likelihood=densities.mean_log_likelihood,
        aic=aic(parameters, densities.log_likelihood),
        bic=bic(parameters, densities.log_likelihood, survey.weight),
        icl=icl(parameters, densities.log_likelihood, survey.weight, densities.uncertainty),
        collapsed=tuple(np.flatnonzero(result.health.collapsed).tolist()),
        starved=tuple(np.flatnonzero(result.health.starved).tolist()),
        occupancy=tuple(densities.shares.tolist()),
        quantiles={share: densities.quantile(share) for share in QUANTILES if comparable},
        low_density_threshold=densities.quantile(LOW_DENSITY_SHARE) if comparable else None,
        scans=scanner.scans,
        search=_search(result),
        selection=selection,
        features=_features(survey, plan),
        warnings=(*result.warnings, *_without_component(labels)),
        # With workers that differ from the client, the last bits may differ.
        mixed=tuple(scanner.executor.mixed),
        versions={name: version_of(name) for name in RECORDED},
        python=platform.python_version(),
        machine=platform.machine(),
        fit_key=fit_key(run, plan),
        next_component_id=next_component_id,
        clusters=clusters,
        filter=None if plan.filter is None else plan.filter.text,
        rows_outside=survey.outside,
        replaced=result.replaced,
        replaced_on_sample=result.replaced_on_sample,
        files_skipped={file.path: file.reason for file in plan.skipped},
        rows_incomplete=survey.incomplete,
        complete_log_likelihood=densities.complete_mean_log_likelihood if comparable else None,
        transforms=None if survey.transforms is None else tuple(survey.transforms.to_json()),
        labels=labels,
        effective_rows=survey.effective_rows if plan.weighted else None,
    )


def _labels(run: RunConfig, result: FitResult, densities: DensitySummary) -> ComponentLabels | None:
    if run.labels is None:
        return None
    return ComponentLabels.of(
        densities.label_counts,
        result.parameters.n_components,
        run.labels.least_weight,
        result.ownership,
        scale=densities.rows / densities.weight,
    )


def _without_component(labels: ComponentLabels | None) -> list[str]:
    """Name the labels that no component has."""
    names = [] if labels is None else [name for name in labels.names if name not in labels.labels]
    if not names:
        return []
    return [
        f"no component is labelled {', '.join(map(repr, names))}: other labels have more rows in "
        "each, or there are too few; try more components, or a lower labels.least_weight"
    ]


def _search(result: FitResult) -> Search | None:
    search = result.search
    if search is None:
        return None
    return Search(
        rows=search.rows,
        starts=search.starts,
        failed=search.failed,
        iterations=search.iterations,
        log_likelihoods=tuple(search.log_likelihoods),
    )


def _features(survey: Survey, plan: InputPlan) -> dict[str, Feature]:
    moments, variances = survey.moments, survey.variances
    return {
        name: Feature(
            minimum=float(moments.minimum[j]),
            maximum=float(moments.maximum[j]),
            mean=float(moments.mean[j]),
            standard_deviation=float(np.sqrt(variances[j])),
        )
        for j, name in enumerate(plan.names)
    }
