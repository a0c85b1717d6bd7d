"""Filtered inputs: what is not opened, not read and masked, and that it is what it says."""

import datetime as dt
import json

import dask.array as da
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.survey import survey_source
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import InputSection
from gmm_dask.errors import (
    ConfigError,
    InputChangedError,
    InputError,
    NonFiniteError,
    SchemaError,
    TooFewRowsError,
)
from gmm_dask.nulls import NullPolicy
from gmm_dask.storage.input import decode, input_file
from gmm_dask.storage.input.content import contents_of, unchanged_files
from gmm_dask.storage.input.digests import file_digests, read_digest
from gmm_dask.storage.input.location import open_file
from gmm_dask.storage.input.plan import InputPlan, plan_input
from gmm_dask.storage.input.reader import parquet_chunks, read_parquet, source_of

NOW = dt.datetime(2026, 2, 10, 3, tzinfo=dt.UTC)
DAYS = [dt.date(2026, 2, 10) - dt.timedelta(days) for days in range(5)]


def rows_of_day(day, rows=60):
    """Rows with an integer that grows, so that statistics tell row groups apart."""
    random = np.random.default_rng(day.toordinal())
    return pa.table({
        "a": random.normal(size=rows),
        "b": pa.array(random.normal(size=rows), mask=np.arange(rows) % 20 == 7),
        "n": np.arange(rows),
        "country": [("FR", "DE", "US")[i % 3] for i in range(rows)],
    })  # fmt: skip


@pytest.fixture
def days(tmp_path):
    """Five days as Hive partitions, each a file of three row groups of 20 rows."""
    root = tmp_path / "days"
    for day in DAYS:
        write(root / f"dt={day}" / "part.parquet", rows_of_day(day))
    return root


def write(path, table, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **{"row_group_size": 20, **options})


def plan_of(path, condition, columns=("a",), as_of=NOW, **section):
    tables = {"path": str(path), "columns": list(columns), "filter": condition, **section}
    return plan_input(InputSection(**tables), as_of)


def read_all(plan, **options):
    """The values of all rows of a plan, and the row numbers in the files, (n, d) and (n,)."""
    chunks = parquet_chunks(plan, split_files=True, **options)
    values, numbers = [], []
    for rows in chunks.read(0, len(chunks.rows)):
        values.append(rows.values)
        source = np.arange(rows.source_rows) if rows.used is None else np.flatnonzero(rows.used)
        numbers.append(rows.first_in_file + source)
    return np.concatenate(values), np.concatenate(numbers)


@pytest.fixture
def opened(monkeypatch):
    """Paths of the input files that were opened, in order."""
    paths = []

    def open_and_note(root, path):
        paths.append(path)
        return open_file(root, path)

    monkeypatch.setattr(input_file, "open_file", open_and_note)
    monkeypatch.setattr(decode, "open_file", open_and_note)
    return paths


def test_files_of_other_partitions_are_never_opened(days, opened):
    (days / "dt=2026-02-06" / "part.parquet").write_bytes(b"damaged")
    plan = plan_of(days, "dt >= current_date - 2 and dt < current_date")
    inside = ["dt=2026-02-08/part.parquet", "dt=2026-02-09/part.parquet"]
    assert [file.path for file in plan.files] == inside
    assert (plan.listed, plan.rows, plan.masked) == (5, 120, False)
    read_all(plan)
    assert sorted(opened) == sorted(2 * inside)  # for its footer and its rows


def test_row_groups_outside_are_not_read(days, opened):
    plan = plan_of(days, "n >= 25 and n < 35 and dt = '2026-02-10'")
    (file,) = plan.files
    assert file.groups == ((1, 20),)
    assert (plan.rows, plan.masked) == (20, True)
    values, numbers = read_all(plan)
    np.testing.assert_array_equal(numbers, np.arange(25, 35))
    np.testing.assert_array_equal(values[:, 0], rows_of_day(DAYS[0])["a"].to_numpy()[25:35])


