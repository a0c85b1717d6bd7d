"""How a run ended: one word for its state, and a sentence that says why.

The same words stand on the server, on a terminal, in ``--json`` and in metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

from gmm_dask.pipelines.left_out import left_out_words
from gmm_dask.pipelines.sequences import Outcome, RetrainOutcome
from gmm_dask.steps import Drift

COMPLETED, SKIPPED, PARTIAL, DRIFTED = "Completed", "Skipped", "Partial", "Drifted"
FAILED, REFUSED = "Failed", "Refused"
#: The states in which a run with an outcome can end. Others end by an error or from outside.
STATES = (COMPLETED, SKIPPED, PARTIAL, DRIFTED, FAILED, REFUSED)
#: The states of runs that did their work and of which an operator is told all the same.
TOLD = (PARTIAL, DRIFTED)


@dataclass(frozen=True)
class Ending:
    """How a run ended that has an outcome.

    Attributes
    ----------
    state
        One of `STATES`. Where several would do, it is the last of them in that list.
    message
        All that there is to say, not only of this state; may be empty.
    """

    state: str
    message: str

    @property
    def failed(self) -> bool:
        """Whether the run has not done what was asked."""
        return self.state in (REFUSED, FAILED)


def ending_of(outcome: Outcome) -> Ending:
    """Say how a run ended, by its outcome."""
    nothing_new = isinstance(outcome, RetrainOutcome) and outcome.decision is None
    reached = {
        COMPLETED: True,
        SKIPPED: nothing_new,
        PARTIAL: bool(outcome.skipped),
        DRIFTED: outcome.drift is not None and outcome.drift.drifted,
        FAILED: outcome.failure is not None,
        REFUSED: outcome.refusal is not None,
    }
    state = [state for state in STATES if reached[state]][-1]
    sentences = [
        "" if outcome.refusal is None else outcome.refusal.reason,
        failure_words(outcome),
        "nothing is new" if nothing_new else "",
        drift_words(outcome.drift),
        left_out_words(outcome) if outcome.skipped else "",
    ]
    return Ending(state, "; ".join(filter(None, sentences)))


def drift_words(drift: Drift | None) -> str:
    """Say by what the rows differ; empty if they do not."""
    if drift is None or not drift.drifted:
        return ""
    return "new rows differ: " + "; ".join(
        check.explanation for check in drift.checks if not check.passed
    )


def failure_words(outcome: Outcome) -> str:
    """Say what had been published when the predictions failed, and why they did."""
    if outcome.failure is None:
        return ""
    published = getattr(outcome, "published", None)
    if published is None:
        return f"the predictions by the model in use failed: {outcome.failure}"
    return (
        f"version {published.version} is published and in use, but its predictions failed: "
        f"{outcome.failure}"
    )
