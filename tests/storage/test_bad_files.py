"""Files that cannot be used, and files not at rest: refused all at once, or left out."""

import errno
import json
import os
import pickle
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask.config import InputSection, check_config
from gmm_dask.errors import BadFileError, ConfigError, InputError, SchemaError, TooFewRowsError
from gmm_dask.storage.input import input_file
from gmm_dask.storage.input.bad_files import BadFile, describe
from gmm_dask.storage.input.plan import InputPlan, plan_input
from gmm_dask.storage.input.reader import parquet_chunks, read_parquet


def write(path, columns=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns or {"a": [1.0, 2.0], "b": [0.5, 0.5]}), path)
    return path


def plan(path, known=(), keys=(), **section):
    tables = {"path": str(path), "columns": ["a"]} | section
    return plan_input(InputSection(**tables), None, known, keys)


def skip(path, limit=9, **section):
    return plan(path, bad_files="skip", max_bad_files=limit, **section)


@pytest.fixture
def folder(tmp_path):
    """Twelve files, of which seven are bad, each for its own reason, and five are not."""
    for number in range(5):
        write(tmp_path / f"good-{number}.parquet")
    (tmp_path / "empty.parquet").touch()
    whole = (tmp_path / "good-0.parquet").read_bytes()
    (tmp_path / "half.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "footer.parquet").write_bytes(whole[:-8] + (10**6).to_bytes(4, "little") + b"PAR1")
    (tmp_path / "gone.parquet").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.parquet")
    write(tmp_path / "text.parquet", {"a": ["x"], "b": [1.0]})
    write(tmp_path / "without.parquet", {"b": [1.0]})
    return tmp_path


def test_all_bad_files_are_in_one_message(folder):
    with pytest.raises(InputError) as caught:
        plan(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}: 7 of 12 files cannot be used: (1) empty.parquet is not a")
    assert "(4) half.parquet is not a Parquet file, or only the beginning of one" in message
    assert "(5) pipe.parquet is not a regular file" in message
    assert "without.parquet" not in message
    assert " and 2 more; repair or remove them, or let a run go on without them: " in message
    assert message.endswith('[input] bad_files = "skip", max_bad_files = 7')
    assert "\n" not in message


def test_files_without_a_column_are_a_matter_of_the_schema(folder):
    for bad in ("empty", "half", "footer", "gone", "pipe"):
        (folder / f"{bad}.parquet").unlink()
    with pytest.raises(SchemaError) as caught:
        plan(folder)
    assert "2 of 7 files cannot be used: (1) text.parquet column 'a' is of type" in str(
        caught.value
    )
    (folder / "text.parquet").unlink()
    with pytest.raises(SchemaError, match=r"^without\.parquet: has no column 'a'; there are b$"):
        plan(folder)
    # A name that no file has is a slip of the pen, whatever else is wrong.
    (folder / "half.parquet").write_bytes(b"half")
    with pytest.raises(SchemaError, match=r"^good-0\.parquet: has no column 'c'"):
        skip(folder, columns=["c"])


def test_skipped_files_are_described_and_the_rows_are_those_of_the_others(folder, tmp_path_factory):
    found = skip(folder)
    assert [file.path for file in found.files] == [f"good-{i}.parquet" for i in range(5)]
    assert [file.path for file in found.skipped] == sorted(
        f"{bad}.parquet" for bad in ("empty", "half", "footer", "gone", "pipe", "text", "without")
    )
    assert describe(found.skipped).startswith("7 files were skipped: empty.parquet is not a Par")
    assert describe(found.skipped).endswith(" and 2 more")
    for again in (
        InputPlan.from_json(json.loads(json.dumps(found.to_json()))),
        pickle.loads(pickle.dumps(found)),
    ):
        assert again == found
        assert again.skipped[0].reason == found.skipped[0].reason
    # The digest is of the rows: what was skipped, and why, makes no other fit of them.
    good = tmp_path_factory.mktemp("good")
    for number in range(5):
        write(good / f"good-{number}.parquet")
    assert plan(good).digest == found.digest
    # A filter on a column that a file lacks makes it a bad one.
    write(folder / "only_a.parquet", {"a": [1.0]})
    assert "only_a.parquet" in {file.path for file in skip(folder, filter="b > 0").skipped}
    assert "only_a.parquet" not in {file.path for file in skip(folder).skipped}


def test_a_file_without_a_key_column_cannot_be_predicted(tmp_path):
    write(tmp_path / "1.parquet", {"a": [1.0], "id": [1]})
    write(tmp_path / "2.parquet")
    assert len(plan(tmp_path).files) == 2  # but fitted
    with pytest.raises(SchemaError, match=r"^2\.parquet: has no key column 'id'; there are a, b$"):
        plan(tmp_path, keys=["id"])
    found = plan(tmp_path, keys=["id"], bad_files="skip")
    assert [file.path for file in found.skipped] == ["2.parquet"]
    assert found.types["id"] == "int64"
    assert len(plan(tmp_path, keys=["nowhere"]).files) == 2  # that is for the prediction to refuse


def test_the_limit_is_a_number_of_files_and_one_is_left(folder):
    with pytest.raises(InputError, match=r"7 of 12 .*max_bad_files = 6 allows no more; repair or"):
        skip(folder, limit=6)
    assert len(skip(folder, limit=7).skipped) == 7
    for number in range(5):
        (folder / f"good-{number}.parquet").unlink()
    (folder / "text.parquet").unlink()
    (folder / "without.parquet").unlink()
    with pytest.raises(InputError, match=r"5 of 5 files cannot be used: .*there is none left"):
        skip(folder, limit=100)


def test_a_file_that_a_scan_found_bad_is_left_out_and_counts(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.parquet")
    known = [BadFile("1.parquet", "row group 0 cannot be decoded (x); restore it")]
    found = plan(tmp_path, known, bad_files="skip")
    assert [file.path for file in found.files] == ["0.parquet", "2.parquet"]
    assert found.skipped == tuple(known)
    (tmp_path / "2.parquet").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"2 of 3 files .*\(1\) 1\.parquet row group 0 cannot be d"
    ):
        plan(tmp_path, known, bad_files="skip")


def test_a_disk_that_does_not_answer_says_nothing_of_a_file(folder, monkeypatch):
    def open_file(root, path):
        if path == "good-3.parquet":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(root, path)

    opened = input_file.open_file
    monkeypatch.setattr(input_file, "open_file", open_file)
    with pytest.raises(
        InputError, match=r"^good-3\.parquet: cannot be read \(input/output"
    ) as error:
        skip(folder)
    assert error.value.__cause__.errno == errno.EIO  # by which the step is tried again


def test_a_bad_file_error_says_the_same_in_another_process():
    error = pickle.loads(pickle.dumps(BadFileError("x.parquet", "is not one; finish it")))
    assert (error.path, error.reason) == ("x.parquet", "is not one; finish it")
    assert str(error) == "x.parquet: is not one; finish it"


# Files at rest


def aged(path, seconds):
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_files_that_were_written_a_moment_ago_are_left_out(tmp_path):
    aged(write(tmp_path / "old.parquet"), 700)
    aged(write(tmp_path / "new.parquet"), 500)
    aged(write(tmp_path / "ahead.parquet"), -3600)  # by a clock that is ahead
    (tmp_path / "half.parquet").write_bytes(b"PAR1 half of a file")
    found = plan(tmp_path, settled_for="10min")
    assert [file.path for file in found.files] == ["old.parquet"]
    assert found.unsettled == ("ahead.parquet", "half.parquet", "new.parquet")
    assert [file.path for file in plan(tmp_path, settled_for="400s", filter="b > 0").files] == [
        "new.parquet", "old.parquet"
    ]  # fmt: skip
    assert found.digest == plan(tmp_path / "old.parquet").digest
    with pytest.raises(TooFewRowsError, match=r"no file is at rest: all 4 were .* = 2h ago"):
        plan(tmp_path, settled_for="2h")


def test_a_file_that_goes_away_while_it_is_looked_at_is_said_to_be_gone(tmp_path):
    aged(write(tmp_path / "old.parquet"), 700)
    (tmp_path / "gone.parquet").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"^gone\.parquet: cannot be read \(no such file"):
        plan(tmp_path, settled_for="10min")


