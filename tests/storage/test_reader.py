"""Rows as they are decoded: values, chunks, integrity, memory, and the lazy array."""

import os
import pickle
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gmm_dask.chunked.rows import RowChunks
from gmm_dask.config import InputSection
from gmm_dask.errors import (
    BadFileError,
    ConfigError,
    InputChangedError,
    InputError,
    NonFiniteError,
    SchemaError,
)
from gmm_dask.storage.input import reader
from gmm_dask.storage.input.layout import chunk_rows, lay_out
from gmm_dask.storage.input.plan import plan_input
from gmm_dask.storage.input.reader import (
    CountedChunks,
    ParquetChunks,
    parquet_chunks,
    read_parquet,
    source_of,
)
from tests.waiting import until


def write(path, columns, **options):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def plan(path, columns=("a",), **section):
    return plan_input(InputSection(path=str(path), columns=list(columns), **section))


def cut(path, most, columns=("a",), **options):
    return ParquetChunks(plan(path, columns), most, **options)


def read_all(chunks):
    return list(chunks.read(0, len(chunks.rows)))


def values_of(chunks):
    return np.concatenate([rows.values for rows in read_all(chunks)])


# Types

NAN = np.nan
TYPES = {
    "float64": (pa.array([1.1, None, -2.5]), None, [1.1, NAN, -2.5]),
    "float32": (pa.array([0.1, None, 3e38], pa.float32()), None,
                [np.float32(0.1), NAN, np.float32(3e38)]),
    "float16": (pa.array(np.array([0.1, 65504, NAN], np.float16)), None,
                [np.float16(0.1), 65504, NAN]),
    "float nan and inf": (pa.array([NAN, np.inf, -np.inf]), None, [NAN, np.inf, -np.inf]),
    "int8": (pa.array([-128, None, 127], pa.int8()), None, [-128, NAN, 127]),
    "int16": (pa.array([-(2**15), 0, None], pa.int16()), None, [-(2**15), 0, NAN]),
    "int32": (pa.array([-(2**31), None, 2**31 - 1], pa.int32()), None,
              [-(2.0**31), NAN, 2.0**31 - 1]),
    "uint8": (pa.array([0, None, 255], pa.uint8()), None, [0, NAN, 255]),
    "uint16": (pa.array([0, 65535, None], pa.uint16()), None, [0, 65535, NAN]),
    "uint32": (pa.array([None, 0, 2**32 - 1], pa.uint32()), None, [NAN, 0, 2.0**32 - 1]),
    "int64": (pa.array([2**53, -(2**53), None], pa.int64()), None, [2.0**53, -(2.0**53), NAN]),
    "uint64": (pa.array([0, 2**53, None], pa.uint64()), None, [0, 2.0**53, NAN]),
    "boolean": (pa.array([True, None, False]), None, [1, NAN, 0]),
    "categories": (pa.array([7, None, 7]).dictionary_encode(), None, [7, NAN, 7]),
    "decimal": (pa.array([Decimal("1.10"), None, Decimal("-99.75")]), "float",
                [1.1, NAN, -99.75]),
    "decimal256": (pa.array([Decimal("0.5"), None], pa.decimal256(60, 1)), "float", [0.5, NAN]),
    "date": (pa.array([date(1970, 1, 2), None, date(1969, 12, 31)]), "seconds",
             [86400, NAN, -86400]),
    "date64": (pa.array([date(1970, 1, 2), None], pa.date64()), "seconds", [86400, NAN]),
    "time": (pa.array([time(1, 0, 0, 500_000), None]), "seconds", [3600.5, NAN]),
    "time32": (pa.array([1500, None], pa.time32("ms")), "seconds", [1.5, NAN]),
    "timestamp s": (pa.array([1_700_000_000, None], pa.timestamp("s")), "seconds",
                    [1.7e9, NAN]),
    "timestamp ns": (pa.array([1_700_000_000_123_456_789, -1], pa.timestamp("ns")), "seconds",
                     [1700000000.1234567, -1e-9]),
    "timestamp zone": (pa.array([datetime(2020, 1, 1, tzinfo=UTC)],
                                pa.timestamp("us", "Asia/Tokyo")), "seconds", [1577836800]),
    "duration": (pa.array([timedelta(milliseconds=1500), None]), "seconds", [1.5, NAN]),
}  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
def test_numbers_of_every_type(tmp_path, kind):
    array, conversion, expected = TYPES[kind]
    write(tmp_path / "x.parquet", {"a": array})
    chunks = parquet_chunks(plan(tmp_path, convert={"a": conversion} if conversion else {}))
    (rows,) = read_all(chunks)
    narrow = kind in ("float32", "float16")
    assert rows.values.dtype == chunks.dtype == (np.float32 if narrow else np.float64)
    np.testing.assert_array_equal(rows.values[:, 0], np.array(expected, chunks.dtype))


