"""The step that publishes: a model becomes the current version, and its checkpoint goes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from gmm_dask.addresses import Place
from gmm_dask.config import RunConfig
from gmm_dask.errors import (
    ConflictError,
    StorageError,
)
from gmm_dask.steps.evaluating import Evaluation
from gmm_dask.steps.openlineage import describe_version
from gmm_dask.steps.pruning import prune_after_storing
from gmm_dask.steps.resuming import registry_of
from gmm_dask.storage.files.retention import Pruned
from gmm_dask.storage.models.checkpoint import open_checkpoint, remove_forgotten

logger = logging.getLogger("gmm_dask")


@dataclass(frozen=True)
class Published:
    """A version in the registry, and what was pruned after it was published."""

    version: int
    path: Place
    pruned: Pruned = field(default_factory=Pruned)


def publish(
    run: RunConfig,
    evaluation: Evaluation,
    run_id: str,
    based_on: int | None = None,
    kind: str = "fit",
) -> Published:
    """Store the model as the next version and make it current, whole or not at all.

    Then old versions are pruned, as ``output.keep`` says.

    Parameters
    ----------
    run_id
        A run that publishes again publishes nothing new: its version is returned.
    based_on
        The version that must still be current; None: any.
    kind
        Of the run, for its lineage.

    Raises
    ------
    ConflictError
        ``based_on`` is no longer the current version; the candidate is kept under ``rejected/``.
    StorageError
        The version cannot be written.
    """
    registry = registry_of(run)
    of_current = evaluation.current_densities
    try:
        number = registry.publish(
            evaluation.model,
            run_id=run_id,
            based_on=based_on,
            based_on_log_likelihood=None if of_current is None else of_current.mean_log_likelihood,
            extra=evaluation.files,
            describe=describe_version(run, kind, evaluation.aggregates, evaluation.nights),
        )
    except ConflictError:
        clear_checkpoint(run, evaluation)
        raise
    clear_checkpoint(run, evaluation)
    path = registry.path(number)
    logger.info("published %s", path)
    return Published(number, path, prune_after_storing(run))


def clear_checkpoint(run: RunConfig, evaluation: Evaluation) -> None:
    """Remove the checkpoint of a fit whose model is stored, and old ones that nobody resumed."""
    key = evaluation.fitted.checkpoint_key
    try:
        with open_checkpoint(registry_of(run), key) as checkpoint:
            checkpoint.clear()
        remove_forgotten(registry_of(run))
    except StorageError as error:  # the model is stored, so the run has not failed
        logger.warning("the checkpoint is kept: %s", error)
