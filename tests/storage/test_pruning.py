"""Old versions go, and only these: never one that is in use, pinned, protected or read."""

import errno
import os
import shutil
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmm_dask.errors import ModelError, StorageError
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.files.retention import Keep
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.models.pruning import (
    pin,
    prune_models,
    rejected_runs,
    unpin,
)
from gmm_dask.storage.models.registry import Registry, version_name
from gmm_dask.storage.predictions.pruning import prune_predictions
from tests.storage.stored import some_model
from tests.storage.test_manifest import TABLE

DAY = 24 * 3600.0


@given(
    ages=st.lists(st.floats(0, 200), max_size=8),
    versions=st.none() | st.integers(1, 9),
    days=st.none() | st.floats(0.1, 200),
)
def test_only_what_breaks_every_limit_is_old(ages, versions, days):
    if versions is None and days is None:
        with pytest.raises(ValueError, match="how many versions to keep, for how many days"):
            Keep(versions, days)
        return
    now = 1000 * DAY
    old = Keep(versions, days).old([now - age * DAY for age in ages], now)
    assert len(old) == len(ages)
    for number, (age, is_old) in enumerate(zip(ages, old, strict=True)):
        among_the_last = versions is not None and number >= len(ages) - versions
        young = days is not None and age * DAY < days * DAY
        if abs(age - (days or 1e9)) > 1e-9:
            assert is_old == (not among_the_last and not young)


@pytest.fixture
def stars(tmp_path, six_versions):
    """A model of six versions and three candidates, one a day, the last of them today."""
    shutil.copytree(six_versions, tmp_path / "models")
    return Registry(tmp_path / "models", "stars")


@pytest.fixture(scope="module")
def six_versions(tmp_path_factory):
    """What `stars` is copied from: publishing waits for the disk."""
    root = tmp_path_factory.mktemp("six") / "models"
    registry = Registry(root, "stars")
    for number in range(1, 7):
        registry.publish(some_model(seed=number), run_id=f"run-{number}")
        age(registry, version_name(number), 6 - number)
    for number in range(3):
        registry.reject(some_model(seed=number), run_id=f"bad-{9 - number}", reason="it is bad")
        age(registry, f"rejected/bad-{9 - number}", 2 - number)
    return root


def age(registry, name, days):
    """Make a version so many days old."""
    path = registry.store.version(name).path
    sealed = path.stat().st_mtime - days * DAY
    os.utime(path, (sealed, sealed))


def left(registry):
    return registry.versions(), rejected_runs(registry)


def test_versions_and_candidates_that_are_old_are_removed_and_counted(stars):
    keep = Keep(versions=2, days=3.5)
    sizes = {
        path: sum(file.stat().st_size for file in path.iterdir())
        for path in map(stars.path, stars.versions())
    }
    asked = prune_models(stars, keep, dry_run=True)
    assert left(stars) == ((1, 2, 3, 4, 5, 6), ("bad-9", "bad-8", "bad-7"))
    assert asked.paths == (str(stars.path(1)), str(stars.path(2)))
    assert asked.bytes == sizes[stars.path(1)] + sizes[stars.path(2)]
    assert prune_models(stars, keep) == asked
    assert left(stars) == ((3, 4, 5, 6), ("bad-9", "bad-8", "bad-7"))
    prune_models(stars, Keep(versions=2))
    assert left(stars) == ((5, 6), ("bad-8", "bad-7"))
    prune_models(stars, Keep(days=1.5))
    assert left(stars) == ((5, 6), ("bad-8", "bad-7"))
    assert prune_models(stars, Keep(days=0.5)).paths == (
        str(stars.path(5)),
        str(stars.directory / "rejected" / "bad-8"),
    )
    age(stars, version_name(6), 9)
    age(stars, "rejected/bad-7", 9)
    assert prune_models(stars, Keep(days=0.5)).paths == ()  # the last of both


def test_what_is_in_use_pinned_or_protected_stays(stars):
    stars.use(2)
    age(stars, version_name(6), 1)
    pin(stars, 3)
    with stars.store.version(version_name(4)).held():
        pruned = prune_models(stars, Keep(days=0.001), protected={1})
    assert pruned.read == (str(stars.path(4)),)
    assert stars.versions() == (1, 2, 3, 4, 6)  # the last, although it is not in use
    unpin(stars, 3)
    prune_models(stars, Keep(versions=1))
    assert stars.versions() == (2, 6)
    assert sorted(path.name for path in stars.directory.iterdir() if path.name != "rejected") == [
        "current.json",
        "v000002",
        "v000006",
    ]
    assert stars.publish(some_model(), run_id="run-7") == 7