@pytest.mark.parametrize("kind", TYPES)
def test_nulls_and_values_stay_in_their_places_when_cut_anywhere(tmp_path, kind):
    array, conversion, expected = TYPES[kind]
    times = 23
    table = pa.table({"a": pa.concat_arrays([array] * times)})
    write(tmp_path / "x.parquet", table, row_group_size=40)
    found = plan(tmp_path, convert={"a": conversion} if conversion else {})
    values = values_of(ParquetChunks(found, 7))
    np.testing.assert_array_equal(values[:, 0], np.array(expected * times, values.dtype))


@pytest.mark.parametrize("stored_schema", [True, False])
def test_int96_holds_dates_beyond_those_of_nanoseconds(tmp_path, stored_schema):
    """As Spark and Hive write them; 9999-12-31 is what many tables say for "until today"."""
    dates = [datetime(9999, 12, 31), datetime(1600, 1, 1), datetime(2020, 1, 1, 1, 2, 3, 456_789)]
    table = {"a": pa.array([*dates, None], pa.timestamp("us")), "b": [0.0, 1.0, 2.0, 3.0]}
    write(
        tmp_path / "x.parquet",
        table,
        use_deprecated_int96_timestamps=True,
        store_schema=stored_schema,
    )
    found = plan(tmp_path, convert={"a": "seconds"})
    seconds = [date.replace(tzinfo=UTC).timestamp() for date in dates]
    np.testing.assert_array_equal(values_of(parquet_chunks(found))[:, 0], [*seconds, NAN])
    # A key column is copied by the same way.
    keyed = parquet_chunks(plan(tmp_path, ["b"]), split_files=True, key_columns=["a"])
    (rows,) = read_all(keyed)
    assert rows.keys["a"].to_pylist() == [*dates, None]
    assert str(rows.keys["a"].type) == keyed.plan.types["a"] == "timestamp[us]"


def test_float_widths_widen_over_files_and_columns(tmp_path):
    write(tmp_path / "1.parquet", {"a": pa.array([0.1], pa.float32()), "b": pa.array([0.1])})
    write(tmp_path / "2.parquet", {"a": pa.array([0.1]), "b": pa.array([0.1])})
    values = values_of(parquet_chunks(plan(tmp_path)))
    assert values.dtype == np.float64
    assert values[:, 0].tolist() == [float(np.float32(0.1)), 0.1]
    assert parquet_chunks(plan(tmp_path / "1.parquet")).dtype == np.float32
    assert parquet_chunks(plan(tmp_path / "1.parquet", ["a", "b"])).dtype == np.float64


@pytest.mark.parametrize(
    ("kind", "value"),
    [(pa.int64(), 2**53 + 1), (pa.int64(), -(2**53) - 1), (pa.uint64(), 2**64 - 1)],
)
def test_integers_that_float64_cannot_hold(tmp_path, kind, value):
    write(tmp_path / "1.parquet", {"a": pa.array([1, 2], kind)})
    write(tmp_path / "2.parquet", {"a": pa.array([1, None, 5, value, value], kind)},
          row_group_size=2)  # fmt: skip
    with pytest.raises(SchemaError) as caught:
        read_all(cut(tmp_path, 3))
    assert str(caught.value) == (
        f"2.parquet: column 'a' row 3 is {value}, beyond 2^53, which float64 cannot hold exactly; "
        "write the column as float64 to round it"
    )


def test_what_lies_under_a_null_is_not_looked_at(tmp_path):
    garbage = np.array([1, 2**60, 3])
    valid = pa.array([True, False, True]).buffers()[1]
    array = pa.Array.from_buffers(pa.int64(), 3, [valid, pa.py_buffer(garbage)])
    from gmm_dask.storage.input.columns import write_values

    out = np.empty(3)
    assert write_values(array, out) is None
    np.testing.assert_array_equal(out, [1, NAN, 3])


def test_weights_partitions_and_keys_come_with_the_rows(tmp_path):
    for day, rows in ((1, 3), (2, 2)):
        write(
            tmp_path / f"day={day}" / "kind=x" / "f.parquet",
            {
                "a": np.arange(rows) + 10.0 * day,
                "w": pa.array([day] * rows, pa.int32()),
                "id": [f"{day}-{i}" for i in range(rows)],
                "tags": [[day, i] for i in range(rows)],
            },
        )
    write(tmp_path / "day=__HIVE_DEFAULT_PARTITION__" / "kind=x" / "f.parquet",
          {"a": [0.0], "w": pa.array([None], pa.int32()), "id": ["?"], "tags": [[0]]})  # fmt: skip
    found = plan(tmp_path, ["day", "a"], sample_weight="w")
    keys = ("id", "day", "kind", "tags")
    chunks = ParquetChunks(found, 4, key_columns=keys)
    assert chunks.weighted
    first, second = read_all(chunks)
    np.testing.assert_array_equal(first.values, [[1, 10], [1, 11], [1, 12]])
    np.testing.assert_array_equal(first.sample_weight, [1, 1, 1])
    np.testing.assert_array_equal(second.values, [[2, 20], [2, 21], [NAN, 0]])
    np.testing.assert_array_equal(second.sample_weight, [2, 2, NAN])
    assert second.keys.column_names == list(keys)
    assert second.keys.to_pylist() == [
        {"id": "2-0", "day": 2, "kind": "x", "tags": [2, 0]},
        {"id": "2-1", "day": 2, "kind": "x", "tags": [2, 1]},
        {"id": "?", "day": None, "kind": "x", "tags": [0]},
    ]
    assert second.keys.schema.field("day").type == pa.int64()
    assert parquet_chunks(found).read(0, 1).__next__().keys is None


