"""Every file under configs/ is one that the program takes."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from prefect.automations import Automation
from prefect.events import DeploymentEventTrigger
from prefect.schedules import Cron, Interval
from prefect.settings import Settings

from gmm_dask.config import ClusterConfig, RunConfig, read_config
from gmm_dask.pipelines import alarms
from gmm_dask.pipelines.endings import STATES

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_run_files(path):
    read_config(RunConfig, path)


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("clusters/*.toml")), ids=lambda path: path.name
)
def test_cluster_files_are_named_after_their_kind(path):
    assert read_config(ClusterConfig, path).cluster.kind == path.stem


@pytest.fixture
def automation():
    (tables,) = yaml.safe_load((CONFIGS / "automations.yaml").read_text())["automations"]
    return Automation.model_validate(tables)


def test_the_automation_knows_every_state_in_which_a_run_ends(automation):
    """Events have the names of states: one that it does not know would end as Crashed after all."""
    assert automation.trigger.within.total_seconds() == 300
    ends = {*STATES, "TimedOut", "Cancelled", "Crashed"}
    assert {f"prefect.flow-run.{name}" for name in ends} <= automation.trigger.expect


def test_the_parameters_of_every_deployment_are_a_run():
    deployments = yaml.safe_load((CONFIGS / "prefect.yaml").read_text())["deployments"]
    runs = {
        each["entrypoint"].rpartition(".")[2]: RunConfig.model_validate(each["parameters"]["run"])
        for each in deployments
        if "run" in each.get("parameters", {})
    }
    assert set(runs) == {"fit", "select", "retrain", "predict"}
    assert len(runs["select"].select.cells) == 48
    assert runs["fit"].select is None


def test_prefect_takes_its_settings_from_the_environment_of_a_deployment(monkeypatch):
    definitions = yaml.safe_load((CONFIGS / "prefect.yaml").read_text())["definitions"]
    environment = definitions["work_pool"]["job_variables"]["env"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.client.max_retries == 7
    taken = {name for name in environment if name.startswith("PREFECT_")}
    assert taken <= settings.to_environment_variables(exclude_unset=True).keys()


def triggers_of(flow):
    deployments = yaml.safe_load((CONFIGS / "prefect.yaml").read_text())["deployments"]
    (deployment,) = (each for each in deployments if each["entrypoint"].endswith(f".{flow}"))
    assert "gmm-dask" not in deployment.get("tags", [])  # it would be told of itself
    return [DeploymentEventTrigger.model_validate(each) for each in deployment["triggers"]]


def without_name(trigger):
    """A trigger but for the deployments whose runs it is about."""
    return trigger.model_dump(exclude={"match_related", "name", "description"})


def test_a_deployment_tells_of_what_the_automation_marks(automation):
    (action,) = automation.actions
    crashed = triggers_of("tell_of")[0]
    assert crashed.expect == {f"prefect.flow-run.{action.state.value.title()}"}
    message, _ = crashed.match.root["prefect.state-message"]  # the other is a worker's
    assert message.endswith("*")
    assert action.message.startswith(message.removesuffix("*"))


def test_a_work_pool_and_a_served_process_tell_of_the_same():
    pairs = zip(triggers_of("tell_of"), alarms.lost_runs("hipparcos"), strict=True)
    for written, made in pairs:
        assert without_name(written) == without_name(made)
    (silence,) = triggers_of("tell_of_silence")
    assert silence == alarms.silence("retrain", "hipparcos", alarms.SILENT)
    known = {f"prefect.flow-run.{name}" for name in STATES}
    assert known <= silence.after
    assert silence.expect == known - {f"prefect.flow-run.{name}" for name in ("Refused", "Failed")}
    assert known <= triggers_of("tell_of")[2].expect


@pytest.mark.parametrize(
    ("schedule", "hours"),
    [(Cron("0 3 * * *"), 26), (Cron("0 3 * * 6"), 170), (Interval(timedelta(days=3)), 74)],
)
def test_a_schedule_with_longer_pauses_is_silent_later(schedule, hours):
    assert asyncio.run(alarms.longest_silence(schedule)) == timedelta(hours=hours)
