"""The steps of a fit: fit, evaluate, publish."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gmm_dask.chunked.evaluation import DensityRecord
from gmm_dask.chunked.evaluation import evaluate as evaluate_mixtures
from gmm_dask.chunked.fit import LOOK_ROWS, memory_scanner
from gmm_dask.chunked.fit import fit as fit_rows
from gmm_dask.chunked.fit_records import FitOptions, FitResult, FitState
from gmm_dask.chunked.scan import Scanner
from gmm_dask.config import RunConfig
from gmm_dask.errors import ConflictError, StorageError
from gmm_dask.events import Notify
from gmm_dask.mixture.criteria import aic, bic
from gmm_dask.mixture.em import EMOptions
from gmm_dask.mixture.matching import Match, match, matched_ids
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.report.pictures import fit_pictures
from gmm_dask.steps.inputs import given_parameters
from gmm_dask.storage import registry
from gmm_dask.storage.checkpoint import Checkpoint, open_checkpoint
from gmm_dask.storage.fit_state import decode, encode
from gmm_dask.storage.model import StoredModel
from gmm_dask.storage.plan import InputPlan

logger = logging.getLogger("gmm_dask")

#: Probabilities of the log-density's quantiles in a manifest.
QUANTILES = (0.0001, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
#: Rows below this quantile are outliers.
LOW_DENSITY_SHARE = 0.001
#: Seconds of work that are worth a checkpoint: shorter ones are done again sooner than saved.
SAVE_SECONDS = 1.0
#: Distributions whose versions decide the bits of a result.
RECORDED = ("gmm-dask", "numpy", "scipy", "numba", "scikit-learn", "pyarrow", "dask")


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted mixture, and the key of the checkpoint that is kept until it is published."""

    result: FitResult
    checkpoint: str


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A fitted model, judged on all rows, ready to be published.

    Attributes
    ----------
    model
        What would be published.
    fitted
        How it came about.
    record
        Densities of all rows under it.
    current, current_record
        The model in use and its densities of the same rows, in a retrain; the record is None if
        that model has other columns.
    matches
        Which component is which of the current model's.
    files
        What is stored beside the model, by name: pictures, and the input plan.
    """

    model: StoredModel
    fitted: Fitted
    record: DensityRecord
    current: StoredModel | None
    current_record: DensityRecord | None
    matches: tuple[Match, ...]
    files: dict[str, bytes]


@dataclass(frozen=True)
class Published:
    """A version in the registry."""

    version: int
    path: Path


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


def checkpoint_key(
    run: RunConfig, plan: InputPlan, start: tuple[MixtureParameters, ...], search_too: bool
) -> str:
    """Digest of all that decides a fit: its key, and where it starts from."""
    parts = [fit_key(run, plan), *(one.digest for one in start), str(search_too)]
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=16).hexdigest()


def fit(
    run: RunConfig,
    plan: InputPlan,
    scanner: Scanner,
    notify: Notify,
    start: tuple[MixtureParameters, ...] = (),
    search_too: bool = False,
) -> Fitted:
    """Survey, search and polish: one scan, and one more per iteration of the polish.

    A checkpoint is kept beside the models until the model is published: the same fit started
    again goes on where this one was, and ends with the same bits.

    Raises
    ------
    StorageError
        Another process runs the same fit, or the disk refuses the checkpoint.
    InputError, NumericalError, ClusterError
        As `gmm_dask.chunked.fit.fit`.
    """
    logger.info(
        "fitting %d %s components to %s rows of %d columns in %d file(s)",
        run.model.n_components,
        run.model.covariance_type,
        f"{plan.rows:,}",
        len(plan.names),
        len(plan.files),
    )
    key = checkpoint_key(run, plan, start, search_too)
    with open_checkpoint(run.output.models, run.output.name, key) as checkpoint:
        result = fit_rows(
            scanner,
            fit_options(run),
            start=start,
            search_too=search_too,
            resume=_saved_state(checkpoint),
            save=_Saver(checkpoint),
        )
    for sentence in result.warnings:
        logger.warning(sentence)
    return Fitted(result, key)


def _saved_state(checkpoint: Checkpoint) -> FitState | None:
    """Where this fit stood when it was interrupted, if that is known and can be understood."""
    saved = checkpoint.load()
    if saved is None:
        return None
    try:
        return decode(*saved)
    except (LookupError, TypeError, ValueError) as error:
        logger.warning(
            "%s: is not the state of a fit of this version (%s: %s); it is not used, the fit "
            "starts from the beginning",
            checkpoint.path,
            type(error).__name__,
            error,
        )
        return None


class _Saver:
    """Saves a state when losing it would cost more than saving it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.saved = time.monotonic()
        self.cost = 0.0

    def __call__(self, state: FitState) -> None:
        began = time.monotonic()
        # A large sample takes a while to write: at most a tenth of the time goes into saving.
        if began - self.saved >= SAVE_SECONDS * max(1.0, 10.0 * self.cost):
            self.checkpoint.save(*encode(state))
            self.saved = time.monotonic()
            self.cost = self.saved - began


