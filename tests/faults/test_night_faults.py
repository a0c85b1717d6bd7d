"""An incremental night that is killed at any change of the disk, and is run again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.faults, pytest.mark.slow]

#: Of the changes of the disk, each so many-th is killed at.
EACH = "1" if os.environ.get("GMM_DASK_FAULT_ROUNDS") == "large" else "4"
ROOT = Path(__file__).parents[2]


def test_store_and_model_are_published_together_or_not_at_all(tmp_path):
    """After each kill both are the old ones or the new ones; the night that follows has their bits.

    A night whose version was complete finds nothing new, or what it reads again is the same.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.night_workload", tmp_path, EACH],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    whole, *killed = map(json.loads, done.stdout.splitlines())
    assert (whole["old"][0], whole["new"][0]) == (3, 4)
    assert len(killed) > 5
    for finding in killed:
        assert (finding["status"], finding["status again"]) == (-9, 0), finding
        assert finding["after"] in (whole["old"], whole["new"]), finding
        assert finding["end"] == whole["new"], finding
    assert {finding["after"][0] for finding in killed} == {3, 4}
