"""What a run leaves on the Prefect server when it ends: report, links, decision, and an event."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed, Failed

from gmm_dask.addresses import Place, absolute
from gmm_dask.config import RunConfig
from gmm_dask.errors import StorageError
from gmm_dask.pipelines.endings import COMPLETED, SKIPPED, ending_of
from gmm_dask.pipelines.naming import add_version
from gmm_dask.pipelines.rendering import Summary, markdown
from gmm_dask.pipelines.sequences import FitOutcome, OutcomeT
from gmm_dask.pipelines.summary import fit_summary
from gmm_dask.printable import printable
from gmm_dask.report.page.subject import REPORT
from gmm_dask.steps import Decision, Published
from gmm_dask.storage.files.choice import exists, version_at

logger = logging.getLogger("gmm_dask")

#: Bytes of pictures that a run may leave in the server's database.
PICTURE_BYTES = 2_000_000


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


def conclude_fit(run: RunConfig, outcome: FitOutcome) -> State[Any] | FitOutcome:
    """Show and announce what a fit or a selection published; return the state its run ends in."""
    add_version(outcome.published.version)
    with showing():
        report(fit_summary(outcome))
        show_published(outcome.published)
    announce(run, "fit", outcome.published)
    return final_state(run, outcome)


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


@contextmanager
def showing() -> Iterator[None]:
    """Show on the server what a run did; a server that does not take it fails no run.

    After the first refusal the rest is left out: each may take minutes, for Prefect asks again.
    """
    try:
        yield
    except Exception as error:  # the run has done what was asked
        logger.warning(
            "the server does not show all that this run did (%s: %s); the run is not affected",
            type(error).__name__,
            " ".join(str(error).split()),
        )


def report(summary: Summary) -> None:
    """Attach the summary to the run, under the same key in every run of the flow."""
    create_markdown_artifact(markdown(summary), key="report", description=summary.title)


def name_place(key: str, path: Place) -> None:
    """Attach the address of the run's ``model`` or ``predictions`` as text.

    Browsers follow no link from here to a file, nor to an object of a store.
    """
    create_markdown_artifact(_as_text(path), key=key, description=f"where the {key} is")


def show_published(published: Published) -> None:
    """Attach the address of a published model, with its pictures and that of its report."""
    name_place("model", published.path)
    show_model(published.path)


def show_model(path: Place) -> None:
    """Attach the pictures of a model, and the address of its report."""
    link_page(version_at(path).address(REPORT))
    try:
        pictures = _pictures(path)
    except StorageError as error:  # somebody may have pruned it since
        logger.warning("the pictures are not shown on the server: %s", error)
        return
    if pictures:
        create_markdown_artifact(pictures, key="pictures", description="pictures of the fit")


def _pictures(model: Place) -> str:
    """Return the pictures of a model as Markdown that holds them; empty if it has none."""
    version, left, shown = version_at(model), PICTURE_BYTES, []
    for name in version.names():
        if not name.endswith(".png"):
            continue
        size = version.size(name)
        if size > left:
            shown.append(
                f"{name} is too large to be shown here:\n\n{_as_text(version.address(name))}"
            )
            continue
        left -= size
        content = base64.b64encode(version.read(name)).decode()
        title = name.removesuffix(".png").replace("_", " ")
        shown.append(f"![{title}](data:image/png;base64,{content})")
    return "\n\n".join(shown)


def _as_text(path: Place) -> str:
    return f"```text\n{printable(str(absolute(path)))}\n```\n"


def link_page(path: Place) -> None:
    """Attach the address of a report page as text: browsers follow no link from here to a file."""
    if exists(path):
        how = "On a machine that has it, open" if isinstance(path, Path) else "Fetch and open"
        create_markdown_artifact(
            f"The report is one HTML file that needs no network. {how}\n\n{_as_text(path)}",
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
        description="accepted" if decision.accepted else f"refused: {decision.brief_reason}",
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
