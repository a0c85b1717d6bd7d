"""Prediction datasets: one row per input row, replaced whole, right parts used again."""

import errno
import hashlib
import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from gmm_dask.chunked.rows import drop_incomplete
from gmm_dask.config import InputSection
from gmm_dask.errors import ConfigError, ConflictError, StorageError
from gmm_dask.storage.files.sealed import seal, unseal
from gmm_dask.storage.files.versions import Writer
from gmm_dask.storage.input import content as input_content
from gmm_dask.storage.input.plan import plan_input
from gmm_dask.storage.input.reader import parquet_chunks
from gmm_dask.storage.predictions.beginning import begin
from gmm_dask.storage.predictions.dataset import read_predictions
from gmm_dask.storage.predictions.verification import intact
from tests.storage.stored import some_model
from tests.waiting import until

KEYS = ("id", "name")


def write_input(directory, file, rows, seed=0):
    """Rows with a null in every tenth value of "größe", in row groups of 40."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=rows) * 100
    mask = np.arange(rows) % 10 == 3
    table = pa.table(
        {
            "größe": pa.array(values, mask=mask),
            "b": rng.normal(size=rows),
            "id": np.arange(rows) + 1000 * seed,
            "name": pa.array([f"row {i}" for i in range(rows)], pa.string()),
        }
    )
    path = directory / file
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=40)


@pytest.fixture
def stars(tmp_path):
    """Three files, one empty; 240 rows."""
    directory = tmp_path / "stars"
    write_input(directory, "day=1/a.parquet", 130, seed=1)
    write_input(directory, "day=2/b.parquet", 0, seed=2)
    write_input(directory, "day=2/c.parquet", 110, seed=3)
    return directory


def plan_of(directory):
    return plan_input(InputSection(path=str(directory), columns=["größe", "b"], nulls="drop"))


def answers(values):
    """What a model could say of rows (m, d), known from their values alone."""
    labels = (np.abs(values[:, 0]) % 3).astype(np.int32)
    densities = -np.abs(values[:, 0]) / 4
    responsibilities = np.zeros((len(labels), 3))
    responsibilities[np.arange(len(labels)), labels] = 1
    return labels, densities, responsibilities


def begun(stars, out, run_id, model=None, **options):
    model = model or some_model(version=3)
    return begin(out, plan_of(stars), model, model_name="stars", run_id=run_id, **options)


def chunks_of(staged, keys=()):
    chunks = parquet_chunks(staged.remaining, split_files=True, key_columns=keys, chunk_bytes=800)
    return list(chunks.read(0, len(chunks.rows), digests=True))


def write_all(staged, keys=()):
    parts = []
    for rows in chunks_of(staged, keys):
        kept = drop_incomplete(rows)
        parts.append(staged.writer.write(kept, *answers(kept.values)))
    return parts


def digests_of(staged, keys=()):
    """What a scan of the remaining files says of their values."""
    return [digest for rows in chunks_of(staged, keys) for digest in rows.digests]


def predict(stars, out, run_id, keys=(), **options):
    with begun(stars, out, run_id, key_columns=keys, **options) as staged:
        parts = write_all(staged, keys)
        staged.publish(parts, digests=digests_of(staged, keys))
        return staged, parts


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def expected(stars):
    """The input beside what is to be predicted of it, as pandas sees it."""
    frames = []
    for file in ("day=1/a.parquet", "day=2/c.parquet"):
        frame = pq.read_table(stars / file, partitioning=None).to_pandas()
        frame["row"], frame["input_file"] = np.arange(len(frame)), file
        frames.append(frame)
    frame = pd.concat(frames, ignore_index=True)
    whole = frame["größe"].notna().to_numpy()
    labels, densities, _ = answers(frame[["größe"]].fillna(0).to_numpy())
    ids = np.array([4, 0, 7])[labels]
    frame["component"] = pd.array(ids, "Int32")
    frame.loc[~whole, "component"] = pd.NA
    frame["log_density"] = np.where(whole, densities, np.nan)
    frame["outlier"] = pd.array(densities < -12.125, "boolean")
    frame.loc[~whole, "outlier"] = pd.NA
    return frame


def check(frame, stars):
    want = expected(stars)
    assert len(frame) == len(want) == 240
    for column in ("row", "input_file", "component", "log_density", "outlier"):
        got = frame[column].astype(object).where(frame[column].notna(), None).tolist()
        wish = want[column].astype(object).where(want[column].notna(), None).tolist()
        assert got == wish, column
    assert 0 < frame["outlier"].sum() < 200
    assert frame["component"].isna().sum() == 24


def test_it_opens_as_plain_parquet_in_order(stars, tmp_path):
    out = tmp_path / "out"
    predict(stars, out, "run-1")
    check(ds.dataset(out).to_table().to_pandas(), stars)
    check(pq.read_table(out).to_pandas(), stars)
    check(pd.read_parquet(out), stars)
    check(pl.read_parquet(out).to_pandas(), stars)
    check(pl.scan_parquet(f"{out}/*.parquet").collect().to_pandas(), stars)


def test_types_of_the_columns(stars, tmp_path):
    predict(stars, tmp_path / "out", "run-1", KEYS, probabilities=True)
    assert [(f.name, str(f.type)) for f in ds.dataset(tmp_path / "out").schema] == [
        ("row", "int64"),
        ("input_file", "dictionary<values=string, indices=int32, ordered=0>"),
        ("id", "int64"),
        ("name", "string"),
        ("component", "int32"),
        ("log_density", "double"),
        ("outlier", "bool"),
        ("model_version", "int32"),
        ("probability_4", "double"),
        ("probability_0", "double"),
        ("probability_7", "double"),
    ]


def test_predictions_join_one_to_one_with_the_input(stars, tmp_path):
    predict(stars, tmp_path / "out", "run-1", KEYS)
    frame = pd.read_parquet(tmp_path / "out")
    assert not frame.duplicated(["input_file", "row"]).any()
    want = expected(stars)
    assert frame["id"].tolist() == want["id"].tolist()
    assert frame["name"].tolist() == want["name"].tolist()


def test_keys_may_be_keys_of_partitions(stars, tmp_path):
    predict(stars, tmp_path / "out", "run-1", ("day",))
    assert pd.read_parquet(tmp_path / "out")["day"].tolist() == [1] * 130 + [2] * 110


def test_probabilities_are_named_by_component_and_null_where_rows_were_dropped(stars, tmp_path):
    predict(stars, tmp_path / "out", "run-1", probabilities=True)
    frame = pd.read_parquet(tmp_path / "out")
    probabilities = frame[["probability_4", "probability_0", "probability_7"]]
    kept = frame["component"].notna()
    assert probabilities[~kept].isna().all(axis=None)
    assert (probabilities[kept].sum(axis=1) == 1).all()
    for number in (4, 0, 7):
        of_it = frame["component"] == number
        assert (frame.loc[of_it, f"probability_{number}"] == 1).all()


def test_pages_carry_checksums_that_are_right(stars, tmp_path):
    predict(stars, tmp_path / "out", "run-1")
    path = tmp_path / "out" / names(tmp_path / "out")[0]
    column = pq.ParquetFile(path).metadata.row_group(0).column(3)
    assert column.path_in_schema == "log_density"
    text = bytearray(path.read_bytes())
    text[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    path.write_bytes(text)
    assert pq.read_table(path).num_rows == 40  # unnoticed without them
    with pytest.raises(OSError, match="CRC checksum"):
        pq.read_table(path, page_checksum_verification=True)


def test_row_groups_have_one_size(stars, tmp_path, monkeypatch):
    monkeypatch.setattr("gmm_dask.storage.predictions.part_files.ROW_GROUP_ROWS", 16)
    _, parts = predict(stars, tmp_path / "out", "run-1")
    footer = pq.read_metadata(tmp_path / "out" / parts[0].name)
    assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == [16, 16, 8]


def test_what_lies_where(stars, tmp_path):
    out = tmp_path / "out"
    staged, parts = predict(stars, out, "run-1")
    assert names(tmp_path) == ["out", "out.versions", "stars"]
    assert str(out.readlink()) == "out.versions/run-1"
    assert names(tmp_path / "out.versions") == ["run-1", "run-1.json"]
    assert names(out) == [part.name for part in parts]
    assert parts[0].name == "part-run-1-00000-000000000000.parquet"
    assert staged.path == tmp_path / "out.versions" / "run-1"


def test_the_record_says_which_part_speaks_of_which_file(stars, tmp_path):
    plan = plan_of(stars)
    with begun(stars, tmp_path / "out", "run-1") as staged:
        parts = write_all(staged)
        staged.publish(parts, {"share": np.float64(0.5)})
    found = read_predictions(tmp_path / "out")
    assert found.path == tmp_path / "out.versions" / "run-1"
    assert found.run_id == "run-1"
    assert found.model == {"name": "stars", "version": 3, "sha256": some_model().sha256}
    assert found.snapshot == plan.digest
    assert {path: (one.size, one.footer) for path, one in found.files.items()} == {
        file.path: (file.size, file.footer) for file in plan.files
    }
    assert found.parts == tuple(parts)
    assert found.rows == 240
    assert (found.reused, found.summary) == (0, {"share": 0.5})
    by_file = {}
    for part in found.parts:
        assert part.first == by_file.get(part.input_file, 0)
        by_file[part.input_file] = part.first + part.rows
        assert (found.path / part.name).stat().st_size == part.size
    assert by_file == {"day=1/a.parquet": 130, "day=2/c.parquet": 110}
    assert read_predictions(tmp_path / "nothing") is None


def test_a_damaged_record_is_named_and_nothing_is_used_again(stars, tmp_path, caplog):
    predict(stars, tmp_path / "out", "run-1")
    path = tmp_path / "out.versions" / "run-1.json"
    path.write_bytes(path.read_bytes().replace(b"40", b"41"))
    with pytest.raises(StorageError, match=r"out.versions/run-1.json: is damaged"):
        read_predictions(tmp_path / "out")
    with begun(stars, tmp_path / "out", "run-2") as staged:
        assert staged.reused == {}
    (record,) = caplog.records
    assert "no parts are reused: " in record.getMessage()
    path.unlink()
    with pytest.raises(StorageError, match=r"run-1.json: is missing"):
        read_predictions(tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    ["../../x.parquet", "part-../../../x-00000-000000.parquet", "/tmp/x-00000-000000.parquet",
     "part-a\n-00000-000000.parquet", "part-run-1.parquet", ".."],
)  # fmt: skip
def test_a_record_cannot_name_files_outside_of_its_version(stars, tmp_path, caplog, name):
    """Its sha256 is no signature: whoever can write it can seal it again."""
    predict(stars, tmp_path / "out", "run-1")
    write_input(tmp_path, "x.parquet", 130)
    path = tmp_path / "out.versions" / "run-1.json"
    record = unseal(path.read_bytes(), path)
    record["parts"][0][0] = name
    path.write_bytes(seal(record))
    with pytest.raises(StorageError, match="is not the name of a part") as caught:
        read_predictions(tmp_path / "out")
    assert str(caught.value).isprintable()
    staged, _ = predict(stars, tmp_path / "out", "run-2")
    assert staged.reused == {}
    assert all(name.startswith("part-run-2-") for name in names(staged.path))
    (message,) = caplog.messages
    assert message.startswith("no parts are reused: ")


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_part_that_is_no_regular_file_is_not_used_again(stars, tmp_path, kind):
    first, _ = predict(stars, tmp_path / "out", "run-1")
    part = first.path / names(first.path)[0]
    part.rename(tmp_path / "elsewhere.parquet")
    if kind == "link":
        part.symlink_to(tmp_path / "elsewhere.parquet")
    else:
        os.mkfifo(part)
    staged, _ = predict(stars, tmp_path / "out", "run-2")
    assert len(staged.reused) == 1
    assert not [name for name in names(staged.path) if (staged.path / name).is_symlink()]
    check(pd.read_parquet(tmp_path / "out"), stars)


# --- parts that are still right


def flip_a_bit(content, random):
    content[random.integers(len(content))] ^= 1 << int(random.integers(8))


def overwrite_a_run(content, random):
    start, length = random.integers(len(content)), random.integers(1, 200)
    content[start : start + length] = random.bytes(len(content[start : start + length]))


def zero_a_run(content, random):
    start, length = random.integers(len(content)), random.integers(1, 200)
    content[start : start + length] = bytes(len(content[start : start + length]))


def swap_two_runs(content, random):
    length = int(random.integers(1, 100))
    first, second = sorted(random.integers(0, len(content) - length, size=2))
    if second - first >= length:
        one = content[first : first + length]
        content[first : first + length] = content[second : second + length]
        content[second : second + length] = one


def lose_bytes(content, random):
    start = int(random.integers(len(content)))
    del content[start : start + int(random.integers(1, 50))]


def repeat_bytes(content, random):
    start = int(random.integers(len(content)))
    content[start:start] = content[start : start + int(random.integers(1, 50))]


MUTATIONS = (
    flip_a_bit,
    overwrite_a_run,
    zero_a_run,
    swap_two_runs,
    lose_bytes,
    repeat_bytes,
)


def test_no_mutation_of_a_part_is_used_again(stars, tmp_path):
    """Of 995 such mutations 628 passed when only footers were looked at."""
    out = tmp_path / "out"
    predict(stars, out, "run-1")
    record = read_predictions(out)
    whole = {part.name: (record.path / part.name).read_bytes() for part in record.parts}
    assert intact(record.path, record.parts).keys() == set(whole)
    random = np.random.default_rng(11)
    tried = 0
    while tried < 995:
        part = record.parts[random.integers(len(record.parts))]
        content = bytearray(whole[part.name])
        MUTATIONS[tried % len(MUTATIONS)](content, random)
        if content == whole[part.name]:
            continue
        tried += 1
        (record.path / part.name).write_bytes(content)
        assert intact(record.path, [part]) == {}, tried
        (record.path / part.name).write_bytes(whole[part.name])
    # Restored, they have other times and the same bytes.
    assert intact(record.path, record.parts).keys() == set(whole)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutated_part_is_predicted_again(stars, tmp_path, mutation):
    out = tmp_path / "out"
    predict(stars, out, "run-1")
    part = out / names(out)[-1]
    content = bytearray(part.read_bytes())
    mutation(content, np.random.default_rng(5))
    assert content != part.read_bytes()
    part.write_bytes(content)
    staged, _ = predict(stars, out, "run-2")
    assert [file.path for file in staged.remaining.files] == ["day=2/c.parquet"]
    check(pd.read_parquet(out), stars)


def test_bytes_are_read_only_where_the_hint_differs(stars, tmp_path, monkeypatch):
    out = tmp_path / "out"
    predict(stars, out, "run-1")
    read, real = [], hashlib.file_digest

    def counted(file, digest):
        read.append(Path(file.name).name)
        return real(file, digest)

    monkeypatch.setattr("gmm_dask.storage.predictions.verification.hashlib.file_digest", counted)
    predict(stars, out, "run-2")
    predict(stars, out, "run-3")  # linked twice, and the first link is gone
    assert read == []
    touched = sorted(names(out))[0]
    os.utime(out / touched, (0, 0))
    assert len(predict(stars, out, "run-4")[0].reused) == 2
    assert read == [touched]
    predict(stars, out, "run-5")  # its new hint is known by now
    assert read == [touched]


def test_a_restored_copy_of_the_predictions_is_used_again(stars, tmp_path):
    out = tmp_path / "out"
    predict(stars, out, "run-1")
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "out.versions", copy)
    shutil.rmtree(tmp_path / "out.versions")
    copy.rename(tmp_path / "out.versions")
    assert len(predict(stars, out, "run-2")[0].reused) == 2


def test_a_record_of_the_first_format_is_read_and_nothing_of_it_used_again(stars, tmp_path):
    out = tmp_path / "out"
    predict(stars, out, "run-1")
    path = tmp_path / "out.versions" / "run-1.json"
    document = json.loads(path.read_bytes())
    del document["sha256"]
    document["format"] = 1
    document["files"] = {name: values[:2] for name, values in document["files"].items()}
    document["parts"] = [values[:5] for values in document["parts"]]
    path.write_bytes(seal(document))
    found = read_predictions(out)
    assert found.rows == 240
    assert {content.digest for content in found.files.values()} == {None}
    staged, _ = predict(stars, out, "run-2")
    assert staged.reused == {}
    check(pd.read_parquet(out), stars)
    assert len(predict(stars, out, "run-3")[0].reused) == 2


def test_keys_that_were_rewritten_are_copied_again(stars, tmp_path):
    """Same size, same footer, other names of rows."""
    out, path = tmp_path / "out", stars / "day=1" / "a.parquet"

    def write_names(prefix):
        table = pq.read_table(path, partitioning=None)
        texts = pa.array([f"{prefix}{number:04d}" for number in range(len(table))])
        index = table.schema.get_field_index("name")
        plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        pq.write_table(table.set_column(index, "name", texts), path, **plain)

    write_names("a")
    before = plan_of(stars)
    predict(stars, out, "run-1", KEYS)
    write_names("b")
    assert plan_of(stars) == before
    staged, _ = predict(stars, out, "run-2", KEYS)
    assert set(staged.reused) == {"day=2/c.parquet"}
    assert pd.read_parquet(out)["name"][0] == "b0000"


def test_a_file_that_was_only_touched_keeps_its_parts_and_is_read_once(
    stars, tmp_path, monkeypatch
):
    out, path = tmp_path / "out", stars / "day=1" / "a.parquet"
    rested(stars)
    predict(stars, out, "run-1")
    os.utime(path)
    rested(stars)
    numbers, real = [], input_content.read_digest

    def counted(plan, number, key_columns=()):
        numbers.append(number)
        return real(plan, number, key_columns)

    monkeypatch.setattr(input_content, "read_digest", counted)
    assert len(predict(stars, out, "run-2")[0].reused) == 2
    assert numbers == [0]
    assert len(predict(stars, out, "run-3")[0].reused) == 2
    assert numbers == [0]


def rested(stars):
    """Wait until the clock has moved on since the files were written."""
    until(lambda: all(file.hint for file in plan_of(stars).files), "a file has no hint")


def test_only_new_files_are_read_and_old_parts_are_linked(stars, tmp_path):
    out = tmp_path / "out"
    first, _ = predict(stars, out, "run-1")
    write_input(stars, "day=1/0-before-all.parquet", 30, seed=9)
    with begun(stars, out, "run-2") as staged:
        assert [file.path for file in staged.remaining.files] == ["day=1/0-before-all.parquet"]
        assert set(staged.reused) == {"day=1/a.parquet", "day=2/c.parquet"}
        staged.publish(write_all(staged))
    assert pd.read_parquet(out)["input_file"].unique().tolist() == [
        "day=1/0-before-all.parquet",
        "day=1/a.parquet",
        "day=2/c.parquet",
    ]
    assert {name[:11] for name in names(out)} == {"part-run-2-"}
    inodes = {(first.path / name).stat().st_ino for name in names(first.path)}
    again = {(staged.path / name).stat().st_ino for name in names(staged.path)}
    assert inodes < again
    found = read_predictions(out)
    assert found.reused == len(inodes)
    assert found.rows == 270


def test_when_nothing_changed_nothing_is_read(stars, tmp_path):
    predict(stars, tmp_path / "out", "run-1")
    staged, parts = predict(stars, tmp_path / "out", "run-2")
    assert (staged.remaining.files, parts) == ((), [])
    check(pd.read_parquet(tmp_path / "out"), stars)
    staged, _ = predict(stars, tmp_path / "out", "run-3")
    assert staged.remaining.files == ()
    check(pd.read_parquet(tmp_path / "out"), stars)


def test_a_changed_file_is_read_again_and_a_lost_one_is_dropped(stars, tmp_path):
    predict(stars, tmp_path / "out", "run-1")
    write_input(stars, "day=2/c.parquet", 50, seed=4)
    (stars / "day=1" / "a.parquet").unlink()
    staged, _ = predict(stars, tmp_path / "out", "run-2")
    assert [file.path for file in staged.remaining.files] == ["day=2/c.parquet"]
    assert len(pd.read_parquet(tmp_path / "out")) == 50


@pytest.mark.parametrize(
    "options",
    [
        {"model": some_model(seed=1)},
        {"keys": ("id",)},
        {"probabilities": True},
        {"reuse": False},
    ],
    ids=["model", "keys", "probabilities", "told so"],
)
def test_nothing_is_used_again_when_it_would_be_wrong(stars, tmp_path, options):
    predict(stars, tmp_path / "out", "run-1")
    staged, _ = predict(stars, tmp_path / "out", "run-2", **options)
    assert (staged.reused, len(staged.remaining.files)) == ({}, 2)


def test_another_version_of_the_same_model_is_the_same_model(stars, tmp_path):
    predict(stars, tmp_path / "out", "run-1", model=some_model(version=3))
    staged, _ = predict(stars, tmp_path / "out", "run-2", model=some_model(version=4))
    assert staged.remaining.files == ()
    assert read_predictions(tmp_path / "out").model["version"] == 4


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "text"])
def test_parts_that_are_damaged_are_made_again(stars, tmp_path, damage):
    out = tmp_path / "out"
    predict(stars, out, "run-1")
    part = out / names(out)[-1]
    if damage == "missing":
        part.unlink()
    else:
        content = {"truncated": part.read_bytes()[:-1], "empty": b"", "text": b"hello"}[damage]
        part.unlink()
        part.write_bytes(content)
    staged, _ = predict(stars, out, "run-2")
    assert [file.path for file in staged.remaining.files] == ["day=2/c.parquet"]
    check(pd.read_parquet(out), stars)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_without_hard_links_parts_are_copied(stars, tmp_path, monkeypatch, number):
    out = tmp_path / "out"
    predict(stars, out, "run-1")

    def refuse(self, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    staged, _ = predict(stars, out, "run-2")
    assert staged.remaining.files == ()
    assert all(path.stat().st_nlink == 1 for path in out.iterdir())
    check(pd.read_parquet(out), stars)


# --- old and new


def test_until_it_is_published_readers_see_the_old_version(stars, tmp_path):
    out = tmp_path / "out"
    predict(stars, out, "run-1")
    with begun(stars, out, "run-2", reuse=False) as staged:
        parts = write_all(staged)
        assert str(out.readlink()) == "out.versions/run-1"
        staged.publish(parts)
        assert str(out.readlink()) == "out.versions/run-2"


def test_the_version_before_is_kept_and_older_ones_are_not(stars, tmp_path):
    out = tmp_path / "out"
    for number in range(1, 5):
        predict(stars, out, f"run-{number}")
    assert names(tmp_path / "out.versions") == ["run-3", "run-3.json", "run-4", "run-4.json"]


def test_what_is_not_a_version_is_not_removed(stars, tmp_path):
    mine = tmp_path / "out.versions" / "my notes"
    mine.mkdir(parents=True)
    (mine / "x.txt").write_bytes(b"")
    for number in range(1, 4):
        predict(stars, tmp_path / "out", f"run-{number}")
    assert names(mine) == ["x.txt"]


def test_an_overtaken_reader_finds_nothing_rather_than_a_mixture(stars, tmp_path):
    out = tmp_path / "out"
    predict(stars, out, "run-1")
    listed = [out / name for name in names(out)]
    started = list(out.resolve().iterdir())
    predict(stars, out, "run-2", reuse=False)
    for path in listed:
        with pytest.raises(FileNotFoundError):
            pq.read_table(path)
    assert all(pq.read_table(path).num_rows for path in started)


def test_what_is_not_published_leaves_no_trace(stars, tmp_path):
    with pytest.raises(ZeroDivisionError), begun(stars, tmp_path / "out", "run-1") as staged:
        _ = len(write_all(staged)) / 0
    assert names(tmp_path) == ["stars"]
    predict(stars, tmp_path / "out", "run-1")
    with begun(stars, tmp_path / "out", "run-2"):
        pass
    assert names(tmp_path) == ["out", "out.versions", "stars"]
    assert names(tmp_path / "out.versions") == ["run-1", "run-1.json"]


def test_one_run_at_a_time(stars, tmp_path):
    with begun(stars, tmp_path / "out", "run-1"):
        with pytest.raises(
            StorageError,
            match=rf"prediction dataset .*/out is in use by process {os.getpid()} on .*wait until",
        ):
            begun(stars, tmp_path / "out", "run-2")
        predict(stars, tmp_path / "other", "run-2")


def test_what_dead_runs_left_is_removed(stars, tmp_path):
    out = tmp_path / "out"
    predict(stars, out, "run-1")
    versions = tmp_path / "out.versions"
    for left in (versions / ".partial-run-2", versions / "run-3"):
        left.mkdir()
        (left / "part-run-3-00000-000000.parquet").write_bytes(b"half")
    predict(stars, out, "run-3")  # the same run again, which died before its link
    check(pd.read_parquet(out), stars)
    assert names(versions) == ["run-1", "run-1.json", "run-3", "run-3.json"]


def test_a_publish_that_failed_can_be_repeated(stars, tmp_path, monkeypatch):
    out = tmp_path / "out"
    predict(stars, out, "run-1")
    with begun(stars, out, "run-2", reuse=False) as staged:
        parts = write_all(staged)
        for step in (
            "contents.publish_directory",
            "contents.replace_file",
            "pointers.replace_link",
        ):
            with monkeypatch.context() as patched:

                def fail(*arguments):
                    raise StorageError("the disk is full")

                patched.setattr(f"gmm_dask.storage.files.{step}", fail)
                with pytest.raises(StorageError, match="full"):
                    staged.publish(parts)
            assert str(out.readlink()) == "out.versions/run-1"
            check(pd.read_parquet(out), stars)
        assert staged.publish(parts) == staged.publish(parts) == staged.path
    assert str(out.readlink()) == "out.versions/run-2"
    assert names(tmp_path / "out.versions") == ["run-1", "run-1.json", "run-2", "run-2.json"]


def test_an_output_that_was_changed_by_hand_is_not_replaced(stars, tmp_path):
    out = tmp_path / "out"
    predict(stars, out, "run-1")
    with begun(stars, out, "run-2", reuse=False) as staged:
        parts = write_all(staged)
        out.unlink()
        out.symlink_to("out.versions/run-0")
        with pytest.raises(ConflictError, match="/out: was changed by somebody else"):
            staged.publish(parts)
        out.unlink()
        out.mkdir()
        with pytest.raises(StorageError, match="/out: is a directory that gmm-dask did not write"):
            staged.publish(parts)
    assert names(out) == []
    assert names(tmp_path / "out.versions") == ["run-1", "run-1.json"]


def test_an_output_that_was_removed_by_hand_is_made_again(stars, tmp_path):
    out = tmp_path / "out"
    predict(stars, out, "run-1")
    with begun(stars, out, "run-2") as staged:
        out.unlink()
        staged.publish(write_all(staged))
    check(pd.read_parquet(out), stars)


def test_a_publish_that_failed_for_good_leaves_the_old_version_alone(stars, tmp_path, monkeypatch):
    predict(stars, tmp_path / "out", "run-1")

    def fail(*arguments):
        raise StorageError("the disk is full")

    monkeypatch.setattr("gmm_dask.storage.files.pointers.replace_link", fail)
    with pytest.raises(StorageError), begun(stars, tmp_path / "out", "run-2") as staged:
        staged.publish(write_all(staged))
    assert names(tmp_path / "out.versions") == ["run-1", "run-1.json"]
    assert names(tmp_path) == ["out", "out.versions", "stars"]


def test_old_versions_that_cannot_be_removed_do_not_fail_a_publish(
    stars, tmp_path, monkeypatch, caplog
):
    def fail(*arguments):
        raise StorageError("out.versions: cannot be removed")

    monkeypatch.setattr(Writer, "prune", fail)
    with caplog.at_level(logging.WARNING, "gmm_dask"):
        predict(stars, tmp_path / "out", "run-1")
    assert "old predictions were not removed: out.versions" in caplog.text
    assert str((tmp_path / "out").readlink()) == "out.versions/run-1"


def test_a_run_publishes_once(stars, tmp_path):
    predict(stars, tmp_path / "out", "run-1")
    with pytest.raises(ConflictError, match="/out: run run-1 is already published"):
        begun(stars, tmp_path / "out", "run-1")
    check(pd.read_parquet(tmp_path / "out"), stars)
    predict(stars, tmp_path / "out", "run-2")


# --- verified before it is published


def refused(staged, parts, message):
    with pytest.raises(StorageError, match=message):
        staged.publish(parts)
    assert not staged.places.out.exists()


def test_missing_rows_are_noticed(stars, tmp_path):
    with begun(stars, tmp_path / "out", "run-1") as staged:
        parts = write_all(staged)
        for missing in (0, 1, len(parts) - 1):
            some = parts[:missing] + parts[missing + 1 :]
            part = parts[missing]
            refused(
                staged,
                some,
                rf"predictions of {part.input_file} do not hold its 1[13]0 rows once each; "
                rf"the first fault is at row {part.first}; nothing was published",
            )


def test_what_was_verified_stands_for_no_other_parts(stars, tmp_path):
    with begun(stars, tmp_path / "out", "run-1") as staged:
        parts = write_all(staged)
        staged.verify(parts)
        refused(staged, parts[:-1], "do not hold its 1[13]0 rows once each")
        staged.publish(parts)
    assert read_predictions(tmp_path / "out").rows == sum(part.rows for part in parts)


def test_a_verified_part_that_is_gone_is_not_published(stars, tmp_path):
    with begun(stars, tmp_path / "out", "run-1") as staged:
        parts = write_all(staged)
        staged.verify(parts)
        (staged.writer.stage.directory / parts[1].name).unlink()
        with pytest.raises(StorageError, match=parts[1].name):
            staged.publish(parts)
    assert read_predictions(tmp_path / "out") is None


def test_a_part_written_twice_counts_once(stars, tmp_path):
    with begun(stars, tmp_path / "out", "run-1") as staged:
        parts = write_all(staged)
        assert staged.verify(parts + parts[:2]) == tuple(parts)
        assert staged.verify(reversed(parts)) == tuple(parts)


def test_rows_that_are_there_twice_are_noticed(stars, tmp_path):
    with begun(stars, tmp_path / "out", "run-1") as staged:
        parts = write_all(staged)
        twice = replace(parts[1], name="part-run-1-00000-000099.parquet")
        refused(
            staged,
            [*parts, twice],
            "do not hold its 130 rows once each; the first fault is at row 80",
        )


def test_a_part_of_another_input_is_noticed(stars, tmp_path):
    with begun(stars, tmp_path / "out", "run-1") as staged:
        parts = write_all(staged)
        other = replace(parts[0], input_file="day=3/z.parquet", name="part-x-00009-000099.parquet")
        refused(staged, [*parts, other], "describes day=3/z.parquet, which is not an input file")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is missing"), (b"", "cannot be read"), (b"PAR1" * 100, "cannot be read")],
)
def test_a_lost_or_damaged_part_is_named(stars, tmp_path, content, message):
    with begun(stars, tmp_path / "out", "run-1") as staged:
        parts = write_all(staged)
        path = staged.writer.stage.directory / parts[2].name
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        refused(staged, parts, rf"{parts[2].name}: {message}.*; predict again")


def test_a_part_that_is_not_the_one_written_is_named(stars, tmp_path):
    with begun(stars, tmp_path / "out", "run-1") as staged:
        parts = write_all(staged)
        directory = staged.writer.stage.directory
        (directory / parts[0].name).write_bytes((directory / parts[2].name).read_bytes())
        refused(staged, parts, rf"{parts[0].name}: has \S+ bytes and \d+ rows, not ")


def test_parts_of_another_schema_are_named(stars, tmp_path):
    with begun(stars, tmp_path / "out", "run-1") as staged:
        parts = write_all(staged)
        path = staged.writer.stage.directory / parts[-1].name
        table = pq.read_table(path).append_column("x", [[0] * parts[-1].rows])
        pq.write_table(table, path)
        parts[-1] = replace(parts[-1], size=path.stat().st_size)
        refused(staged, parts, rf"{parts[-1].name}: its columns differ from those of")


def test_what_dead_workers_left_is_removed_and_strangers_are_refused(stars, tmp_path):
    with begun(stars, tmp_path / "out", "run-1") as staged:
        parts = write_all(staged)
        (staged.writer.stage.directory / ".partial-part-1").write_bytes(b"half")
        stranger = staged.writer.stage.directory / "part-x.parquet"
        stranger.write_bytes(b"")
        refused(staged, parts, "part-x.parquet: is not a part of this run")
        stranger.unlink()
        staged.publish(parts)
    assert names(tmp_path / "out") == [part.name for part in parts]


# --- refused before anything is read


def test_what_gmm_dask_did_not_make_is_not_replaced(stars, tmp_path):
    out = tmp_path / "out"
    for make, kind in ((out.mkdir, "directory"), (out.touch, "file")):
        make()
        with pytest.raises(StorageError, match=f"/out: is a {kind} that gmm-dask did not write"):
            begun(stars, out, "run-1")
        out.rmdir() if out.is_dir() else out.unlink()
    out.symlink_to("stars")
    with pytest.raises(StorageError, match="/out: is a link to stars, which gmm-dask did not"):
        read_predictions(out)
    assert names(tmp_path) == ["out", "stars"]


@pytest.mark.parametrize("run_id", ["", "..", "a/b", ".x", "x" * 101])
def test_a_run_id_that_is_no_name_is_refused(stars, tmp_path, run_id):
    with pytest.raises(StorageError, match="use up to 100 letters, digits"):
        begun(stars, tmp_path / "out", run_id)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["ID"], "'ID' is not a column that all input files have .* there are b, day, "),
        (["row"], "'row' is the name of a column of the predictions"),
        (["probability_1"], "'probability_1' is the name of a column"),
        (["id", "id"], "names 'id' twice"),
    ],
)
def test_key_columns_that_cannot_be_had_are_refused(stars, tmp_path, keys, message):
    with pytest.raises(ConfigError, match=message):
        begun(stars, tmp_path / "out", "run-1", key_columns=keys)
    assert names(tmp_path) == ["stars"]


def test_a_relative_output_stays_where_it_was_meant(stars, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    staged = begun("stars", "out", "run-1")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with staged:
        staged.publish(write_all(staged))
    check(pd.read_parquet(tmp_path / "out"), stars)