def test_statistics_that_decide_save_the_mask(days):
    plan = plan_of(days, "n >= 20")
    assert all(file.inside and file.left == (1, 2) for file in plan.files)
    assert (plan.masked, plan.rows) == (False, 200)
    # Nothing but the features is decoded.
    chunks = parquet_chunks(plan)
    assert next(chunks.read(0, 1)).used is None
    assert not plan_of(days, "n < 100 and n >= 0").masked


def test_a_filter_that_keeps_all_is_the_same_rows_and_another_snapshot(days):
    plan, all_rows = plan_of(days, "dt is not null"), plan_of(days, None)
    assert parquet_chunks(plan).layout.bounds == parquet_chunks(all_rows).layout.bounds
    assert plan.digest != all_rows.digest
    np.testing.assert_array_equal(read_all(plan)[0], read_all(all_rows)[0])
    assert (
        plan_of(days, "dt >= current_date - 9").digest
        != plan_of(days, "dt >= current_date - 9", as_of=NOW + dt.timedelta(1)).digest
    )


def test_the_snapshot_of_an_input_without_a_filter_is_as_it_was(days):
    content = plan_of(days, None).to_json()
    assert "filter" not in content
    assert "left" not in json.dumps(content)


@pytest.mark.parametrize("condition", ["n >= 25 and country in ('FR')", "dt > current_date - 3"])
def test_a_plan_comes_back_from_json(days, condition):
    plan = plan_of(days, condition)
    again = InputPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.digest == plan.digest
    np.testing.assert_array_equal(read_all(again)[0], read_all(plan)[0])
    assert "2026-02-07" in plan.filter.text or "current" not in condition


@settings(max_examples=60)
@given(
    condition=st.sampled_from([
        "n between 15 and 44", "country = 'FR' or n < 3", "not (b > 0)", "b is null",
        "dt <> '2026-02-09' and country <> 'US'", "dt = '2026-02-09' or a > b",
        "n in (1, 21, 41) and dt in (date '2026-02-10', date '2026-02-06')", "a > 0 or b > 0",
        "(dt > '2026-02-08' and n > 50) or (dt < '2026-02-08' and n < 5)", "not (n < 30)",
    ]),
    chunk_rows=st.sampled_from([7, 20, 33, 1000]),
)  # fmt: skip
def test_the_rows_are_those_of_duckdb(tmp_path_factory, condition, chunk_rows):
    root = tmp_path_factory.getbasetemp() / "shared-days"
    if not root.exists():
        for day in DAYS:
            write(root / f"dt={day}" / "part.parquet", rows_of_day(day))
    expected = duckdb.sql(
        f"select a, file_row_number from read_parquet('{root}/*/*.parquet', hive_partitioning=true,"
        f" file_row_number=true) where {condition} order by dt, file_row_number"
    ).fetchall()
    plan = plan_of(root, condition)
    values, numbers = read_all(plan, chunk_bytes=8 * chunk_rows)
    np.testing.assert_array_equal(values[:, 0], [a for a, _ in expected])
    np.testing.assert_array_equal(numbers, [row for _, row in expected])


def test_columns_that_only_the_filter_names_are_no_features(days):
    plan = plan_of(days, "country = 'DE'", columns=["a", "b"], nulls="drop")
    assert plan.names == ("a", "b")
    assert next(parquet_chunks(plan).read(0, 1)).values.shape == (100, 2)


def test_weights_and_keys_follow_the_mask(days):
    plan = plan_of(days, "country = 'DE' and dt = '2026-02-10'", sample_weight="n")
    chunks = parquet_chunks(plan, split_files=True, key_columns=["country", "n", "dt"])
    (rows,) = chunks.read(0, len(chunks.rows))
    np.testing.assert_array_equal(rows.sample_weight, np.arange(1, 60, 3))
    assert rows.keys["n"].to_pylist() == list(range(1, 60, 3))
    assert set(rows.keys["country"].to_pylist()) == {"DE"}
    assert rows.keys["dt"].to_pylist() == ["2026-02-10"] * 20
    assert (rows.source_rows, rows.outside) == (60, 40)


