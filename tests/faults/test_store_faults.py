"""Writers on an object store that race or are killed: readers find the old or the new, whole."""

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from gmm_dask.addresses import place_of
from gmm_dask.errors import ConflictError
from gmm_dask.storage.files.stores import put_if
from tests.faults.storage_workload import Models, number_of
from tests.faults.store_workload import WORKLOADS

pytestmark = [pytest.mark.faults, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]
WORKLOAD = [sys.executable, "-B", "-m", "tests.faults.store_workload"]
PUBLISHED = 100 if os.environ.get("GMM_DASK_FAULT_ROUNDS") == "large" else 20


def test_of_racing_conditional_puts_all_but_one_lose(weeds):
    """What everything else rests on, asked of the server of these tests first."""
    address = place_of(weeds) / "raced"
    tag = None
    for race in range(10):
        tags, barrier = [], threading.Barrier(4)

        def write(number, tag=tag, tags=tags, barrier=barrier, race=race):
            barrier.wait()
            with suppress(ConflictError):
                tags.append(put_if(address, f"{race} {number}".encode(), tag))

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (tag,) = tags


def test_two_publishers_and_a_reader_on_a_store(weeds):
    """Numbers without gaps, no reader sees half of a version or an older one than before."""
    workload = Models(place_of(weeds))
    registry = workload.registry
    workload.write(0)
    firsts = (1000, 2000)
    publishers = [
        subprocess.Popen(
            [*WORKLOAD, "publish", weeds, str(first), str(PUBLISHED)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
        )
        for first in firsts
    ]
    for publisher in publishers:
        publisher.stdin.write(b"go\n")
        publisher.stdin.close()
    seen, last = {}, 0
    while any(publisher.poll() is None for publisher in publishers):
        model = registry.load()
        assert seen.setdefault(model.version, number_of(model)) == number_of(model)
        assert model.version >= last
        last = model.version
    assert [publisher.wait() for publisher in publishers] == [0, 0]
    assert len(seen) > 10
    assert registry.versions() == tuple(range(1, 2 * PUBLISHED + 2))
    assert registry.current_version() == 2 * PUBLISHED + 1
    numbers = [number_of(registry.load(version)) for version in registry.versions()]
    for first in firsts:
        theirs = [number for number in numbers if first <= number < first + PUBLISHED]
        assert theirs == list(range(first, first + PUBLISHED))


@pytest.mark.parametrize("work", WORKLOADS)
def test_a_writer_killed_at_any_request_leaves_old_or_new(weeds, tmp_path, work):
    """SIGKILL between all requests of a publish."""
    run = subprocess.run(
        [*WORKLOAD, "kill", work, weeds, tmp_path], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    findings = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(findings) >= {"models": 14, "predictions": 14, "checkpoints": 3}[work]
    assert all(finding["found"] in (finding["old"], finding["new"]) for finding in findings)
    assert findings[0]["found"] == findings[0]["old"]
    # The last one was not killed, and what the others left did not hinder it.
    assert findings[-1]["found"] == findings[-1]["new"]
