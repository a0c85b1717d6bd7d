"""The removal of old versions, after a publish or by hand, and the hold that keeps one from it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gmm_dask.config import RunConfig
from gmm_dask.errors import ModelError
from gmm_dask.steps.resuming import registry_of
from gmm_dask.storage.files.contents import Version
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.files.retention import Keep, Pruned
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.models.pruning import prune_models
from gmm_dask.storage.models.registry import Registry
from gmm_dask.storage.predictions.dataset import read_predictions
from gmm_dask.storage.predictions.pruning import prune_predictions

logger = logging.getLogger("gmm_dask")


def keep_of(run: RunConfig) -> Keep | None:
    """Return ``output.keep``; None where the run file does not say it."""
    keep = run.output.keep
    return None if keep is None else Keep(keep.versions, keep.days)


def prune_after_storing(run: RunConfig) -> Pruned:
    """Remove old versions of a model and old candidates, as ``output.keep`` says.

    What was stored stands, so an error is a warning; the next run tries again.
    """
    keep = keep_of(run)
    if keep is None:
        return Pruned()
    try:
        registry = registry_of(run)
        pruned = prune_models(registry, keep, _predicted_by(registry, run.output.predictions))
    except Exception as error:
        logger.warning("old versions of model %s were not removed: %s", run.output.name, error)
        return Pruned()
    if pruned.paths:
        logger.info("removed %s of model %s", pruned, run.output.name)
    return pruned


def prune(
    registries: Sequence[Registry], predictions: Sequence[str], keep: Keep, dry_run: bool = False
) -> Iterator[Pruned]:
    """Remove old versions of models, rejected candidates and predictions, one after the other.

    Parameters
    ----------
    registries
        The models.
    predictions
        Prediction datasets: old versions of them are removed as well, and the model version that
        made the current one stays.
    keep
        Which versions stay.
    dry_run
        Whether only to say what would be removed.

    Yields
    ------
    Pruned
        For each model, then for each prediction dataset.

    Raises
    ------
    StorageError
        Another process writes there, what is there is damaged, or the disk refuses.
    """
    for registry in registries:
        protected = set[int]().union(*(_predicted_by(registry, output) for output in predictions))
        yield prune_models(registry, keep, protected, dry_run)
    for output in predictions:
        yield prune_predictions(PredictionPlaces.of(output), keep, dry_run)


def _predicted_by(registry: Registry, output: str | None) -> set[int]:
    """Return the version of a model that the current predictions were made with, if any."""
    predictions = None if output is None else read_predictions(output)
    if predictions is None or predictions.model["name"] != registry.name:
        return set()
    version = predictions.model["version"]
    return set() if version is None else {version}


@contextmanager
def hold(model: StoredModel | None) -> Iterator[None]:
    """Keep a version of a model from being pruned on this machine while a run goes by it.

    Raises
    ------
    ModelError
        It was pruned since it was read.
    """
    if model is None or model.path is None:
        yield
        return
    with Version(model.path).held() as exists:
        if not exists:
            raise ModelError(
                f"{model.path}: was removed while this run began, since another version is in use "
                "now; run again"
            )
        yield
