"""A directory of a table format is refused, from wherever it is reached; so is what is no file."""

import os
import socket
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask.config import InputSection
from gmm_dask.errors import InputChangedError, InputError
from gmm_dask.storage.input.plan import plan_input
from gmm_dask.storage.input.reader import parquet_chunks
from tests.storage.test_plan import s3  # noqa: F401 - a fixture

LOGS = {
    "Delta Lake": "_delta_log/00000000000000000000.json",
    "Hudi": ".hoodie/hoodie.properties",
    "Iceberg": "metadata/00001-5afe.metadata.json",
}


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"a": [1.0]}), path)


def names(path):
    return [file.path for file in plan_input(InputSection(path=str(path), columns=["a"])).files]


@pytest.fixture(params=LOGS)
def lake(tmp_path, request):
    """``bucket/lake/table/data/day=1/x.parquet``, a log that says what it is, and a plain file."""
    lake = tmp_path / "bucket" / "lake"
    write(lake / "table" / "data" / "day=1" / "x.parquet")
    write(lake / "plain" / "y.parquet")
    log = lake / "table" / LOGS[request.param]
    log.parent.mkdir()
    log.write_text("{}")
    return request.param, lake


REACHING = [
    "table", "table/data", "table/data/day=1", "", "t*", "table/data/*", "table/*/day=1",
    "table/data/day=1/*.parquet", "**/x.parquet", "**", "*/data/day=*/*.parquet", "*/*/*/x.parquet",
]  # fmt: skip


@pytest.mark.parametrize("address", REACHING)
def test_a_table_is_refused_from_wherever_it_is_reached(lake, address):
    kind, directory = lake
    with pytest.raises(InputError) as caught:
        names(f"{directory}/{address}")
    message = str(caught.value)
    assert message.startswith(f"{directory}/{address}: {directory}/table is a {kind} table")
    assert "export its current version as Parquet" in message
    assert "\n" not in message


@pytest.mark.parametrize("address", ["", "table/data", "table/data/day=1/*.parquet", "*/data/*"])
def test_a_table_in_a_bucket_is_refused(lake, s3, address):  # noqa: F811
    kind, _ = lake
    with pytest.raises(InputError, match=f"bucket/lake/table is a {kind} table"):
        names(s3(f"bucket/lake/{address}".rstrip("/")))


@pytest.mark.parametrize("link", ["table", "table/data", "table/data/day=1"])
def test_a_link_into_a_table_is_refused(lake, tmp_path, link):
    kind, directory = lake
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(directory / link)
    for address in ("in", "in/*", "in/link", "in/**/*.parquet"):
        with pytest.raises(InputError, match=f"is a {kind} table"):
            names(tmp_path / address)


def test_plain_files_beside_a_table_and_links_to_single_files_are_read(lake, tmp_path):
    _, directory = lake
    assert names(directory / "plain") == ["y.parquet"]
    assert names(directory / "*" / "y.parquet") == ["plain/y.parquet"]
    assert names(directory / "**" / "y.parquet") == ["plain/y.parquet"]
    assert names(directory / "table" / "data" / "day=1" / "x.parquet") == ["day=1/x.parquet"]
    (tmp_path / "current").mkdir()
    (tmp_path / "current" / "x.parquet").symlink_to(directory / "table/data/day=1/x.parquet")
    assert names(tmp_path / "current") == ["x.parquet"]


def test_what_only_looks_like_a_table_is_read(tmp_path):
    write(tmp_path / "x.parquet")
    (tmp_path / "_delta_log").write_text("a file")
    (tmp_path / "x.metadata.json").write_text("{}")
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "notes.json").write_text("{}")
    assert names(tmp_path) == ["x.parquet"]


# What is no regular file


def make(kind, path):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    """Opening a pipe waits for somebody who writes to it, and Ctrl-C does not end that."""
    write(tmp_path / "a.parquet")
    make(kind, tmp_path / "b.parquet")
    script = (
        "import sys; from tests.storage.test_tables import names\n"
        "for address in sys.argv[1:]:\n"
        "    try: names(address)\n"
        "    except ValueError as error: print(error)"
    )
    addresses = (tmp_path, tmp_path / "*.parquet", tmp_path / "b.parquet")
    run = subprocess.run(
        [sys.executable, "-c", script, *addresses], capture_output=True, text=True, timeout=60
    )
    messages = run.stdout.splitlines()
    assert len(messages) == len(addresses), run.stderr
    for message in messages:
        assert "b.parquet: is n" in message
        assert "regular file" in message
    assert names(tmp_path / "a*") == ["a.parquet"]


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path):
    write(tmp_path / "a.parquet")
    plan = plan_input(InputSection(path=str(tmp_path), columns=["a"]))
    (tmp_path / "a.parquet").unlink()
    os.mkfifo(tmp_path / "a.parquet")
    with pytest.raises((InputError, InputChangedError), match="is not a regular file"):
        list(parquet_chunks(plan).read(0, 1))
