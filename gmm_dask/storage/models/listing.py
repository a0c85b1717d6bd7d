"""What is in a model registry: a line for every version and every rejected candidate."""

from __future__ import annotations

from dataclasses import dataclass

from gmm_dask.addresses import Place, place_of
from gmm_dask.errors import ModelError
from gmm_dask.storage.files.choice import version_at
from gmm_dask.storage.models.lookup import named_place, no_model_error
from gmm_dask.storage.models.model import read_model
from gmm_dask.storage.models.pruning import is_pinned, rejected_runs
from gmm_dask.storage.models.registry import (
    REJECTED,
    Registry,
    describe_models,
    models_in,
    version_name,
)


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """A version of a model, or a rejected candidate.

    What is not known of a damaged one is None.

    Attributes
    ----------
    model, version, path
        Name and number, and the directory; a candidate has no number.
    run_id, created
        Id of the run that stored it, and when, ISO 8601 in UTC.
    rows
        Rows that were used.
    n_components, covariance_type
        Shape of the mixture.
    log_likelihood, bic
        Of the rows that it was fitted to; the first is a mean, nats per row. None after an
        incremental fit.
    bound
        Then: what the mean log-likelihood is at least, nats per row.
    current, pinned
        Whether it is in use, and whether it is kept from being pruned.
    rejected
        Why a candidate did not become a version.
    problem
        Why it cannot be read; None if it can.
    """

    model: str
    version: int | None
    path: str
    run_id: str | None = None
    created: str | None = None
    rows: int | None = None
    n_components: int | None = None
    covariance_type: str | None = None
    log_likelihood: float | None = None
    bic: float | None = None
    bound: float | None = None
    current: bool = False
    pinned: bool = False
    rejected: str | None = None
    problem: str | None = None


def registry_at(path: str | Place) -> Registry:
    """Return the versions of the model at a path, ``models/NAME``.

    Raises
    ------
    ModelError
        The path holds no model; the message lists those that are near.
    ConfigError
        The path is on no storage that holds models.
    """
    directory = named_place(path)
    registry = Registry(directory.parent, directory.name)
    if registry.versions():
        return registry
    above = Registry(directory.parent.parent, directory.parent.name)
    if above.versions():
        raise ModelError(f"{path}: is in a model; name {above.directory}, and the version after it")
    raise no_model_error(directory)


def registries_at(path: str | Place, name: str | None = None) -> tuple[Registry, ...]:
    """Return the models in a directory, by name.

    Parameters
    ----------
    path
        A directory of models, or one of them, ``models/NAME``.
    name
        Only this one of the directory.

    Raises
    ------
    ModelError
        There is no such model, or none at all; the message lists those that there are.
    ConfigError
        The path is on no storage that holds models.
    """
    place, root = named_place(path), place_of(path)
    if name is not None:
        registry = Registry(root, name)
        if not registry.versions():
            raise ModelError(f"{root}: has no model {name!r}; {describe_models(root)}")
        return (registry,)
    single = Registry(place.parent, place.name)
    if single.versions():
        return (single,)
    names = models_in(root)
    if not names:
        raise no_model_error(root)
    return tuple(Registry(root, name) for name in names)


def list_versions(registry: Registry) -> tuple[ListedModel, ...]:
    """List the versions of a model by number, then its rejected candidates by date.

    Every model is read whole; one that is damaged is listed with the reason.

    Raises
    ------
    StorageError
        The directory cannot be read, or ``current.json`` is damaged.
    """
    current = registry.current_version()
    versions = [
        _listed(registry, version_name(number), number, current) for number in registry.versions()
    ]
    candidates = [
        _listed(registry, f"{REJECTED}/{run}", None, current) for run in rejected_runs(registry)
    ]
    # One that was pruned meanwhile is not damaged.
    listed = (*versions, *candidates)
    return tuple(
        model
        for model in listed
        if model.problem is None or version_at(place_of(model.path)).exists()
    )


def _listed(registry: Registry, name: str, number: int | None, current: int | None) -> ListedModel:
    version = registry.store.version(name)
    path = str(version.path)
    pinned = number is not None and is_pinned(registry, number)
    in_use = number is not None and number == current
    try:
        stored = read_model(version)
    except ModelError as error:
        return ListedModel(
            model=registry.name,
            version=number,
            path=path,
            current=in_use,
            pinned=pinned,
            problem=str(error),
        )
    manifest, run = stored.manifest, stored.run
    return ListedModel(
        model=registry.name,
        version=number,
        path=path,
        run_id=None if run is None else run.run_id,
        created=None if run is None else run.created,
        rows=manifest.rows,
        n_components=stored.parameters.n_components,
        covariance_type=stored.parameters.covariance_type,
        log_likelihood=manifest.log_likelihood,
        bic=manifest.bic,
        bound=None if manifest.refit is None else manifest.refit.bound,
        current=in_use,
        pinned=pinned,
        rejected=None if run is None else run.rejected,
    )
