"""Immutable versions and one pointer: staged, sealed, pointed to if as expected, pruned."""

import errno
import os
import pickle

import pytest

from gmm_dask.errors import ConflictError, ModelError, StorageError
from gmm_dask.storage.files import contents, locks
from gmm_dask.storage.files.contents import Version
from gmm_dask.storage.files.pointers import FilePointer, LinkPointer, Pointer
from gmm_dask.storage.files.retention import Pruned
from gmm_dask.storage.files.sealed import seal
from gmm_dask.storage.files.versions import Versions, names_in

POINTERS = ["file", "link"]


def make(root, kind="file"):
    """Versions in ``root/all``, whose pointer and lock lie beside it."""
    directory = root / "all"
    pointer = FilePointer(root / "now") if kind == "file" else LinkPointer(root / "now", directory)
    return Versions(directory, pointer, root / ".lock", "the thing")


@pytest.fixture(params=POINTERS)
def versions(request, tmp_path):
    return make(tmp_path, request.param)


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def write(versions, name, content=b"1", record=None):
    """Stage, seal and point, expecting what is there."""
    with versions.open() as writer:
        stage = writer.stage(name)
        stage.put({"x": content})
        stage.seal(record=record)
        writer.point(name.encode(), expecting=versions.pointer())


def test_a_reader_finds_nothing_then_the_old_then_the_new(versions):
    assert (versions.pointer(), versions.names(), versions.pointed_at()) == (None, (), None)
    write(versions, "v1")
    with versions.open() as writer:
        stage = writer.stage("v2")
        stage.put({"x": b"2"})
        assert versions.names() == ("v1",)
        stage.seal()
        assert versions.names() == ("v1", "v2")
        assert versions.pointer() == Pointer(b"v1")
        writer.point(b"v2", expecting=Pointer(b"v1"))
    assert versions.pointer() == Pointer(b"v2")
    assert versions.version("v1").read("x") == b"1"
    assert versions.version("v2").read("x") == b"2"
    assert versions.version("v2").names() == ("x",)
    assert versions.version("v2").size("x") == 1
    assert versions.pointed_at() > 1.7e9


def test_a_link_opens_what_it_points_to(tmp_path):
    write(make(tmp_path, "link"), "v1")
    assert (tmp_path / "now" / "x").read_bytes() == b"1"
    assert str((tmp_path / "now").readlink()) == "all/v1"


@pytest.mark.parametrize("expecting", [None, Pointer(b"v1")])
def test_a_pointer_that_is_not_as_expected_stays(versions, expecting):
    write(versions, "v1")
    write(versions, "v2")
    with (
        versions.open() as writer,
        pytest.raises(ConflictError, match="/now: was changed by somebody else in the meantime"),
    ):
        writer.point(b"v1", expecting=expecting)
    assert versions.pointer() == Pointer(b"v2")
    with versions.open() as writer:
        writer.replace(b"v1")
    assert versions.pointer() == Pointer(b"v1")


def test_a_pointer_that_is_gone_is_not_as_expected(versions):
    write(versions, "v1")
    with versions.open() as writer:
        writer.clear()
        with pytest.raises(ConflictError):
            writer.point(b"v1", expecting=Pointer(b"v1"))
        assert versions.pointer() is None
        writer.clear()
        writer.point(b"v1", expecting=None)
    assert versions.pointer() == Pointer(b"v1")


