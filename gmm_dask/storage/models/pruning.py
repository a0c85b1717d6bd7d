"""Which versions and rejected candidates of a model are old, and their removal.

These versions stay, however old they are:

- the current one;
- the last one, whose number and component ids the next one counts on from, and the last candidate;
- those that are pinned;
- the one whose selection the current one goes by (``retrain.select`` counts the days since);
- those that the caller protects, such as those that made the current predictions;
- those that somebody reads.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from gmm_dask.errors import ModelError
from gmm_dask.storage.files.retention import Keep, Pruned
from gmm_dask.storage.models.model import RUN, StoredModel
from gmm_dask.storage.models.registry import REJECTED, Registry, version_name


def rejected_runs(registry: Registry) -> tuple[str, ...]:
    """Return the runs whose candidates are kept under ``rejected/``, the oldest first."""
    return tuple(name.removeprefix(f"{REJECTED}/") for name in _candidates(registry))


def _candidates(registry: Registry) -> dict[str, float]:
    """Return when each candidate was stored, in seconds since 1970, the oldest first."""
    store = registry.store
    times = store.sealed_times(REJECTED)
    kept = {name: when for name, when in times.items() if store.version(name).holds(RUN)}
    return dict(sorted(kept.items(), key=lambda item: (item[1], item[0])))


def is_pinned(registry: Registry, version: int) -> bool:
    """Whether a version is pinned."""
    return registry.store.is_pinned(version_name(version))


def pin(registry: Registry, version: int, deadline: float = 60.0) -> None:
    """Keep a version from being pruned, until `unpin`.

    Raises
    ------
    ModelError
        It does not exist, or it is damaged.
    StorageError
        The disk refuses, or another process holds the lock.
    """
    registry.load(version)
    with registry.store.open(deadline) as writer:
        registry.load(version)  # it may have been pruned meanwhile
        writer.pin(version_name(version))


def unpin(registry: Registry, version: int, deadline: float = 60.0) -> None:
    """Let a version be pruned again; raises as `pin` does, but it may be damaged."""
    if version not in registry.versions():
        registry.load(version)  # raises
    with registry.store.open(deadline) as writer:
        writer.unpin(version_name(version))


def prune_models(
    registry: Registry,
    keep: Keep,
    protected: Collection[int] = (),
    dry_run: bool = False,
    deadline: float = 60.0,
) -> Pruned:
    """Remove old versions and rejected candidates of a model.

    Parameters
    ----------
    keep
        Which of them stay. Versions are counted by their numbers, candidates by their dates.
    protected
        Versions that stay in any case.
    dry_run
        Whether only to say what would be removed.
    deadline
        Seconds to wait while another process publishes.

    Raises
    ------
    StorageError
        The disk refuses, another process holds the lock, or ``current.json`` is damaged: then
        nothing is removed.
    """
    old = _old_names(registry, keep, protected)
    if dry_run or not old:
        return registry.store.prunable(old)
    with registry.store.open(deadline) as writer:
        # Once more: while this process waited, another may have put an old version into use.
        return writer.prune(_old_names(registry, keep, protected))


def _old_names(registry: Registry, keep: Keep, protected: Collection[int]) -> tuple[str, ...]:
    """Return the names of what is to go: versions, then candidates, each the oldest first."""
    now = time.time()
    numbers = registry.versions()
    times = registry.store.sealed_times()
    sealed = [times.get(version_name(number), now) for number in numbers]
    old = [number for number, yes in zip(numbers, keep.old(sealed, now), strict=True) if yes]
    names: list[str] = []
    if old:
        kept = {*protected, numbers[-1], *_in_use(registry)}
        names += [
            version_name(number)
            for number in old
            if number not in kept and not is_pinned(registry, number)
        ]
    candidates = _candidates(registry)
    old_candidates = zip(
        [*candidates][:-1], keep.old([*candidates.values()], now)[:-1], strict=True
    )
    return (*names, *(name for name, yes in old_candidates if yes))


def _in_use(registry: Registry) -> set[int]:
    """Return the current version, and the one whose selection it goes by."""
    if registry.current_version() is None:
        return set()
    current = registry.load()
    models = (current, last_selected(registry, current))
    return {model.version for model in models if model is not None and model.version is not None}


def last_selected(registry: Registry, current: StoredModel) -> StoredModel | None:
    """Return the last version, up to the current one, that a selection has chosen; None without.

    Later ones do not count: the current version was put back into use after them. A damaged
    version says nothing.
    """
    for number in reversed(registry.versions()):
        if current.version is not None and number > current.version:
            continue
        try:
            model = current if number == current.version else registry.load(number)
        except ModelError:
            continue
        if model.manifest.selection is not None and model.run is not None:
            return model
    return None
