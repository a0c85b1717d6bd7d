"""A model by its path, and what is said of a path that holds none."""

from __future__ import annotations

from pathlib import Path

from gmm_dask.addresses import Place, place_of, resolved
from gmm_dask.errors import ConfigError, ModelError
from gmm_dask.storage.files.choice import exists, names_in, version_at
from gmm_dask.storage.models.current import CURRENT
from gmm_dask.storage.models.model import MANIFEST, RUN, StoredModel, read_model
from gmm_dask.storage.models.registry import (
    VERSION,
    Registry,
    describe_models,
    list_numbers,
    models_in,
)


def load_model_at(path: str | Place, version: int | None = None) -> StoredModel:
    """Read a model by its path.

    Parameters
    ----------
    path
        ``models/NAME`` (its current version), ``models/NAME/v000003``, or
        ``models/NAME/rejected/RUN``. ``~``, ``file://`` and stores (``s3://…``) are understood.
    version
        Version of ``models/NAME``; the current one by default.

    Raises
    ------
    ModelError
        The path holds no model (the message lists the models nearby), or the model is damaged.
    ConfigError
        The path is on no storage that holds models.
    """
    path = named_place(path)
    registry = Registry(path.parent, path.name)
    if version is not None:
        return registry.load(version)
    stored = version_at(path)
    if stored.holds(MANIFEST) or stored.holds(RUN):
        return read_model(stored)
    if exists(path / CURRENT) or registry.versions():
        return registry.load()
    siblings = Registry(path.parent.parent, path.parent.name).versions()
    if VERSION.fullmatch(path.name) and siblings:
        raise ModelError(f"{path}: is missing; there are {list_numbers(siblings)}")
    raise no_model_error(path)


def named_place(path: str | Place) -> Place:
    """Return the place of a model, which is named by the last part of its path.

    ``.`` and ``..`` have no name, so they are resolved.

    Raises
    ------
    ConfigError
        The path is empty, or on no storage that holds models.
    """
    if path == "":
        raise ConfigError("the path of the model is empty; give models/NAME")
    place = place_of(path)
    return resolved(place) if isinstance(place, Path) and place.name in ("", "..") else place


def no_model_error(place: Place) -> ModelError:
    """Make the error for a place that holds no model; it says where models are."""
    if isinstance(place, Path) and place.is_file():
        problem = "is a file, and a model is a directory"
        return ModelError(f"{place}: {problem}; {describe_models(place.parent)}")
    names = models_in(place)
    if names:
        return ModelError(
            f"{place}: is no model, but a directory of models; name one: {', '.join(names)}, as in "
            f"{place / names[0]}"
        )
    is_folder = place.is_dir() if isinstance(place, Path) else bool(names_in(place))
    root = place if is_folder and not models_in(place.parent) else place.parent
    return ModelError(f"{place}: holds no model; {describe_models(root)}")
