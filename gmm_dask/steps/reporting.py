"""The report of a fit: made on top of it, and never the reason why it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from gmm_dask.chunked.fit import LOOK_ROWS
from gmm_dask.chunked.fit_records import FitResult
from gmm_dask.errors import GmmDaskError
from gmm_dask.mixture.initialization import seeded
from gmm_dask.report.aggregates import AGGREGATES, Aggregates, Json, aggregate
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.models.registry import Registry

logger = logging.getLogger("gmm_dask")

#: Earlier versions whose components' weights a report shows.
VERSIONS_BEFORE = 12
#: Most components of each, the heaviest.
COMPONENTS_BEFORE = 200


def count_for_report(
    result: FitResult, registry: Registry, seconds: dict[str, float]
) -> Aggregates | None:
    """Count the survey's sample for a report; None with a warning where that fails."""
    try:
        return aggregate(
            result.survey.sample.head(LOOK_ROWS, seeded(0)).X.astype(np.float64),
            result.parameters,
            result.replay,
            versions_before(registry),
            seconds,
        )
    except Exception as error:
        _warn(error)
        return None


def describe_by_report(
    name: str, aggregates: Aggregates | None
) -> Callable[[StoredModel], dict[str, bytes]]:
    """Return the function that makes the files of the report on a model when it is stored."""

    def describe(model: StoredModel) -> dict[str, bytes]:
        if aggregates is None:
            return {}
        try:
            # Imported here: a fit has imported matplotlib meanwhile, a prediction need not.
            from gmm_dask.report.page.document import REPORT, report_page
            from gmm_dask.report.page.subject import Subject

            page = report_page([Subject(name, model, aggregates)])
            return {AGGREGATES: aggregates.encode(), REPORT: page}
        except Exception as error:
            _warn(error)
            return {}

    return describe


def versions_before(registry: Registry) -> tuple[Json, ...]:
    """Return the weights of the components of the latest versions, the oldest first.

    Versions that cannot be read are left out.
    """
    before = []
    for number in registry.versions()[-VERSIONS_BEFORE:]:
        try:
            model = registry.load(number)
        except GmmDaskError as error:
            logger.debug("version %d is left out of the report: %s", number, error)
            continue
        weights = model.parameters.weights
        heaviest = np.argsort(-weights, kind="stable")[:COMPONENTS_BEFORE]
        before.append(
            {
                "version": number,
                "created": model.run.created if model.run else None,
                "rows": model.manifest.rows,
                "weights": {
                    str(model.component_ids[component]): round(float(weights[component]), 6)
                    for component in heaviest
                },
            }
        )
    return tuple(before)


def _warn(error: Exception) -> None:
    logger.warning(
        "no report was made (%s: %s); the model is not affected", type(error).__name__, error
    )
