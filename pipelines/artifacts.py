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

from gmm_dask.addresses import Place, absolute
from gmm_dask.config import RunConfig
from gmm_dask.pipelines.endings import COMPLETED, SKIPPED, ending_of
from gmm_dask.pipelines.sequences import OutcomeT
from gmm_dask.pipelines.summary import Summary, markdown
from gmm_dask.printable import printable
from gmm_dask.report.page.subject import REPORT
from gmm_dask.steps import Decision, Published
from gmm_dask.storage.files.choice import exists, version_at


def final_state(run: RunConfig, outcome: OutcomeT) -> State[Any] | OutcomeT:
    """Return the state in which a run ends; of one that simply completed, its outcome.

    An ending that somebody should know of is also an event.
    """
    ending = ending_of(outcome)
    if ending.state == COMPLETED:
        return outcome
    if ending.state != SKIPPED:
        emit(ending.state.lower(), run.output.name, {"message": ending.message})
    make = Failed if ending.failed else Completed
    return make(name=ending.state, message=ending.message, data=outcome)


def emit(what: str, model: str, payload: dict[str, Any], **labels: str) -> None:
    """Emit the event ``gmm-dask.model.WHAT``, which can start deployments and automations.

    Parameters
    ----------
    model
        The name of the model that it is about.
    labels
        Of the model as the event's resource, for triggers to match.
    """
    emit_event(
        f"gmm-dask.model.{what}",
        resource={
            "prefect.resource.id": f"gmm-dask.model.{model}",
            "prefect.resource.name": model,
            **labels,
        },
        payload=payload,
    )


def report(summary: Summary) -> None:
    """Attach the summary to the run, under the same key in every run of the flow."""
    create_markdown_artifact(markdown(summary), key="report", description=summary.title)


def link(key: str, path: Place) -> None:
    """Attach the address of the run's ``model`` or ``predictions``."""
    address = path.absolute().as_uri() if isinstance(path, Path) else str(path)
    create_link_artifact(address, link_text=str(path), key=key)


def link_report(model: Place) -> None:
    """Attach the address of the report in the directory of a model."""
    link_page(version_at(model).address(REPORT))


def link_page(path: Place) -> None:
    """Attach the address of a report page as text: browsers follow no link from here to a file."""
    if exists(path):
        how = "On a machine that has it, open" if isinstance(path, Path) else "Fetch and open"
        create_markdown_artifact(
            f"The report is one HTML file that needs no network. {how}\n\n"
            f"```text\n{printable(str(absolute(path)))}\n```\n",
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
    if published is not None:
        payload = {"version": published.version, "path": str(published.path)}
        emit("published", run.output.name, payload, **{"gmm-dask.flow": by})
