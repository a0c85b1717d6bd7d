"""Long work of a step that goes on where it was interrupted: the checkpoint beside the models."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from gmm_dask.chunked.fit_records import FitState
from gmm_dask.chunked.scan import Scanner
from gmm_dask.config import RunConfig
from gmm_dask.errors import NumericalError, ValuesChangedError
from gmm_dask.events import CheckpointKept, Notify
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.steps.manifest import fit_key
from gmm_dask.steps.unit_keeping import keeps_units
from gmm_dask.storage.input.content import contents_of, unchanged_files
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.checkpoint import Checkpoint, open_checkpoint
from gmm_dask.storage.models.fit_state import decode, encode
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.models.registry import Registry

logger = logging.getLogger("gmm_dask")

#: Seconds of work that are worth a checkpoint: less is sooner done again than saved.
SAVE_SECONDS = 1.0

Result = TypeVar("Result")
Save = Callable[[FitState], None]


def registry_of(run: RunConfig) -> Registry:
    """Return the registry of the model that a run file names."""
    return Registry(run.output.models, run.output.name)


def checkpoint_key(
    run: RunConfig, plan: InputPlan, start: tuple[MixtureParameters, ...], *others: object
) -> str:
    """Digest of everything that decides a fit: its fit key, where it starts, and what else does."""
    parts = [fit_key(run, plan), *(parameters.digest for parameters in start), *map(str, others)]
    if keeps_units(run):  # its chunks are cut by file
        parts.append("by file")
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=16).hexdigest()


def with_checkpoint(
    run: RunConfig,
    plan: InputPlan,
    scanner: Scanner,
    key: str,
    work: Callable[[FitState | None, Save], Result],
) -> Result:
    """Do long work that goes on where it was interrupted, and that saves how far it is.

    Parameters
    ----------
    key
        Digest of everything that decides the result.
    work
        Given the state in which it was interrupted, if it was, and the function that saves one.
    """
    with open_checkpoint(registry_of(run), key) as checkpoint:
        resume = _load_state(checkpoint, plan)
        if resume is not None:
            scanner.notify(CheckpointKept())
        try:
            return work(resume, _Saver(checkpoint, _input_meta(run, plan), scanner.notify))
        except ValuesChangedError:
            # Met by the first scan after the interruption: no later run could go on either.
            if resume is not None and scanner.scans == resume.scans:
                checkpoint.clear()
            raise
        except NumericalError:
            checkpoint.clear()  # it would break down again
            raise


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
    return {
        "hints": [file.hint for file in plan.files],
        # By these two a run finds out what this one called now (`gmm_dask.steps.filtering`).
        "as_of": None if plan.as_of is None else plan.as_of.isoformat(),
        "fit_key": fit_key(run, plan),
    }


class _Saver:
    """Saves a state of a fit if losing it would cost more than saving it."""

    def __init__(
        self, checkpoint: Checkpoint, input_meta: Mapping[str, Any], notify: Notify
    ) -> None:
        self.checkpoint = checkpoint
        self.input_meta = input_meta
        self.notify = notify
        self.last_end = time.monotonic()
        self.seconds = 0.0  # that the last save took

    def __call__(self, state: FitState) -> None:
        began = time.monotonic()
        # A large sample takes a while to write: at most a tenth of the time goes into saving.
        if began - self.last_end >= SAVE_SECONDS * max(1.0, 10.0 * self.seconds):
            arrays, meta = encode(state)
            self.checkpoint.save(arrays, {**meta, **self.input_meta})
            self.notify(CheckpointKept())
            self.last_end = time.monotonic()
            self.seconds = self.last_end - began


def read_model(run: RunConfig, version: int | None = None) -> StoredModel:
    """Read a version of the model that a run file names, the current one by default.

    Raises
    ------
    ModelError
        There is no such version (the message lists those that there are), or it is damaged.
    """
    return registry_of(run).load(version)