@pytest.mark.parametrize("written", ["10 min", "10m", "1d", "-1s", "", "1.5h", "10", "١s"])
def test_other_durations_are_refused_with_the_forms(written):
    tables = {"path": "x", "columns": ["a"], "settled_for": written}
    with pytest.raises(ConfigError) as caught:
        check_config(InputSection, tables, "run.toml")
    assert "settled_for" in str(caught.value)
    assert 'a whole number and its unit: "90s", "10min", "2h"' in str(caught.value)


def test_an_array_of_parquet_names_all_bad_files_too(folder):
    with pytest.raises(InputError, match="7 of 12 files cannot be used"):
        read_parquet(folder, ["a"])


def test_fewer_rows_than_promised_and_corrupt_pages_name_their_file(tmp_path):
    path = tmp_path / "x.parquet"
    values = np.random.default_rng(0).normal(size=2000)
    pq.write_table(pa.table({"a": values}), path, use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadFileError) as caught:
        list(parquet_chunks(plan(tmp_path)).read(0, 1))
    assert caught.value.path == "x.parquet"
    assert BadFile.of(caught.value).problem.startswith("row group 0 cannot be decoded (")


def test_files_that_are_left_out_are_not_outside_of_the_filter(tmp_path):
    """Nobody knows what they hold, so their predictions are not kept as those outside are."""
    for day in (1, 2, 3):
        write(tmp_path / f"day={day}" / "x.parquet")
        aged(tmp_path / f"day={day}" / "x.parquet", 3_600)
    (tmp_path / "day=2" / "half.parquet").write_bytes(b"PAR1")
    aged(tmp_path / "day=2" / "half.parquet", 3_600)
    write(tmp_path / "day=3" / "young.parquet")
    left = skip(tmp_path, settled_for="10min", filter="day >= 2")
    assert [file.path for file in left.skipped] == ["day=2/half.parquet"]
    assert left.unsettled == ("day=3/young.parquet",)
    assert left.outside == ("day=1/x.parquet",)
