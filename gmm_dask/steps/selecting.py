"""The steps of a selection: fit every cell, evaluate all of them, keep the chosen cell."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gmm_dask.chunked.evaluation import evaluate as evaluate_mixtures
from gmm_dask.chunked.fit_records import FitState
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.selection import choose
from gmm_dask.chunked.selection import select as select_rows
from gmm_dask.chunked.selection_records import SelectionOptions, SelectionResult
from gmm_dask.config import RunConfig
from gmm_dask.events import Notify
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.selection import cell_of
from gmm_dask.mixture.spec import Cell, MixtureSpec, Start
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.steps.evaluating import Evaluation, compose_evaluation, evaluate_elsewhere
from gmm_dask.steps.fitting import Fitted, fit_options
from gmm_dask.steps.identities import comparable, same_features
from gmm_dask.steps.resuming import Save, checkpoint_key, registry_of, with_checkpoint
from gmm_dask.steps.unit_keeping import keeps_units, measure_and_keep
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.models.pruning import last_selected

logger = logging.getLogger("gmm_dask")


@dataclass(frozen=True, eq=False)
class Selected:
    """Every cell fitted, none chosen yet.

    Attributes
    ----------
    checkpoint_key
        Key of the checkpoint that is kept until a mixture is published or rejected.
    seconds
        Of survey, search and polish in this process.
    """

    result: SelectionResult
    options: SelectionOptions
    checkpoint_key: str
    seconds: float = 0.0


def select(
    run: RunConfig,
    plan: InputPlan,
    scanner: Scanner,
    notify: Notify,
    start: tuple[MixtureParameters, ...] = (),
    transforms: Transforms | None = None,
    current: StoredModel | None = None,
) -> Selected:
    """Fit every cell of ``[select]``: one scan, and one more for each iteration of the slowest.

    A checkpoint is kept as for a fit.

    Parameters
    ----------
    start
        Parameters that compete in their cell as well.
    transforms, current
        As for `gmm_dask.steps.fit`.

    Raises
    ------
    NumericalError
        Every cell broke down.
    StorageError, InputError, ClusterError
        As `gmm_dask.steps.fit`.
    """
    options = selection_options(run)
    cells = options.cells
    logger.info(
        "selecting from %d cells, %s to %s, on %s rows of %d columns in %d file(s)",
        len(cells),
        cells[0],
        cells[-1],
        f"{plan.rows:,}",
        len(plan.names),
        len(plan.files),
    )
    key = checkpoint_key(run, plan, start, "select", *(() if transforms is None else (transforms,)))
    scanner.transforms = plan.transforms if transforms is None else transforms

    def select_on(resume: FitState | None, save: Save) -> SelectionResult:
        def rivals() -> tuple[MixtureParameters, ...]:
            return comparable(plan, current, scanner.transforms)

        return select_rows(scanner, options, start=start, rivals=rivals, resume=resume, save=save)

    began = time.perf_counter()
    result = with_checkpoint(run, plan, scanner, key, select_on)
    return Selected(result, options, key, time.perf_counter() - began)


def selection_options(run: RunConfig) -> SelectionOptions:
    """Return the options of the selection that a run file asks for."""
    section = run.select
    assert section is not None
    spec = MixtureSpec(reg_covar=run.model.reg_covar, start=Start(run.fit.init_params))
    return SelectionOptions(
        section.cells, section.criterion, section.allow_collapsed, fit_options(run, spec)
    )


def evaluate_selection(
    run: RunConfig,
    plan: InputPlan,
    scanner: Scanner,
    selected: Selected,
    current: StoredModel | None = None,
) -> Evaluation:
    """Evaluate every cell and the current model, and choose the best cell: one scan at most.

    It is for what the scans of the polish have not evaluated already. Where sums of units are
    kept, those of the chosen cell take one more.

    Raises
    ------
    NumericalError
        Every cell broke down, collapsed or starved.
    """
    result = selected.result
    mixtures = [fit.parameters for fit in result.results]
    survey, known = result.results[0].survey, result.results[0].evaluated
    rivals = comparable(plan, current, scanner.transforms)
    summaries = evaluate_mixtures(scanner, [*mixtures, *rivals], survey, known=known)
    summaries += evaluate_elsewhere(plan, scanner, current, survey)
    choice = choose(result, selected.options, summaries[: len(mixtures)])
    table = choice.table
    run = with_cell(run, table.chosen)
    store: dict[str, bytes] = {}
    if keeps_units(run):
        mixture = [choice.best.parameters]
        _, store = measure_and_keep(run, plan, scanner, choice.best, mixture)
    logger.info("chose %s components by %s", table.chosen, table.criterion)
    for sentence in choice.best.warnings:
        logger.warning(sentence)
    return compose_evaluation(
        run,
        plan,
        scanner,
        Fitted(choice.best, selected.checkpoint_key, selected.seconds),
        choice.densities[table.chosen],
        current,
        summaries[len(mixtures) :],
        table,
        extra=store,
    )


def with_cell(run: RunConfig, cell: Cell) -> RunConfig:
    """Return the run with another number of components and covariance type."""
    return run.model_copy(update={"model": run.model.model_copy(update=cell._asdict())})


def is_selection_due(run: RunConfig, plan: InputPlan, current: StoredModel | None) -> bool:
    """Whether a retrain chooses again, by ``retrain.select``.

    The first model, and one for other columns or transforms, is always chosen if the run file can
    choose.
    """
    if run.select is None:
        return False
    if current is None or not same_features(plan, current):
        return True
    rule = run.retrain.select
    if isinstance(rule, str):
        return rule == "always"
    last = last_selection(run, current)
    return last is None or datetime.now(UTC) - last >= timedelta(days=rule)


def last_selection(run: RunConfig, current: StoredModel) -> datetime | None:
    """Return when the number of components was last chosen, up to the current version."""
    selected = last_selected(registry_of(run), current)
    if selected is None or selected.run is None:
        return None
    return datetime.fromisoformat(selected.run.created)


def keep_cell(run: RunConfig, current: StoredModel) -> RunConfig:
    """Return the run with number of components and covariance type of the current model."""
    cell = cell_of(current.parameters)
    logger.info("keeping %s components of version %s", cell, current.version)
    return with_cell(run, cell)


def choose_rival(
    run: RunConfig, plan: InputPlan, current: StoredModel | None
) -> tuple[tuple[MixtureParameters, ...], Transforms | None]:
    """Return the current model's parameters, which compete in their cell, by ``retrain.start``.

    With them come the transforms in whose units they are.
    """
    if current is None or run.retrain.start == "scratch" or not same_features(plan, current):
        return (), None
    return (current.parameters,), current.transforms