def test_partition_keys_alone_can_be_features(tmp_path):
    write(tmp_path / "k=3" / "x.parquet", {"a": [1.0, 2.0]})
    assert values_of(parquet_chunks(plan(tmp_path, ["k"]))).tolist() == [[3.0], [3.0]]


def test_a_column_is_read_once_for_all_its_uses(tmp_path):
    write(tmp_path / "x.parquet", {"a": [1.0, 2.0]})
    chunks = parquet_chunks(plan(tmp_path, sample_weight="a"), key_columns=["a"])
    (rows,) = read_all(chunks)
    assert rows.values[:, 0].tolist() == rows.sample_weight.tolist() == [1.0, 2.0]
    assert rows.keys.to_pydict() == {"a": [1.0, 2.0]}


def test_names_with_dots(tmp_path):
    write(tmp_path / "x.parquet", {"a.b": [1.0], "a": [2.0], "s": [{"b": 3.0}]})
    assert values_of(parquet_chunks(plan(tmp_path, ["a", "a.b"]))).tolist() == [[2.0, 1.0]]


@pytest.mark.parametrize("writer", ["pandas", "polars", "pyarrow"])
def test_files_of_every_writer_read_the_same(tmp_path, writer):
    columns = {"x": [1.5, None, -2.0], "n": [3, 1, 2], "flag": [True, False, True]}
    path = tmp_path / "x.parquet"
    if writer == "pandas":
        frame = pd.DataFrame(columns, index=[10, 20, 30])
        frame["c"] = pd.Categorical([5, 6, 5])
        frame.to_parquet(path)
    elif writer == "polars":
        pl.DataFrame(columns).with_columns(c=pl.Series([5, 6, 5])).write_parquet(path)
    else:
        write(path, {**columns, "c": pa.array([5, 6, 5]).dictionary_encode()})
    np.testing.assert_array_equal(
        values_of(parquet_chunks(plan(path, ["n", "x", "flag", "c"]))),
        [[3, 1.5, 1, 5], [1, NAN, 0, 6], [2, -2, 1, 5]],
    )


# Chunks


def test_sizes_come_from_rows_columns_and_bytes_only():
    assert chunk_rows(10**6, 8) == 32_768
    assert chunk_rows(10**8, 8) == 48_829
    assert chunk_rows(10**9, 32) == (31 << 20) // 256
    assert chunk_rows(10**9, 1) == 262_144
    assert chunk_rows(10**9, 32, 64 << 20) == 262_144
    assert chunk_rows(10, 10**8) == 1


def test_large_row_groups_are_sliced_evenly_and_small_ones_joined(tmp_path):
    write(tmp_path / "1.parquet", {"a": np.arange(10.0)})
    write(tmp_path / "2.parquet", {"a": np.arange(10.0, 16.0)}, row_group_size=2)
    write(tmp_path / "3.parquet", {"a": np.arange(16.0, 19.0)})
    chunks = cut(tmp_path, 4)
    assert chunks.rows == (3, 3, 4, 4, 2, 3)
    assert chunks.entries == (0, 3, 4, 5)
    assert [rows.first for rows in read_all(chunks)] == [0, 3, 6, 10, 14, 16]
    assert [rows.chunk for rows in read_all(chunks)] == list(range(6))
    assert values_of(chunks)[:, 0].tolist() == list(range(19))
    joined = cut(tmp_path, 5)
    assert joined.rows == (5, 5, 4, 5)  # 2 + 2, then 2 and the next file's 3
    assert joined.describe(3) == "2.parquet row 4 to 3.parquet row 2"