def test_a_bad_value_outside_does_no_harm_and_inside_is_named_by_its_row(tmp_path):
    table = pa.table({
        "big": pa.array([1, 2**60, 3, 2**61], pa.int64()), "x": [1.0, np.inf, 2.0, None],
        "k": [0, 1, 2, 3],
    })  # fmt: skip
    write(tmp_path / "x.parquet", table)
    path = tmp_path / "x.parquet"
    assert read_all(plan_of(path, "k in (0, 2)", columns=["big", "x"]))[0].shape == (2, 2)
    with pytest.raises(SchemaError, match="'big' row 3 is 2305843009213693952"):
        read_all(plan_of(path, "k <> 1", columns=["big"]))
    with (
        Scanner(parquet_chunks(plan_of(path, "k <> 1", columns=["x"])), Threads(1)) as scanner,
        pytest.raises(NonFiniteError, match=r"holds 1 null or NaN, the first at x.parquet row 3"),
    ):
        survey_source(scanner, 10, 0, NullPolicy.ERROR)
    with pytest.raises(NonFiniteError, match=r"infinite value, the first at x.parquet row 1"):
        read_parquet(path, ["x"], filter="k in (1, 2)").compute()


def test_a_survey_tells_rows_outside_from_rows_with_nulls(days):
    plan = plan_of(days, "country = 'DE'", columns=["a", "b"], nulls="drop")
    with Scanner(parquet_chunks(plan), Threads(2)) as scanner:
        survey = survey_source(scanner, 1000, 0, NullPolicy.DROP)
    # Rows 7 and 27 and 47 hold a null, and 7 is of DE.
    assert (survey.source_rows, survey.outside, survey.dropped, survey.rows) == (300, 200, 5, 95)
    assert survey.in_memory
    with Scanner(
        parquet_chunks(plan_of(days, "country = 'DE' and n > 1", columns=["a"])), Threads(2)
    ) as scanner:
        survey = survey_source(scanner, 1000, 0, NullPolicy.DROP)
        assert survey.nulls_left is NullPolicy.ERROR


def test_a_row_inside_has_the_same_place_in_the_sample_with_and_without_a_mask(days):
    def sampled(condition, seed=3):
        plan = plan_of(days, condition, columns=["a"])
        with Scanner(parquet_chunks(plan), Threads(2)) as scanner:
            return survey_source(scanner, 40, seed, NullPolicy.ERROR).draw

    every, masked = sampled(None), sampled("country <> 'US'")
    common = np.intersect1d(every.numbers, masked.numbers)
    assert len(common) > 15
    assert len(masked.numbers) == 40
    # What is in the sample of all rows, and is inside, is in the sample of these.
    inside = np.flatnonzero(every.numbers % 3 != 2)
    np.testing.assert_array_equal(every.numbers[inside], common)


def test_an_array_is_that_of_the_rows_filtered_beforehand(days, tmp_path):
    condition = "country = 'DE' and dt > date '2026-02-07'"
    array = read_parquet(days, ["a", "n"], filter=condition)
    tables = [rows_of_day(day) for day in sorted(DAYS) if day > dt.date(2026, 2, 7)]
    expected = pa.concat_tables(tables).filter(pa.compute.field("country") == "DE")
    assert array.shape == (60, 2)
    np.testing.assert_array_equal(array.compute()[:, 0], expected["a"].to_numpy())
    np.testing.assert_array_equal(
        da.compute(array[5:50:7])[0][:, 1], expected["n"].to_numpy()[5:50:7]
    )
    source = source_of(array)
    assert sum(source.rows) == 60
    dropped = read_parquet(days, ["a", "b"], "drop", filter=condition)
    assert dropped.shape == (57, 2)
    assert not np.isnan(dropped.compute()).any()
    with pytest.raises(NonFiniteError, match="3 nulls or NaN, the first at dt=2026-02-08"):
        read_parquet(days, ["b"], filter=condition).compute()


