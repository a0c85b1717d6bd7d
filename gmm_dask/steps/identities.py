"""Which component of a new mixture is which of the current model, and so which id it has."""

from __future__ import annotations

from dataclasses import dataclass

from gmm_dask.chunked.scan import Scanner
from gmm_dask.config import RunConfig
from gmm_dask.errors import ModelError
from gmm_dask.mixture.matching import Match, match, matched_ids
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.transforms import Transforms, convert_units
from gmm_dask.steps.resuming import registry_of
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.model import StoredModel


@dataclass(frozen=True, eq=False)
class Identities:
    """Permanent ids of the components of a new mixture.

    Attributes
    ----------
    ids
        Of each component, (k,).
    next_id
        The least id that was never used.
    matches
        Which component is which of the current model.
    """

    ids: tuple[int, ...]
    next_id: int
    matches: tuple[Match, ...] = ()


def same_features(plan: InputPlan, model: StoredModel) -> bool:
    """Whether a model has the columns of a plan, with the same transforms."""
    planned = plan.transforms.names if plan.transforms else None
    stored = model.transforms.names if model.transforms else None
    return model.columns == plan.names and stored == planned


def comparable(
    plan: InputPlan, current: StoredModel | None, transforms: Transforms | None
) -> tuple[MixtureParameters, ...]:
    """Return the parameters of the current model in the units of these transforms.

    Nothing if the model has other columns, or has no such form (`convert_units`).
    """
    if current is None or current.columns != plan.names:
        return ()
    if current.transforms == transforms:
        return (current.parameters,)
    converted = convert_units(current.parameters, current.transforms, transforms)
    return () if converted is None else (converted,)


def identify(
    run: RunConfig,
    plan: InputPlan,
    scanner: Scanner,
    parameters: MixtureParameters,
    current: StoredModel | None,
) -> Identities:
    """Give each component the id of the one that it matches in the current model, or a new one."""
    k = parameters.n_components
    if current is None:
        return Identities(tuple(range(k)), k)
    matches: tuple[Match, ...] = ()
    for before in comparable(plan, current, scanner.transforms):
        matches = match(parameters, before)
    next_id = next_component_id(run, current)
    ids = matched_ids(matches, k, current.component_ids, next_id)
    return Identities(ids, max(next_id, max(ids) + 1), matches)


def next_component_id(run: RunConfig, current: StoredModel) -> int:
    """Return the least unused id; after a rollback, later versions have used ids too."""
    next_id = current.manifest.next_component_id
    registry = registry_of(run)
    newest = registry.versions()[-1]
    if newest == current.version:
        return next_id
    try:
        later = registry.load(newest)
    except ModelError:  # damaged, which may be why it was rolled back
        return next_id
    return max(next_id, later.manifest.next_component_id)
