"""Whatever fails while storage writes: readers find the old or the new, whole (P2)."""

import errno
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from gmm_dask.errors import StorageError
from gmm_dask.storage.files import atomic, locks
from tests.faults.storage_workload import WORKLOADS, Models, model_of, number_of

pytestmark = pytest.mark.faults

REPOSITORY = Path(__file__).parents[2]
WORKLOAD = [sys.executable, "-B", "-m", "tests.faults.storage_workload"]


def entries(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


class Faults:
    """Fails the k-th write, or the k-th wait for the disk, of this process."""

    def __init__(self, monkeypatch, number, step, target):
        self.number, self.step, self.count = number, step, 0
        self.lock = threading.Lock()
        if target == "write":
            real_write = atomic.write_all

            def write(descriptor, block):
                self.maybe_fail(lambda: real_write(descriptor, block[: len(block) // 2]))
                real_write(descriptor, block)

            monkeypatch.setattr(atomic, "write_all", write)
            monkeypatch.setattr(locks, "write_all", write)
        else:
            real_sync = atomic.os.fsync

            def sync(descriptor):
                self.maybe_fail(lambda: None)
                real_sync(descriptor)

            monkeypatch.setattr(atomic.os, "fsync", sync)

    def maybe_fail(self, before):
        with self.lock:
            self.count += 1
            mine = self.count
        if mine == self.step:
            before()
            raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("target", ["write", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("work", WORKLOADS)
def test_a_disk_that_fails_at_any_step_leaves_the_old_version(
    tmp_path, caplog, work, number, target
):
    """For every k: the k-th write fails; the old version stands, the error names the path.

    One write is let go, on a full disk: that of who holds the lock.
    """
    workload = WORKLOADS[work](tmp_path)
    workload.prepare()
    workload.write(1)
    current, unchanged, warned, unsigned = 1, 0, 0, 0
    for step in itertools.count(1):
        before, new = entries(tmp_path), step + 1
        caplog.clear()
        with pytest.MonkeyPatch.context() as patched:
            faults = Faults(patched, number, step, target)
            try:
                workload.write(new)
            except StorageError as error:
                message = str(error)
                assert workload.look() == current
                assert entries(tmp_path) == before
                unchanged += 1
            else:
                if faults.count < step:
                    break
                if (target, number) == ("write", errno.ENOSPC):
                    assert (caplog.messages, workload.look()) == ([], new)
                    current, unsigned = new, unsigned + 1
                    continue
                # After the rename only the wait for the directory is left to fail: the new
                # version stands, whole, so the run has not failed. Whether the version would
                # survive a power cut cannot be known, and that is said.
                assert target == "fsync"
                (message,) = caplog.messages
                assert "is in use, but a power failure now could undo it" in message
                assert workload.look() == new
                current, warned = new, warned + 1
        assert message.startswith(str(tmp_path)), message
        assert ("no space is left" if number == errno.ENOSPC else "input/output error") in message
        assert "\n" not in message
    assert faults.count == step - 1  # each step failed once, the last try went through
    assert workload.look() == new
    assert warned == (target == "fsync")
    assert unchanged == step - 1 - warned - unsigned
    assert unsigned == ((target, number) == ("write", errno.ENOSPC))
    assert unchanged + unsigned >= {"models": 7, "predictions": 7, "checkpoints": 1}[work]
    assert not [name for name in entries(tmp_path) if ".partial-" in name or ".lock" in name]


@pytest.mark.parametrize("work", WORKLOADS)
def test_a_real_limit_of_file_size_leaves_the_old_version(tmp_path, work):
    """RLIMIT_FSIZE stops a real write in the middle, by EFBIG."""
    workload = WORKLOADS[work](tmp_path)
    workload.prepare()
    workload.write(1)
    before = entries(tmp_path)
    limit = 300  # bytes: more than a lock file, less than any file of a version

    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    run = subprocess.run(
        [*WORKLOAD, "write", work, tmp_path, "2"],
        cwd=REPOSITORY,
        preexec_fn=limit_files,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(f"gmm_dask.errors.StorageError: {tmp_path}")
    assert "larger than this process may write; raise `ulimit -f`" in last
    assert workload.look() == 1
    assert entries(tmp_path) == before
    workload.write(2)
    assert workload.look() == 2


@contextmanager
def without_permission(root):
    """Nobody may write below ``root``: not even root, who becomes nobody for a moment."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        directories = [root, *(path for path in root.rglob("*") if path.is_dir())]
        for directory in directories:
            directory.chmod(0o555)
        try:
            yield
        finally:
            for directory in directories:
                directory.chmod(0o755)


@pytest.mark.parametrize("work", WORKLOADS)
def test_a_target_without_permission_is_refused_by_name(work):
    # Not tmp_path: only its owner may look into that.
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        workload = WORKLOADS[work](root)
        workload.prepare()
        workload.write(1)
        before = entries(root)
        with without_permission(root), pytest.raises(StorageError) as caught:
            workload.write(2)
        assert str(caught.value).startswith(str(root))
        assert "permission denied; ask for write permission" in str(caught.value)
        assert entries(root) == before
        assert workload.look() == 1


@pytest.mark.slow
@pytest.mark.parametrize("work", [*WORKLOADS, "pruned"])
def test_a_writer_killed_at_any_step_leaves_old_or_new(tmp_path, work):
    """SIGKILL before every change of the disk, and in the middle of every write."""
    run = subprocess.run(
        [*WORKLOAD, "kill", work, tmp_path, "0"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    findings = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(findings) >= {"models": 20, "predictions": 30, "checkpoints": 8, "pruned": 50}[work]
    assert all(one["found"] in (one["old"], one["new"]) for one in findings)
    assert findings[0]["found"] == findings[0]["old"]
    # The last one was not killed: it was not hindered by what the others left, and cleaned up.
    assert findings[-1]["found"] == findings[-1]["new"]
    left = entries(tmp_path)
    assert not [name for name in left if ".partial-" in name or ".lock" in name]
    if work == "pruned":
        assert sum(name.endswith("manifest.json") for name in left) == 2


@pytest.mark.slow
def test_two_publishers_and_a_reader(tmp_path):
    """200 models by two processes: numbers without gaps, no reader sees half of one."""
    script = (
        # The disk of a busy machine takes 20 ms for each; who waits for it is not the question.
        "import os; os.fsync = lambda descriptor: None\n"
        "import sys; from pathlib import Path\n"
        "from tests.faults.storage_workload import Models\n"
        "workload = Models(Path(sys.argv[1])); first = int(sys.argv[2])\n"
        "sys.stdin.read(1)\n"
        "for number in range(first, first + 100): workload.write(number)\n"
    )
    workload = Models(tmp_path)
    registry = workload.registry
    workload.write(0)
    publishers = [
        subprocess.Popen(
            [sys.executable, "-c", script, tmp_path, str(first)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
        )
        for first in (1000, 2000)
    ]
    for publisher in publishers:
        publisher.stdin.write(b"g")
        publisher.stdin.close()
    seen, last = {}, 0
    while any(publisher.poll() is None for publisher in publishers):
        model = registry.load()
        assert seen.setdefault(model.version, number_of(model)) == number_of(model)
        assert model.version >= last
        last = model.version
    assert [publisher.wait() for publisher in publishers] == [0, 0]
    assert len(seen) > 20
    assert registry.versions() == tuple(range(1, 202))
    numbers = [number_of(registry.load(version)) for version in registry.versions()]
    assert sorted(numbers) == [0, *range(1000, 1100), *range(2000, 2100)]
    for first in (1000, 2000):
        mine = [number for number in numbers if first <= number < first + 100]
        assert mine == sorted(mine)
    assert registry.load().sha256 == model_of(numbers[-1]).sha256
