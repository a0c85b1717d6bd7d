"""What the pages of the site say: code that runs, and a reference that leaves nothing out."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from gmm_dask.config import RunConfig
from gmm_dask.mixture.em import EMState, em_steps, start_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from tests.docs.blocks import ROOT, Block, blocks_of, commands_of_ci, run

DOCS = ROOT / "docs"
#: Pages whose commands other tests run: operations, a cluster of one's own, an object store.
ELSEWHERE = {DOCS / "operations.md", DOCS / "clusters.md", DOCS / "stores.md"}
PAGES = sorted(
    page
    for page in DOCS.rglob("*.md")
    if page not in ELSEWHERE and not page.is_relative_to(DOCS / "_build") and blocks_of(page)
)
#: What a page runs, and how its blocks may be called.
KNOWN = {"python", "text", "toml", "sh", "sh not run here"}


def program_of(blocks: list[Block]) -> str:
    """Join the Python of a page to one program that prints a line between its blocks."""
    return "print('\\f')\n".join(block.text for block in blocks if block.language == "python")


def expected_of(blocks: list[Block]) -> list[str]:
    """List what each Python block should print: the text block that follows it, or nothing."""
    following = [*blocks[1:], Block("", "")]
    return [
        after.text if after.language == "text" else ""
        for block, after in zip(blocks, following, strict=True)
        if block.language == "python"
    ]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_blocks_run_and_print_what_the_page_says(page: Path, clone: Path) -> None:
    blocks = blocks_of(page)
    assert {block.language for block in blocks} <= KNOWN
    for block in blocks:
        if block.language == "sh" and "make demo" not in block.text:
            run(clone, ["bash", "-euc", block.text])
        if block.language == "toml":
            RunConfig.model_validate(tomllib.loads(block.text))
    if expected := expected_of(blocks):
        printed = run(clone, [sys.executable, "-c", program_of(blocks)])
        assert printed.split("\f\n") == expected


def test_the_two_commands_of_the_first_page_are_what_ci_runs() -> None:
    (commands,) = (block.text for block in blocks_of(DOCS / "index.md") if block.language == "sh")
    assert set(commands.splitlines()) <= commands_of_ci()


def test_a_decision_that_design_refers_to_is_there() -> None:
    text = (ROOT / "gmm_dask/DESIGN.md").read_text()
    numbers = re.findall(r"^(\w+)\. \*\*", text, re.MULTILINE)
    meant = re.findall(r"\(decision (\w+)\)", text)
    assert meant
    assert set(meant) <= set(numbers)


def test_the_loop_that_design_shows_runs() -> None:
    (loop,) = (block.text for block in blocks_of(ROOT / "gmm_dask/DESIGN.md") if block.language)
    X = np.random.default_rng(0).normal(size=(100, 1))
    spec = MixtureSpec(1)
    start = MixtureParameters.from_covariances("full", [1.0], [[1.0]], [[[2.0]]])
    saved: list[EMState] = []
    names = {
        "start_em": start_em,
        "em_steps": em_steps,
        "expectation": ExpectationOn(X, None),
        "parameters": [start],
        "spec": spec,
        "options": EMOptions(tol=0.0, max_iter=3),
        "save": saved.append,
    }
    exec(loop, names)
    assert [state.iteration for state in saved] == [1, 2, 3]


def test_every_page_of_the_gallery_has_its_place() -> None:
    order = (DOCS / "_extensions" / "gallery_order.py").read_text()
    pages = {path.name for path in (DOCS / "examples").glob("*.py")}
    assert set(re.findall(r'"(\w+\.py)"', order)) == pages
