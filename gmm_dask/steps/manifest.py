"""What a model's manifest says of its fit, and the digest of all that decided it."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version

import numpy as np

from gmm_dask.chunked.evaluation import LOW_DENSITY_SHARE, DensitySummary
from gmm_dask.chunked.fit_records import FitResult
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.survey import Survey
from gmm_dask.config import RunConfig
from gmm_dask.mixture.criteria import aic, bic
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.manifest import Feature, Manifest, Search

#: Probabilities of the log-density's quantiles in a manifest.
QUANTILES = (0.0001, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
#: Distributions whose versions decide the bits of a result.
RECORDED = ("gmm-dask", "numpy", "scipy", "numba", "scikit-learn", "pyarrow", "dask")


def fit_key(run: RunConfig, plan: InputPlan) -> str:
    """Digest of all that a run file and its data say of a fit, and of the package version.

    Where the input lies and where the model goes play no part.
    """
    content = {
        "model": run.model.model_dump(mode="json"),
        "fit": run.fit.model_dump(mode="json"),
        "input": run.input.model_dump(mode="json", exclude={"path"}),
        "snapshot": plan.digest,
        "version": version("gmm-dask"),
    }
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def compose_manifest(
    run: RunConfig,
    plan: InputPlan,
    scanner: Scanner,
    fitted: FitResult,
    record: DensitySummary,
    next_component_id: int,
) -> Manifest:
    """Return the manifest of a fit: configuration, snapshot, how it ended, densities, versions."""
    best, survey, parameters = fitted.best, fitted.survey, fitted.parameters
    return Manifest(
        configuration=run.model_dump(mode="json", include={"input", "model", "fit"}),
        snapshot=plan.digest,
        files=len(plan.files),
        rows=survey.rows,
        rows_dropped=survey.dropped,
        weight=survey.weight,
        status=best.status.value,
        n_iter=best.n_iter,
        history=tuple(best.lower_bounds),
        last_moved=best.history[-1].moved if best.history else None,
        counts=None if best.counts is None else tuple(best.counts.tolist()),
        log_likelihood=record.mean_log_likelihood,
        aic=aic(parameters, record.log_likelihood),
        bic=bic(parameters, record.log_likelihood, survey.weight),
        collapsed=tuple(np.flatnonzero(fitted.health.collapsed).tolist()),
        starved=tuple(np.flatnonzero(fitted.health.starved).tolist()),
        occupancy=tuple(record.shares.tolist()),
        quantiles={share: record.quantile(share) for share in QUANTILES},
        low_density_threshold=record.quantile(LOW_DENSITY_SHARE),
        scans=scanner.scans,
        search=_search(fitted),
        features=_features(survey, plan),
        warnings=tuple(fitted.warnings),
        # Workers that differ from the client: where there are any, P1 does not hold.
        mixed=tuple(scanner.executor.mixed),
        versions={name: version(name) for name in RECORDED},
        python=platform.python_version(),
        machine=platform.machine(),
        fit_key=fit_key(run, plan),
        next_component_id=next_component_id,
    )


def _search(fitted: FitResult) -> Search | None:
    search = fitted.search
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
