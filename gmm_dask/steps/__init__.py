"""The steps of every kind of run: what it reads, computes and writes."""

from gmm_dask.steps.drift import Check, Drift
from gmm_dask.steps.evaluating import Evaluation, evaluate
from gmm_dask.steps.fitting import Fitted, fit
from gmm_dask.steps.inputs import inspect_input, open_scanner
from gmm_dask.steps.leaving_out import count_lost_rows
from gmm_dask.steps.new_rows import compare_new_rows, keep_drift
from gmm_dask.steps.nights import Night, plan_night
from gmm_dask.steps.predicting import (
    Predicted,
    Prediction,
    open_predictions,
    predict,
    publish_predictions,
    verify_predictions,
)
from gmm_dask.steps.pruning import hold
from gmm_dask.steps.publishing import Published, publish
from gmm_dask.steps.refitting import Refitted, evaluate_refit, refit
from gmm_dask.steps.resuming import read_model
from gmm_dask.steps.retraining import (
    Decision,
    RetrainStart,
    choose_start,
    decide,
    is_up_to_date,
    read_current,
    reject,
    warn_of_clusters,
)
from gmm_dask.steps.selecting import (
    Selected,
    choose_rival,
    evaluate_selection,
    is_selection_due,
    keep_cell,
    select,
)

__all__ = [
    "Check",
    "Decision",
    "Drift",
    "Evaluation",
    "Fitted",
    "Night",
    "Predicted",
    "Prediction",
    "Published",
    "Refitted",
    "RetrainStart",
    "Selected",
    "choose_rival",
    "choose_start",
    "compare_new_rows",
    "count_lost_rows",
    "decide",
    "evaluate",
    "evaluate_refit",
    "evaluate_selection",
    "fit",
    "hold",
    "inspect_input",
    "is_selection_due",
    "is_up_to_date",
    "keep_cell",
    "keep_drift",
    "open_predictions",
    "open_scanner",
    "plan_night",
    "predict",
    "publish",
    "publish_predictions",
    "read_current",
    "read_model",
    "refit",
    "reject",
    "select",
    "verify_predictions",
    "warn_of_clusters",
]
