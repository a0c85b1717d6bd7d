"""The steps of every run, in the order in which flows call them: the imperative shell."""

from gmm_dask.steps.fitting import Evaluation, Fitted, Published, evaluate, fit, publish, read_model
from gmm_dask.steps.inputs import inspect_input, open_prediction_scanner, open_scanner

__all__ = [
    "Evaluation",
    "Fitted",
    "Published",
    "evaluate",
    "fit",
    "inspect_input",
    "open_prediction_scanner",
    "open_scanner",
    "publish",
    "read_model",
]
