"""The steps of each kind of run in their order, written once, for runs with and without Prefect.

A sequence calls each step through ``call``: `directly` calls the step and nothing else (that is
``--direct``), `tasks.as_task` calls the Prefect task made of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, ParamSpec, Protocol, TypeVar

from gmm_dask import steps
from gmm_dask.addresses import Place
from gmm_dask.config import ClusterKind, RunConfig, ThreadsCluster
from gmm_dask.errors import GmmDaskError
from gmm_dask.events import CheckpointRemoved, Notify
from gmm_dask.pipelines.attempts import attempt
from gmm_dask.storage.input.bad_files import BadFile
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.model import StoredModel

logger = logging.getLogger("gmm_dask")

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
    path: Place


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """What a run leaves, of whatever kind it is.

    Attributes
    ----------
    refusal
        The run ended as planned and yet failed: its candidate was refused.
    skipped, unsettled
        Input files that cannot be used, and the number of those that were not at rest: the run
        left them out.
    failure
        Why the predictions of a retrain failed, after its candidate was published or refused.
    """

    refusal: Refusal | None = None
    skipped: tuple[BadFile, ...] = ()
    unsettled: int = 0
    failure: GmmDaskError | None = None

    @property
    def drift(self) -> steps.Drift | None:
        """How the new rows differ from those before; None where that was not measured."""
        return None


OutcomeT = TypeVar("OutcomeT", bound=Outcome)


@dataclass(frozen=True, eq=False)
class FitOutcome(Outcome):
    """What a fit run leaves: the version that was published, and how it came about."""

    published: steps.Published
    evaluation: steps.Evaluation


@dataclass(frozen=True, eq=False)
class PredictOutcome(Outcome):
    """What a predict run leaves: the model that predicted, the findings, and where the rows are.

    Attributes
    ----------
    lost_rows
        Predictions of the version before whose files were left out.
    """

    run: RunConfig
    model: StoredModel
    predicted: steps.Predicted
    total_rows: int
    path: Place
    lost_rows: int = 0

    @property
    def drift(self) -> steps.Drift | None:
        """How the predicted rows differ from the training rows."""
        return self.predicted.drift


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
    measured
        How the new rows differ from those that ``current`` was fitted to; None if there was
        nothing to compare.
    """

    current: StoredModel | None
    evaluation: steps.Evaluation | None = None
    decision: steps.Decision | None = None
    published: steps.Published | None = None
    predictions: PredictOutcome | None = None
    measured: steps.Drift | None = None

    @property
    def drift(self) -> steps.Drift | None:
        """How the new rows differ from those before; else how the predicted rows do."""
        predicted = None if self.predictions is None else self.predictions.drift
        if self.measured is None:
            return predicted
        worse = predicted is not None and predicted.drifted and not self.measured.drifted
        return predicted if worse else self.measured


def fit(
    run: RunConfig, cluster: ClusterKind, call: Call, notify: Notify, run_id: str
) -> FitOutcome:
    """Fit the data and publish a new version of the model."""

    def once(bad: tuple[BadFile, ...]) -> FitOutcome:
        plan = call(steps.inspect_input, run, bad=bad)
        with steps.open_scanner(run, plan, cluster, notify) as scanner:
            fitted = call(steps.fit, run, plan, scanner, notify)
            evaluation = call(steps.evaluate, run, plan, scanner, fitted)
        published = call(steps.publish, run, evaluation, run_id)
        notify(CheckpointRemoved())
        return FitOutcome(published, evaluation, **_left_out(plan))

    return attempt(run, once)


def select(
    run: RunConfig, cluster: ClusterKind, call: Call, notify: Notify, run_id: str
) -> FitOutcome:
    """Fit every number of components and covariance type, and publish the best."""

    def once(bad: tuple[BadFile, ...]) -> FitOutcome:
        plan = call(steps.inspect_input, run, True, True, bad=bad)
        with steps.open_scanner(run, plan, cluster, notify) as scanner:
            selected = call(steps.select, run, plan, scanner, notify)
            evaluation = call(steps.evaluate_selection, run, plan, scanner, selected)
        published = call(steps.publish, run, evaluation, run_id, kind="select")
        notify(CheckpointRemoved())
        return FitOutcome(published, evaluation, **_left_out(plan))

    return attempt(run, once)