def test_split_files_keeps_chunks_within_a_file(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.parquet", {"a": np.arange(5.0)}, row_group_size=3)
    chunks = cut(tmp_path, 4, split_files=True)
    assert chunks.rows == (3, 2) * 3
    assert chunks.entries == tuple(range(6))
    assert [(r.file, r.first_in_file) for r in read_all(chunks)] == [
        (0, 0), (0, 3), (1, 0), (1, 3), (2, 0), (2, 3),
    ]  # fmt: skip
    assert cut(tmp_path, 100, split_files=True).rows == (5, 5, 5)
    assert cut(tmp_path, 100, split_files=True).digest != cut(tmp_path, 100).digest
    together = cut(tmp_path, 100)
    assert together.rows == (15,)
    (rows,) = read_all(together)
    assert rows.file is None
    assert rows.first_in_file is None


def test_thousands_of_tiny_row_groups_share_a_chunk(tmp_path):
    write(tmp_path / "x.parquet", {"a": np.arange(3000.0)}, row_group_size=1)
    chunks = parquet_chunks(plan(tmp_path))
    assert chunks.rows == (3000,)
    assert values_of(chunks)[:, 0].tolist() == list(range(3000))


def test_values_are_views_of_feature_major_buffers(tmp_path):
    write(tmp_path / "x.parquet", {"a": np.arange(9.0), "b": np.ones(9)})
    for rows in read_all(cut(tmp_path, 4, ["b", "a"])):
        assert rows.values.shape == (3, 2)
        assert rows.values.T.flags.c_contiguous
        assert rows.used is None
        assert rows.source_rows == 3


def test_reading_may_begin_and_end_anywhere(tmp_path):
    write(tmp_path / "1.parquet", {"a": np.arange(10.0)})
    write(tmp_path / "2.parquet", {"a": np.arange(10.0, 15.0)})
    chunks = cut(tmp_path, 4)
    whole = [rows.values[:, 0].tolist() for rows in read_all(chunks)]
    for start in range(len(whole)):
        for stop in range(start, len(whole) + 1):
            part = list(chunks.read(start, stop))
            assert [rows.values[:, 0].tolist() for rows in part] == whole[start:stop]
            assert [rows.chunk for rows in part] == list(range(start, stop))


def test_describe_names_files_and_rows_within_them(tmp_path):
    write(tmp_path / "k=1" / "1.parquet", {"a": np.arange(4000.0)}, row_group_size=1000)
    write(tmp_path / "k=2" / "2.parquet", {"a": np.arange(10.0)})
    chunks = cut(tmp_path, 1000)
    assert chunks.describe(0) == "k=1/1.parquet rows 0–1,000"
    assert chunks.describe(3) == "k=1/1.parquet rows 3,000–4,000"
    assert chunks.describe(3, 7) == "k=1/1.parquet row 3,007"
    assert chunks.describe(4) == "k=2/2.parquet rows 0–10"
    whole = cut(tmp_path, 10**6)
    assert whole.describe(0) == "k=1/1.parquet row 0 to k=2/2.parquet row 9"
    assert whole.describe(0, 4003) == "k=2/2.parquet row 3"


def test_the_recipe_is_small_and_travels(tmp_path):
    write(tmp_path / "x.parquet", {"a": np.arange(1000.0), "id": np.arange(1000)}, row_group_size=1)
    chunks = ParquetChunks(plan(tmp_path), 10, key_columns=("id",))
    read_all(chunks)
    blob = pickle.dumps(chunks)
    assert len(blob) < 2000
    again = pickle.loads(blob)
    assert isinstance(again, RowChunks)
    assert again.digest == chunks.digest
    assert again.rows == chunks.rows
    np.testing.assert_array_equal(values_of(again), values_of(chunks))


FIELDS = {
    "a": st.one_of(st.none(), st.floats(width=32)),
    "b": st.one_of(st.none(), st.integers(-(2**53), 2**53)),
    "c": st.one_of(st.none(), st.booleans()),
}
SCHEMA = pa.schema([("a", pa.float32()), ("b", pa.int64()), ("c", pa.bool_())])


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    files=st.lists(
        st.tuples(
            st.lists(st.fixed_dictionaries(FIELDS), max_size=30), st.integers(1, 12)
        ),
        min_size=1,
        max_size=6,
    ).filter(lambda files: any(rows for rows, _ in files)),
    most=st.integers(1, 40),
    split=st.booleans(),
    columns=st.permutations(["a", "b", "c"]),
    start=st.integers(0, 100),
)  # fmt: skip
def test_rows_are_those_of_pyarrow_for_any_layout(files, most, split, columns, start):
    with tempfile.TemporaryDirectory() as folder:
        for i, (rows, size) in enumerate(files):
            table = pa.Table.from_pylist(rows, SCHEMA)
            write(f"{folder}/{i}.parquet", table, row_group_size=size, data_page_size=50)
        expected = ds.dataset(folder).to_table(columns=columns)
        if any(expected[name].null_count == len(expected) for name in columns):
            return  # refused as a column without values
        chunks = cut(folder, most, columns, split_files=split, key_columns=("b",))
        parts = read_all(chunks)
        for i, name in enumerate(columns):
            numbers = [NAN if v is None else float(v) for v in expected[name].to_pylist()]
            found = np.concatenate([rows.values[:, i] for rows in parts])
            np.testing.assert_array_equal(found, numbers)
        assert pa.concat_tables(rows.keys for rows in parts)["b"].to_pylist() == (
            expected["b"].to_pylist()
        )
        assert [rows.source_rows for rows in parts] == list(chunks.rows)
        assert max(chunks.rows) <= most
        assert min(chunks.rows) > 0
        begins = np.cumsum([0, *(n for file in chunks.plan.files for n in file.row_groups)])
        firsts = np.cumsum([0, *chunks.rows])
        assert set(chunks.entries) == {
            i for i, first in enumerate(firsts[:-1]) if first in set(begins)
        }
        for i, (rows, name) in enumerate((r, chunks.describe(r.chunk, 0)) for r in parts):
            number = int(name.split(".parquet row ")[1])
            file = int(name.partition(".")[0])
            before = sum(len(files[f][0]) for f in range(file))
            assert before + number == rows.first
            assert not split or rows.file == file
            assert i == rows.chunk
        start = start % len(parts)
        (one,) = chunks.read(start, start + 1)
        np.testing.assert_array_equal(one.values, parts[start].values)


