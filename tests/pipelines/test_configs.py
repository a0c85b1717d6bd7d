"""Every file under configs/ is one that the program takes."""

from pathlib import Path

import pytest
import yaml
from prefect.automations import Automation

from gmm_dask.config import ClusterConfig, RunConfig, read_config
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
        if "parameters" in each
    }
    assert set(runs) == {"fit", "select", "retrain", "predict"}
    assert len(runs["select"].select.cells) == 48
    assert runs["fit"].select is None


def test_a_deployment_tells_of_what_the_automation_marks(automation):
    (action,) = automation.actions
    deployments = yaml.safe_load((CONFIGS / "prefect.yaml").read_text())["deployments"]
    (telling,) = (each for each in deployments if each["entrypoint"].endswith("deployed.tell_of"))
    (trigger,) = telling["triggers"]
    assert trigger["expect"] == [f"prefect.flow-run.{action.state.value.title()}"]
    message = trigger["match"]["prefect.state-message"]
    assert message.endswith("*")
    assert action.message.startswith(message.removesuffix("*"))
    # Prefect 3.8.8 fails to render flow_run.id here.
    assert trigger["parameters"] == {"lost": "{{ event.resource.id }}"}
    assert "gmm-dask" not in telling.get("tags", [])  # it would be told of itself
