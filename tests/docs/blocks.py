"""The code blocks of a document, and how they are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: what stands behind its first fence, and its text."""

    language: str
    text: str


def blocks_of(path: Path) -> list[Block]:
    """List the blocks of a Markdown document; directives are none."""
    blocks = [Block(*match.groups()) for match in _FENCE.finditer(path.read_text())]
    return [block for block in blocks if not block.language.startswith("{")]


def run(folder: Path, command: list[str]) -> str:
    """Run a command in a folder, with the commands of this environment, and return its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commands_of_ci() -> set[str]:
    """List the commands that `make test-all` goes through, which `.ci/run` calls."""
    assert "make test-all" in (ROOT / ".ci" / "run").read_text().splitlines()
    recipe = (ROOT / "Makefile").read_text().partition("\ntest-all:")[2]
    targets = re.search(r"for target in ([^;]*);", recipe)
    assert targets, "the Makefile's test-all has no list of targets"
    return {f"make {target}" for target in targets[1].split()}
