"""Versions and pointer on an object store: the laws of `test_versions`, without lock and rename."""

import pickle
import re
import threading
import time

import pytest

from gmm_dask.addresses import place_of
from gmm_dask.errors import ConflictError, ModelError, StorageError
from gmm_dask.storage.files import objects, stores
from gmm_dask.storage.files.choice import names_in, version_at
from gmm_dask.storage.files.objects import ObjectVersions
from gmm_dask.storage.files.retention import Pruned
from gmm_dask.storage.files.sealed import seal, unseal
from gmm_dask.storage.files.stores import entries_under, find
from tests.object_stores import LOSE, PASS, SECRET, Proxy, credentials, environment

POINTERS = ["bytes", "name"]


@pytest.fixture(params=POINTERS)
def versions(request, bucket):
    return make(bucket, request.param)


def make(bucket, kind="name"):
    root = place_of(bucket)
    return ObjectVersions(root / "all", root / "current.json", names_version=kind == "name")


def write(versions, name, content=b"1", record=None):
    with versions.open() as writer:
        stage = writer.stage(name)
        stage.put({"x": content})
        stage.seal(record=record)
        writer.point(name.encode(), expecting=versions.pointer())


def keys(versions):
    """What is there, without tokens."""
    found = entries_under(versions.directory.parent)
    return sorted(re.sub(r"\.[0-9a-f]{24}/", "/", key) for key in found)


def content_of(versions):
    pointer = versions.pointer()
    return None if pointer is None else pointer.content


def test_a_reader_finds_nothing_then_the_old_then_the_new(versions):
    assert (versions.pointer(), versions.names(), versions.pointed_at()) == (None, (), None)
    write(versions, "v1")
    with versions.open() as writer:
        stage = writer.stage("v2")
        stage.put({"x": b"2", "y": b"33"})
        assert versions.names() == ("v1",)
        assert not versions.version("v2").exists()
        stage.seal()
        stage.seal()  # again: nothing is left to do
        assert versions.names() == ("v1", "v2")
        assert content_of(versions) == b"v1"
        writer.point(b"v2", expecting=versions.pointer())
    assert content_of(versions) == b"v2"
    version = versions.version("v2")
    assert (version.read("x"), version.names(), version.size("y")) == (b"2", ("x", "y"), 2)
    assert version.sizes() == {"x": 1, "y": 2}
    assert version.holds("x")
    assert not version.holds("z")
    assert not versions.version("v3").holds("x")
    assert versions.version("v1").opened("x").read() == b"1"
    assert versions.pointed_at() > 1.7e9
    with pytest.raises(ModelError, match="v2/z: is missing"):
        version.read("z", ModelError)
    with pytest.raises(ModelError, match="v3: is missing"):
        versions.version("v3").read("x", ModelError)


def test_the_pointer_names_the_folder_for_other_readers(bucket):
    versions = make(bucket)
    write(versions, "v1", b"abc")
    document = unseal(find(versions.pointer_address)[0], versions.pointer_address)
    assert document["version"] == "v1"
    folder = versions.pointer_address.parent / document["folder"]
    assert find(folder / "x")[0] == b"abc"


@pytest.mark.parametrize("before", [None, "v1"])
def test_a_pointer_that_is_not_as_expected_stays(versions, before):
    expected = None
    write(versions, "v1")
    if before is not None:
        expected = versions.pointer()
    write(versions, "v2")
    with (
        versions.open() as writer,
        pytest.raises(ConflictError, match=r"/current\.json: was changed by somebody else"),
    ):
        writer.point(b"v1", expecting=expected)
    assert content_of(versions) == b"v2"


def test_a_pointer_that_is_gone_is_not_as_expected(versions):
    write(versions, "v1")
    before = versions.pointer()
    with versions.open() as writer:
        writer.clear()
        with pytest.raises(ConflictError):  # the store says 404, not 412
            writer.point(b"v1", expecting=before)
        assert versions.pointer() is None
        writer.clear()
        writer.point(b"v1", expecting=None)
    assert content_of(versions) == b"v1"


def test_of_two_that_replace_the_younger_goes_on(versions):
    """So of two runs of one fit the older one ends at its next checkpoint."""
    for name in ("v1", "v2", "v3"):
        with versions.open() as writer:
            writer.stage(name).seal()
    older, younger = versions.open(), versions.open()
    older.replace(b"v1")
    with pytest.raises(ConflictError, match="another process has written it, or removed it"):
        younger.replace(b"v2")
    younger = versions.open()
    younger.replace(b"v2")
    younger.replace(b"v3")
    with pytest.raises(ConflictError, match="only one of them goes on"):
        older.replace(b"v1")
    older.clear()  # not its own any more
    assert content_of(versions) == b"v3"
    younger.clear()
    assert versions.pointer() is None


