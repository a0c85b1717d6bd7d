"""A run that is killed anywhere, and started again, ends with the bits of one that was not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.faults, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
LARGE = os.environ.get("GMM_DASK_FAULT_ROUNDS") == "large"
KILLS, SEED, DEADLINE = (50, 2, 1200) if LARGE else (8, 1, 300)


@pytest.fixture(scope="module", params=["fit", "select"])
def findings(request, tmp_path_factory):
    """What the workload found: of the undisturbed run, and of each that was killed."""
    work = tmp_path_factory.mktemp("kills")
    command = [sys.executable, "-m", "tests.faults.fit_workload", work, str(SEED), str(KILLS)]
    done = subprocess.run(
        [*command, request.param],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    whole, *killed = map(json.loads, done.stdout.splitlines())
    assert len(killed) == KILLS
    assert {finding["status"] for finding in killed} == {-9}
    assert {finding["status again"] for finding in killed} == {0}, done.stderr
    return whole, killed


def test_the_runs_are_such_that_a_kill_could_show(findings):
    whole, killed = findings
    assert whole["stages"].count("polish") >= 4
    # The polish evaluates too, but cells of a selection that end with its last scan.
    assert set(whole["stages"]) - {"evaluate"} == {"survey", "search", "polish", "predict"}
    assert whole["old"][1:] != whole["new"][1:]
    steps = {finding["step"] for finding in killed}
    assert steps == {"fit", "evaluate", "publish", "predict", "publish_predictions"}
    assert len({finding["point"] for finding in killed}) > KILLS // 2


def test_a_killed_run_started_again_ends_with_the_same_bits(findings):
    whole, killed = findings
    for finding in killed:
        assert finding["end"][1:] == whole["new"][1:], finding


def test_what_was_published_before_can_be_read_after_every_kill(findings):
    """`look` has read every version and all predictions; what it found is old or new, whole."""
    whole, killed = findings
    for finding in killed:
        version, model, predictions = finding["after"]
        assert [version, model] in (whole["old"][:2], whole["new"][:2]), finding
        assert predictions in (whole["old"][2], whole["new"][2]), finding
        if finding["step"] in ("fit", "evaluate"):
            assert finding["after"] == whole["old"], finding


def test_what_was_done_is_not_done_again(findings):
    """Of a fit that was killed, at most the scan in which it died is repeated."""
    whole, killed = findings
    for finding in killed:
        if finding["step"] in ("fit", "evaluate"):
            assert whole["stages"][-len(finding["stages"]) :] == finding["stages"], finding
            left = len(whole["stages"]) - finding["begun"]
            assert len(finding["stages"]) <= left + 1, finding


def test_versions_are_without_gaps_and_a_retry_publishes_once(findings):
    _, killed = findings
    for finding in killed:
        expected = 2 if finding["again"] == "run" else finding["versions"] + 1
        assert finding["end"][0] == expected, finding


def test_a_finished_run_leaves_nothing_but_its_results(findings):
    whole, killed = findings
    assert whole["litter"] == []
    for finding in killed:
        # A retry that finds its predictions published writes nothing, so it needs no lock and
        # does not remove the dead run's file, which locks nobody out.
        nothing_to_do = (finding["step"], finding["again"]) == ("publish_predictions", "run")
        allowed = ([], [".predictions.lock"]) if nothing_to_do else ([],)
        assert finding["litter"] in allowed, finding
