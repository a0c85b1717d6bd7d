"""What a run leaves on the Prefect server when it ends: report, links, decision, and an event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed, Failed

from gmm_dask.config import RunConfig
from gmm_dask.pipelines.left_out import left_out_words
from gmm_dask.pipelines.sequences import OutcomeT
from gmm_dask.pipelines.summary import Summary, markdown
from gmm_dask.printable import printable
from gmm_dask.steps import Decision, Published

#: The state of a run that left files out because they cannot be used; the operator is told.
PARTIAL = "Partial"


def final_state(outcome: OutcomeT, nothing_new: bool = False) -> State[Any] | OutcomeT:
    """Return the state in which a run ends; of one that simply completed, its outcome.

    Parameters
    ----------
    nothing_new
        Whether a retrain had nothing to fit.
    """
    words = left_out_words(outcome) if outcome.skipped else ""
    if outcome.refusal is not None:
        message = "; ".join(filter(None, (outcome.refusal.reason, words)))
        return Failed(name="Refused", message=message, data=outcome)
    if nothing_new:
        words = "; ".join(filter(None, ("nothing is new", words)))
    if outcome.skipped:
        return Completed(name=PARTIAL, message=words, data=outcome)
    return Completed(name="Skipped", message=words, data=outcome) if nothing_new else outcome


def report(summary: Summary) -> None:
    """Attach the summary to the run, under the same key in every run of the flow."""
    create_markdown_artifact(markdown(summary), key="report", description=summary.title)


def link(key: str, path: str | Path) -> None:
    """Attach the address of the run's ``model`` or ``predictions``."""
    create_link_artifact(Path(path).absolute().as_uri(), link_text=str(path), key=key)


def link_page(path: Path) -> None:
    """Attach the address of a report page as text: browsers follow no link from here to a file."""
    if path.exists():
        create_markdown_artifact(
            "The report is one HTML file that needs no network. On a machine that has it, open\n\n"
            f"```text\n{printable(str(path.absolute()))}\n```\n",
            key="report-page",
            description="the report to open in a browser",
        )


def report_decision(decision: Decision) -> None:
    """Attach the checks of the gate to the run, as a table."""
    create_table_artifact(
        [
            {
                "check": check.name,
                "found": check.value,
                "allowed": check.limit,
                "passed": check.passed,
                "explanation": check.explanation,
            }
            for check in decision.checks
        ],
        key="decision",
        description="accepted" if decision.accepted else f"refused: {decision.reason}",
    )


def announce(run: RunConfig, by: str, published: Published | None) -> None:
    """Emit the event that a model was published, which can start other deployments.

    Parameters
    ----------
    by
        The flow: a retrain has predicted already, a fit has not.
    """
    if published is None:
        return
    emit_event(
        "gmm-dask.model.published",
        resource={
            "prefect.resource.id": f"gmm-dask.model.{run.output.name}",
            "prefect.resource.name": run.output.name,
            "gmm-dask.flow": by,
        },
        payload={"version": published.version, "path": str(published.path)},
    )
