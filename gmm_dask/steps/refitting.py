"""The steps of an incremental fit: refit to the files that are read, and compose what is published.

A night has no checkpoint. It reads few rows, and one that is interrupted begins again and ends with
the same bits: all that it draws is drawn by the digest of what it reads.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.batches import BatchSums
from gmm_dask.chunked.by_unit import UnitSurvey, sum_units
from gmm_dask.chunked.evaluation import DensitySummary, evaluate_rows
from gmm_dask.chunked.first_look import LookRequest, look_at_rows
from gmm_dask.chunked.fit_records import FitResult
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.survey import SurveyRequest, priority_limit, refuse_unusable
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.config import RunConfig
from gmm_dask.events import Stage
from gmm_dask.mixture.criteria import Health
from gmm_dask.mixture.em import Candidate
from gmm_dask.mixture.incremental import Refit
from gmm_dask.mixture.incremental import refit as refit_units
from gmm_dask.mixture.matching import match_by_ids
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import find_patterns
from gmm_dask.mixture.placing import PLACING_ROWS
from gmm_dask.mixture.threads import available_cores
from gmm_dask.mixture.units import UnitStatistics
from gmm_dask.nulls import NullPolicy
from gmm_dask.steps.drift import NewFiles
from gmm_dask.steps.evaluating import INPUT_CONTENT, Evaluation, compose_evaluation
from gmm_dask.steps.fitting import Fitted
from gmm_dask.steps.identities import Identities, next_component_id
from gmm_dask.steps.inputs import mixture_spec
from gmm_dask.steps.nights import Night, keep_search
from gmm_dask.steps.resuming import checkpoint_key
from gmm_dask.steps.unit_keeping import (
    make_units,
    slopes_of,
    store_settings,
)
from gmm_dask.storage.input.content import contents_of, encode_contents
from gmm_dask.storage.input.digests import read_digest
from gmm_dask.storage.models.manifest import Manifest, RefitRecord
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.models.unit_store import (
    STATISTICS,
    UnitStore,
    add_surveys,
    encode_store,
    sample_rows,
    trim_sample,
)

logger = logging.getLogger("gmm_dask")


@dataclass(frozen=True, eq=False)
class Refitted:
    """A mixture that was refitted, and the store of all units under it; nothing is published yet.

    Attributes
    ----------
    night
        What was read, and what was kept.
    refit
        The mixture, its sums and its bounds.
    store
        Of all units, in the order of the input.
    new
        Sums over the rows that are new to the current model, under it; None without any.
    scans, seconds
        Scans of the rows that were read, and the wall time.
    trouble
        Why everything is better read after all; empty if the refit is sound.
    """

    night: Night
    refit: Refit
    store: UnitStore
    new: BatchSums | None
    scans: int
    seconds: float
    trouble: str = ""

    @cached_property
    def survey(self) -> Survey:
        """Of all rows, with the sample."""
        return self.store.survey


def refit(run: RunConfig, night: Night, current: StoredModel, scanner: Scanner) -> Refitted:
    """Refit the current model to the files that a night reads, and to the sums of all others.

    Costs two to four scans of these files, one for each E-step. The first surveys them too, and
    says how new rows differ.

    Raises
    ------
    NonFiniteError, InputError, TooFewRowsError
        As the survey of a full fit.
    InputChangedError, ClusterError
        As `Scanner.reduce`.
    """
    began = time.perf_counter()
    run = keep_search(run, current)
    scanner.transforms = current.transforms
    look = _look(run, night, current, scanner)
    surveyed = look.surveyed
    nulls, sample = NullPolicy.ERROR, None
    if surveyed:
        read = add_surveys([unit.survey for unit in surveyed])
        nulls, sample = read.nulls_left, read.sample

    def expectation(batch: Sequence[MixtureParameters]) -> list[UnitStatistics]:
        totals = []
        if surveyed:
            argument = night.units, tuple(batch)
            totals = scanner.reduce(sum_units, argument, Stage.POLISH, nulls).ordered()
        return [
            UnitStatistics.of(
                parameters,
                [total.statistics[number] for total in totals],
                slopes_of(surveyed),
            )
            for number, parameters in enumerate(batch)
        ]

    kept, spec = night.kept.statistics, mixture_spec(run)
    result = refit_units(
        kept, current.parameters, look.statistics, expectation, spec, run.fit.tol, sample
    )
    store = _store(run, night, result, surveyed, look.threshold)
    trouble = result.problem
    if not trouble and not run.retrain.allow_collapsed:
        trouble = " and ".join(_lost_components(result.health))
    seconds = time.perf_counter() - began
    return Refitted(night, result, store, look.new, scanner.scans, seconds, trouble)


def _lost_components(judgement: Health) -> tuple[str, ...]:
    """Name the components that are lost, a sentence for each way."""
    ways = {"collapsed": judgement.collapsed, "starved": judgement.starved}
    numbers = {way: np.flatnonzero(mask).tolist() for way, mask in ways.items()}
    return tuple(
        f"component{'s' if len(lost) > 1 else ''} {', '.join(map(str, lost))} {way}"
        for way, lost in numbers.items()
        if lost
    )


@dataclass(frozen=True, eq=False)
class _Look:
    """What the first scan finds of each unit, and of the rows that are new.

    ``threshold`` is the priority up to which rows were drawn.
    """

    surveyed: list[UnitSurvey]
    statistics: UnitStatistics
    new: BatchSums | None
    threshold: int


def _look(run: RunConfig, night: Night, current: StoredModel, scanner: Scanner) -> _Look:
    """Survey the units that are read, and take their first E-step: one scan."""
    wanted, rows = sample_rows(len(night.plan.names)), night.reading.rows
    # The store keeps new rows up to the priority of the old ones; a rival needs some more.
    threshold = max(
        min(priority_limit(wanted, rows), night.kept.threshold),
        priority_limit(min(wanted, PLACING_ROWS), rows),
    )
    kept = [unit.survey for unit in night.kept.units]
    if not scanner.lanes:
        refuse_unusable(reduce(add, kept), scanner.chunks, run.input.nulls)
        return _Look([], UnitStatistics.of(current.parameters, []), None, threshold)
    # Rows of two nights have the same numbers, so each night has priorities of its own.
    text = f"{run.fit.random_state} {night.number} {night.reading.digest}"
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    survey = SurveyRequest(seed, wanted, threshold, scanner.chunks.weighted, run.input.nulls)
    request = LookRequest(night.units, survey, current.parameters, night.new)
    look = scanner.reduce(look_at_rows, request, Stage.SURVEY)
    surveyed = look.surveys.ordered()
    whole = reduce(add, [*kept, *(unit.survey for unit in surveyed)])
    refuse_unusable(whole, scanner.chunks, run.input.nulls)
    slopes = slopes_of(surveyed)
    statistics = UnitStatistics.of(current.parameters, look.statistics.ordered(), slopes)
    return _Look(surveyed, statistics, look.new, threshold)


def _store(
    run: RunConfig,
    night: Night,
    result: Refit,
    surveyed: Sequence[UnitSurvey],
    threshold: int,
) -> UnitStore:
    """Make the store of all units, in the order of the input."""
    read = []
    if surveyed:
        read = make_units(night.reading, night.units, surveyed, night.number)
    units = [*night.kept.units, *read]
    places = {file.path: place for place, file in enumerate(night.plan.files)}
    order = sorted(
        range(len(units)), key=lambda unit: min(places[path] for path in units[unit].files)
    )
    trimmed, threshold = trim_sample(
        [units[unit] for unit in order],
        min(threshold, night.kept.threshold),
        sample_rows(len(night.plan.names)),
    )
    return UnitStore(
        trimmed,
        result.units.take(order),
        store_settings(run),
        night.number,
        threshold,
        None if night.plan.decay is None else night.plan.decay.today,
    )


def evaluate_refit(
    run: RunConfig, scanner: Scanner, refitted: Refitted, current: StoredModel
) -> Evaluation:
    """Compose the model of a night from its sums and its sample; no scan.

    Likelihood and BIC of all rows are not known. Occupancy, quantiles and clusters are of the
    sample.
    """
    run = keep_search(run, current)
    night, result, survey = refitted.night, refitted.refit, refitted.survey
    parameters = result.parameters
    total = result.units.total()
    fit_result = FitResult(
        Candidate(parameters, result.status, (), total.counts, total.rows, total.weight),
        current.parameters,
        (),
        survey,
        None,
        result.health,
        scanner.scans,
        _lost_components(result.health),
        {0: current.parameters, result.scans - 1: parameters} if result.bounds else {0: parameters},
    )
    identities = _identify(run, result, current)
    densities = _densities_of_sample(parameters, survey)
    key = checkpoint_key(run, night.plan, (current.parameters,), "night")
    evaluation = compose_evaluation(
        run,
        night.plan,
        scanner,
        Fitted(fit_result, key, refitted.seconds),
        densities,
        current,
        (),
        identities=identities,
        extra={
            STATISTICS: encode_store(refitted.store),
            INPUT_CONTENT: _contents(refitted, scanner),
        },
        drawn=False,  # they would take most of a night, and the report shows the same
    )
    manifest = _describe(evaluation.model.manifest, refitted, current, densities)
    model = replace(evaluation.model, manifest=manifest)
    new = NewFiles(len(night.new), refitted.new)
    return replace(evaluation, model=model, refit=result, new_files=new)


def _contents(refitted: Refitted, scanner: Scanner) -> bytes:
    """Write what all input files held, in their order."""
    night = refitted.night
    contents = {**contents_of(night.reading, scanner.digests), **night.contents}
    if not scanner.lanes:  # files without a row, which no scan has read
        for number, file in enumerate(night.reading.files):
            digest = read_digest(night.reading, number)
            contents[file.path] = replace(contents[file.path], digest=digest)
    return encode_contents({file.path: contents[file.path] for file in night.plan.files})


def _identify(run: RunConfig, result: Refit, current: StoredModel) -> Identities:
    """Name components as they were; one that was placed again has a new id."""
    next_id = next_component_id(run, current)
    ids = list(current.component_ids)
    for component in result.placed:
        ids[component] = next_id
        next_id += 1
    matches = match_by_ids(result.parameters, current.parameters, ids, current.component_ids)
    return Identities(tuple(ids), next_id, matches)


def _densities_of_sample(parameters: MixtureParameters, survey: Survey) -> DensitySummary:
    sample = survey.sample
    weights: FloatArray | None = sample.sample_weight
    rows = Rows(
        sample.X,
        weights,
        0,
        0,
        patterns=find_patterns(sample.X) if survey.incomplete else (),
        transforms=survey.transforms,
    )
    return evaluate_rows(rows, (parameters,), available_cores()).summaries[0]


def _describe(
    manifest: Manifest, refitted: Refitted, current: StoredModel, densities: DensitySummary
) -> Manifest:
    """Say what was read, and take out of the manifest what only a scan of all rows could tell."""
    night, result = refitted.night, refitted.refit
    before, read = result.first.total(), result.read.total()
    record = RefitRecord(
        bound=result.bound,
        bound_before=result.before,
        bounds=result.bounds,
        rows_read=night.reading.rows,
        rows_all=refitted.survey.source_rows,
        scans=refitted.scans,
        log_likelihood_read=read.mean_bound(result.parameters) if read.weight > 0.0 else None,
        log_likelihood_read_before=(
            before.mean_bound(current.parameters) if before.weight > 0.0 else None
        ),
        units_read=len(result.read),
        units_kept=len(result.kept),
        units_changed=night.changed,
        units_gone=night.gone,
        units_again=night.again,
        nights=night.number,
        sample_rows=densities.rows,
        sample_log_likelihood=densities.mean_log_likelihood,
    )
    return replace(
        manifest, log_likelihood=None, aic=None, bic=None, icl=None, scans=0, refit=record
    )
