"""Versions of published models: listed, compared two by two, and their history of drift."""

from __future__ import annotations

import logging

from gmm_dask.addresses import Place, place_of
from gmm_dask.errors import StorageError
from gmm_dask.report.differences import ModelComparison, compare
from gmm_dask.storage.models.drift_history import DriftRecord, join_nights, nights_of, read_drift
from gmm_dask.storage.models.lineage import share_ids
from gmm_dask.storage.models.listing import ListedModel, list_versions, registries_at
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.models.paths import load_model_at
from gmm_dask.storage.models.registry import Registry
from gmm_dask.storage.predictions.dataset import read_predictions

logger = logging.getLogger("gmm_dask")


def list_models(path: str | Place, name: str | None = None) -> list[ListedModel]:
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


def compare_models(path: str | Place, before: int, after: int | None = None) -> ModelComparison:
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
    directory = place_of(path)
    registry = Registry(directory.parent, directory.name)
    return compare_stored(registry.load(before), registry.load(after))


def compare_stored(before: StoredModel, after: StoredModel) -> ModelComparison:
    """Compare two versions of a model that are read already."""
    assert after.path is not None
    registry = Registry(after.path.parent.parent, after.path.parent.name)
    return compare(before, after, share_ids(registry, before, after))


def read_nights(path: str | Place, predictions: str | Place | None = None) -> list[DriftRecord]:
    """Read what the new rows of each night were like, the oldest first.

    Parameters
    ----------
    path
        ``models/NAME``, with the candidates refused since; or one version of it, as it was then.
    predictions
        Where the model's predictions are, for what they have measured by themselves.

    Returns
    -------
    list of DriftRecord
        At most the last 60; those of a retrain are compared with the version before it.

    Raises
    ------
    ModelError
        There is no such model, or it or its history is damaged.
    """
    place = place_of(path)
    model = load_model_at(place)
    registry = Registry(place.parent, place.name)
    nights = nights_of(registry, model) if registry.versions() else read_drift(model)[1]
    return list(join_nights(nights, nights_predicted(predictions)))


def nights_predicted(output: str | Place | None) -> tuple[DriftRecord, ...]:
    """Return the history that predictions keep; nothing where their record says nothing.

    Parameters
    ----------
    output
        Where the predictions are; None: there are none.
    """
    if output is None:
        return ()
    try:
        predictions = read_predictions(output)
        nights = () if predictions is None else predictions.summary.get("nights", ())
        return tuple(map(DriftRecord.from_json, nights))
    except (StorageError, LookupError, TypeError, ValueError, AttributeError) as error:
        logger.warning("the history of drift in the predictions is missing: %s", error)
        return ()