def test_the_choice_that_the_current_version_goes_by_stays(tmp_path):
    registry = Registry(tmp_path, "stars")
    for number in range(1, 6):
        model = some_model(seed=number)
        if number in (1, 2, 5):
            model = replace(model, manifest=replace(model.manifest, selection=TABLE))
        registry.publish(model, run_id=f"run-{number}")
    registry.use(4)
    prune_models(registry, Keep(versions=1))
    assert registry.versions() == (2, 4, 5)


def test_nothing_is_removed_where_it_is_not_known_what_is_in_use(stars):
    (stars.directory / "current.json").write_bytes(b"half")
    with pytest.raises(ModelError, match=r"current\.json: is damaged"):
        prune_models(stars, Keep(versions=1))
    assert stars.versions() == (1, 2, 3, 4, 5, 6)


def test_directories_that_gmm_dask_did_not_write_stay(stars):
    for name in ("notes", "rejected/notes"):
        (stars.directory / name).mkdir()
        (stars.directory / name / "x.txt").write_bytes(b"x")
        age(stars, name, 100)
    prune_models(stars, Keep(days=0.001))
    assert stars.versions() == (6,)
    assert (stars.directory / "notes" / "x.txt").exists()
    assert (stars.directory / "rejected" / "notes" / "x.txt").exists()


def test_only_a_version_that_is_there_can_be_pinned(stars):
    for change in (pin, unpin):
        with pytest.raises(ModelError, match=r"stars: has no version 7; there are versions 1, 2, "):
            change(stars, 7)
    nowhere = Registry(stars.root, "moons")
    with pytest.raises(ModelError, match=r"has no model 'moons'; models in .*: stars"):
        pin(nowhere, 1)
    assert not nowhere.directory.exists()


def test_a_number_is_not_used_twice(stars):
    with stars.store.open() as writer:
        writer.remove(version_name(6))  # by hand
    assert stars.publish(some_model(), run_id="run-7") == 7


def test_who_loads_the_current_version_never_finds_it_pruned(tmp_path):
    """A publisher that keeps a single version, and a reader that loads all the time."""
    registry = Registry(tmp_path, "stars")
    registry.publish(some_model(), run_id="run-0")
    done = threading.Event()

    def publish():
        for number in range(1, 16):
            registry.publish(some_model(seed=number), run_id=f"run-{number}")
            prune_models(registry, Keep(versions=1))
        done.set()

    publisher = threading.Thread(target=publish)
    publisher.start()
    seen = []
    while not done.is_set():
        seen.append(Registry(tmp_path, "stars").load().version)
    publisher.join()
    assert seen == sorted(seen)
    prune_models(registry, Keep(versions=1))
    assert registry.versions() == (16,)


def test_a_current_version_that_is_pruned_before_it_is_read_is_read_again(stars, monkeypatch):
    read = Registry._read

    def lose(registry, number) -> StoredModel:
        monkeypatch.setattr(Registry, "_read", read)
        stars.publish(some_model(seed=7), run_id="run-7")
        prune_models(stars, Keep(versions=1))
        return read(registry, number)

    monkeypatch.setattr(Registry, "_read", lose)
    assert stars.load().version == 7


def test_old_versions_are_removed_from_a_full_disk(stars, monkeypatch):
    def full(descriptor, block):
        raise OSError(errno.ENOSPC, "No space left on device")

    for module in ("atomic", "locks"):
        monkeypatch.setattr(f"gmm_dask.storage.files.{module}.write_all", full)
    with stars.store.open() as writer, pytest.raises(StorageError, match="no space is left"):
        writer.stage("v000007")  # before hours go into its content
    assert prune_models(stars, Keep(versions=2)).paths
    assert left(stars) == ((5, 6), ("bad-8", "bad-7"))


def test_predictions_keep_the_current_version_and_the_one_before(tmp_path):
    places = PredictionPlaces.of(tmp_path / "out")
    for number in range(1, 6):
        run_id = f"run-{number}"
        with places.store.open() as writer:
            stage = writer.stage(run_id)
            stage.put({f"part-{run_id}-00000-000000.parquet": b"rows"})
            stage.seal(record=b"{}")
            writer.point(run_id.encode(), expecting=places.store.pointer())
        os.utime(places.store.version(run_id).path, (number * DAY, number * DAY))
    (places.versions / "notes").mkdir()
    (places.versions / "notes" / "x.txt").write_bytes(b"x")
    asked = prune_predictions(places, Keep(versions=3), dry_run=True)
    assert asked.bytes == 2 * len(b"rows" + b"{}")
    with places.store.open(), pytest.raises(StorageError, match="is in use by process"):
        prune_predictions(places, Keep(versions=3))
    assert prune_predictions(places, Keep(versions=3)) == asked
    assert places.store.names()[1:] == (
        "run-3", "run-3.json", "run-4", "run-4.json", "run-5", "run-5.json",
    )  # fmt: skip
    prune_predictions(places, Keep(versions=1))
    assert places.store.names() == ("notes", "run-4", "run-4.json", "run-5", "run-5.json")
