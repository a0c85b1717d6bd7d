"""Writing over the input is refused by every spelling; what only looks like it is not."""

import os
import re
from contextlib import nullcontext

import pytest

from gmm_dask.config import InputSection
from gmm_dask.errors import ConfigError
from gmm_dask.storage.input.overlap import refuse_overlap
from gmm_dask.storage.input.plan import plan_input


@pytest.fixture
def place(tmp_path, monkeypatch):
    """``data/stars/x=1/a.parquet``, links to it, and the working directory above."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = tmp_path / "data" / "stars" / "x=1"
    directory.mkdir(parents=True)
    pq.write_table(pa.table({"a": [1.0]}), directory / "a.parquet")
    (tmp_path / "link").symlink_to("data")
    (tmp_path / "data" / "file.parquet").symlink_to("stars/x=1/a.parquet")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "data"))
    return tmp_path


OVERLAPS = [
    # the output is the input
    ("data/stars", "data/stars"),
    ("data/stars/", "data/stars"),
    ("data/stars", "./data/../data/stars"),
    ("data/stars", "empty/../data/stars"),
    ("data/stars", "link/stars"),
    ("link/stars", "data/stars"),
    ("~/stars", "data/stars"),
    ("data/stars/x=1/a.parquet", "data/stars/x=1/a.parquet"),
    ("data/stars/x=1/a.parquet", "link/stars/x=1/a.parquet"),
    ("data/file.parquet", "data/stars/x=1/a.parquet"),
    ("data/stars/*/*.parquet", "data/stars/x=1/a.parquet"),
    # the output lies in the input
    ("data/stars", "data/stars/predictions"),
    ("data/stars", "link/stars/deep/er"),
    ("link/stars", "data/stars/x=1/predictions"),
    ("data", "data/predictions"),
    (".", "predictions"),
    # the input lies in the output
    ("data/stars", "data"),
    ("data/stars", "."),
    ("data/stars/x=1/a.parquet", "data/stars"),
    ("data/file.parquet", "data/stars"),
    ("data/*/*/a.parquet", "data"),
    # the glob would find the output tomorrow
    ("data/**/*.parquet", "data/predictions"),
    ("data/*", "data/predictions"),
    ("link/*", "data/predictions"),
    ("d*/*", "data/predictions"),
    ("data/*/part-*.parquet", "data/predictions"),
    ("*/stars/**", "data/stars/y"),
    ("da[t]a/**/*", "data/stars/y"),
]

APART = [
    ("data/stars", "predictions"),
    ("data/stars", "data/starship"),
    ("data/stars", "data/stars2/predictions"),
    ("data/starship", "data/stars/predictions"),
    ("data/stars/x=1/a.parquet", "data/stars/predictions"),
    ("data/file.parquet", "data/predictions"),
    ("data/*.parquet", "data/predictions"),
    ("data/*/x=?/*.parquet", "data/predictions"),
    ("*/stars", "data/predictions"),
    ("s3://bucket/data/stars", "data/stars"),
]


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize(("address", "output"), OVERLAPS)
def test_an_overlap_is_refused(place, address, output, planned):
    known_by_files_only = address == "data/*/*/a.parquet"
    possible = not address.endswith("part-*.parquet")
    plan = plan_input(InputSection(path=address, columns=["a"])) if planned and possible else None
    expected = pytest.raises(
        ConfigError,
        match=rf"output {re.escape(output)} and input .* overlap: .*; choose an output beside",
    )
    with nullcontext() if known_by_files_only and not planned else expected:
        refuse_overlap(output, address, plan)


def test_an_address_of_a_file_is_a_path(place):
    with pytest.raises(ConfigError, match="overlap: it lies in the input"):
        refuse_overlap("data/x", f"file://{place}/data")


@pytest.mark.parametrize(
    ("address", "output"),
    [
        ("s3://b/data", "s3://b/data"),
        ("s3://b/data?region=eu-west-3", "s3://b/data/predictions"),
        ("s3://b/data/x/part.parquet", "s3://b/data"),
        ("s3://b/predictions/_versions", "s3://b/predictions"),
        ("s3://b/data/**/*.parquet", "s3://b/data/predictions"),
        ("s3://b/*/*/*/*.parquet", "s3://b/predictions"),
        ("s3://b", "s3://b/predictions"),
    ],
)
def test_an_overlap_on_a_store_is_refused(address, output):
    with pytest.raises(ConfigError, match=rf"output {output} and input .* overlap: "):
        refuse_overlap(output, address)


@pytest.mark.parametrize(
    ("address", "output"),
    [
        ("s3://b/data", "s3://b/data2"),
        ("s3://b/data2", "s3://b/data"),
        ("s3://other/data", "s3://b/data"),
        ("s3://b/data/*.parquet", "s3://b/data/predictions"),
        ("data", "s3://b/data"),
    ],
)
def test_what_lies_apart_on_a_store_is_allowed(place, address, output):
    refuse_overlap(output, address)


@pytest.mark.parametrize(("address", "output"), APART)
def test_what_lies_apart_is_allowed(place, address, output):
    refuse_overlap(output, address)


def test_what_lies_apart_is_allowed_when_the_files_are_known(place):
    for address in ("data/stars", "data/stars/x=1/a.parquet", "data/*.parquet"):
        plan = plan_input(InputSection(path=address, columns=["a"]))
        refuse_overlap("predictions", address, plan)


def test_predictions_may_not_read_themselves(place):
    versions = place / "out.versions" / "run-1"
    versions.mkdir(parents=True)
    (place / "out").symlink_to("out.versions/run-1")
    for address in ("out", "out.versions", "out.versions/run-1", "."):
        with pytest.raises(ConfigError, match="overlap"):
            refuse_overlap("out", address)


def test_another_mount_or_spelling_of_a_directory_is_the_same(place, monkeypatch):
    """What has the same inode is the same, whatever its path says."""
    real = os.stat

    def stat(path, *arguments, **options):
        text = os.fspath(path) if not isinstance(path, int) else ""
        if isinstance(text, str):
            path = text.replace("DATA", "data") if text else path
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(ConfigError, match="overlap"):
        refuse_overlap("DATA/stars/predictions", "data/stars")
    refuse_overlap("DATA/predictions", "data/stars")
