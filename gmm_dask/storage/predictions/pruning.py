"""Which versions of a prediction dataset are old, and their removal."""

from __future__ import annotations

import time

from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.files.retention import Keep, Pruned
from gmm_dask.storage.predictions.dataset import PART


def old_predictions(
    places: PredictionPlaces, keep: Keep | None, before: str | None = None
) -> tuple[str, ...]:
    """Return the names of the versions that are to go, the oldest first.

    The current version stays, and the one before it, which readers may still have open.

    Parameters
    ----------
    keep
        Which others stay; None: no others.
    before
        The version before the current one; None: the newest of the others.
    """
    store = places.store
    # A directory that holds any other file is not a version.
    sealed = {
        name: when for name, when in store.sealed_times().items() if store.consists_of(name, PART)
    }
    names = sorted(sealed, key=lambda name: (sealed[name], name))
    current = places.current_run()
    others = [name for name in names if name != current]
    used = {current, before or (others[-1] if others else None)}
    old = [True] * len(names)
    if keep is not None:
        old = list(keep.old([sealed[name] for name in names], time.time()))
    return tuple(
        name for name, is_old in zip(names, old, strict=True) if is_old and name not in used
    )


def prune_predictions(places: PredictionPlaces, keep: Keep, dry_run: bool = False) -> Pruned:
    """Remove old versions of a prediction dataset; ``dry_run`` only says which.

    Raises
    ------
    StorageError
        A run writes there, gmm-dask did not make what is there, or the disk refuses.
    """
    if dry_run or not old_predictions(places, keep):
        return places.store.prunable(old_predictions(places, keep))
    with places.store.open() as writer:
        return writer.prune(old_predictions(places, keep))