def test_several_threads_read_one_object(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        write(tmp_path / f"{i}.parquet", {"a": rng.normal(size=3000)}, row_group_size=1000)
    chunks = cut(tmp_path, 400)
    expected = values_of(chunks)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: values_of(chunks), range(16)):
            np.testing.assert_array_equal(found, expected)


def open_files(folder):
    links = [fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    return sum(fd.readlink().is_relative_to(folder) for fd in links)


def test_one_file_is_open_at_a_time(tmp_path):
    for i in range(5):
        write(tmp_path / f"{i}.parquet", {"a": [float(i)]})
    reading = cut(tmp_path, 2).read(0, 3)
    assert [open_files(tmp_path) for _ in reading] == [1, 1, 0]


def test_files_are_closed_after_an_error(tmp_path):
    write(tmp_path / "1.parquet", {"a": pa.array([2**60])})
    path = write(tmp_path / "2.parquet", {"a": pa.array([1, 2])})
    chunks = cut(tmp_path, 1)
    with pytest.raises(SchemaError) as in_the_middle:
        read_all(chunks)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(InputChangedError) as at_opening:
        list(chunks.read(1, 2))
    assert in_the_middle.tb is not at_opening.tb  # both still hold their frames
    assert open_files(tmp_path) == 0


# Integrity: what happens to files between the plan and a reading

OLD = {"a": np.arange(100.0)}
PLAIN = {"row_group_size": 50, "compression": "none", "use_dictionary": False,
         "write_page_checksum": True}  # fmt: skip


@pytest.fixture
def changing(tmp_path):
    write(tmp_path / "1.parquet", OLD)
    path = write(tmp_path / "2.parquet", OLD, **PLAIN)
    chunks = cut(tmp_path, 60)
    before = values_of(chunks)

    def outcome():
        for again in (chunks, pickle.loads(pickle.dumps(chunks))):
            np.testing.assert_array_equal(values_of(again), before)

    return path, outcome


def changed(outcome, expected):
    with pytest.raises(InputChangedError) as caught:
        outcome()
    assert str(caught.value) == (
        f"2.parquet: {expected} since the input was planned; start again when nothing writes to it"
    )


def test_a_file_added_is_ignored(changing):
    path, outcome = changing
    write(path.with_name("1a.parquet"), OLD)
    outcome()


def test_a_file_only_touched_goes_on(changing):
    path, outcome = changing
    os.utime(path, (1, 1))
    path.write_bytes(path.read_bytes())
    outcome()


def test_a_file_deleted(changing):
    path, outcome = changing
    path.unlink()
    changed(outcome, "is gone")


def test_a_file_replaced_by_other_values_of_the_same_number(changing):
    path, outcome = changing
    size = path.stat().st_size
    write(path, {"a": np.arange(100.0)[::-1]}, **PLAIN)
    assert path.stat().st_size == size
    changed(outcome, "was replaced (its footer differs)")


def test_a_file_replaced_by_a_smaller_or_larger_one(changing):
    path, outcome = changing
    size = path.stat().st_size
    write(path, {"a": np.arange(10.0)})
    changed(outcome, f"was shortened from {size:,} to {path.stat().st_size:,} bytes")
    write(path, {"a": np.arange(1000.0)})
    changed(outcome, f"has grown from {size:,} to {path.stat().st_size:,} bytes")


def test_a_file_appended_to(changing):
    path, outcome = changing
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"more")
    changed(outcome, f"has grown from {size:,} to {size + 4:,} bytes")


def test_a_file_truncated_or_half_written(changing):
    path, outcome = changing
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    changed(outcome, f"was shortened from {size:,} to {size // 2:,} bytes")
    path.write_bytes(bytes(size))
    changed(outcome, "was overwritten")