def test_what_is_not_sealed_is_discarded(versions, tmp_path):
    with pytest.raises(ZeroDivisionError), versions.open() as writer:
        writer.stage("v1").put({"x": bytes(1 // 0)})
    assert names(tmp_path) == []
    with versions.open() as writer:
        writer.stage("v1")
        writer.stage("v2").seal()
    assert names(tmp_path) == ["all"]
    assert names(tmp_path / "all") == ["v2"]


def test_a_sealed_version_is_not_written_over(versions):
    write(versions, "v1")
    with versions.open() as writer:
        stage = writer.stage("v1")
        stage.put({"x": b"2"})
        with pytest.raises(StorageError, match="all/v1: cannot be written"):
            stage.seal()
    assert versions.version("v1").read("x") == b"1"
    assert names(versions.directory) == ["v1"]


def test_sealing_again_goes_on_where_it_failed(versions, monkeypatch):
    with versions.open() as writer:
        stage = writer.stage("v1")
        stage.put({"x": b"1"})

        def fail(*arguments):
            raise StorageError("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(contents, "replace_file", fail)
            with pytest.raises(StorageError, match="full"):
                stage.seal(record=seal({"a": 1}))
        assert stage.directory == versions.directory / "v1"
        stage.seal(record=seal({"a": 1}))
    assert versions.record("v1") == {"a": 1}
    assert names(versions.directory) == ["v1", "v1.json"]


def test_a_damaged_record_is_named(versions):
    write(versions, "v1", record=seal({"a": 1}).replace(b"1", b"2", 1))
    with pytest.raises(StorageError, match=r"all/v1\.json: is damaged"):
        versions.record("v1")


def test_a_worker_writes_with_a_copy_of_the_stage(versions):
    with versions.open() as writer:
        stage = writer.stage("v1")
        for content in (b"half", b"whole"):  # the second time after a death
            with pickle.loads(pickle.dumps(stage)).writing("part") as file:
                file.write(content)
        stage.seal(["part"])
    assert versions.version("v1").read("part") == b"whole"
    assert versions.version("v1").names() == ("part",)


@pytest.mark.parametrize("refusal", [None, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_files_are_taken_over_by_link_or_copy(versions, monkeypatch, refusal):
    write(versions, "v1")

    def refuse(self, target):
        raise OSError(refusal, os.strerror(refusal))

    if refusal:
        monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    with versions.open() as writer:
        stage = writer.stage("v2")
        stage.take(versions.version("v1"), "x", "y")
        stage.seal(["y"])
    assert versions.version("v2").read("y") == b"1"
    linked = (versions.directory / "v2" / "y").samefile(versions.directory / "v1" / "x")
    assert linked == (refusal is None)


def test_a_file_that_cannot_be_taken_over_is_named(versions):
    write(versions, "v1")
    with versions.open() as writer:
        stage = writer.stage("v2")
        with pytest.raises(StorageError, match="/y: cannot be written: the directory is gone"):
            stage.take(versions.version("v1"), "gone", "y")


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "..", "link"])
def test_only_files_of_the_version_itself_are_taken_over(versions, tmp_path, name):
    (tmp_path / "secret").write_bytes(b"secret")
    write(versions, "v1")
    (versions.version("v1").path / "link").symlink_to(tmp_path / "secret")
    with versions.open() as writer:
        stage = writer.stage("v2")
        with pytest.raises(StorageError, match="is not a file of the version v1"):
            stage.take(versions.version("v1"), name, "y")
        assert stage.written() == ()


def test_pruning_removes_versions_with_what_lies_beside_them(versions):
    for name in ("v1", "v2", "v3"):
        write(versions, name, record=seal({}))
    with versions.open() as writer:
        pruned = writer.prune(["v1"])
    assert pruned.paths == (str(versions.directory / "v1"),)
    assert names(versions.directory) == ["v2", "v2.json", "v3", "v3.json"]
    with versions.open() as writer:
        writer.remove("v2")
        writer.remove("v2")
    assert names(versions.directory) == ["v3", "v3.json"]


def test_a_version_that_is_held_is_not_pruned(versions):
    for name in ("v1", "v2", "v3"):
        write(versions, name)
    paths = {name: str(versions.version(name).path) for name in ("v1", "v2")}
    with versions.version("v1").held() as exists, versions.version("v1").held():
        assert exists
        assert versions.prunable(["v1", "v2"]) == Pruned((paths["v2"],), 1, (paths["v1"],))
        with versions.open() as writer:
            assert writer.prune(["v1", "v2"]) == Pruned((paths["v2"],), 1, (paths["v1"],))
    assert versions.names() == ("v1", "v3")
    with versions.open() as writer:
        assert writer.prune(["v1"]) == Pruned((paths["v1"],), 1)
    with versions.version("v1").held() as exists:
        assert not exists


def test_a_forked_child_does_not_end_the_hold_of_its_parent(versions):
    write(versions, "v1")
    write(versions, "v2")
    holding = versions.version("v1").held()
    holding.__enter__()
    child = os.fork()
    if child == 0:  # it unwinds what its parent has begun
        holding.__exit__(None, None, None)
        os._exit(0)
    os.waitpid(child, 0)
    assert versions.prunable(["v1"]).read
    holding.__exit__(None, None, None)
    assert versions.prunable(["v1"]).paths


def test_who_begins_to_read_while_a_version_goes_finds_it_gone(versions, monkeypatch):
    """The reader has opened the directory; before it holds it, the directory is renamed."""
    write(versions, "v1")
    open_directory = locks.open_directory

    def open_and_lose(path):
        descriptor = open_directory(path)
        monkeypatch.setattr(locks, "open_directory", open_directory)
        with versions.open() as writer:
            assert writer.prune(["v1"]).paths
        return descriptor

    monkeypatch.setattr(locks, "open_directory", open_and_lose)
    with versions.version("v1").held() as exists:
        assert not exists


def test_what_a_prune_frees_leaves_out_what_other_versions_share(versions):
    write(versions, "v1", b"x" * 100, record=seal({}))
    with versions.open() as writer:
        for name in ("v2", "v3"):
            stage = writer.stage(name)
            stage.take(versions.version("v1"), "x", "x")
            stage.put({"y": b"y" * 10})
            stage.seal(["x", "y"])
    beside = (versions.directory / "v1.json").stat().st_size
    for going, freed in ((["v1"], beside), (["v2"], 10), (["v1", "v2", "v3"], 120 + beside)):
        assert versions.prunable(going).bytes == freed
    with versions.open() as writer:
        assert writer.prune(["v1", "v2", "v3"]).bytes == 120 + beside


def test_a_version_may_lie_in_a_folder(versions):
    with versions.open() as writer:
        stage = writer.stage("set aside/v1")
        stage.put({"x": b"1"})
        stage.seal()
    assert versions.version("set aside/v1").read("x") == b"1"


def test_the_next_writer_removes_what_a_dead_one_left(versions, tmp_path):
    (tmp_path / "all" / ".partial-v1-0000").mkdir(parents=True)
    assert versions.names() == ()
    with versions.open() as writer:
        assert names(tmp_path / "all") == []
        writer.stage("v1").seal()
    assert names(tmp_path) == ["all"]


def test_one_writer_at_a_time_and_readers_all_the_time(versions, tmp_path):
    write(versions, "v1")
    with versions.open():
        assert versions.pointer() == Pointer(b"v1")
        with pytest.raises(StorageError, match=rf"the thing is in use by process {os.getpid()}"):
            versions.open()
    first = versions.open()
    first.close()
    with versions.open():
        first.close()  # again: the lock is no longer its own
        with pytest.raises(StorageError, match="is in use"):
            versions.open()


def test_a_link_is_not_made_over_what_somebody_else_put_there(tmp_path):
    versions, out = make(tmp_path, "link"), tmp_path / "now"
    for place, problem in (
        (out.mkdir, "is a directory that gmm-dask did not write; move it away"),
        (out.touch, "is a file that gmm-dask did not write; move it away"),
        (lambda: out.symlink_to("elsewhere"), "is a link to elsewhere, which gmm-dask did not"),
        (lambda: out.symlink_to("all/.hidden"), r"is a link to all/\.hidden, which"),
    ):
        place()
        with pytest.raises(StorageError, match=f"/now: {problem}"):
            versions.pointer()
        with versions.open() as writer, pytest.raises(StorageError, match=problem):
            writer.point(b"v1", expecting=None)
        out.rmdir() if out.is_dir() else out.unlink()


def test_a_file_that_is_missing_or_too_large_is_not_read(tmp_path):
    (tmp_path / "x").write_bytes(b"1234")
    version = Version(tmp_path)
    assert version.read("x", largest=4) == b"1234"
    with pytest.raises(StorageError, match="/x: is larger than any file of its kind"):
        version.read("x", largest=3)
    for read in (version.read, version.size, version.document):
        with pytest.raises(ModelError, match="/y: is missing; restore it"):
            read("y", ModelError)


def test_names_of_what_is_no_directory(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert names_in(tmp_path / "file") == names_in(tmp_path / "gone") == ()
    assert names_in(tmp_path) == ("file",)
