"""Files, directories, links and locks: whole or not at all, one holder at a time."""

import ast
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

import gmm_dask.storage
from gmm_dask.errors import StorageError
from gmm_dask.storage.files import atomic
from gmm_dask.storage.files.locks import acquire
from gmm_dask.storage.files.sealed import read_whole


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def fail_after(_):
    raise KeyError


@contextmanager
def without_root():
    """Root may write everywhere: become nobody for a moment."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with atomic.replacement(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_an_error_in_the_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), atomic.replacement(path) as file:
        fail_after(file.write(b"half"))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, block: real(descriptor, block[:3]))
    atomic.replace_file(tmp_path / "a", bytes(range(100)))
    assert (tmp_path / "a").read_bytes() == bytes(range(100))


def test_files_written_without_waiting_are_waited_for_together(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def sync(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)  # noqa: PTH115
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    for name in "abc":
        with atomic.replacement(tmp_path / name, sync=False) as file:
            file.write(b"x")
    assert synced == []
    atomic.sync_files(tmp_path / name for name in "abc")
    assert sorted(synced) == ["a", "b", "c"]
    with pytest.raises(StorageError, match="/gone: cannot be written"):
        atomic.sync_files([tmp_path / "a", tmp_path / "gone"])


@pytest.fixture
def staged(tmp_path):
    """A directory with a file in it, to be published."""
    directory = tmp_path / "staged"
    directory.mkdir()
    atomic.write_new_files(directory, {"x": b"new"})
    return directory


def test_a_directory_appears_whole(tmp_path, staged):
    atomic.publish_directory(staged, tmp_path / "d")
    assert names(tmp_path) == ["d"]
    assert (tmp_path / "d" / "x").read_bytes() == b"new"


def test_a_directory_is_never_published_over_another(tmp_path, staged):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_bytes(b"old")
    with pytest.raises(StorageError, match=rf"{tmp_path}/d: cannot be written"):
        atomic.publish_directory(staged, tmp_path / "d")
    assert names(tmp_path) == ["d", "staged"]
    assert (tmp_path / "d" / "x").read_bytes() == b"old"


def test_a_directory_whose_name_did_not_reach_the_disk_is_withdrawn(tmp_path, staged, monkeypatch):
    real = atomic.sync_directory

    def fail(path):
        if path == tmp_path:
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    monkeypatch.setattr(atomic, "sync_directory", fail)
    with pytest.raises(StorageError, match="input/output error"):
        atomic.publish_directory(staged, tmp_path / "d")
    assert names(tmp_path) == []


def test_a_link_always_leads_somewhere(tmp_path):
    for target in ("one", "two"):
        (tmp_path / target).mkdir()
    link = tmp_path / "link"
    atomic.replace_link(link, "one")
    done = threading.Event()
    seen = set()

    def look():
        while not done.is_set():
            seen.add(link.readlink().name)  # raises if it is missing for a moment

    reader = threading.Thread(target=look)
    reader.start()
    for turn in range(200):
        atomic.replace_link(link, ("two", "one")[turn % 2])
    done.set()
    reader.join()
    assert seen == {"one", "two"}
    assert names(tmp_path) == ["link", "one", "two"]


def test_a_link_takes_over_what_a_killed_process_left(tmp_path):
    (tmp_path / ".partial-link-out").symlink_to("nowhere")
    atomic.replace_link(tmp_path / "out", "here")
    assert (tmp_path / "out").readlink().name == "here"
    assert names(tmp_path) == ["out"]


def test_what_is_in_the_place_of_a_link_in_the_making_is_named(tmp_path):
    (tmp_path / ".partial-link-out").mkdir()
    with pytest.raises(StorageError, match=r"/\.partial-link-out: .* a directory is in its place"):
        atomic.replace_link(tmp_path / "out", "here")
    assert names(tmp_path) == [".partial-link-out"]


def test_a_directory_disappears_in_one_step(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    seen = []
    monkeypatch.setattr(
        atomic.shutil, "rmtree", lambda path, ignore_errors: seen.append(names(tmp_path))
    )
    atomic.remove_directory(tmp_path / "d")
    assert [name[:11] for name in seen[0]] == [".partial-d-"]


def test_stale_partials_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "keep").write_bytes(b"")
    (tmp_path / ".partial-file-1").write_bytes(b"")
    (tmp_path / ".partial-dir-2").mkdir()
    (tmp_path / ".partial-dir-2" / "x").write_bytes(b"")
    (tmp_path / ".partial-link-3").symlink_to(tmp_path / "keep")
    atomic.remove_stale(tmp_path)
    assert names(tmp_path) == ["keep"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "no space is left on the disk; free some or choose another directory"),
        (errno.EDQUOT, "quota is used up; free some space"),
        (errno.EFBIG, "larger than this process may write; raise `ulimit -f`"),
        (errno.EIO, "input/output error; check it"),
        (errno.EROFS, "read-only; choose another directory"),
        (errno.EACCES, "permission denied; ask for write permission"),
        (errno.ETXTBSY, "Text file busy"),
    ],
)
def test_errors_name_the_path_and_what_to_try(number, advice):
    message = str(atomic.storage_error(OSError(number, os.strerror(number)), Path("a/b")))
    assert message.startswith("a/b: cannot be written: ")
    assert advice in message
    assert "\n" not in message


def test_a_directory_to_write_to_is_made_and_tried(tmp_path):
    atomic.check_writable(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []


def test_a_file_in_the_place_of_a_directory_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(StorageError, match=r"/a: .* it is a file, not a directory"):
        atomic.check_writable(tmp_path / "a")
    with pytest.raises(StorageError, match=r"/a/b: .* is a file, not a directory"):
        atomic.check_writable(tmp_path / "a" / "b")


def test_a_directory_without_permission_is_refused(tmp_path):
    target = tmp_path / "theirs"
    target.mkdir(mode=0o555)
    with without_root(), pytest.raises(StorageError, match=r"/theirs: .*permission denied"):
        atomic.check_writable(target)


def test_only_one_file_of_storage_opens_files_for_writing():
    """ENOSPC at the k-th write can only be tested if there is one place where bytes go out."""
    folder = Path(gmm_dask.storage.__file__).parent
    offenders = {
        path.name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and writes(node)
    }
    assert offenders == {"atomic.py"}


def writes(call):
    name = ast.unparse(call.func)
    if name in ("os.open", "os.write", "os.pwrite") or name.endswith(
        (".write_text", ".write_bytes")
    ):
        return True
    modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return name.split(".")[-1] == "open" and any(set(mode) & set("wax+") for mode in modes[-1:])


def test_a_lock_names_its_holder_and_is_gone_after_it(tmp_path):
    path = tmp_path / ".lock"
    with (
        acquire(path, "model stars"),
        pytest.raises(
            StorageError,
            match=rf"model stars is in use by process {os.getpid()} on \S+ since 20.* "
            r"\(lock .*/\.lock\); wait until that run has ended, or stop it",
        ),
    ):
        acquire(path, "model stars", deadline=0.01)
    assert names(tmp_path) == []
    acquire(path, "model stars", deadline=0).release()


def test_releasing_twice_does_not_release_the_next_holder(tmp_path):
    path = tmp_path / ".lock"
    first = acquire(path, "x")
    first.release()
    with acquire(path, "x"):
        first.release()
        with pytest.raises(StorageError, match="in use"):
            acquire(path, "x", deadline=0)


def test_a_lock_dies_with_its_process(tmp_path):
    path = tmp_path / ".lock"
    script = (
        "import sys, pathlib; from gmm_dask.storage.files.locks import acquire\n"
        "lock = acquire(pathlib.Path(sys.argv[1]), 'x'); print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StorageError, match=f"process {holder.pid} on"):
            acquire(path, "x", deadline=0)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        acquire(path, "x", deadline=0).release()
    assert names(tmp_path) == []


def test_one_holder_at_a_time_although_the_file_comes_and_goes(tmp_path):
    inside, most, turns = 0, 0, 0
    guard = threading.Lock()

    def work():
        nonlocal inside, most, turns
        for _ in range(40):
            with acquire(tmp_path / ".lock", "x"):
                with guard:
                    inside += 1
                    most = max(most, inside)
                tmp_path.stat()  # lets another thread run
                with guard:
                    inside -= 1
                    turns += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, turns) == (1, 160)


def test_a_lock_that_cannot_be_written_is_released(tmp_path, monkeypatch):
    def fail(descriptor, block):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("gmm_dask.storage.files.locks.write_all", fail)
        with pytest.raises(StorageError, match=r"\.lock: cannot be locked: .*input/output error"):
            acquire(tmp_path / ".lock", "x")
    assert names(tmp_path) == []
    acquire(tmp_path / ".lock", "x", deadline=0).release()


def test_a_lock_on_a_full_disk_holds_unsigned(tmp_path, monkeypatch):
    def full(descriptor, block):
        os.write(descriptor, block[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gmm_dask.storage.files.locks.write_all", full)
    with acquire(tmp_path / ".lock", "x"):
        assert (tmp_path / ".lock").read_bytes() == b""
        with pytest.raises(StorageError, match="x is in use by another process"):
            acquire(tmp_path / ".lock", "x", deadline=0)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("link", "it is a symbolic link"),
        ("dangling link", "it is a symbolic link"),
        ("hard link", "it has a second name"),
        ("hard link to nothing", "it has a second name"),
        ("file", "it holds content that gmm-dask did not write"),
        ("pipe", "it is not a regular file"),
        ("socket", "a socket or a device is in its place"),
        ("directory", "a directory is in its place"),
    ],
)
def test_what_is_in_the_place_of_a_lock_stays(tmp_path, kind, what):
    """Whoever can write to the directory could plant it; a lock's holder signs the file."""
    lock, precious = tmp_path / ".lock", tmp_path / "precious"
    precious.write_bytes(b"" if kind == "hard link to nothing" else b"precious")
    match kind:
        case "link":
            lock.symlink_to(precious)
        case "dangling link":
            lock.symlink_to(tmp_path / "new")
        case "hard link" | "hard link to nothing":
            lock.hardlink_to(precious)
        case "file":
            lock.write_bytes(b"precious")
        case "pipe":
            os.mkfifo(lock)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(lock))
        case "directory":
            lock.mkdir()
    before, content = lock.lstat(), precious.read_bytes()
    with pytest.raises(StorageError, match=rf"\.lock: cannot be locked: {what}"):
        acquire(lock, "x", deadline=0)
    assert lock.lstat().st_ino == before.st_ino
    assert lock.lstat().st_size == before.st_size
    assert precious.read_bytes() == content
    assert names(tmp_path) == [".lock", "precious"]


def test_a_pipe_in_the_place_of_a_document_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "current.json")
    with pytest.raises(StorageError, match=r"current\.json: cannot be read: .*not a regular file"):
        read_whole(tmp_path / "current.json")


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def none(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("gmm_dask.storage.files.locks.fcntl.flock", none)
    with pytest.raises(StorageError, match="has no file locks"):
        acquire(tmp_path / ".lock", "x")
