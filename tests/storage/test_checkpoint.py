"""The checkpoint of a fit: bit for bit, for this fit only, for one process at a time."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gmm_dask.errors import StorageError
from gmm_dask.storage.models.checkpoint import FORGOTTEN, open_checkpoint, remove_forgotten
from gmm_dask.storage.models.registry import Registry

ARRAYS = {
    "means": np.random.default_rng(0).normal(size=(3, 2)),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "scalar": np.array(np.nextafter(1, 2)),
    "empty": np.zeros((0, 4)),
    "special": np.array([np.nan, np.inf, -0.0, 5e-324]),
    "prints": np.array([2**64 - 1, 0], dtype=np.uint64),
    "labels": np.array([1, -1], dtype=np.int32),
    "mask": np.array([True, False]),
    "small": np.array([0.1], dtype=np.float32),
}
META = {"iteration": 7, "status": None, "nested": {"x": [1, 2.5, "ä"]}, "bound": np.float64(0.1)}


def entries(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_what_is_loaded_is_what_was_saved(tmp_path):
    with open_checkpoint(Registry(tmp_path, "stars"), "key") as checkpoint:
        assert checkpoint.load() is None
        checkpoint.save({"other": np.zeros(1)}, {})
        checkpoint.save(ARRAYS, META)
    with open_checkpoint(Registry(tmp_path, "stars"), "key") as checkpoint:
        arrays, meta = checkpoint.load()
    assert meta == META
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.tobytes()


def test_the_same_state_is_the_same_bytes(tmp_path):
    texts = set()
    for _ in range(5):
        with open_checkpoint(Registry(tmp_path, "stars"), "key") as checkpoint:
            checkpoint.save(ARRAYS, META)
            texts.add(checkpoint.path.read_bytes())
    assert len(texts) == 1


def test_nothing_remains_of_a_finished_fit(tmp_path):
    with open_checkpoint(Registry(tmp_path, "stars"), "key") as checkpoint:
        checkpoint.save(ARRAYS, META)
        checkpoint.clear()
        assert checkpoint.load() is None
        checkpoint.clear()
    assert entries(tmp_path) == ["stars", "stars/.checkpoints"]


def test_an_unfinished_fit_leaves_its_checkpoint_only(tmp_path):
    with open_checkpoint(Registry(tmp_path, "stars"), "key") as checkpoint:
        checkpoint.save(ARRAYS, META)
    assert entries(tmp_path / "stars" / ".checkpoints") == ["key", "key/state"]


def test_a_checkpoint_is_forgotten_after_a_month_unless_its_fit_runs(tmp_path):
    for key in ("old", "new", "held"):
        with open_checkpoint(Registry(tmp_path, "stars"), key) as checkpoint:
            checkpoint.save(ARRAYS, META)
            if key != "new":
                then = time.time() - FORGOTTEN - 10.0
                os.utime(checkpoint.path, (then, then))
    with open_checkpoint(Registry(tmp_path, "stars"), "held"):
        remove_forgotten(Registry(tmp_path, "stars"))
    left = entries(tmp_path / "stars" / ".checkpoints")
    assert left == ["held", "held/state", "new", "new/state"]
    remove_forgotten(Registry(tmp_path, "stars"))
    assert entries(tmp_path / "stars" / ".checkpoints") == ["new", "new/state"]


def test_another_fit_has_another_checkpoint(tmp_path):
    with open_checkpoint(Registry(tmp_path, "stars"), "one") as checkpoint:
        checkpoint.save(ARRAYS, META)
        with open_checkpoint(Registry(tmp_path, "stars"), "two") as other:
            assert other.load() is None


def refused(checkpoint, caplog):
    caplog.clear()
    with caplog.at_level(logging.WARNING, "gmm_dask"):
        assert checkpoint.load() is None
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith(str(checkpoint.path))
    assert message.endswith("it is not used, the fit starts from the beginning")
    return message


def test_any_damage_is_noticed(tmp_path, caplog):
    with open_checkpoint(Registry(tmp_path, "stars"), "key") as checkpoint:
        checkpoint.save(ARRAYS, META)
        whole = checkpoint.path.read_bytes()
        rng = np.random.default_rng(0)
        for place in range(0, len(whole), 3):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            checkpoint.path.write_bytes(damaged)
            message = refused(checkpoint, caplog)
            assert "is damaged" in message or "is not a checkpoint" in message
        for size in range(0, len(whole), 50):
            checkpoint.path.write_bytes(whole[:size])
            refused(checkpoint, caplog)
        checkpoint.path.write_bytes(whole)
        assert checkpoint.load() is not None


def test_the_checkpoint_of_another_fit_is_not_used(tmp_path, caplog):
    with open_checkpoint(Registry(tmp_path, "stars"), "one") as one:
        one.save(ARRAYS, META)
        with open_checkpoint(Registry(tmp_path, "stars"), "two") as two:
            two.path.write_bytes(one.path.read_bytes())
            assert "belongs to another fit (one)" in refused(two, caplog)


def test_a_checkpoint_of_another_version_is_not_used(tmp_path, caplog):
    with open_checkpoint(Registry(tmp_path, "stars"), "key") as checkpoint:
        checkpoint.save(ARRAYS, META)
        text = checkpoint.path.read_bytes()
        checkpoint.path.write_bytes(text.replace(b"checkpoint 1", b"checkpoint 2", 1))
        assert "is not a checkpoint of this version" in refused(checkpoint, caplog)


def test_a_forged_checkpoint_is_not_used(tmp_path, caplog):
    content = (1 << 50).to_bytes(8, "little") + b"{}"
    with open_checkpoint(Registry(tmp_path, "stars"), "key") as checkpoint:
        sha256 = hashlib.sha256(content).hexdigest()
        checkpoint.path.write_bytes(f"gmm-dask checkpoint 1 {sha256}\n".encode() + content)
        assert "cannot be understood" in refused(checkpoint, caplog)


def test_a_checkpoint_that_cannot_be_read_is_not_used(tmp_path, caplog):
    with open_checkpoint(Registry(tmp_path, "stars"), "key") as checkpoint:
        checkpoint.path.mkdir()
        assert "cannot be read: a directory is in its place" in refused(checkpoint, caplog)


def test_the_same_fit_runs_once(tmp_path):
    with (
        open_checkpoint(Registry(tmp_path, "stars"), "key"),
        pytest.raises(
            StorageError,
            match=rf"the fit key of model stars is in use by process {os.getpid()} on",
        ),
    ):
        open_checkpoint(Registry(tmp_path, "stars"), "key")
    open_checkpoint(Registry(tmp_path, "stars"), "key").close()


def test_a_killed_fit_leaves_its_checkpoint_to_the_next(tmp_path):
    script = (
        "import sys, numpy; from gmm_dask.storage.models.checkpoint import open_checkpoint\n"
        "from gmm_dask.storage.models.registry import Registry\n"
        "checkpoint = open_checkpoint(Registry(sys.argv[1], 'stars'), 'key')\n"
        "checkpoint.save({'a': numpy.arange(3)}, {'iteration': 4})\n"
        "(checkpoint.path.parent / '.partial-state-1').write_bytes(b'half')\n"
        "print('saved', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as fit:
        assert fit.stdout.readline() == b"saved\n"
        with pytest.raises(StorageError, match=f"in use by process {fit.pid} on"):
            open_checkpoint(Registry(tmp_path, "stars"), "key")
        fit.send_signal(signal.SIGKILL)
    with open_checkpoint(Registry(tmp_path, "stars"), "key") as checkpoint:
        arrays, meta = checkpoint.load()
        assert arrays["a"].tolist() == [0, 1, 2]
        assert meta == {"iteration": 4}
        assert entries(checkpoint.path.parent) == ["state"]


@pytest.mark.parametrize("key", ["", "..", "a/b", ".x"])
def test_a_key_that_is_no_name_is_refused(tmp_path, key):
    with pytest.raises(StorageError, match="cannot be the name of a directory"):
        open_checkpoint(Registry(tmp_path, "stars"), key)
