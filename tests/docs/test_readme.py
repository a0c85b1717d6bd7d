"""Every block of the README runs, and every file that it points to is there."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from gmm_dask.config import RunConfig
from tests.docs.blocks import ROOT, blocks_of, commands_of_ci, run

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return [block.text for block in blocks_of(ROOT / "README.md") if block.language == language]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's data and the run files, as a clone would have them."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "configs").symlink_to(ROOT / "configs")
    run(folder, [sys.executable, str(ROOT / "examples" / "hipparcos.py"), "demo/hipparcos"])
    return folder


def test_the_two_commands_are_what_ci_runs() -> None:
    first, *_ = blocks("sh")
    assert set(first.splitlines()) <= commands_of_ci()


@pytest.mark.slow
def test_commands_and_python_run_as_written(clone: Path) -> None:
    for block in blocks("sh")[1:]:
        for command in block.strip().split("\n"):
            run(clone, ["bash", "-euc", command])
    (python,) = blocks("python")
    printed = run(clone, [sys.executable, "-W", "ignore:X does not have", "-c", python])
    assert "[0 1 2 3 4 5 6 7]" in printed  # the component ids
    elsewhere = {"current.json", "statistics.safetensors"}  # above the version, and of nights
    for name in (
        set(re.findall(r"(?<!_static)/(\w+\.(?:json|png|safetensors))", README)) - elsewhere
    ):
        assert (clone / "demo/models/hipparcos/v000001" / name).exists(), name


def test_the_run_file_is_one() -> None:
    (toml,) = blocks("toml")
    assert RunConfig.model_validate(tomllib.loads(toml)).model.n_components == 8


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
