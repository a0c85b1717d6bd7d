"""What a model's manifest says of its fit, and the digest of all that decided it."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from typing import Any

import numpy as np

from gmm_dask.chunked.evaluation import LOW_DENSITY_SHARE, DensityRecord
from gmm_dask.chunked.fit_records import FitResult
from gmm_dask.chunked.scan import Scanner
from gmm_dask.config import RunConfig
from gmm_dask.mixture.criteria import aic, bic
from gmm_dask.storage.input.plan import InputPlan

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
    run: RunConfig, plan: InputPlan, scanner: Scanner, fitted: FitResult, record: DensityRecord
) -> dict[str, Any]:
    """What a manifest says: configuration, snapshot, how the fit ended, densities, versions."""
    best, found, parameters = fitted.best, fitted.survey, fitted.parameters
    moments = found.moments
    weight = found.weight
    search = fitted.search
    return {
        "configuration": run.model_dump(mode="json", include={"input", "model", "fit"}),
        "snapshot": plan.digest,
        "files": len(plan.files),
        "rows": found.rows,
        "rows_dropped": found.dropped,
        "weight": weight,
        "status": best.status.value,
        "n_iter": best.n_iter,
        "history": list(best.lower_bounds),
        "last_moved": best.history[-1].moved if best.history else None,
        "counts": None if best.counts is None else best.counts.tolist(),
        "log_likelihood": record.mean_log_likelihood,
        "aic": aic(parameters, record.log_likelihood),
        "bic": bic(parameters, record.log_likelihood, weight),
        "collapsed": np.flatnonzero(fitted.health.collapsed).tolist(),
        "starved": np.flatnonzero(fitted.health.starved).tolist(),
        "occupancy": record.shares.tolist(),
        "quantiles": {str(share): record.quantile(share) for share in QUANTILES},
        "low_density_threshold": record.quantile(LOW_DENSITY_SHARE),
        "scans": scanner.scans,
        "search": search
        and {
            "rows": search.rows,
            "starts": search.starts,
            "failed": search.failed,
            "iterations": search.iterations,
            "log_likelihoods": list(search.log_likelihoods),
        },
        "features": {
            name: {
                "minimum": moments.minimum[j],
                "maximum": moments.maximum[j],
                "mean": moments.mean[j],
                "standard_deviation": float(np.sqrt(found.variances[j])),
            }
            for j, name in enumerate(plan.names)
        },
        "warnings": list(fitted.warnings),
        # Workers that differ from the client: where there are any, P1 does not hold.
        "mixed": list(scanner.executor.mixed),
        "versions": {name: version(name) for name in RECORDED},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
