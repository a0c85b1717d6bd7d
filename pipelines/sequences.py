"""The steps of each kind of run in their order, written once, for runs with and without Prefect.

A sequence calls each step through ``call``: `directly` calls the step and nothing else (that is
``--direct``), `tasks.as_task` calls the Prefect task made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from gmm_dask import steps
from gmm_dask.chunked.scan import Scanner
from gmm_dask.config import ClusterKind, RunConfig
from gmm_dask.events import Notify
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.model import StoredModel

P = ParamSpec("P")
R = TypeVar("R")


class Call(Protocol):
    """How a step is called."""

    def __call__(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the step returns."""
        ...


def directly(step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call the step, and nothing else."""
    return step(*args, **kwargs)


@dataclass(frozen=True)
class Refusal:
    """Why a candidate did not become the current model, and where it is kept."""

    reason: str
    path: Path


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """What a run leaves, of whatever kind it is.

    Attributes
    ----------
    refusal
        The run ended as planned and yet failed: its candidate was refused.
    """

    refusal: Refusal | None = None


@dataclass(frozen=True, eq=False)
class FitOutcome(Outcome):
    """What a fit run leaves: the version that was published, and how it came about."""

    published: steps.Published
    evaluation: steps.Evaluation


@dataclass(frozen=True, eq=False)
class PredictOutcome(Outcome):
    """What a predict run leaves: the model that predicted, the findings, and where the rows are."""

    run: RunConfig
    model: StoredModel
    predicted: steps.Predicted
    total_rows: int
    path: Path


@dataclass(frozen=True, eq=False)
class RetrainOutcome(Outcome):
    """What a retrain leaves.

    Attributes
    ----------
    current
        The model in use when the run began; None if there was none.
    evaluation, decision
        The candidate, and whether it passed the gate; None if nothing was new.
    published
        The candidate's version, if it was accepted.
    predictions
        By the model in use at the end; None without one, or if the run file asks for none.
    """

    current: StoredModel | None
    evaluation: steps.Evaluation | None = None
    decision: steps.Decision | None = None
    published: steps.Published | None = None
    predictions: PredictOutcome | None = None


def fit(
    run: RunConfig, cluster: ClusterKind, call: Call, notify: Notify, run_id: str
) -> FitOutcome:
    """Fit the data and publish a new version of the model."""
    plan = call(steps.inspect_input, run)
    with steps.open_scanner(run, plan, cluster, notify) as scanner:
        fitted = call(steps.fit, run, plan, scanner, notify)
        evaluation = call(steps.evaluate, run, plan, scanner, fitted)
    published = call(steps.publish, run, evaluation, run_id)
    return FitOutcome(published, evaluation)


def select(
    run: RunConfig, cluster: ClusterKind, call: Call, notify: Notify, run_id: str
) -> FitOutcome:
    """Fit every number of components and covariance type, and publish the best."""
    plan = call(steps.inspect_input, run, True, True)
    with steps.open_scanner(run, plan, cluster, notify) as scanner:
        selected = call(steps.select, run, plan, scanner, notify)
        evaluation = call(steps.evaluate_selection, run, plan, scanner, selected)
    published = call(steps.publish, run, evaluation, run_id)
    return FitOutcome(published, evaluation)


def predict(
    run: RunConfig,
    cluster: ClusterKind,
    call: Call,
    notify: Notify,
    run_id: str,
    as_of: datetime | None = None,
) -> PredictOutcome:
    """Assign every row of the input to a component of the current model."""
    plan = call(steps.inspect_input, run, False, False, as_of)
    model = call(steps.read_model, run)
    with steps.open_predictions(run, plan, model, cluster, notify, run_id) as prediction:
        predicted = call(steps.predict, run, prediction)
        total_rows = call(steps.verify_predictions, run, prediction, predicted)
        path = call(steps.publish_predictions, run, prediction, predicted)
    return PredictOutcome(run, model, predicted, total_rows, path)


def retrain(
    run: RunConfig,
    cluster: ClusterKind,
    call: Call,
    notify: Notify,
    run_id: str,
    force: bool = False,
) -> RetrainOutcome:
    """Fit again if anything is new, publish what passes the gate, predict by the model in use.

    With ``[select]``, the number of components and the covariance type are chosen again when that
    is due, and are otherwise those of the current model.
    """
    plan = call(steps.inspect_input, run, True, run.select is not None)
    current = call(steps.read_current, run)
    if not force and steps.is_up_to_date(run, plan, current):
        outcome = RetrainOutcome(current)
    else:
        with steps.open_scanner(run, plan, cluster, notify) as scanner:
            evaluation = _fit_again(run, plan, current, scanner, call, notify)
        outcome = _pass_gate(run, call, current, evaluation, run_id)
    if run.output.predictions is None or (current is None and outcome.published is None):
        return outcome
    # The fit's present is the run's.
    return replace(outcome, predictions=predict(run, cluster, call, notify, run_id, plan.as_of))


def _fit_again(
    run: RunConfig,
    plan: InputPlan,
    current: StoredModel | None,
    scanner: Scanner,
    call: Call,
    notify: Notify,
) -> steps.Evaluation:
    """Fit the mixture that the run file asks for, or choose one again if that is due."""
    if steps.is_selection_due(run, plan, current):
        rival, transforms = steps.choose_rival(run, plan, current)
        selected = call(steps.select, run, plan, scanner, notify, rival, transforms)
        return call(steps.evaluate_selection, run, plan, scanner, selected, current)
    if run.select is not None and current is not None:
        run = steps.keep_cell(run, current)
    start = steps.choose_start(run, plan, current)
    given = (start.parameters, start.search_too, start.transforms)
    fitted = call(steps.fit, run, plan, scanner, notify, *given)
    return call(steps.evaluate, run, plan, scanner, fitted, current)


def _pass_gate(
    run: RunConfig,
    call: Call,
    current: StoredModel | None,
    evaluation: steps.Evaluation,
    run_id: str,
) -> RetrainOutcome:
    decision = call(steps.decide, run, evaluation)
    if not decision.accepted:
        path = call(steps.reject, run, evaluation, decision, run_id)
        refusal = Refusal(decision.reason, path)
        return RetrainOutcome(current, evaluation, decision, refusal=refusal)
    based_on = None if current is None else current.version
    published = call(steps.publish, run, evaluation, run_id, based_on)
    return RetrainOutcome(current, evaluation, decision, published)
