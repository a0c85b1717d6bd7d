"""The kinds of run: the sequence, the flow and the summary of each.

To add a kind, write these three and its `Kind` here, and a command that runs it. Nothing is
imported before it is used: the command must answer ``--help`` at once, a direct run must not
import Prefect, and a flow is imported while the embedded server starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from gmm_dask.pipelines.rendering import Summary
    from gmm_dask.pipelines.sequences import FitOutcome, Outcome, PredictOutcome, RetrainOutcome

OutcomeT = TypeVar("OutcomeT", bound="Outcome")


@dataclass(frozen=True)
class Steps(Generic[OutcomeT]):
    """What a kind of run does, with Prefect or without.

    Attributes
    ----------
    sequence
        ``sequence(run, cluster, call, notify, run_id, **options)``.
    sum_up
        Makes the summary of its outcome.
    """

    sequence: Callable[..., OutcomeT]
    sum_up: Callable[[OutcomeT], Summary]


@dataclass(frozen=True)
class Kind(Generic[OutcomeT]):
    """A kind of run, by functions that import its parts.

    Attributes
    ----------
    name
        The command's.
    steps
        Imports its sequence and its summary.
    flow
        Imports its flow, and with it Prefect.
    resumed
        What the same run does after it was interrupted without a checkpoint.
    prepare
        Imports what the run needs later, while Prefect's embedded server starts.
    """

    name: str
    steps: Callable[[], Steps[OutcomeT]]
    flow: Callable[[], Any]
    resumed: str
    prepare: Callable[[], None] = lambda: None


def _fit() -> Steps[FitOutcome]:
    from gmm_dask.pipelines.sequences import fit
    from gmm_dask.pipelines.summary import fit_summary

    return Steps(fit, fit_summary)


def _fit_flow() -> Callable[..., Any]:
    from gmm_dask.pipelines.fit import fit

    return fit


def _select() -> Steps[FitOutcome]:
    from gmm_dask.pipelines.sequences import select
    from gmm_dask.pipelines.summary import fit_summary

    return Steps(select, fit_summary)


def _select_flow() -> Callable[..., Any]:
    from gmm_dask.pipelines.selecting import select

    return select


def _predict() -> Steps[PredictOutcome]:
    from gmm_dask.pipelines.sequences import predict
    from gmm_dask.pipelines.summary import predict_summary

    return Steps(predict, predict_summary)


def _predict_flow() -> Callable[..., Any]:
    from gmm_dask.pipelines.predict import predict

    return predict


def _retrain() -> Steps[RetrainOutcome]:
    from gmm_dask.pipelines.sequences import retrain
    from gmm_dask.pipelines.summary import retrain_summary

    return Steps(retrain, retrain_summary)


def _retrain_flow() -> Callable[..., Any]:
    from gmm_dask.pipelines.retrain import retrain

    return retrain


def _prepare_a_fit() -> None:
    """Import what the search and the pictures need."""
    import gmm_dask.report.pictures  # noqa: F401


_FROM_THE_START = "it begins from the start"

FIT = Kind("fit", _fit, _fit_flow, _FROM_THE_START, _prepare_a_fit)
SELECT = Kind("select", _select, _select_flow, _FROM_THE_START, _prepare_a_fit)
PREDICT = Kind("predict", _predict, _predict_flow, _FROM_THE_START)
RETRAIN = Kind("retrain", _retrain, _retrain_flow, _FROM_THE_START, _prepare_a_fit)