def test_an_array_whose_partitions_decide_costs_no_scan(days, monkeypatch):
    monkeypatch.setattr(decode.OpenFile, "batches", None)
    assert read_parquet(days, ["a"], filter="dt > '2026-02-08' and n >= 0").shape == (120, 1)


def test_rows_that_move_across_the_filter_are_noticed(tmp_path):
    path = tmp_path / "x.parquet"
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    table = pa.table({"a": [1.0, 2.0, 3.0], "k": [1.0, 2.0, 3.0]})
    write(path, table, **options)
    array = read_parquet(path, ["a"], filter="k > 1")
    plan = plan_of(path, "k > 1")
    known = contents_of(plan, [digest_of_group(plan)])
    write(path, table.set_column(1, "k", [[1.0, 1.0, 3.0]]), **options)
    changed = plan_of(path, "k > 1")
    assert changed.digest == plan.digest  # the same sizes and footers
    assert unchanged_files(changed, known) == {}
    with pytest.raises(InputChangedError, match="where 2 were counted"):
        array.compute()


def digest_of_group(plan):
    chunks = parquet_chunks(plan)
    digests = [digest for rows in chunks.read(0, len(chunks.rows), True) for digest in rows.digests]
    assert file_digests(plan, digests) == tuple(
        read_digest(plan, number) for number in range(len(plan.files))
    )
    return digests[0]


@pytest.mark.parametrize("condition", ["n >= 25", "country = 'DE'", "n > 45 and dt > '2026-02-08'"])
def test_the_digest_of_a_file_covers_what_the_filter_reads(days, condition):
    plan = plan_of(days, condition)
    digest_of_group(plan)
    everything = plan_of(days, None)
    file = plan.files[-1].path
    number = [other.path for other in everything.files].index(file)
    assert read_digest(plan, len(plan.files) - 1) != read_digest(everything, number)
    # A file that is inside as a whole has the digest that it has without a filter.
    whole = plan_of(days, "dt >= '2026-02-09'")
    assert read_digest(whole, 1) == read_digest(everything, number)


def test_a_key_counts_even_where_the_file_stores_another_value(tmp_path):
    for key in (1, 2):
        write(tmp_path / f"k={key}" / "x.parquet", pa.table({"a": [1.0 * key], "k": ["stored"]}))
    assert read_all(plan_of(tmp_path, "k = 2"))[0].tolist() == [[2.0]]
    assert read_all(plan_of(tmp_path, "k = 2 or a > 1"))[0].tolist() == [[2.0]]


def test_keys_by_their_values(tmp_path):
    for key in ("5", "05.5", "__HIVE_DEFAULT_PARTITION__"):
        write(tmp_path / f"k={key}" / "x.parquet", pa.table({"a": [1.0]}))
    assert [file.path for file in plan_of(tmp_path, "k > 5").files] == ["k=05.5/x.parquet"]
    assert len(plan_of(tmp_path, "k is null").files) == 1
    assert len(plan_of(tmp_path, "k is not null").files) == 2
    assert len(plan_of(tmp_path, "not (k > 5)").files) == 1
    with pytest.raises(ConfigError, match="column 'k' holds numbers, and this is text"):
        plan_of(tmp_path, "k > '5'")


