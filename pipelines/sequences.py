"""The steps of each run in their order, written once: Prefect runs them as tasks, or nobody does.

A sequence calls each step through ``call``. `directly` just calls it; `pipelines.tasks.as_task`
calls the Prefect task made of it. What is here runs without Prefect (``--direct``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from gmm_dask import steps
from gmm_dask.config import ClusterKind, RunConfig
from gmm_dask.events import Notify
from gmm_dask.storage.model import StoredModel

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


@dataclass(frozen=True, eq=False)
class FitOutcome:
    """What a fit run leaves: the version that was published, and how it came about."""

    published: steps.Published
    evaluation: steps.Evaluation


@dataclass(frozen=True, eq=False)
class PredictOutcome:
    """What a predict run leaves: who predicted, what was found, and where it lies."""

    run: RunConfig
    model: StoredModel
    predicted: steps.Predicted
    total_rows: int
    path: Path


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


def predict(
    run: RunConfig, cluster: ClusterKind, call: Call, notify: Notify, run_id: str
) -> PredictOutcome:
    """Assign every row of the input to a component of the current model."""
    plan = call(steps.inspect_input, run, False)
    model = call(steps.read_model, run)
    with steps.open_predictions(run, plan, model, cluster, notify, run_id) as prediction:
        predicted = call(steps.predict, run, prediction)
        total_rows = call(steps.verify_predictions, run, prediction, predicted)
        path = call(steps.publish_predictions, run, prediction, predicted)
    return PredictOutcome(run, model, predicted, total_rows, path)