def test_a_page_overwritten_in_place_is_caught_by_its_checksum(changing):
    path, outcome = changing
    content = bytearray(path.read_bytes())
    at = content.index(np.float64(75).tobytes())
    content[at : at + 8] = np.float64(-75).tobytes()
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^2\.parquet: row group 1 cannot be decoded \(.*CRC"):
        outcome()


def test_a_file_shortened_while_it_is_read(tmp_path):
    rng = np.random.default_rng(0)
    path = write(tmp_path / "x.parquet", {"a": rng.normal(size=400_000)}, compression="none",
                 use_dictionary=False)  # fmt: skip
    size = path.stat().st_size
    reading = cut(tmp_path, 1000).read(0, 400)
    next(reading)
    os.truncate(path, size // 4)
    with pytest.raises(InputChangedError, match=r"^x\.parquet: was shortened from"):
        list(reading)


@pytest.mark.parametrize(("rows", "promised"), [(100, 99), (100, 101), (2**16 + 1, 2**16)])
def test_more_or_fewer_rows_than_the_footer_promises(tmp_path, rows, promised):
    write(tmp_path / "x.parquet", {"a": np.arange(float(rows))})
    whole = plan(tmp_path)
    file = replace(whole.files[0], row_groups=(promised,))
    chunks = ParquetChunks(replace(whole, files=(file,)), 10**6)
    with pytest.raises(BadFileError) as caught:
        next(chunks.read(0, 1))
    assert str(caught.value) == (
        f"x.parquet: row group 0 delivers {rows:,} rows where the footer has {promised:,}; it was "
        "overwritten or damaged, restore the file"
    )


def test_a_file_that_is_rewritten_and_then_ends_too_early_has_changed(tmp_path):
    path = write(tmp_path / "x.parquet", {"a": np.arange(100.0)})
    whole = plan(tmp_path)
    file = replace(whole.files[0], row_groups=(101,))
    reading = ParquetChunks(replace(whole, files=(file,)), 60).read(0, 2)
    next(reading)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(InputChangedError, match=r"^x\.parquet: has grown from"):
        next(reading)


def test_no_more_of_a_row_group_is_decoded_than_asked_for(tmp_path):
    path = write(tmp_path / "x.parquet", {"a": np.random.default_rng(0).normal(size=10**6)},
                 use_dictionary=False, write_page_checksum=True)  # fmt: skip
    chunks = cut(tmp_path, 1000)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert sum(rows.source_rows for rows in chunks.read(0, 100)) == 100_000
    with pytest.raises(InputError, match="row group 0 cannot be decoded"):
        list(chunks.read(0, 1000))


def test_a_damaged_page_names_file_and_row_group(tmp_path):
    rng = np.random.default_rng(0)
    path = write(tmp_path / "x.parquet", {"a": rng.normal(size=2000)}, row_group_size=1000,
                 compression="zstd", use_dictionary=False)  # fmt: skip
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start + 100 : start + 3000] = bytes(2900)
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_all(parquet_chunks(plan(tmp_path)))
    message = str(caught.value)
    assert message.startswith("x.parquet: row group 1 cannot be decoded (")
    assert message.endswith("); restore or rewrite the file")
    assert "\n" not in message


def test_any_damage_gives_rows_or_an_input_error(tmp_path):
    table = {"a": np.arange(50.0), "b": pa.array([None, 1] * 25, pa.int64())}
    path = write(tmp_path / "x.parquet", table, row_group_size=20, data_page_size=64,
                 compression="snappy")  # fmt: skip
    whole = path.read_bytes()
    refusals = 0
    rng = np.random.default_rng(1)
    for _ in range(400):
        at, bit = rng.integers(len(whole)), 1 << rng.integers(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        try:
            chunks = cut(tmp_path, 15, ["a", "b"])
            assert sum(rows.source_rows for rows in read_all(chunks)) == chunks.plan.rows
        except InputError:
            refusals += 1
    assert refusals > 100


def test_check_looks_at_the_first_and_the_last_file(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.parquet", {"a": [1.0]})
    chunks = cut(tmp_path, 10)
    chunks.check()
    (tmp_path / "1.parquet").unlink()
    chunks.check()
    (tmp_path / "2.parquet").unlink()
    with pytest.raises(InputChangedError, match=r"^2\.parquet: is gone since"):
        chunks.check()


# Memory

PEAK = """
import sys
import numpy as np
from gmm_dask.config import InputSection
from gmm_dask.storage.input.plan import plan_input
from gmm_dask.storage.input.reader import ParquetChunks
def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
def scan(path):
    plan = plan_input(InputSection(path=path, columns=["a", "b"]))
    chunks = ParquetChunks(plan, 500_000)
    return sum(rows.values.shape[0] for rows in chunks.read(0, len(chunks.rows)))
scan(sys.argv[1])
before = peak()
rows = scan(sys.argv[2])
print(rows, peak() - before)
"""


def test_a_huge_row_group_is_read_in_slices(tmp_path):
    # 10M rows, 160 MB decoded, a few kB in the file.
    columns = {"a": np.zeros(10_000_000), "b": np.ones(10_000_000)}
    for name, rows in (("small", 600_000), ("large", 10_000_000)):
        table = pa.table({key: values[:rows] for key, values in columns.items()})
        write(tmp_path / f"{name}.parquet", table, row_group_size=rows)
    assert pq.read_metadata(tmp_path / "large.parquet").num_row_groups == 1
    paths = [str(tmp_path / f"{name}.parquet") for name in ("small", "large")]
    done = subprocess.run([sys.executable, "-c", PEAK, *paths], capture_output=True, check=True)
    rows, growth = map(int, done.stdout.split())
    assert rows == 10_000_000
    assert growth < 40e6


# The lazy array


def test_read_parquet_is_lazy_with_known_chunks(tmp_path):
    write(tmp_path / "1.parquet", {"a": np.arange(5.0), "b": -np.arange(5.0)})
    write(tmp_path / "2.parquet", {"a": np.arange(3.0), "b": np.zeros(3)})
    X = read_parquet(tmp_path, ["b", "a"])
    assert isinstance(X, da.Array)
    assert X.shape == (8, 2)
    assert X.dtype == np.float64
    expected = [[0, 0], [-1, 1], [-2, 2], [-3, 3], [-4, 4], [0, 0], [0, 1], [0, 2]]
    for scheduler in ("sync", "threads"):
        assert X.compute(scheduler=scheduler).tolist() == expected
    assert (X[2:6] * 2).compute().tolist() == (2 * np.array(expected)[2:6]).tolist()
    assert float(X.sum().compute()) == np.sum(expected)


def test_the_array_leads_back_to_its_source(tmp_path):
    write(tmp_path / "1.parquet", {"a": np.arange(5.0), "b": -np.arange(5.0)})
    X = read_parquet(tmp_path, ["b", "a"])
    source = source_of(X)
    assert isinstance(source, ParquetChunks)
    assert source.columns == ("b", "a")
    np.testing.assert_array_equal(values_of(source), X.compute())
    assert source_of(pickle.loads(pickle.dumps(X))).digest == source.digest
    for other in (X[:3], X + 1, X.rechunk((2, 2)), da.zeros((3, 2)), X.persist()):
        assert source_of(other) is None


def test_equal_input_has_equal_names_and_other_input_others(tmp_path):
    for place in ("one", "two"):
        write(tmp_path / place / "x.parquet", {"a": np.arange(5.0), "b": np.arange(5.0)})
        rested(tmp_path / place)
    names = [
        read_parquet(tmp_path / place, columns, nulls).name
        for place in ("one", "two")
        for columns in (["a"], ["b"])
        for nulls in ("error", "drop")
    ]
    assert len(set(names)) == 8
    assert read_parquet(tmp_path / "one", ["a"]).name == names[0]
    write(tmp_path / "one" / "x.parquet", {"a": np.arange(5.0)[::-1], "b": np.arange(5.0)})
    rested(tmp_path / "one")
    assert read_parquet(tmp_path / "one", ["a"]).name != names[0]


def rested(directory):
    """Wait until the clock has moved on since the files were written."""

    def hints():
        return [file.hint for file in source_of(read_parquet(directory, ["a"])).plan.files]

    until(lambda: all(hints()), "a file has no hint")


def test_blocks_are_runs_that_decode_nothing_twice(tmp_path, monkeypatch):
    write(tmp_path / "1.parquet", {"a": np.arange(100_000.0)})
    write(tmp_path / "2.parquet", {"a": np.arange(20_000.0)})
    X = read_parquet(tmp_path, ["a"])
    assert source_of(X).rows == (50_000, 50_000, 20_000)
    assert X.chunks == ((100_000, 20_000), (1,))
    monkeypatch.setattr(reader, "BLOCK_BYTES", 8 * 60_000)
    Y = read_parquet(tmp_path, ["a"])
    assert Y.chunks == ((50_000, 50_000, 20_000), (1,))
    np.testing.assert_array_equal(Y.compute(), X.compute())


def test_a_null_in_a_block_is_refused_with_its_place(tmp_path):
    write(tmp_path / "1.parquet", {"a": [1.0, 2.0], "b": [1.0, 2.0]})
    write(tmp_path / "2.parquet", {"a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, None, 3.0, NAN]})
    X = read_parquet(tmp_path, ["a", "b"])
    with pytest.raises(NonFiniteError) as caught:
        X.compute()
    assert str(caught.value) == (
        "Input X contains NaN: column 'b' holds 2 nulls or NaN, the first at 2.parquet row 1; "
        "leave such rows out (with nulls = 'drop' in a run file or in read_parquet), fill them in, "
        "or use what the rows have (with nulls = 'marginalize')"
    )


@pytest.mark.parametrize("nulls", ["error", "drop"])
@pytest.mark.parametrize("other", [1.0, -np.inf, NAN])
def test_infinities_are_refused_always(tmp_path, nulls, other):
    write(tmp_path / "1.parquet", {"a": [1.0, NAN, 3.0], "b": [other, 1.0, np.inf]})
    with pytest.raises(NonFiniteError) as caught:
        read_parquet(tmp_path, ["a", "b"], nulls).compute()
    infinite = 2 if other == -np.inf else 1
    first = 0 if other == -np.inf else 2
    assert str(caught.value) == (
        f"Input X contains infinity: column 'b' holds {infinite} infinite "
        f"{'values' if infinite == 2 else 'value'}, the first at 1.parquet row {first}; remove or "
        f"replace {'them' if infinite == 2 else 'it'}"
    )


def test_an_infinity_beside_a_null_is_refused_too(tmp_path):
    write(tmp_path / "1.parquet", {"a": [NAN, 1.0], "b": [np.inf, 1.0]})
    with pytest.raises(NonFiniteError, match="column 'b' holds 1 infinite value"):
        read_parquet(tmp_path, ["a", "b"], nulls="drop")


def test_sums_that_overflow_are_no_infinities(tmp_path):
    write(tmp_path / "1.parquet", {"a": [1e308, 1e308, None]})
    assert read_parquet(tmp_path, ["a"], "drop").compute().tolist() == [[1e308], [1e308]]


def test_dropping_rows_counts_them_once(tmp_path):
    rng = np.random.default_rng(0)
    expected = []
    for i in range(3):
        a, b = rng.normal(size=(2, 70_000))
        a[rng.random(70_000) < 0.1] = NAN
        masked = pa.array(b, mask=rng.random(70_000) < 0.2)
        write(tmp_path / f"{i}.parquet", {"a": a, "b": masked}, row_group_size=50_000)
        both = np.column_stack([a, masked.to_numpy(zero_copy_only=False)])
        expected.append(both[~np.isnan(both).any(axis=1)])
    expected = np.concatenate(expected)
    X = read_parquet(tmp_path, ["a", "b"], nulls="drop")
    assert X.shape == expected.shape
    np.testing.assert_array_equal(X.compute(), expected)
    source = source_of(X)
    assert isinstance(source, CountedChunks)
    assert isinstance(source, RowChunks)
    assert source.columns == ("a", "b")
    assert source.dtype == np.float64
    assert not source.weighted
    assert source.entries == source.source.entries
    assert source.digest != source.source.digest
    assert source.describe(0) == source.source.describe(0)
    parts = read_all(source)
    np.testing.assert_array_equal(np.concatenate([rows.values for rows in parts]), expected)
    assert [rows.first for rows in parts] == [0, *np.cumsum(source.rows)[:-1]]
    assert [rows.source_rows for rows in parts] == list(source.rows)
    assert all(rows.used is None for rows in parts)


def test_another_number_of_complete_rows_than_counted(tmp_path):
    path = write(tmp_path / "x.parquet", {"a": [1.0, 2.0, NAN]}, use_dictionary=False,
                 compression="none", write_statistics=False)  # fmt: skip
    X = read_parquet(tmp_path, ["a"], nulls="drop")
    content = path.read_bytes()
    path.write_bytes(content.replace(np.float64(2).tobytes(), np.float64(NAN).tobytes()))
    expected = r"^x\.parquet rows 0–3: 1 rows are complete where 2 were counted"
    with pytest.raises(InputChangedError, match=expected):
        X.compute()
    with pytest.raises(InputChangedError, match=expected):
        read_all(source_of(X))


def test_conversions_and_narrow_floats(tmp_path):
    write(tmp_path / "x.parquet", {"d": [Decimal("1.5")], "f": pa.array([2.5], pa.float32())})
    assert read_parquet(tmp_path, ["d"], convert={"d": "float"}).compute().tolist() == [[1.5]]
    narrow = read_parquet(tmp_path, ["f"])
    assert narrow.dtype == narrow.compute().dtype == np.float32


def test_bad_arguments(tmp_path):
    write(tmp_path / "x.parquet", {"a": [1.0]})
    with pytest.raises(ConfigError, match="read_parquet: columns = "):
        read_parquet(tmp_path, [])
    with pytest.raises(ConfigError, match=r"nulls = 'skip'"):
        read_parquet(tmp_path, ["a"], nulls="skip")
    with pytest.raises(SchemaError, match="has no column 'z'"):
        read_parquet(tmp_path, ["z"])


def test_many_tiny_files_are_read_in_seconds(tmp_path):
    table = pa.table({"a": np.arange(20.0)})
    for i in range(300):
        write(tmp_path / f"{i:03}.parquet", table)
    found = plan(tmp_path)
    layout = lay_out(found, 10**6, split_files=False)
    assert len(layout.groups) == 300
    assert len(layout.bounds) == 2
    with dask.config.set(scheduler="sync"):
        assert read_parquet(tmp_path, ["a"]).sum().compute() == 300 * 190