def test_what_is_not_sealed_is_discarded(versions):
    def fail():
        with versions.open() as writer:
            writer.stage("v1").put({"x": b"1"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert keys(versions) == []


def test_the_second_to_seal_a_name_is_refused(versions):
    first, second = versions.open(), versions.open()
    stages = [first.stage("v1"), second.stage("v1")]
    for number, stage in enumerate(stages):
        stage.put({"x": str(number).encode()})
    stages[1].seal()
    with pytest.raises(ConflictError, match="all/v1: cannot be written: a version of this name"):
        stages[0].seal()
    first.close()
    second.close()
    assert versions.version("v1").read("x") == b"1"
    assert keys(versions) == ["all/v1.json", "all/v1/x"]


def test_a_version_from_whose_folder_a_file_was_removed_is_not_sealed(versions):
    with versions.open() as writer:
        stage = writer.stage("v1")
        with stage.writing("part") as file:
            file.write(b"rows")
        stores.delete(stage.folder / "part")
        with pytest.raises(StorageError, match="/part: is missing; it was removed"):
            stage.seal(["part"])
    assert versions.names() == ()


def test_files_are_copied_by_the_store_and_keep_their_hints(versions):
    with versions.open() as writer:
        stage = writer.stage("v1")
        with stage.writing("a") as file:
            file.write(b"rows")
        hint = stage.hint("a")
        stage.seal(["a"], record=seal({"said": 1}))
        assert versions.version("v1").hint("a") == hint
        second = writer.stage("v2")
        second.take(versions.version("v1"), {"a": "b"})
        assert second.written() == {"b": 4}
        assert second.hint("b") == hint
        assert second.opened("b").read() == b"rows"
        second.seal(["b"])
        with pytest.raises(StorageError, match="v1/gone: is not a file of the version v1"):
            writer.stage("v3").take(versions.version("v1"), {"gone": "b"})
    assert versions.record("v1") == {"said": 1}
    with pytest.raises(StorageError, match="v2: has no record"):
        versions.record("v2")


def test_a_version_stays_for_a_day_after_the_next_one_and_is_then_pruned(versions, monkeypatch):
    for name in ("v1", "v2", "v3"):
        write(versions, name)
    paths = tuple(str(versions.directory / name) for name in ("v1", "v2"))
    freed = sum(versions.version("v1").sizes().values())
    with versions.open() as writer:
        writer.put_report("v1", b"<html>")
        assert writer.prune(["v1", "v2"]) == Pruned(in_grace=paths)
        assert versions.names() == ("v1", "v2", "v3")
        monkeypatch.setattr(objects, "GRACE", 0.0)
        assert versions.prunable(["v1", "v2"]) == Pruned(paths, 2 * freed)
        assert versions.names() == ("v1", "v2", "v3")
        assert writer.prune(["v1", "v2"]) == Pruned(paths, 2 * freed)
    assert versions.names() == ("v3",)
    assert names_in(versions.directory.parent) == ("all",)


def test_a_version_is_pinned_by_an_object_beside_it_and_is_listed_in_its_folder(versions):
    write(versions, "v1")
    write(versions, "rejected/run-1")
    assert versions.names("rejected") == ("rejected/run-1",)
    times = versions.sealed_times()
    assert [*times] == ["v1"]
    assert abs(times["v1"] - time.time()) < 3_600
    assert not versions.is_pinned("v1")
    with versions.open() as writer:
        writer.pin("v1")
        assert versions.is_pinned("v1")
        assert versions.names() == ("v1",)
        writer.unpin("v1")
    assert not versions.is_pinned("v1")
    with versions.version("v1").held() as exists:
        assert exists


def test_the_versions_of_an_owner_are_found_unread(versions):
    for name, owner in (("v1", "run-1"), ("v2", "run-2"), ("v3", "run-1")):
        with versions.open() as writer:
            writer.stage(name, owner).put({"x": b"1"})
            stage = writer.stage(name, owner)
            stage.put({"x": b"1"})
            stage.seal()
    assert versions.names(owner="run-1") == ("v1", "v3")
    assert versions.names("run-3") == ()


def test_what_killed_writers_left_is_removed_when_it_is_old(versions, monkeypatch):
    write(versions, "v1")
    alive, killed, loser = versions.open(), versions.open(), versions.open()
    alive.stage("v2").put({"x": b"2"})
    killed.stage("v2").put({"x": b"2"})
    loser.stage("v1").put({"x": b"lost"})
    assert len(entries_under(versions.directory)) == 5
    versions.open()
    assert len(entries_under(versions.directory)) == 5  # all were written a moment ago
    monkeypatch.setattr(objects, "ABANDONED", -10.0)
    versions.open()
    assert keys(versions) == ["all/v1.json", "all/v1/x", "current.json"]
    assert versions.version("v1").read("x") == b"1"


def test_a_removal_that_was_interrupted_left_no_half_version(versions, monkeypatch):
    write(versions, "v1")

    def die(*arguments):
        raise ZeroDivisionError

    with versions.open() as writer:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(objects, "delete_all", die)
            with pytest.raises(ZeroDivisionError):
                writer.remove("v1")
        assert versions.names() == ()
        assert not versions.version("v1").exists()
        writer.remove("v1")
    assert "all/v1/x" in keys(versions)
    monkeypatch.setattr(objects, "ABANDONED", -10.0)
    versions.open()
    assert keys(versions) == ["current.json"]


def test_damage_of_a_seal_or_a_pointer_is_noticed(bucket):
    versions = make(bucket)
    write(versions, "v1")
    read = {
        versions.directory / "v1.json": lambda: versions.version("v1").read("x"),
        versions.pointer_address: versions.pointer,
    }
    for address, reads in read.items():
        content = find(address)[0]
        stores.put(address, content.replace(b"v1", b"v2"))
        with pytest.raises(StorageError, match=r"\.json: is damaged"):
            reads()
        stores.put(address, content)
    stores.put(versions.directory / "v1.json", seal({"folder": "../other.0123", "files": {"x": 1}}))
    with pytest.raises(StorageError, match="names a folder of another version"):
        versions.version("v1").read("x")


def test_what_travels_holds_no_secret(bucket):
    versions = make(bucket)
    write(versions, "v1")
    with versions.open() as writer:
        stage = writer.stage("v2")
        text = pickle.dumps((stage, version_at(versions.directory / "v1"), versions.directory))
        assert SECRET.encode() not in text
        copied = pickle.loads(text)[0]
        with copied.writing("part") as file:  # as a worker does
            file.write(b"rows")
        assert stage.hint("part") == copied.hint("part")
        assert stage.written() == {"part": 4}


def test_a_large_file_goes_in_pieces(bucket, monkeypatch):
    monkeypatch.setattr(stores, "_PIECE", 5 << 20)
    versions = make(bucket)
    content = bytes(range(256)) * (48 << 10)  # 12 MiB
    with versions.open() as writer:
        stage = writer.stage("v1")
        with stage.writing("part") as file:
            file.write(content)
        stage.seal(["part"])
    version = versions.version("v1")
    assert version.opened("part").read() == content
    assert version.hint("part") == stage.hint("part")


# An answer may be lost, and a store may refuse what could be done.


@pytest.fixture
def spoiled(bucket, moto):
    """The versions behind a proxy that can spoil requests."""
    with Proxy(moto) as proxy, environment(**credentials(proxy.endpoint)):
        yield make(bucket), proxy


BUSY = "<Error><Code>ConditionalRequestConflict</Code></Error>"


@pytest.mark.parametrize("fate", [LOSE, (409, BUSY), (500, ""), (503, "<Code>SlowDown</Code>")])
def test_a_conditional_put_whose_answer_says_nothing_is_settled(spoiled, fate):
    versions, proxy = spoiled
    for name in ("v1", "v2"):  # the pointer is created, then replaced
        spoilt = set()

        def spoil(number, method, path, spoilt=spoilt):
            if method != "PUT" or not path.endswith(".json") or path in spoilt:
                return PASS
            spoilt.add(path)
            return fate

        proxy.fate = spoil
        write(versions, name)
        assert len(spoilt) == 2  # the seal and the pointer
    assert versions.names() == ("v1", "v2")
    assert content_of(versions) == b"v2"


def test_a_lost_answer_does_not_hide_that_somebody_else_won(spoiled):
    versions, proxy = spoiled
    write(versions, "v1")
    before = versions.pointer()
    write(versions, "v2")
    proxy.fate = lambda number, method, path: LOSE if method == "PUT" else PASS
    with versions.open() as writer, pytest.raises(ConflictError):
        writer.point(b"v1", expecting=before)
    assert content_of(versions) == b"v2"


def test_a_store_that_refuses_for_ever_is_given_up(spoiled, monkeypatch):
    versions, proxy = spoiled
    monkeypatch.setattr(stores.time, "sleep", lambda seconds: None)
    proxy.fate = lambda number, method, path: (409, BUSY) if method == "PUT" else PASS
    with versions.open() as writer, pytest.raises(StorageError, match="cannot be written: ") as all:
        writer.stage("v1").seal()
    assert "\n" not in str(all.value)


@pytest.mark.parametrize("ignored", ["all", "updates"])
def test_a_store_that_heeds_no_conditions_is_refused(bucket, ignored, monkeypatch):
    """An older SeaweedFS lets both of two racing puts win; other stores know no conditions."""
    import obstore

    real = obstore.put

    def put(store, path, body, *, mode="overwrite", **options):
        heeded = mode == "create" and ignored == "updates"
        return real(store, path, body, mode=mode if heeded else "overwrite", **options)

    stores.check_store(place_of(bucket), ".probe")
    monkeypatch.setattr(obstore, "put", put)
    with pytest.raises(StorageError, match="does not heed the conditions of a put"):
        stores.check_store(place_of(bucket), ".probe")
    assert entries_under(place_of(bucket)) == {}


def test_threads_that_race_for_a_seal_have_one_winner(bucket):
    """moto and obstore in one go; processes race on SeaweedFS in the fault tests."""
    versions = make(bucket)
    winners = []

    def race(number):
        with versions.open() as writer:
            stage = writer.stage("v1")
            stage.put({"x": str(number).encode()})
            try:
                stage.seal()
                winners.append(number)
            except ConflictError:
                pass

    threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = winners
    assert versions.version("v1").read("x") == str(winner).encode()
