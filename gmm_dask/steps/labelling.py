"""The step that labels a stored model by rows of which the label is known."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from typing import Any

from gmm_dask.addresses import Place, place_of
from gmm_dask.chunked.evaluation import evaluate
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.survey import survey_source
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import InputSection, check_config
from gmm_dask.errors import ConfigError, InputError, ModelError
from gmm_dask.events import Notify, silent
from gmm_dask.mixture.labels import UNKNOWN, ComponentLabels
from gmm_dask.report.aggregates import AGGREGATES, Aggregates
from gmm_dask.report.page.subject import REPORT
from gmm_dask.steps.openlineage import LINEAGE, describe_labelled
from gmm_dask.storage.files.choice import version_at
from gmm_dask.storage.input.plan import plan_input
from gmm_dask.storage.input.reader import parquet_chunks
from gmm_dask.storage.models.model import StoredModel, other_files, read_file
from gmm_dask.storage.models.registry import Registry

logger = logging.getLogger("gmm_dask")

#: So many labelled rows are held in memory, and read only once.
LABELLED_ROWS = 65_536
#: Confidence of a label below which it is published with a warning.
DOUBTFUL = 2 / 3
#: The name that pandas gives to an index without one: that of a few rows chosen from a frame.
_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class Labelled:
    """A version of a model that was labelled, and its labels."""

    version: int
    path: Place
    component_ids: tuple[int, ...]
    labels: ComponentLabels


def label_model(
    address: str,
    path: str,
    column: str | None,
    least_weight: float,
    run_id: str,
    notify: Notify = silent,
) -> Labelled:
    """Label the components of the current version of a model, as its next version.

    Only the labels are new; parameters, ids and what the fit has found are those of the version
    that was current. A label that less than two thirds of the labelled rows in its component have
    is published with a warning. Costs a scan of the labelled rows, and another where there are
    very many.

    Parameters
    ----------
    address
        ``models/NAME``, on a disk or on a store.
    path
        Parquet data with the model's features and a column of labels.
    column
        The column of labels; None: the only one that is no feature.
    least_weight
        Labelled rows that a component needs to have a label.

    Raises
    ------
    ModelError
        There is no such model.
    ConfigError
        Several columns could be that of the labels, or none.
    InputError
        The rows cannot be read or used, none has a label, or no component would have one.
    ConflictError
        Another version has become current meanwhile.
    """
    place = place_of(address)
    registry = Registry(place.parent, place.name)
    if not registry.versions():
        raise ModelError(f"{place}: holds no versions of a model; give models/NAME")
    model = registry.load()
    section = _section(model, path)
    column = column or _only_other_column(section, model)
    if column in model.columns:
        raise ConfigError(f"--column {column} is a feature of the model; name that of the labels")
    labels = _count(model, section, column, least_weight, notify)
    _warn_of_doubts(model, labels)
    labelled = replace(model, manifest=replace(model.manifest, labels=labels))
    extra, aggregates = _files_beside(model)
    number = registry.publish(
        labelled,
        run_id=run_id,
        based_on=model.version,
        extra=extra,
        describe=describe_labelled(place, path, aggregates),
    )
    return Labelled(number, registry.path(number), model.component_ids, labels)


def _section(model: StoredModel, path: str) -> InputSection:
    """Return what is read: the features as the fit read them, from another place."""
    fitted = model.manifest.configuration.get("input", {})
    tables: dict[str, Any] = {
        "path": path,
        "columns": list(model.columns),
        "nulls": model.nulls,
        "convert": dict(fitted.get("convert", {})),
    }
    return check_config(InputSection, tables, "label")


def _only_other_column(section: InputSection, model: StoredModel) -> str:
    """Return the only column that is no feature, and no index that pandas has written."""
    others = [
        name
        for name in plan_input(section).types
        if name not in model.columns and not _INDEX.fullmatch(name)
    ]
    if len(others) != 1:
        there = f"{section.path} has {', '.join(others)}" if others else "there is no other"
        raise ConfigError(
            f"which column holds the labels? beside the features {there}; say --column NAME"
        )
    return others[0]


def _count(
    model: StoredModel, section: InputSection, column: str, least_weight: float, notify: Notify
) -> ComponentLabels:
    """Count the labelled rows in each component."""
    plan = plan_input(section, labels=column)
    threads = Threads()
    with Scanner(parquet_chunks(plan), threads, notify, transforms=model.transforms) as scanner:
        survey = survey_source(scanner, LABELLED_ROWS, 0, plan.nulls)
        (densities,) = evaluate(scanner, [model.parameters], survey)
    if not densities.label_counts:
        raise InputError(
            f"{section.path}: no row has a label in column {column!r}; name another column by "
            "--column"
        )
    labels = ComponentLabels.of(densities.label_counts, model.parameters.n_components, least_weight)
    if all(label == UNKNOWN for label in labels.labels):
        raise InputError(
            f"{section.path}: no component has {least_weight:g} labelled rows, so all would be "
            f"{UNKNOWN!r}; give more rows, or a lower --least-weight"
        )
    return labels


def _warn_of_doubts(model: StoredModel, labels: ComponentLabels) -> None:
    """Warn of components whose label is that of few more of their rows than another one is."""
    doubtful = [
        (confidence, identity, label)
        for identity, label, confidence in zip(
            model.component_ids, labels.labels, labels.confidences, strict=True
        )
        if confidence is not None and confidence < DOUBTFUL
    ]
    if not doubtful:
        return
    confidence, identity, label = min(doubtful)
    others = len(doubtful) - 1
    more = f", and {others} more by less than {DOUBTFUL:.0%}" if others else ""
    logger.warning(
        "component %d is labelled %r by only %.0f%% of the labelled rows in it%s; such a component "
        "may hold several classes: fit more components, or label more rows",
        identity, label, 100.0 * confidence, more,
    )  # fmt: skip


def _files_beside(model: StoredModel) -> tuple[dict[str, bytes], Aggregates | None]:
    """Return the further files of a version, and what its report draws."""
    assert model.path is not None
    version = version_at(model.path)
    files = {name: read_file(version, name) for name in other_files(version)}
    for remade in (REPORT, LINEAGE):
        files.pop(remade, None)
    counted, aggregates = files.pop(AGGREGATES, None), None
    if counted is not None:
        try:
            aggregates = Aggregates.decode(counted)
        except (LookupError, TypeError, ValueError) as error:
            logger.warning("the report is made without counts: %s", error)
    return files, aggregates
