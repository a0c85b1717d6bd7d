"""The rows that are new to a run: which they are, and how they differ from those before."""

from __future__ import annotations

import logging
from dataclasses import replace

from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.batches import scan_batch
from gmm_dask.chunked.scan import Scanner
from gmm_dask.config import ClusterKind, RunConfig, ThreadsCluster
from gmm_dask.errors import ModelError, StorageError
from gmm_dask.events import Notify
from gmm_dask.steps.drift import LEAST_SQUARED_WEIGHT, Drift, NewFiles, NewRows, measure_new_rows
from gmm_dask.steps.evaluating import INPUT_CONTENT, Evaluation
from gmm_dask.steps.identities import same_features
from gmm_dask.steps.inputs import open_executor
from gmm_dask.steps.resuming import registry_of
from gmm_dask.storage.files.choice import version_at
from gmm_dask.storage.input.content import Contents, decode_contents, unchanged_files
from gmm_dask.storage.input.input_file import InputFile
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.input.reader import parquet_chunks
from gmm_dask.storage.models.drift_history import (
    DRIFT,
    decode_noise,
    encode_drift,
    join_nights,
    nights_of,
    read_noise,
)
from gmm_dask.storage.models.model import StoredModel, read_file
from gmm_dask.storage.predictions.dataset import read_predictions
from gmm_dask.storage.predictions.staging import StagedPredictions

logger = logging.getLogger("gmm_dask")

#: Rows that threads of this process go through before workers would have started.
ROWS_ON_THREADS = 1 << 22


def input_content(model: StoredModel) -> Contents:
    """Return what the input files of a stored model held; nothing where that is not known."""
    assert model.path is not None
    try:
        return decode_contents(read_file(version_at(model.path), INPUT_CONTENT))
    except (ModelError, ValueError) as error:
        logger.warning(
            "version %s does not say what its input files held (%s); they count as changed",
            model.version,
            error,
        )
        return {}


def compare_new_rows(
    run: RunConfig,
    plan: InputPlan,
    current: StoredModel | None,
    cluster: ClusterKind,
    notify: Notify,
    run_id: str,
    new: NewFiles | None = None,
) -> Drift | None:
    """Compare the files that are new to the current model with its training rows: one scan of them.

    A retrain fits to these rows. The model that has learned them would not see that they differ.

    Parameters
    ----------
    cluster
        Where to run, if there are many new rows; few are not worth the start of workers.
    new
        What an incremental fit has seen of these files, which needs no scan more.

    Returns
    -------
    Drift or None
        None where there is nothing to compare: no model or one of other features, no new file,
        or no used row in them that weighs anything.

    Raises
    ------
    InputError, ClusterError
        As a fit.
    """
    if current is None:
        return None
    if not same_features(plan, current):
        logger.info(
            "version %s has other columns or transforms; drift is not measured", current.version
        )
        return None
    new = new or _scan_new_files(run, plan, current, cluster, notify)
    sums = new.sums
    if sums is None or sums.deviations.squared_weight < LEAST_SQUARED_WEIGHT:
        return None
    rows = NewRows("retrain", run_id, new.count, sums)
    drift = measure_new_rows(run.predict, current, rows, noise_of(current))
    if drift.drifted:
        logger.warning(
            "drift: %s; %s new rows in %d file(s), compared with version %s",
            drift.words,
            f"{sums.densities.rows:,}",
            new.count,
            current.version,
        )
    return drift


def _scan_new_files(
    run: RunConfig, plan: InputPlan, current: StoredModel, cluster: ClusterKind, notify: Notify
) -> NewFiles:
    """Sum over the rows of the files that are new to the current model: one scan of these."""
    same = unchanged_files(plan, input_content(current))
    files = tuple(file for file in plan.files if file.rows and file.path not in same)
    if not files:
        return NewFiles(0, None)
    part = replace(plan, files=files)
    where = cluster if part.rows > ROWS_ON_THREADS else ThreadsCluster()
    with (
        open_executor(where) as executor,
        Scanner(
            parquet_chunks(part), executor, notify, once=True, transforms=current.transforms
        ) as scanner,
    ):
        sums = scan_batch(scanner, current.parameters, run.input.nulls)
    return NewFiles(len(files), sums)


def noise_of(model: StoredModel) -> FloatArray | None:
    """Return how the squares of a model's training rows scatter; None where that is not known."""
    try:
        return read_noise(model)
    except ModelError as error:
        logger.warning("the rows of the fit count as Gaussian: %s", error)
        return None


def keep_drift(
    run: RunConfig, evaluation: Evaluation, current: StoredModel | None, drift: Drift | None
) -> Evaluation:
    """Return a candidate whose files have the history of the current model, and this night's."""
    if current is None:
        return evaluation
    try:
        before = nights_of(registry_of(run), current)
    except ModelError as error:
        logger.warning("the history of drift begins again: %s", error)
        before = ()
    record = None if drift is None else drift.record
    nights = join_nights(before, () if record is None else (record,))
    noise = decode_noise(evaluation.files[DRIFT])
    files = {**evaluation.files, DRIFT: encode_drift(noise, nights)}
    return replace(evaluation, files=files, nights=nights)


def new_to_predictions(
    run: RunConfig, staged: StagedPredictions, model: StoredModel
) -> frozenset[int]:
    """Return which of the files that a prediction reads are new, as indices.

    Those are not that were predicted before, or that the model was fitted to: on average, training
    rows differ in nothing from the model that was fitted to them. Sizes, footers and hints decide,
    so nothing is read; a file that was only touched counts as new.
    """
    known: list[Contents] = []
    try:
        before = read_predictions(staged.places.out)
    except StorageError:  # `begin` has warned
        before = None
    if before is not None:
        known.append(before.files)
    assert model.path is not None
    # With a filter of its own, the rows of a file may be others than those of the fit.
    if run.predict.filter is None and version_at(model.path).holds(INPUT_CONTENT):
        known.append(input_content(model))
    return frozenset(
        index
        for index, file in enumerate(staged.remaining.files)
        if not any(_is_known(file, contents) for contents in known)
    )


def _is_known(file: InputFile, contents: Contents) -> bool:
    before = contents.get(file.path)
    if before is None or (before.size, before.footer) != (file.size, file.footer):
        return False
    return None in (before.hint, file.hint) or before.hint == file.hint
