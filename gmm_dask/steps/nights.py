"""The plan of a night: which files are read, and what is kept of all others.

A night is an incremental fit. It goes on from the store of units beside the current model: units
whose files hold what they held stay as they are, and all other files are read. A unit is kept whole
or not at all. So whatever is new, changed, late or gone is found by comparing files with contents.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.config import RunConfig
from gmm_dask.errors import ModelError
from gmm_dask.mixture.selection import cell_of
from gmm_dask.steps.identities import same_features
from gmm_dask.steps.manifest import fit_key
from gmm_dask.steps.new_rows import input_content
from gmm_dask.steps.selecting import with_cell
from gmm_dask.steps.unit_keeping import cut_of, cut_runs, keeps_units, store_settings
from gmm_dask.storage.files.choice import version_at
from gmm_dask.storage.input.content import Contents, unchanged_files
from gmm_dask.storage.input.decay import power_of_two
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.model import StoredModel, read_file
from gmm_dask.storage.models.unit_store import (
    STATISTICS,
    Unit,
    UnitStore,
    add_surveys,
    decode_store,
    most_units,
)

logger = logging.getLogger("gmm_dask")

#: Share of the rows above which a full fit reads hardly more, and finds more.
MOST_READ = 0.5
#: Keys of ``[fit]`` that only a search uses.
SEARCH_ONLY = (
    "random_state", "n_init", "search_rows", "init_params", "weights_init", "means_init",
    "precisions_init",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Night:
    """What an incremental fit reads, and what it keeps.

    Attributes
    ----------
    plan
        Today's input plan.
    reading
        The files that are read, a part of it.
    units
        Number of the unit of each file of ``reading``.
    new
        Numbers of the files of ``reading`` that are new to the current model, and have rows.
    kept
        The units that are kept, weighed as of today, under the parameters of the current model.
    contents
        What their files hold, by path, with today's hints.
    number
        Incremental fits since the last full one, this one included.
    changed, gone, again
        Units that are not kept because a file holds something else or is read otherwise; because
        their files are gone; and those that are read again although nothing has changed.
    """

    plan: InputPlan
    reading: InputPlan
    units: tuple[int, ...]
    new: frozenset[int]
    kept: UnitStore
    contents: Contents
    number: int
    changed: int
    gone: int
    again: int

    @property
    def new_units(self) -> int:
        """Number of units that are read."""
        return len(
            {unit for file, unit in zip(self.reading.files, self.units, strict=True) if file.rows}
        )


def plan_night(
    run: RunConfig, plan: InputPlan, current: StoredModel | None, force: bool = False
) -> Night | None:
    """Plan an incremental fit; None, and a line that says why, where everything is to be read.

    Reads the store beside the current model, and the files of which the hint has changed.

    Parameters
    ----------
    force
        Whether the run is to fit although nothing is new: then in full.

    Raises
    ------
    InputError
        A file cannot be read again.
    """
    if not keeps_units(run):
        return None
    night = _plan(run, plan, current, force)
    if isinstance(night, str):
        logger.info("all rows are read: %s", night)
        return None
    logger.info(
        "incremental: reading %d of %d units, %s of %s rows; %d changed, %d gone, %d again",
        night.new_units,
        night.new_units + len(night.kept.units),
        f"{night.reading.rows:,}",
        f"{plan.rows:,}",
        night.changed,
        night.gone,
        night.again,
    )
    assert current is not None
    words = _words_of_waiting(run, current, night.number)
    if words:
        logger.warning("%s", words)
    return night


def left_to_full_fit(run: RunConfig, plan: InputPlan, current: StoredModel) -> str:
    """Name the keys that wait for the next full fit, if nothing else changed since the model.

    Only a search goes by them, and a night without a new file would publish the same model again.
    Empty where something else in the run file or the snapshot changed too, and where everything is
    to be read, so that they are used.
    """
    waiting = _waiting(run, current)
    if not keeps_units(run) or not waiting:
        return ""
    if fit_key(keep_search(run, current), plan) != current.manifest.fit_key:
        return ""
    store = _read_store(current)
    if run.select is not None:
        run = with_cell(run, cell_of(current.parameters))
    if isinstance(store, str) or _hindrance(run, plan, current, store):
        return ""
    return _words_of_waiting(run, current, store.night + 1)


def keep_search(run: RunConfig, current: StoredModel) -> RunConfig:
    """Give a run the keys of the search that found the current model, which a night does not make.

    So the manifest of a night says which search its mixture comes from.
    """
    waiting = _waiting(run, current)
    if not waiting:
        return run
    before = current.manifest.configuration["fit"]
    fit = run.fit.model_dump() | {name: before[name] for name in waiting}
    return run.model_copy(update={"fit": type(run.fit).model_validate(fit)})


def _words_of_waiting(run: RunConfig, current: StoredModel, night: int) -> str:
    """Say which keys wait for the next full fit; empty if none does."""
    waiting = _waiting(run, current)
    if not waiting:
        return ""
    differ, they = (
        ("differ", "them: they wait") if len(waiting) > 1 else ("differs", "it: it waits")
    )
    return (
        f"{' and '.join(f'fit.{name}' for name in waiting)} {differ} from the search of version "
        f"{current.version}, and only a search goes by {they} for the next full fit, at the latest "
        f"in {run.retrain.full_every - night + 1} night(s), or for --force"
    )


def _waiting(run: RunConfig, current: StoredModel) -> list[str]:
    """Name the keys of ``[fit]`` that differ from the search's and that a night does not use."""
    before = current.manifest.configuration.get("fit", {})
    now = run.fit.model_dump(mode="json")
    return [name for name in SEARCH_ONLY if name in before and before[name] != now[name]]