def predict(
    run: RunConfig,
    cluster: ClusterKind,
    call: Call,
    notify: Notify,
    run_id: str,
    model_version: int | None = None,
    as_of: datetime | None = None,
    skipped: tuple[BadFile, ...] = (),
    kind: str = "predict",
    measured: steps.Drift | None = None,
) -> PredictOutcome:
    """Assign the rows inside the filter to components of a version of the model.

    Parameters
    ----------
    model_version
        This version predicts all rows inside the filter, whatever ``predict.refresh`` says; by
        default it is the current one, and obeys.
    as_of
        What the filter calls now.
    skipped
        Files of which this run has found that they cannot be used.
    kind
        Of the run that the prediction belongs to.
    measured
        What this run has found of its new rows.
    """
    backfill = model_version is not None

    def once(bad: tuple[BadFile, ...]) -> PredictOutcome:
        model = call(steps.read_model, run, model_version)
        plan = call(steps.inspect_input, run, False, False, as_of, (*skipped, *bad))
        lost_rows = steps.count_lost_rows(run, plan)
        with (
            steps.hold(model),
            steps.open_predictions(
                run, plan, model, cluster, notify, run_id, backfill
            ) as prediction,
        ):
            predicted = call(steps.predict, run, prediction, measured)
            total_rows = call(steps.verify_predictions, run, prediction, predicted)
            path = call(steps.publish_predictions, run, prediction, predicted, kind)
        return PredictOutcome(run, model, predicted, total_rows, path, lost_rows, **_left_out(plan))

    return attempt(run, once)


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

    def once(bad: tuple[BadFile, ...]) -> tuple[datetime | None, RetrainOutcome]:
        plan = call(steps.inspect_input, run, True, run.select is not None, bad=bad)
        present = plan.as_of  # the fit's present is the run's
        if run.predict.filter is not None and run.output.predictions is not None:
            # A filter that cannot be used is refused before the fit.
            present = call(steps.inspect_input, run, False, False, present, bad).as_of
        current = call(steps.read_current, run)
        with steps.hold(current):
            if not force and steps.is_up_to_date(run, plan, current):
                return present, RetrainOutcome(current, **_left_out(plan))
            steps.warn_of_clusters(run, current)
            evaluation = _fit_again(run, plan, current, cluster, call, notify, force)
            drift = call(
                steps.compare_new_rows,
                run,
                plan,
                current,
                cluster,
                notify,
                run_id,
                evaluation.new_files,
            )
            evaluation = steps.keep_drift(run, evaluation, current, drift)
            outcome = _pass_gate(run, call, current, evaluation, run_id, drift)
            notify(CheckpointRemoved())
        return present, replace(outcome, **_left_out(plan))

    present, outcome = attempt(run, once)
    if run.output.predictions is None or (outcome.current is None and outcome.published is None):
        return outcome
    try:
        predictions = predict(
            run,
            cluster,
            call,
            notify,
            run_id,
            as_of=present,
            skipped=outcome.skipped,
            kind="retrain",
            measured=outcome.measured,
        )
    except GmmDaskError as error:
        if outcome.decision is None:  # nothing else was done
            raise
        return replace(outcome, failure=error)
    # A prediction also reads the key columns, and may meet other bad files.
    skipped = {file.path: file for file in (*outcome.skipped, *predictions.skipped)}
    return replace(outcome, predictions=predictions, skipped=tuple(skipped.values()))


def _left_out(plan: InputPlan) -> dict[str, Any]:
    """Return the fields of an outcome that say which files its run left out."""
    return {"skipped": plan.skipped, "unsettled": len(plan.unsettled)}


def _fit_again(
    run: RunConfig,
    plan: InputPlan,
    current: StoredModel | None,
    cluster: ClusterKind,
    call: Call,
    notify: Notify,
    force: bool,
) -> steps.Evaluation:
    """Fit the mixture that the run file asks for, or choose one again if that is due."""
    if steps.is_selection_due(run, plan, current):
        rival, transforms = steps.choose_rival(run, plan, current)
        with steps.open_scanner(run, plan, cluster, notify) as scanner:
            selected = call(steps.select, run, plan, scanner, notify, rival, transforms, current)
            return call(steps.evaluate_selection, run, plan, scanner, selected, current)
    if run.select is not None and current is not None:
        run = steps.keep_cell(run, current)
    night = _plan_night(run, plan, current, call, force)
    if night is not None and current is not None:
        # Without a row to read there is nothing for workers to do.
        where = cluster if night.reading.rows else ThreadsCluster()
        with steps.open_scanner(run, night.reading, where, notify) as scanner:
            refitted = call(steps.refit, run, night, current, scanner)
            if not refitted.trouble:
                return call(steps.evaluate_refit, run, scanner, refitted, current)
        logger.warning("all rows are read after all: %s", refitted.trouble)
    start = steps.choose_start(run, plan, current)
    given = (start.parameters, start.search_too, start.transforms, current)
    with steps.open_scanner(run, plan, cluster, notify) as scanner:
        fitted = call(steps.fit, run, plan, scanner, notify, *given)
        return call(steps.evaluate, run, plan, scanner, fitted, current)


def _plan_night(
    run: RunConfig, plan: InputPlan, current: StoredModel | None, call: Call, force: bool
) -> steps.Night | None:
    """Plan an incremental fit, if the run file asks for one; None: everything is read."""
    if run.retrain.start != "incremental":
        return None
    return call(steps.plan_night, run, plan, current, force)


def _pass_gate(
    run: RunConfig,
    call: Call,
    current: StoredModel | None,
    evaluation: steps.Evaluation,
    run_id: str,
    drift: steps.Drift | None,
) -> RetrainOutcome:
    decision = call(steps.decide, run, evaluation, drift)
    if not decision.accepted:
        path = call(steps.reject, run, evaluation, decision, run_id)
        refusal = Refusal(decision.reason, path)
        return RetrainOutcome(current, evaluation, decision, measured=drift, refusal=refusal)
    based_on = None if current is None else current.version
    published = call(steps.publish, run, evaluation, run_id, based_on, "retrain")
    return RetrainOutcome(current, evaluation, decision, published, measured=drift)
