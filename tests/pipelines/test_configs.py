"""Every file under configs/ is one that the program takes."""

from pathlib import Path

import pytest
import yaml
from prefect.automations import Automation

from gmm_dask.config import ClusterConfig, RunConfig, read_config

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_run_files(path):
    read_config(RunConfig, path)


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("clusters/*.toml")), ids=lambda path: path.name
)
def test_cluster_files_are_named_after_their_kind(path):
    assert read_config(ClusterConfig, path).cluster.kind == path.stem


def test_automations():
    for tables in yaml.safe_load((CONFIGS / "automations.yaml").read_text())["automations"]:
        assert Automation.model_validate(tables).trigger.within.total_seconds() == 300
