"""Which rows a run uses: to fit, to predict, and what it calls now, in filters and ages of rows."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from gmm_dask.config import RunConfig
from gmm_dask.errors import ConfigError, GmmDaskError
from gmm_dask.steps.manifest import fit_key
from gmm_dask.storage.input.bad_files import BadFile
from gmm_dask.storage.input.filters.input_filter import names_present
from gmm_dask.storage.input.plan import InputPlan, plan_input
from gmm_dask.storage.models.checkpoint import interrupted_fits
from gmm_dask.storage.models.registry import Registry

logger = logging.getLogger("gmm_dask")


def plan_prediction(run: RunConfig, present: datetime, bad: tuple[BadFile, ...] = ()) -> InputPlan:
    """Make the plan of the rows to predict: those inside ``predict.filter``, where there is one.

    Files in ``bad`` are left out, and files that lack a key column cannot be used. Every row counts
    as one, however old.

    Raises
    ------
    ConfigError, InputError
        As `plan_input` does; of a filter the message says that it is ``predict.filter``.
    """
    condition, keys = run.predict.filter, run.predict.key_columns
    section = run.input.model_copy(update={"weight_halflife": None})
    if condition is None:
        return plan_input(section, present, bad, keys)
    try:
        return plan_input(section.model_copy(update={"filter": condition}), present, bad, keys)
    except ConfigError as error:
        if str(error).startswith("filter: "):
            raise ConfigError(f"predict.{error}") from error
        raise


def plan_fit(run: RunConfig, present: datetime, bad: tuple[BadFile, ...] = ()) -> InputPlan:
    """Make the plan of the rows to fit, with their labels where the run file has ``[labels]``."""
    return plan_input(
        run.input, present, bad, labels=None if run.labels is None else run.labels.column
    )


def choose_present(run: RunConfig, for_fit: bool, bad: tuple[BadFile, ...] = ()) -> datetime:
    """Return the time that a run calls now: in its filter, and where rows weigh by their age.

    It is that of an interrupted fit that this run can continue: one of the same configuration,
    for which the same rows of the same files are left and weigh the same as then. Otherwise it is
    now. So a night's fit that is resumed on the next day ends with the rows and weights that it
    began with, and one that cannot be resumed takes today's. The files in ``bad`` belong to
    neither.

    Raises
    ------
    ConfigError
        The filter cannot be read.
    """
    now = _now()
    text = run.input.filter
    ageing = run.input.weight_halflife is not None
    if not for_fit or not (ageing or (text is not None and names_present(text))):
        return now
    for meta in interrupted_fits(Registry(run.output.models, run.output.name)):
        try:
            as_of = datetime.fromisoformat(meta["as_of"])
            resumable = fit_key(run, plan_fit(run, as_of, bad)) == meta["fit_key"]
        except (GmmDaskError, KeyError, TypeError, ValueError):  # of other rows, or older
            continue
        if resumable:
            logger.info("an interrupted fit goes on, as of %s", as_of.isoformat())
            return as_of
    return now


def _now() -> datetime:
    return datetime.now(UTC)
