"""The steps as Prefect tasks: their names, and which of them are worth a retry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff
from prefect.utilities.annotations import quote

from gmm_dask import steps
from gmm_dask.errors import PASSING, GmmDaskError

P = ParamSpec("P")
R = TypeVar("R")


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Tell whether a failed task is worth a retry: the disk or the network failed, and may recover.

    The names of the parameters are Prefect's.
    """
    error = state.result(raise_on_failure=False)
    cause = error.__cause__ if isinstance(error, GmmDaskError) else error
    return isinstance(cause, OSError) and cause.errno in PASSING


# A long step is not retried by its task: it has a checkpoint, where the next run continues.
RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}
STEPS: list[tuple[Callable[..., Any], str, str, dict[str, Any]]] = [
    (steps.inspect_input, "inspect", "inspect {run.input.path}", RETRIES),
    (steps.fit, "fit", "fit {run.model.n_components} components", {}),
    (steps.evaluate, "evaluate", "evaluate {run.output.name}", {}),
    (steps.plan_night, "plan night", "plan the night of {run.output.name}", RETRIES),
    (steps.refit, "refit", "refit {run.output.name}", {}),
    (steps.evaluate_refit, "evaluate", "evaluate {run.output.name}", {}),
    (steps.select, "select", "select for {run.output.name}", {}),
    (steps.evaluate_selection, "evaluate", "evaluate {run.output.name}", {}),
    (steps.compare_new_rows, "drift", "drift of {run.input.path}", {}),
    (steps.publish, "publish", "publish {run.output.name}", RETRIES),
    (steps.read_model, "read model", "read model {run.output.name}", RETRIES),
    (steps.read_current, "read current model", "read current {run.output.name}", RETRIES),
    (steps.decide, "decide", "decide on {run.output.name}", {}),
    (steps.reject, "reject", "reject candidate for {run.output.name}", RETRIES),
    (steps.predict, "predict", "predict {run.input.path}", {}),
    (steps.verify_predictions, "verify", "verify {run.output.predictions}", RETRIES),
    (steps.publish_predictions, "publish", "publish {run.output.predictions}", RETRIES),
]
TASKS: dict[Callable[..., Any], Task[..., Any]] = {
    step: Task(step, name=name, task_run_name=on, cache_policy=NO_CACHE, **options)
    for step, name, on, options in STEPS
}


def as_task(step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call the task made of a step; quoted arguments are passed as they are, not searched."""
    quoted = {name: quote(value) for name, value in kwargs.items()}
    return cast(R, TASKS[step](*(quote(value) for value in args), **quoted))
