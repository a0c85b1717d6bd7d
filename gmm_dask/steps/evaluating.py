"""The step that evaluates a fit: what all rows say of it, and the files that go beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from gmm_dask.chunked.evaluation import DensitySummary
from gmm_dask.chunked.evaluation import evaluate as evaluate_mixtures
from gmm_dask.chunked.fit_records import FitResult
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.selection_records import SelectionTable
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.config import RunConfig
from gmm_dask.errors import (
    InputChangedError,
    InputError,
)
from gmm_dask.mixture.incremental import Refit
from gmm_dask.mixture.matching import Match
from gmm_dask.mixture.merging import merge_on_sample
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.report.aggregates import Aggregates
from gmm_dask.steps.drift import NewFiles
from gmm_dask.steps.fitting import Fitted
from gmm_dask.steps.identities import Identities, comparable, identify
from gmm_dask.steps.inputs import mixture_spec
from gmm_dask.steps.manifest import compose_manifest
from gmm_dask.steps.reporting import count_for_report
from gmm_dask.steps.resuming import registry_of
from gmm_dask.steps.shifts import begin_history
from gmm_dask.steps.unit_keeping import keeps_units, measure_and_keep
from gmm_dask.storage.input.content import contents_of, encode_contents
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.clusters import Clusters
from gmm_dask.storage.models.drift_history import DRIFT, DriftRecord
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.models.selection_table import SELECTION, parquet_bytes

logger = logging.getLogger("gmm_dask")

#: File beside a model that says what each input file held.
INPUT_CONTENT = "input_content.json"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A fitted model and what all rows say of it: ready to be published.

    Attributes
    ----------
    model
        The model to publish.
    fitted
        The fit that it comes from.
    densities
        Densities of all rows under the model.
    current, current_densities
        The current model, if a retrain has one, and the densities of the same rows under it;
        these are None if that model has other columns.
    matches
        Which component of the model is which of the current model.
    selection
        The table that the model was chosen from, if it was.
    files
        Files to store beside the model, by name: pictures, the input plan, and what its files
        held.
    aggregates
        What its report draws; None if that could not be counted.
    refit
        Of an incremental fit: the sums that it took. ``densities`` are then of its sample, and
        ``current_densities`` are None.
    new_files
        Of an incremental fit: the files that are new to ``current``, by which drift is measured.
    nights
        The history of drift, which ``files`` hold too.
    """

    model: StoredModel
    fitted: Fitted
    densities: DensitySummary
    current: StoredModel | None
    current_densities: DensitySummary | None
    matches: tuple[Match, ...]
    files: dict[str, bytes]
    aggregates: Aggregates | None = None
    selection: SelectionTable | None = None
    refit: Refit | None = None
    new_files: NewFiles | None = None
    nights: tuple[DriftRecord, ...] = ()


def evaluate(
    run: RunConfig,
    plan: InputPlan,
    scanner: Scanner,
    fitted: Fitted,
    current: StoredModel | None = None,
) -> Evaluation:
    """Evaluate the fitted mixture and the current model together on all rows: one scan at most.

    No scan is needed if the fit has evaluated them already, as a searched one has, or if the
    sample of the survey holds all rows; but one is where sums of units are kept
    (``retrain.start = "incremental"``). A current model of other
    columns is not evaluated and none of its components is matched, but their ids are not used
    again. One of other transforms costs a scan more. The merge tree comes from rows of the
    survey's sample.
    """
    result, survey = fitted.result, fitted.result.survey
    mixtures = [result.parameters, *comparable(plan, current, scanner.transforms)]
    store: dict[str, bytes] = {}
    if keeps_units(run):
        summaries, store = measure_and_keep(run, plan, scanner, result, mixtures)
    else:
        summaries = evaluate_mixtures(scanner, mixtures, survey, known=result.evaluated)
    densities, *of_current = summaries
    of_current += evaluate_elsewhere(plan, scanner, current, survey)
    return compose_evaluation(
        run, plan, scanner, fitted, densities, current, of_current, extra=store
    )


