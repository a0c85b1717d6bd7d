"""What a full fit keeps of its rows, unit by unit: a later night need not read them again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from gmm_dask.chunked.by_unit import UnitSurvey, measure_units
from gmm_dask.chunked.evaluation import DensitySummary
from gmm_dask.chunked.fit_records import FitResult
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.survey import SurveyRequest, priority_limit
from gmm_dask.config import RunConfig
from gmm_dask.events import Stage
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.units import UnitStatistics
from gmm_dask.storage.input.filters.predicate import text_of
from gmm_dask.storage.input.input_file import InputFile
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.unit_store import (
    MOST_BYTES,
    STATISTICS,
    Unit,
    UnitStore,
    encode_store,
    most_units,
    sample_rows,
    trim_sample,
)

logger = logging.getLogger("gmm_dask")

#: Keys of ``[input]`` that the sums of a unit depend on, besides the files themselves.
SETTINGS = (
    "columns", "nulls", "sample_weight", "weight_halflife", "filter", "transform", "convert",
)  # fmt: skip


def keeps_units(run: RunConfig) -> bool:
    """Whether fits leave a store of units beside their models."""
    return run.retrain.start == "incremental"


def store_settings(run: RunConfig) -> dict[str, Any]:
    """Return what the sums of units depend on besides their files, by the key of ``[input]``."""
    return run.input.model_dump(mode="json", include=set(SETTINGS))


def cut_of(plan: InputPlan, file: InputFile) -> str:
    """Digest of what the filter leaves of a file: its row groups, and what it asks of each row."""
    residual = plan.residual(file)
    asked = None if residual is None else text_of(residual)
    text = json.dumps([[index for index, _ in file.groups], asked])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def cut_runs(rows: Sequence[int], most: int) -> tuple[int, ...]:
    """Cut a sequence of files, or of units, into at most that many runs of about equal rows.

    Parameters
    ----------
    rows
        Of each of them.

    Returns
    -------
    runs
        Number of the run of each, ascending from 0. Those without rows are in the run before.
    """
    counts = np.asarray(rows, dtype=np.int64)
    filled = counts > 0
    if not filled.any():
        return (0,) * len(rows)
    places = np.arange(len(rows))
    if np.count_nonzero(filled) > most:
        places = (2 * np.cumsum(counts) - counts) * most // (2 * counts.sum())  # by the row amid
    _, runs = np.unique(places[filled], return_inverse=True)
    before = np.maximum(np.cumsum(filled) - 1, 0)
    return tuple(runs[before].tolist())


def make_units(
    plan: InputPlan, units: Sequence[int], surveyed: Sequence[UnitSurvey], night: int
) -> list[Unit]:
    """Make units of what a scan says of them.

    Parameters
    ----------
    plan
        Of the files that were read.
    units
        Number of each file's unit.
    surveyed
        Of each unit, with its rows of the sample.
    night
        On which they were read.
    """
    members: list[dict[str, str]] = [{} for _ in surveyed]
    for file, unit in zip(plan.files, units, strict=True):
        members[unit][file.path] = cut_of(plan, file)
    return [
        Unit(of_unit, night, sums.young, sums.survey)
        for of_unit, sums in zip(members, surveyed, strict=True)
    ]


def slopes_of(surveyed: Sequence[UnitSurvey]) -> list[float]:
    """Return Σ w · slope of the transforms of each unit, nats; 0 without any."""
    return [unit.survey.log_slopes for unit in surveyed]


def measure_and_keep(
    run: RunConfig,
    plan: InputPlan,
    scanner: Scanner,
    result: FitResult,
    mixtures: Sequence[MixtureParameters],
) -> tuple[tuple[DensitySummary, ...], dict[str, bytes]]:
    """Summarize the densities of all rows in mixtures, and keep the sums of each unit: one scan.

    Parameters
    ----------
    result
        The fit whose mixture comes first, under which the sums are taken.
    mixtures
        The fitted mixture, and others.

    Returns
    -------
    summaries
        Of each mixture.
    files
        The store, by the name of its file; empty where it would be too large.
    """
    parameters, survey = mixtures[0], result.survey
    d, most = parameters.n_features, most_units(parameters) // 2
    # Too large a store is not written, and then one unit is as good as many.
    units = cut_runs([file.rows for file in plan.files], max(most, 1))
    request = SurveyRequest(
        run.fit.random_state,
        sample_rows(d),
        priority_limit(sample_rows(d), survey.rows),
        scanner.chunks.weighted,
        run.input.nulls,
    )
    measured = scanner.reduce(
        measure_units, (units, request, tuple(mixtures)), Stage.EVALUATE, survey.nulls_left
    )
    if most < 1:
        logger.warning(
            "no statistics of units are kept, so the next retrain is in full: two units of %d %s "
            "components of %d features take more than %d MB",
            parameters.n_components,
            parameters.covariance_type,
            d,
            MOST_BYTES // 10**6,
        )
        return measured.evaluation.summaries, {}
    totals = measured.units.ordered()
    surveyed = [sums.surveyed for sums in totals]
    kept = make_units(plan, units, surveyed, 0)
    trimmed, threshold = trim_sample(kept, request.threshold, request.sample_rows)
    statistics = UnitStatistics.of(
        parameters,
        [sums.statistics.statistics[0] for sums in totals],
        slopes_of(surveyed),
    )
    store = UnitStore(
        trimmed,
        statistics,
        store_settings(run),
        0,
        threshold,
        None if plan.decay is None else plan.decay.today,
    )
    return measured.evaluation.summaries, {STATISTICS: encode_store(store)}