def fit_options(run: RunConfig) -> FitOptions:
    """Options of a fit as a run file says them."""
    rows = run.fit.search_rows
    return FitOptions(
        n_components=run.model.n_components,
        covariance_type=run.model.covariance_type,
        em=EMOptions(run.fit.tol, run.fit.max_iter, run.model.reg_covar),
        n_init=run.fit.n_init,
        init_params=run.fit.init_params,
        random_state=run.fit.random_state,
        search_rows=None if rows == "none" else rows,
        nulls=run.input.nulls,
        given=given_parameters(run),
    )


def evaluate(
    run: RunConfig,
    plan: InputPlan,
    scanner: Scanner,
    fitted: Fitted,
    current: StoredModel | None = None,
) -> Evaluation:
    """Judge the fitted mixture, and the current model's beside it, on all rows: one scan.

    A current model of other columns says nothing of these rows: it is not judged and its
    components have no counterparts, but their ids are not given again.
    """
    result = fitted.result
    mixtures = [result.parameters]
    comparable = current is not None and current.columns == plan.names
    if current is not None and comparable:
        mixtures.append(current.parameters)
    if result.in_memory:
        with memory_scanner(result.survey) as rows:
            records = evaluate_mixtures(rows, mixtures)
    else:
        records = evaluate_mixtures(scanner, mixtures)
    k = result.parameters.n_components
    matches: tuple[Match, ...] = ()
    ids = tuple(range(k))
    next_id = k
    if current is not None:
        if comparable:
            matches = match(result.parameters, current.parameters)
        next_id = int(current.manifest["next_component_id"])
        ids = matched_ids(matches, k, current.component_ids, next_id)
        next_id = max(next_id, max(ids) + 1)
    manifest = {
        **_manifest(run, plan, scanner, result, records[0]),
        "fit_key": fit_key(run, plan),
        "next_component_id": next_id,
    }
    model = StoredModel(result.parameters, plan.names, ids, manifest)
    pictures = fit_pictures(
        result.survey.sample.head(LOOK_ROWS, np.random.RandomState(0)).X.astype(np.float64),
        plan.names,
        result.initial,
        result.parameters,
        result.best.lower_bounds,
        ids,
    )
    snapshot = json.dumps(plan.to_json(), separators=(",", ":")).encode()
    return Evaluation(
        model,
        fitted,
        records[0],
        current,
        records[1] if comparable else None,
        matches,
        {**pictures, "input_plan.json": snapshot},
    )


def publish(
    run: RunConfig, evaluation: Evaluation, run_id: str, based_on: int | None = None
) -> Published:
    """Store the model as the next version and make it current, whole or not at all.

    Raises
    ------
    ConflictError
        ``based_on`` is no longer the current version; the candidate is kept under ``rejected/``.
    StorageError
        The disk refuses.
    """
    try:
        number = registry.publish(
            run.output.models,
            run.output.name,
            evaluation.model,
            run_id=run_id,
            based_on=based_on,
            extra=evaluation.files,
        )
    except ConflictError:
        clear_checkpoint(run, evaluation)
        raise
    clear_checkpoint(run, evaluation)
    path = Path(run.output.models) / run.output.name / f"v{number:06d}"
    logger.info("published %s", path)
    return Published(number, path)


def clear_checkpoint(run: RunConfig, evaluation: Evaluation) -> None:
    """Remove the checkpoint of a fit whose outcome is stored."""
    key = evaluation.fitted.checkpoint
    try:
        with open_checkpoint(run.output.models, run.output.name, key) as done:
            done.clear()
    except StorageError as error:  # what was stored stands, so this is no failure
        logger.warning("the checkpoint is kept: %s", error)


def read_model(run: RunConfig) -> StoredModel:
    """Read the current model of a run file's output; raises `ModelError` if there is none."""
    return registry.load(run.output.models, run.output.name)


def _manifest(
    run: RunConfig, plan: InputPlan, scanner: Scanner, fitted: FitResult, record: DensityRecord
) -> dict[str, Any]:
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
        "versions": {name: version(name) for name in RECORDED},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
