"""What starts the deployments that tell: events of runs that cannot tell of themselves.

A run that never begins, or is cancelled before it does, has no process in which a hook could run.
configs/prefect.yaml has the same triggers for a work pool.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

from prefect.events import DeploymentEventTrigger, DeploymentTriggerTypes, TriggerTypes
from prefect.events.schemas.automations import Posture
from prefect.schedules import Schedule
from prefect.server.schemas.schedules import CronSchedule

#: How long a run may be late before it is told of.
LATE = timedelta(minutes=10)
#: How long a nightly deployment may be without success.
SILENT = timedelta(hours=26)
#: What a schedule with longer pauses gets on top of the longest.
GRACE = timedelta(hours=2)
#: Firings of a cron schedule in which its longest pause is looked for: a week of every four hours.
FIRINGS = 50

_SUCCESSES = {f"prefect.flow-run.{name}" for name in ("Completed", "Skipped", "Partial", "Drifted")}
_TROUBLES = {
    f"prefect.flow-run.{name}"
    for name in ("Late", "Refused", "Failed", "TimedOut", "Crashed", "Cancelled")
}
_BEGUN = {f"prefect.flow-run.{name}" for name in ("Pending", "Running", "AwaitingConcurrencySlot")}
_RUNS = {"prefect.resource.id": "prefect.flow-run.*"}


def lost_runs(name: str) -> list[DeploymentTriggerTypes | TriggerTypes]:
    """Return what starts ``tell`` for runs of the deployments ``name`` of any flow.

    They were marked as crashed by configs/automations.yaml, or by a worker that could not begin
    them; cancelled because another run had the deployment's only place; or are late by `LATE`.
    """
    common: dict[str, Any] = {
        "match_related": {
            "prefect.resource.role": "deployment",
            "prefect.resource.name": name,
        },
        # Prefect 3.8.8 fails to render flow_run.id here.
        "parameters": {"lost": "{{ event.resource.id }}"},
    }

    def ended(state: str, message: str | list[str]) -> DeploymentEventTrigger:
        return DeploymentEventTrigger(
            expect={f"prefect.flow-run.{state}"},
            match={**_RUNS, "prefect.state-message": message},
            **common,
        )

    late = DeploymentEventTrigger(
        posture=Posture.Proactive,
        match=_RUNS,
        after={"prefect.flow-run.Late"},
        expect=_BEGUN | _SUCCESSES | (_TROUBLES - {"prefect.flow-run.Late"}),
        for_each={"prefect.resource.id"},
        within=LATE,
        **common,
    )
    return [
        ended("Crashed", ["No heartbeat*", "Failed to submit*"]),
        ended("Cancelled", "Deployment concurrency limit*"),
        late,
    ]


def silence(flow: str, name: str, within: timedelta) -> DeploymentEventTrigger:
    """Return what starts ``tell-silence``: no run of a deployment has succeeded for a while.

    The time counts from the last success; without one, and after each message, from the next run
    that is late or fails.
    """
    return DeploymentEventTrigger(
        posture=Posture.Proactive,
        match=_RUNS,
        match_related=[
            {"prefect.resource.role": "deployment", "prefect.resource.name": name},
            {"prefect.resource.role": "flow", "prefect.resource.name": flow},
        ],
        after=_SUCCESSES | _TROUBLES,
        expect=_SUCCESSES,
        within=within,
    )


async def longest_silence(schedule: Schedule) -> timedelta:
    """Return how long a scheduled deployment may be without success: a night, or a longer pause."""
    pause = schedule.interval or timedelta()
    if schedule.cron is not None:
        firings = await CronSchedule(cron=schedule.cron).get_dates(FIRINGS)
        pause = max(after - before for before, after in pairwise(firings))
    return max(SILENT, pause + GRACE)