def evaluate_elsewhere(
    plan: InputPlan, scanner: Scanner, current: StoredModel | None, survey: Survey
) -> tuple[DensitySummary, ...]:
    """Evaluate a current model whose transforms are others, in its own units: one scan.

    Its densities are in natural units, and so the gate can compare them. Nothing if the model can
    be evaluated with the new one (`comparable`), has other columns, or has no densities for rows
    outside of the domains of its transforms.
    """
    if current is None or current.columns != plan.names:
        return ()
    if comparable(plan, current, scanner.transforms):
        return ()
    logger.info(
        "version %s has other transforms (%s); its likelihood is taken in its own units, and no "
        "component can be matched",
        current.version,
        current.transforms.words(current.columns) if current.transforms else "none",
    )
    settled, scanner.transforms = scanner.transforms, current.transforms
    try:
        return evaluate_mixtures(scanner, [current.parameters], nulls=survey.nulls_left)
    except InputChangedError:
        raise
    except InputError as error:
        logger.warning("version %s cannot be compared: %s", current.version, error)
        return ()
    finally:
        scanner.transforms = settled


def compose_evaluation(
    run: RunConfig,
    plan: InputPlan,
    scanner: Scanner,
    fitted: Fitted,
    densities: DensitySummary,
    current: StoredModel | None,
    of_current: Sequence[DensitySummary],
    selection: SelectionTable | None = None,
    identities: Identities | None = None,
    extra: Mapping[str, bytes] = MappingProxyType({}),
    drawn: bool = True,
) -> Evaluation:
    """Compose a model, with its component ids, manifest and files, from what was measured.

    Parameters
    ----------
    densities, of_current
        Densities of all rows under the fitted mixture, and under the current model if that is
        comparable.
    selection
        The table that the mixture was chosen from, if it was.
    identities
        Ids of the components; None: by the matches with the current model.
    extra
        Further files, which go before those that are made here.
    drawn
        Whether pictures are drawn beside the report: seconds, where there are many features.
    """
    result = fitted.result
    if identities is None:
        identities = identify(run, plan, scanner, result.parameters, current)
    ids, next_id = identities.ids, identities.next_id
    tree = merge_on_sample(result.parameters, result.survey.sample)
    clusters = Clusters.of(tree, ids)
    manifest = compose_manifest(run, plan, scanner, result, densities, next_id, clusters, selection)
    model = StoredModel(result.parameters, plan.names, ids, manifest)
    snapshot = json.dumps(plan.to_json(), separators=(",", ":")).encode()
    return Evaluation(
        model,
        fitted,
        densities,
        current,
        of_current[0] if of_current else None,
        identities.matches,
        {
            **(_draw(result, plan, ids, clusters, scanner.transforms) if drawn else {}),
            **({} if selection is None else {SELECTION: parquet_bytes(selection)}),
            "input_plan.json": snapshot,
            INPUT_CONTENT: extra.get(INPUT_CONTENT)
            or encode_contents(contents_of(plan, scanner.digests)),
            DRIFT: begin_history(result.parameters, result.survey.look),
            **extra,
        },
        aggregates=count_for_report(result, mixture_spec(run), registry_of(run), _seconds(fitted)),
        selection=selection,
    )


def _draw(
    result: FitResult,
    plan: InputPlan,
    ids: tuple[int, ...],
    clusters: Clusters,
    transforms: Transforms | None,
) -> dict[str, bytes]:
    """Draw the pictures of a fit."""
    # Imported here: matplotlib takes half a second that a prediction need not spend.
    from gmm_dask.report.pictures import fit_pictures

    return fit_pictures(
        result.survey.look.X.astype(np.float64),
        plan.names,
        result.initial,
        result.parameters,
        result.best.lower_bounds,
        ids,
        clusters,
        transforms,
    )


def _seconds(fitted: Fitted) -> dict[str, float]:
    search = fitted.result.search
    return {"fit": fitted.seconds} | ({"of it search": search.seconds} if search else {})