def test_files_may_differ_in_the_types_of_one_family(tmp_path):
    stamps = [dt.datetime(2026, 2, 10, 12), dt.datetime(2026, 2, 9)]
    for name, n, t in [
        ("a", pa.array([1, 2], pa.int32()), pa.array(stamps, pa.timestamp("ns"))),
        ("b", pa.array([1.5, None]), pa.array(stamps, pa.timestamp("us", tz="UTC"))),
        ("c", pa.array([2, 1], pa.uint64()), pa.array(stamps).cast(pa.date32(), safe=False)),
    ]:
        write(tmp_path / "in" / f"{name}.parquet", pa.table({"x": [0.0, 1.0], "n": n, "t": t}))
    plan = plan_of(tmp_path / "in", "n >= 1.5 or n is null", columns=["x"])
    assert read_all(plan, chunk_bytes=8)[0][:, 0].tolist() == [1.0, 0.0, 1.0, 0.0]
    later = plan_of(tmp_path / "in", "t > current_timestamp - interval '16' hour", columns=["x"])
    assert read_all(later)[0][:, 0].tolist() == [0.0, 0.0, 0.0]
    write(tmp_path / "in" / "d.parquet", pa.table({"x": [0.0], "n": ["1"], "t": ["x"]}))
    message = "d.parquet: column 'n', which the filter names, holds text, but numbers in a.parquet"
    with pytest.raises(SchemaError, match=message):
        plan_of(tmp_path / "in", "n > 1", columns=["x"])


def test_statistics_know_nothing_of_nan(tmp_path):
    write(tmp_path / "x.parquet", pa.table({"a": [1.0, 2.0], "f": [np.nan, 5.0]}))
    assert plan_of(tmp_path, "f >= 5").masked
    for condition in ("f >= 5", "not (f < 5)", "f is not null"):
        assert read_all(plan_of(tmp_path, condition))[0].tolist() == [[2.0]]
    assert read_all(plan_of(tmp_path, "f is null"))[0].tolist() == [[1.0]]


def test_a_column_without_a_type_holds_nulls(tmp_path):
    write(tmp_path / "a.parquet", pa.table({"a": [1.0, 2.0], "k": pa.nulls(2)}))
    write(tmp_path / "b.parquet", pa.table({"a": [3.0, 4.0], "k": ["x", None]}))
    for condition, values in {
        "k = 'x'": [3.0],
        "not (k <> 'x')": [3.0],
        "k in ('x') or a < 2": [1.0, 3.0],
        "k is null": [1.0, 2.0, 4.0],
    }.items():
        assert read_all(plan_of(tmp_path, condition))[0][:, 0].tolist() == values
    with pytest.raises(ConfigError, match="a filter can only ask whether it is null"):
        plan_of(tmp_path / "a.parquet", "k = 'x'")


@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        ("pric > 0", SchemaError, r"has no column 'pric', which the filter names; there are a, b"),
        ("contry = 'FR'", SchemaError, r"which the filter names; did you mean 'country'\?"),
        ("country > 5", ConfigError, r"line 1, column 11, '5': column 'country' holds text"),
        ("dt > 5", ConfigError, r"line 1, column 6, '5': column 'dt' holds dates or timestamps"),
        ("dt > current_date", TooFewRowsError,
         r"no row of 5 file\(s\) can be inside the filter \"dt\" > date '2026-02-10'"),
        ("n > 1000", TooFewRowsError, r"no row of 5 file\(s\) can be inside the filter"),
        ("dt >", ConfigError, r"filter: line 1, column 4, '>': is incomplete"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_when_it_is_planned(days, condition, error, message):
    with pytest.raises(error, match=message):
        plan_of(days, condition)


def test_a_filter_that_leaves_no_row_is_named_in_the_survey(days):
    with (
        Scanner(parquet_chunks(plan_of(days, "country = 'Fr'")), Threads(1)) as scanner,
        pytest.raises(TooFewRowsError, match="no row in 300 is inside the filter; widen it"),
    ):
        survey_source(scanner, 10, 0, NullPolicy.ERROR)


def test_columns_that_cannot_be_compared_exactly_are_refused(tmp_path):
    far = pa.array([dt.date(9999, 1, 1)])
    near = pa.array([dt.datetime(2026, 1, 1)], pa.timestamp("ns"))
    write(
        tmp_path / "x.parquet", pa.table({"a": [1.0], "d": far, "t": near}), write_statistics=False
    )
    with pytest.raises(InputError, match=r"x.parquet: the filter cannot compare its columns exact"):
        read_all(plan_of(tmp_path, "d > t", columns=["a"]))
