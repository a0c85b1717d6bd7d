"""From which version another was made: versions of one family have one count of component ids."""

from __future__ import annotations

from gmm_dask.errors import ModelError
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.models.registry import Registry


def ancestors(registry: Registry, model: StoredModel) -> set[int]:
    """Return the numbers of a version and of those that it was made from, one after the other.

    The last may have been pruned, since its number says enough; what came before it is not known.
    """
    numbers: set[int] = set()
    while model.version is not None and model.version not in numbers:
        numbers.add(model.version)
        based_on = None if model.run is None else model.run.based_on
        if based_on is None:
            break
        try:
            model = registry.load(based_on)
        except ModelError:  # pruned, or damaged
            numbers.add(based_on)
            break
    return numbers


def share_ids(registry: Registry, first: StoredModel, second: StoredModel) -> bool:
    """Whether equal component ids in two versions are known to be the same component.

    They are where both were made from one version, in however many retrains. A plain fit counts
    its ids from 0, whatever there was before.
    """
    return not ancestors(registry, first).isdisjoint(ancestors(registry, second))
