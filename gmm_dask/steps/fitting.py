"""The steps of a fit: fit, evaluate, publish."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gmm_dask.chunked.evaluation import DensitySummary
from gmm_dask.chunked.evaluation import evaluate as evaluate_mixtures
from gmm_dask.chunked.fit import LOOK_ROWS
from gmm_dask.chunked.fit import fit as fit_rows
from gmm_dask.chunked.fit_records import FitOptions, FitResult, FitState
from gmm_dask.chunked.scan import Scanner
from gmm_dask.config import RunConfig
from gmm_dask.errors import ConflictError, ModelError, StorageError, ValuesChangedError
from gmm_dask.events import Notify
from gmm_dask.mixture.initialization import seeded
from gmm_dask.mixture.matching import Match, match, matched_ids
from gmm_dask.mixture.merging import merge_on_sample
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions
from gmm_dask.steps.inputs import mixture_spec
from gmm_dask.steps.manifest import compose_manifest, fit_key
from gmm_dask.storage.input.content import contents_of, encode_contents, unchanged_files
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.checkpoint import Checkpoint, open_checkpoint, remove_forgotten
from gmm_dask.storage.models.clusters import Clusters
from gmm_dask.storage.models.fit_state import decode, encode
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.models.registry import Registry

logger = logging.getLogger("gmm_dask")

#: File beside a model that says what each input file held.
INPUT_CONTENT = "input_content.json"
#: Seconds of work that are worth a checkpoint: less is sooner done again than saved.
SAVE_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted mixture that is not yet published.

    Attributes
    ----------
    result
        The mixture, and how it came about.
    checkpoint_key
        Key of the checkpoint that is kept until the mixture is published or rejected.
    """

    result: FitResult
    checkpoint_key: str


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A fitted model and what all rows say of it: ready to be published.

    Attributes
    ----------
    model
        The model to publish.
    fitted
        The fit that it comes from.
    densities
        Densities of all rows under the model.
    current, current_densities
        The current model, if a retrain has one, and the densities of the same rows under it;
        these are None if that model has other columns.
    matches
        Which component of the model is which of the current model.
    files
        Files to store beside the model, by name: pictures, the input plan, and what its files
        held.
    """

    model: StoredModel
    fitted: Fitted
    densities: DensitySummary
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
    """Digest of everything that decides a fit: its fit key and where it starts."""
    parts = [fit_key(run, plan), *(parameters.digest for parameters in start), str(search_too)]
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=16).hexdigest()


def fit(
    run: RunConfig,
    plan: InputPlan,
    scanner: Scanner,
    notify: Notify,
    start: tuple[MixtureParameters, ...] = (),
    search_too: bool = False,
) -> Fitted:
    """Fit a mixture by survey, search and polish: one scan, and one more for each iteration.

    A checkpoint is kept beside the models until the model is published. If this fit is
    interrupted, the same fit continues from there and ends with the same bits.

    Parameters
    ----------
    start
        Parameters to start from; if there are none, a search finds a start.
    search_too
        Whether a search finds another start beside the given ones.

    Raises
    ------
    StorageError
        Another process runs the same fit, or the checkpoint cannot be written.
    InputError, NumericalError, ClusterError
        As `gmm_dask.chunked.fit.fit`.
    """
    logger.info(
        "fitting %d %s components to %s%s rows of %d columns in %d file(s)",
        run.model.n_components,
        run.model.covariance_type,
        "at most " if plan.masked else "",
        f"{plan.rows:,}",
        len(plan.names),
        len(plan.files),
    )
    key = checkpoint_key(run, plan, start, search_too)
    with open_checkpoint(registry_of(run), key) as checkpoint:
        resume = _load_state(checkpoint, plan)
        try:
            result = fit_rows(
                scanner,
                fit_options(run),
                start=start,
                search_too=search_too,
                resume=resume,
                save=_Saver(checkpoint, _input_meta(run, plan)),
            )
        except ValuesChangedError:
            # Met by the first scan after the interruption: no later run could go on either.
            if resume is not None and scanner.scans == resume.scans:
                checkpoint.clear()
            raise
    for sentence in result.warnings:
        logger.warning(sentence)
    return Fitted(result, key)


def _load_state(checkpoint: Checkpoint, plan: InputPlan) -> FitState | None:
    """Return the state in which this fit was interrupted, if the input holds the same values.

    A checkpoint of other values is removed: the fit starts from the beginning.
    """
    saved = checkpoint.load()
    if saved is None:
        return None
    try:
        state = decode(*saved)
        contents = contents_of(plan, state.digests, saved[1]["hints"])
    except (LookupError, TypeError, ValueError) as error:
        logger.warning(
            "%s: is not the state of a fit of this version (%s: %s); it is not used, the fit "
            "starts from the beginning",
            checkpoint.path,
            type(error).__name__,
            error,
        )
        return None
    changed = sorted(contents.keys() - unchanged_files(plan, contents).keys())
    if not changed:
        return state
    logger.warning(
        "%s: %s does not hold the values that this interrupted fit has seen; its checkpoint is "
        "removed, the fit starts from the beginning",
        checkpoint.path,
        changed[0] if len(changed) == 1 else f"{changed[0]} and {len(changed) - 1} more",
    )
    checkpoint.clear()
    return None


def _input_meta(run: RunConfig, plan: InputPlan) -> dict[str, Any]:
    """Return what a checkpoint says of its input, to a run that may go on with it."""
    as_of = None if plan.filter is None else plan.filter.as_of
    return {
        "hints": [file.hint for file in plan.files],
        # By these two a run finds out what its filter called now (`gmm_dask.steps.filtering`).
        "as_of": None if as_of is None else as_of.isoformat(),
        "fit_key": fit_key(run, plan),
    }


class _Saver:
    """Saves a state of a fit if losing it would cost more than saving it."""

    def __init__(self, checkpoint: Checkpoint, input_meta: Mapping[str, Any]) -> None:
        self.checkpoint = checkpoint
        self.input_meta = input_meta
        self.last_end = time.monotonic()
        self.seconds = 0.0  # that the last save took

    def __call__(self, state: FitState) -> None:
        began = time.monotonic()
        # A large sample takes a while to write: at most a tenth of the time goes into saving.
        if began - self.last_end >= SAVE_SECONDS * max(1.0, 10.0 * self.seconds):
            arrays, meta = encode(state)
            self.checkpoint.save(arrays, {**meta, **self.input_meta})
            self.last_end = time.monotonic()
            self.seconds = self.last_end - began


def fit_options(run: RunConfig) -> FitOptions:
    """Return the options of a fit that a run file asks for."""
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
    """Evaluate the fitted mixture and the current model together on all rows: one scan.

    No scan is needed if the sample of the survey holds all rows. A current model of other
    columns is not evaluated and none of its components is matched, but their ids are not used
    again. The merge tree comes from rows of the survey's sample.
    """
    result = fitted.result
    mixtures = [result.parameters]
    comparable = current is not None and current.columns == plan.names
    if current is not None and comparable:
        mixtures.append(current.parameters)
    summaries = evaluate_mixtures(scanner, mixtures, result.survey)
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
    tree = merge_on_sample(result.parameters, result.survey.sample)
    clusters = Clusters.of(tree, ids)
    manifest = compose_manifest(run, plan, scanner, result, summaries[0], next_id, clusters)
    model = StoredModel(result.parameters, plan.names, ids, manifest)
    # Imported here: matplotlib takes half a second that a prediction need not spend.
    from gmm_dask.report.pictures import fit_pictures

    pictures = fit_pictures(
        result.survey.sample.head(LOOK_ROWS, seeded(0)).X.astype(np.float64),
        plan.names,
        result.initial,
        result.parameters,
        result.best.lower_bounds,
        ids,
        clusters,
    )
    snapshot = json.dumps(plan.to_json(), separators=(",", ":")).encode()
    return Evaluation(
        model,
        fitted,
        summaries[0],
        current,
        summaries[1] if comparable else None,
        matches,
        {
            **pictures,
            "input_plan.json": snapshot,
            INPUT_CONTENT: encode_contents(contents_of(plan, scanner.digests)),
        },
    )


def _next_component_id(run: RunConfig, current: StoredModel) -> int:
    """Return the least unused id; after a rollback, later versions have used ids too."""
    next_id = current.manifest.next_component_id
    registry = registry_of(run)
    newest = registry.versions()[-1]
    if newest == current.version:
        return next_id
    try:
        later = registry.load(newest)
    except ModelError:  # damaged, which may be why it was rolled back
        return next_id
    return max(next_id, later.manifest.next_component_id)


def publish(
    run: RunConfig, evaluation: Evaluation, run_id: str, based_on: int | None = None
) -> Published:
    """Store the model as the next version and make it current, whole or not at all.

    Parameters
    ----------
    run_id
        A run that publishes again publishes nothing new: its version is returned.
    based_on
        The version that must still be current; None: any.

    Raises
    ------
    ConflictError
        ``based_on`` is no longer the current version; the candidate is kept under ``rejected/``.
    StorageError
        The version cannot be written.
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
    """Remove the checkpoint of a fit whose model is stored, and old ones that nobody resumed."""
    key = evaluation.fitted.checkpoint_key
    try:
        with open_checkpoint(registry_of(run), key) as checkpoint:
            checkpoint.clear()
        remove_forgotten(registry_of(run))
    except StorageError as error:  # the model is stored, so the run has not failed
        logger.warning("the checkpoint is kept: %s", error)


def read_model(run: RunConfig) -> StoredModel:
    """Read the current model that a run file names.

    Raises
    ------
    ModelError
        No version has been published, or the current one is damaged.
    """
    return registry_of(run).load()


def registry_of(run: RunConfig) -> Registry:
    """Return the registry of the model that a run file names."""
    return Registry(run.output.models, run.output.name)
