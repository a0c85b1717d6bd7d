"""The steps of a fit: fit, evaluate, publish."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gmm_dask.chunked.evaluation import DensitySummary
from gmm_dask.chunked.evaluation import evaluate as evaluate_mixtures
from gmm_dask.chunked.fit import LOOK_ROWS
from gmm_dask.chunked.fit import fit as fit_rows
from gmm_dask.chunked.fit_records import FitOptions, FitResult, FitState
from gmm_dask.chunked.scan import Scanner
from gmm_dask.config import RunConfig
from gmm_dask.errors import ConflictError, ModelError, StorageError
from gmm_dask.events import Notify
from gmm_dask.mixture.initialization import seeded
from gmm_dask.mixture.matching import Match, match, matched_ids
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions
from gmm_dask.steps.inputs import mixture_spec
from gmm_dask.steps.manifest import compose_manifest, fit_key
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.checkpoint import Checkpoint, open_checkpoint, remove_forgotten
from gmm_dask.storage.models.fit_state import decode, encode
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.models.registry import Registry

logger = logging.getLogger("gmm_dask")

#: Seconds of work that are worth a checkpoint: shorter ones are done again sooner than saved.
SAVE_SECONDS = 1.0


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
    current, current_densities
        The model in use and its densities of the same rows, in a retrain; the record is None if
        that model has other columns.
    matches
        Which component is which of the current model's.
    files
        What is stored beside the model, by name: pictures, and the input plan.
    """

    model: StoredModel
    fitted: Fitted
    record: DensitySummary
    current: StoredModel | None
    current_densities: DensitySummary | None
    matches: tuple[Match, ...]
    files: dict[str, bytes]


@dataclass(frozen=True)
class Published:
    """A version in the registry."""

    version: int
    path: Path


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
    with open_checkpoint(registry_of(run), key) as checkpoint:
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
        spec=mixture_spec(run),
        em=EMOptions(run.fit.tol, run.fit.max_iter),
        n_init=run.fit.n_init,
        random_state=run.fit.random_state,
        search_rows=None if rows == "none" else rows,
        nulls=run.input.nulls,
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
    records = evaluate_mixtures(scanner, mixtures, result.survey)
    k = result.parameters.n_components
    matches: tuple[Match, ...] = ()
    ids = tuple(range(k))
    next_id = k
    if current is not None:
        if comparable:
            matches = match(result.parameters, current.parameters)
        next_id = _next_component_id(run, current)
        ids = matched_ids(matches, k, current.component_ids, next_id)
        next_id = max(next_id, max(ids) + 1)
    manifest = compose_manifest(run, plan, scanner, result, records[0], next_id)
    model = StoredModel(result.parameters, plan.names, ids, manifest)
    # Imported here: matplotlib takes half a second, which a prediction does without.
    from gmm_dask.report.pictures import fit_pictures

    pictures = fit_pictures(
        result.survey.sample.head(LOOK_ROWS, seeded(0)).X.astype(np.float64),
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


def _next_component_id(run: RunConfig, current: StoredModel) -> int:
    """The least id never given: after a roll-back, a later version has given some too."""
    given = current.manifest.next_component_id
    registry = registry_of(run)
    newest = registry.versions()[-1]
    if newest == current.version:
        return given
    try:
        later = registry.load(newest)
    except ModelError:  # damaged, which may be why it was rolled back
        return given
    return max(given, later.manifest.next_component_id)


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
    registry = registry_of(run)
    try:
        number = registry.publish(
            evaluation.model, run_id=run_id, based_on=based_on, extra=evaluation.files
        )
    except ConflictError:
        clear_checkpoint(run, evaluation)
        raise
    clear_checkpoint(run, evaluation)
    path = registry.path(number)
    logger.info("published %s", path)
    return Published(number, path)


def clear_checkpoint(run: RunConfig, evaluation: Evaluation) -> None:
    """Remove the checkpoint of a fit whose outcome is stored, and those long forgotten."""
    key = evaluation.fitted.checkpoint
    try:
        with open_checkpoint(registry_of(run), key) as done:
            done.clear()
        remove_forgotten(registry_of(run))
    except StorageError as error:  # what was stored stands, so this is no failure
        logger.warning("the checkpoint is kept: %s", error)


def read_model(run: RunConfig) -> StoredModel:
    """Read the current model of a run file's output; raises `ModelError` if there is none."""
    return registry_of(run).load()


def registry_of(run: RunConfig) -> Registry:
    """The registry of the model that a run file names."""
    return Registry(run.output.models, run.output.name)
