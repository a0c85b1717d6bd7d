"""Versions of published models: listed, and compared two by two."""

from __future__ import annotations

from pathlib import Path

from gmm_dask.addresses import local_path
from gmm_dask.report.differences import ModelComparison, compare
from gmm_dask.storage.models.lineage import share_ids
from gmm_dask.storage.models.listing import ListedModel, list_versions, registries_at
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.models.registry import Registry


def list_models(path: str | Path, name: str | None = None) -> list[ListedModel]:
    """List the versions of models, and the candidates that were refused.

    Every model is read whole; one that is damaged is listed with its problem.

    Parameters
    ----------
    path
        A directory of models, or one of them, ``models/NAME``.
    name
        Only this model of the directory.

    Returns
    -------
    list of ListedModel
        By name; versions by number, then candidates by date. ``pandas.DataFrame(map(vars, …))``
        makes a table of them.

    Raises
    ------
    ModelError
        There is no such model, or none at all; the message lists those that there are.
    """
    registries = registries_at(path, name)
    return [model for registry in registries for model in list_versions(registry)]


def compare_models(path: str | Path, before: int, after: int | None = None) -> ModelComparison:
    """Compare two versions of a model: which component is which, what moved, what was set.

    Components are matched by their permanent ids where both versions come from one fit by
    retrains, else by the Bhattacharyya distance.

    Parameters
    ----------
    path
        ``models/NAME``, a local directory.
    before, after
        Numbers of the versions; by default the second is the current one.

    Returns
    -------
    ModelComparison
        With ``components``, ``settings`` and the likelihoods that are known; ``to_json()`` has all
        of it.

    Raises
    ------
    ModelError
        The model or a version does not exist, or is damaged.
    """
    directory = local_path(path)
    registry = Registry(directory.parent, directory.name)
    return compare_stored(registry.load(before), registry.load(after))


def compare_stored(before: StoredModel, after: StoredModel) -> ModelComparison:
    """Compare two versions of a model that are read already."""
    assert after.path is not None
    registry = Registry(after.path.parent.parent, after.path.parent.name)
    return compare(before, after, share_ids(registry, before, after))