def _plan(run: RunConfig, plan: InputPlan, current: StoredModel | None, force: bool) -> Night | str:
    """Return the plan of a night, or why there is none."""
    if current is None:
        return "there is no model yet"
    if force:
        return "the run is forced"
    store = _read_store(current)
    if isinstance(store, str):
        return store
    hindrance = _hindrance(run, plan, current, store)
    if hindrance:
        return hindrance
    contents = unchanged_files(plan, input_content(current))
    kept = _find_kept(plan, store, contents)
    left = {path for unit in store.units for path in unit.files} & {f.path for f in plan.files}
    gone = sum(1 for unit in store.units if not left & unit.files.keys())
    changed = len(store.units) - len(kept) - gone
    number = store.night + 1
    again = _stalest([store.units[place] for place in kept], run.retrain.refresh, number)
    kept = [place for order, place in enumerate(kept) if order not in again]
    if not any(store.units[place].survey.rows for place in kept):
        return "no unit is left as it was"
    held = {path for place in kept for path in store.units[place].files}
    reading = replace(plan, files=tuple(file for file in plan.files if file.path not in held))
    if reading.rows > MOST_READ * plan.rows:
        return f"{reading.rows:,} of {plan.rows:,} rows are new, changed or to be read again"
    most = most_units(current.parameters)
    units = cut_runs([file.rows for file in reading.files], max(1, most // 2))
    new = frozenset(
        number
        for number, file in enumerate(reading.files)
        if file.rows and file.path not in contents
    )
    contents = {path: content for path, content in contents.items() if path in held}
    store = _as_of_today(store.take(kept), plan)
    if len(store.units) + len({*units}) > most:
        store = merge_units(store, most // 2)
    return Night(plan, reading, units, new, store, contents, number, changed, gone, len(again))


def _read_store(current: StoredModel) -> UnitStore | str:
    assert current.path is not None
    version = version_at(current.path)
    try:
        if not version.holds(STATISTICS):
            return f"version {current.version} was fitted with another retrain.start"
        content = read_file(version, STATISTICS)
        return decode_store(content, current.parameters, current.transforms)
    except ModelError as error:
        return str(error)
    except ValueError as error:
        return f"{current.path / STATISTICS}: {error}"


def _hindrance(run: RunConfig, plan: InputPlan, current: StoredModel, store: UnitStore) -> str:
    """Say what keeps a night from going on from a store; empty if nothing does."""
    parameters, version = current.parameters, f"version {current.version}"
    if not same_features(plan, current):
        return f"{version} has other columns or transforms"
    wanted = run.model.n_components, run.model.covariance_type
    if wanted != (parameters.n_components, parameters.covariance_type):
        return (
            f"{version} has {parameters.n_components} {parameters.covariance_type} components, "
            f"and {wanted[0]} {wanted[1]} ones are asked for"
        )
    settings = store_settings(run)
    others = [name for name in settings if settings[name] != store.settings.get(name)]
    if others:
        return f"{version} was fitted with another input.{others[0]}"
    today = None if plan.decay is None else plan.decay.today
    if store.today is not None and today is not None and today < store.today:
        return f"{version} is of a later day, {store.today}"
    if store.night >= run.retrain.full_every:
        return f"retrain.full_every = {run.retrain.full_every}, and as many nights were incremental"
    if most_units(parameters) < 2:
        return "two units are too large to be kept"
    return ""


def _find_kept(plan: InputPlan, store: UnitStore, unchanged: Contents) -> list[int]:
    """Find the numbers of the units that stay as they are, given the files that do."""
    today = None if plan.decay is None else plan.decay.today
    files = {file.path: file for file in plan.files}
    places = {file.path: place for place, file in enumerate(plan.files)}
    kept = []
    for number, unit in enumerate(store.units):
        # What was too young to decay does so from now on, by an age that was not kept.
        if unit.young and today != store.today:
            continue
        if all(
            path in unchanged and cut_of(plan, files[path]) == cut
            for path, cut in unit.files.items()
        ):
            kept.append(number)
    return sorted(kept, key=lambda number: min(places[path] for path in store.units[number].files))


def _stalest(units: Sequence[Unit], refresh: float, night: int) -> set[int]:
    """Choose the units that are read again although nothing has changed: those read longest ago.

    Over the nights their number is ``refresh`` of all; in a single night, a whole number of them.
    """
    wanted = floor(night * refresh * len(units)) - floor((night - 1) * refresh * len(units))
    return set(sorted(range(len(units)), key=lambda place: (units[place].read, place))[:wanted])


def _as_of_today(store: UnitStore, plan: InputPlan) -> UnitStore:
    """Weigh the units as of today."""
    if plan.decay is None or store.today is None or plan.decay.today == store.today:
        return store
    days = (plan.decay.today - store.today).days
    factor = power_of_two(np.array([-days / plan.decay.days]))  # (1,)
    scale = float(factor[0])
    return replace(
        store,
        units=tuple(replace(unit, survey=_scaled(unit.survey, scale)) for unit in store.units),
        statistics=store.statistics.scaled(np.repeat(factor, len(store.units))),
        today=plan.decay.today,
    )


def _scaled(survey: Survey, factor: float) -> Survey:
    """Multiply the weights of all rows; the moments of a survey have none."""
    draw = survey.draw
    weights: FloatArray = draw.weights * factor
    return replace(
        survey,
        weight=survey.weight * factor,
        weight_squares=survey.weight_squares * factor * factor,
        log_slopes=survey.log_slopes * factor,
        draws=(replace(draw, weights=weights),),
    )


def merge_units(store: UnitStore, most: int) -> UnitStore:
    """Merge neighbours, in the order of the input, until at most ``most`` units are left.

    A unit of many files is read again whole when one of them changes.
    """
    runs = cut_runs([unit.survey.source_rows for unit in store.units], most)
    starts = [place for place, run in enumerate(runs) if place == 0 or run != runs[place - 1]]
    stops = [*starts[1:], len(runs)]
    units = []
    for start, stop in zip(starts, stops, strict=True):
        members = store.units[start:stop]
        units.append(
            Unit(
                {path: file for unit in members for path, file in unit.files.items()},
                min(unit.read for unit in members),
                any(unit.young for unit in members),
                add_surveys([unit.survey for unit in members]),
            )
        )
    return replace(store, units=tuple(units), statistics=store.statistics.merged(starts))
