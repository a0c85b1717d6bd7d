"""Which files and columns an input consists of, what is refused, and how it is said."""

import hashlib
import json
import os
import pickle
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask.config import InputSection
from gmm_dask.errors import ConfigError, InputError, SchemaError, TooFewRowsError
from gmm_dask.storage.input import usable_files
from gmm_dask.storage.input.footer import read_footer
from gmm_dask.storage.input.location import _s3
from gmm_dask.storage.input.plan import InputPlan, plan_input
from gmm_dask.storage.input.reader import parquet_chunks


def write(path, rows=3, columns=None, **options):
    columns = (
        {"a": np.arange(rows) + 0.5, "b": np.arange(rows) * 2.0} if columns is None else columns
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def plan(path, columns=("a",), **section):
    return plan_input(InputSection(path=str(path), columns=list(columns), **section))


def names(path, **section):
    return [file.path for file in plan(path, **section).files]


def refused(error, path, columns=("a",), **section):
    with pytest.raises(error) as caught:
        plan(path, columns, **section)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Membership


def test_a_file_is_taken_as_named(tmp_path):
    path = write(tmp_path / "_odd.tmp")
    found = plan(path, ["b", "a"])
    assert found.root == str(tmp_path)
    assert [file.path for file in found.files] == ["_odd.tmp"]
    assert found.files[0].size == path.stat().st_size
    assert found.files[0].row_groups == (3,)
    assert found.names == ("b", "a")
    assert found.rows == 3


def test_a_directory_is_its_parquet_files_at_every_level_in_order_of_their_names(tmp_path):
    members = ["2.parquet", "10.PARQUET", "deep/er/x.parq", "b.pq", "_k=1/x.parquet"]
    strangers = [
        ".hidden.parquet", "_metadata", "_x.parquet", "_temporary/0/x.parquet", ".git/x.parquet",
        "x.parquet.tmp", "deep/_tmp/x.parquet",
    ]  # fmt: skip
    for name in members + strangers:
        write(tmp_path / name)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "notes.txt").write_text("not Parquet")
    assert names(tmp_path) == sorted(members)
    assert names(f"{tmp_path}/") == sorted(members)


def test_a_directory_may_be_named_like_a_file(tmp_path):
    write(tmp_path / "set.parquet" / "part.0.parquet")
    assert names(tmp_path / "set.parquet") == ["part.0.parquet"]
    assert names(tmp_path) == ["set.parquet/part.0.parquet"]


def test_a_relative_path_becomes_absolute(tmp_path, monkeypatch):
    write(tmp_path / "in" / "x.parquet")
    monkeypatch.chdir(tmp_path)
    assert plan("in").root == str(tmp_path / "in")
    assert plan("in/x.parquet").root == str(tmp_path / "in")
    assert plan("./in/../in/*.parquet").root == str(tmp_path / "in")


def test_home_directory(tmp_path, monkeypatch):
    write(tmp_path / "x.parquet")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names("~/x.parquet") == ["x.parquet"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.parquet", ["1.parquet", "2.parquet"]),
        ("[!1].p*", ["2.parquet"]),
        ("?.parquet", ["1.parquet", "2.parquet"]),
        ("*", ["1.parquet", "2.parquet", "sub/3.parquet", "sub/deep/4.parquet", "x.dat"]),
        ("*.dat", ["x.dat"]),
        ("_*.parquet", ["_h.parquet"]),
        ("s*", ["sub/3.parquet", "sub/deep/4.parquet"]),
        ("**/*.parquet", ["1.parquet", "2.parquet", "sub/3.parquet", "sub/deep/4.parquet"]),
        ("**/4.parquet", ["sub/deep/4.parquet"]),
        ("*/deep/*", ["sub/deep/4.parquet"]),
        ("sub/*.pq", ["sub/5.pq"]),
    ],
)
def test_a_glob_is_what_it_matches_as_named(tmp_path, pattern, expected):
    for name in ["1.parquet", "2.parquet", "sub/3.parquet", "sub/deep/4.parquet", "x.dat",
                 "_h.parquet", ".g.parquet"]:  # fmt: skip
        write(tmp_path / name)
    if pattern == "sub/*.pq":
        write(tmp_path / "sub" / "5.pq")
    found = plan(tmp_path / pattern)
    prefix = os.path.relpath(found.root, tmp_path)
    assert [os.path.normpath(f"{prefix}/{file.path}") for file in found.files] == expected


def test_brackets_in_a_name_that_exists_are_no_pattern(tmp_path):
    write(tmp_path / "run[1]" / "x.parquet")
    assert names(tmp_path / "run[1]") == ["x.parquet"]


def test_each_real_file_counts_once_and_loops_are_harmless(tmp_path):
    write(tmp_path / "m" / "b.parquet")
    (tmp_path / "m" / "a.parquet").symlink_to("b.parquet")
    (tmp_path / "m" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "again").symlink_to("m", target_is_directory=True)
    assert names(tmp_path) == ["m/b.parquet"]
    assert names(tmp_path / "**" / "*.parquet") == ["m/b.parquet"]
    assert names(tmp_path / "again") == ["b.parquet"]


def test_links_that_lead_out_are_followed(tmp_path):
    write(tmp_path / "store" / "far.parquet")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.parquet").symlink_to(tmp_path / "store" / "far.parquet")
    (tmp_path / "in" / "all").symlink_to(tmp_path / "store")
    assert names(tmp_path / "in") == ["all/far.parquet"]
    assert plan(tmp_path / "in").rows == 3


def test_a_link_to_a_version_is_followed_when_the_plan_is_made(tmp_path):
    write(tmp_path / "v1" / "x.parquet", rows=3)
    write(tmp_path / "v2" / "x.parquet", rows=5)
    (tmp_path / "current").symlink_to("v1")
    first = plan(tmp_path / "current")
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("v2")
    assert first.root == str(tmp_path / "v1")
    assert sum(rows.values.shape[0] for rows in parquet_chunks(first).read(0, 1)) == 3


def test_hive_partitions_are_columns(tmp_path):
    for key, value in (("year=2023", "10"), ("year=2024", "9.5"), ("year=2024", "x%20y")):
        write(tmp_path / key / f"v={value}" / "x.parquet")
    found = plan(tmp_path, ["a", "year"])
    assert [column.type for column in found.columns] == ["double", "int64"]
    assert found.types == {"a": "double", "b": "double", "v": "string", "year": "int64"}
    assert found.files[0].partitions == {"year": "2023", "v": "10"}
    assert found.files[2].partitions == {"year": "2024", "v": "x y"}
    message = refused(SchemaError, tmp_path, ["v"])
    assert "year=2023/v=10/x.parquet: column 'v' is of type string, not a number" in message


def test_partition_directories_above_a_glob_or_a_directory_count_too(tmp_path):
    write(tmp_path / "y=1" / "m=2" / "x.parquet")
    for path in ("y=1/m=2", "y=1/m=2/x.parquet", "y=1/*/x.parquet", "y=1"):
        found = plan(tmp_path / path, ["m", "y"])
        assert (found.root, found.files[0].path) == (str(tmp_path), "y=1/m=2/x.parquet")


def test_float_and_null_partitions(tmp_path):
    write(tmp_path / "k=1" / "x.parquet")
    write(tmp_path / "k=2.5" / "x.parquet")
    write(tmp_path / "k=__HIVE_DEFAULT_PARTITION__" / "x.parquet", rows=4)
    found = plan(tmp_path, ["k"])
    assert found.columns[0].type == "double"


def test_a_partition_key_that_some_files_lack(tmp_path):
    write(tmp_path / "k=1" / "x.parquet")
    write(tmp_path / "y.parquet")
    assert refused(SchemaError, tmp_path, ["k"]) == "y.parquet: has no column 'k'; there are a, b"
    assert plan(tmp_path).types == {"a": "double", "b": "double"}


def test_a_stored_column_counts_before_a_partition_key_of_its_name(tmp_path):
    write(tmp_path / "a=7" / "x.parquet")
    assert plan(tmp_path).columns[0].type == "double"


def test_long_digits_are_names(tmp_path):
    write(tmp_path / "id=9007199254740993" / "x.parquet")
    assert plan(tmp_path).types["id"] == "string"


# What a plan says


def test_json_and_pickle_give_the_plan_back(tmp_path):
    write(tmp_path / "k=1" / "x.parquet", columns={"a": [1.0], "w": [2.0], "d": [Decimal("1.5")]})
    found = plan(tmp_path, ["a", "d"], sample_weight="w", convert={"d": "float"}, nulls="drop")
    for again in (
        InputPlan.from_json(json.loads(json.dumps(found.to_json()))),
        pickle.loads(pickle.dumps(found)),
    ):
        assert again == found
        assert again.digest == found.digest
        assert hash(again) == hash(found)
    with pytest.raises(ValueError, match="not an input plan"):
        InputPlan.from_json({"root": "/"})


def test_a_plan_of_ten_thousand_files_is_small_and_unpickled_once():
    rng = np.random.default_rng(0)
    small = plan_of_many(rng, 10_000)
    blob = pickle.dumps(parquet_chunks(small))
    assert len(blob) < 60 * 10_000
    first, second = pickle.loads(blob), pickle.loads(blob)
    assert first.plan is second.plan
    assert first.plan == small


def plan_of_many(rng, n):
    files = [
        [f"day=1/part-{i:05d}.parquet", int(rng.integers(10**6)), [1000], rng.bytes(16).hex()]
        for i in range(n)
    ]
    column = {"name": "a", "type": "double"}
    return InputPlan.from_json(
        {"root": "/x", "files": files, "columns": [column], "sample_weight": None,
         "nulls": "error", "convert": {}, "types": {"a": "double"}}
    )  # fmt: skip


def test_the_digest_is_of_the_files_and_not_of_their_place_or_time(tmp_path):
    for place in ("one", "two"):
        for i in range(3):
            write(tmp_path / place / f"{i}.parquet", rows=i + 1)
    one, two = plan(tmp_path / "one"), plan(tmp_path / "two")
    assert one.digest == two.digest
    os.utime(tmp_path / "one" / "0.parquet", (1, 1))
    assert plan(tmp_path / "one").digest == one.digest
    assert plan(tmp_path / "one", ["b"]).digest != one.digest
    assert plan(tmp_path / "one", nulls="drop").digest != one.digest
    assert plan(tmp_path / "one", sample_weight="b").digest != one.digest
    (tmp_path / "two" / "2.parquet").rename(tmp_path / "two" / "3.parquet")
    assert plan(tmp_path / "two").digest != one.digest
    write(tmp_path / "one" / "0.parquet", columns={"a": [0.25], "b": [0.0]})
    assert plan(tmp_path / "one").digest != one.digest


def test_footers_longer_than_one_read(tmp_path):
    table = pa.table({"a": np.arange(100.0), "b": np.arange(100.0)})
    long = table.replace_schema_metadata({"note": "x" * 200_000})
    path = write(tmp_path / "x.parquet", columns=long)
    assert plan(path).rows == 100
    with pa.OSFile(str(path)) as source:
        assert len(read_footer(source, "x").raw) > 200_000


# Refusals: of paths and files


def test_nothing_there(tmp_path):
    write(tmp_path / "stars.parquet")
    message = refused(InputError, tmp_path / "star.parquet")
    assert message == (
        f"{tmp_path}/star.parquet: no such file or directory; did you mean 'stars.parquet'?"
    )
    assert refused(InputError, "/nowhere/at/all").endswith("no such file or directory")


def test_no_member(tmp_path):
    write(tmp_path / "in" / "_x.parquet")
    message = refused(InputError, tmp_path / "in")
    assert f"{tmp_path}/in: the directory holds no file that ends in .parquet" in message
    assert "by a glob" in message
    message = refused(InputError, tmp_path / "in" / "y*.parquet")
    assert message.startswith(f"{tmp_path}/in/y*.parquet: no file matches the pattern")
    refused(InputError, tmp_path / "absent" / "*.parquet")


def test_no_rows(tmp_path):
    write(tmp_path / "x.parquet", rows=0)
    write(tmp_path / "y.parquet", rows=0)
    message = refused(TooFewRowsError, tmp_path)
    assert message == f"{tmp_path}: 2 file(s), but not one row; is the writer finished?"


def test_empty_files_beside_others_are_no_harm(tmp_path):
    write(tmp_path / "x.parquet", rows=0)
    write(tmp_path / "y.parquet", rows=2)
    assert plan(tmp_path).rows == 2


@pytest.mark.parametrize("content", [b"", b"PAR1", b"a,b\n1,2\n" * 10])
def test_not_a_parquet_file(tmp_path, content):
    write(tmp_path / "1.parquet")
    (tmp_path / "2.parquet").write_bytes(content)
    message = refused(InputError, tmp_path)
    assert message.startswith("2.parquet: is not a Parquet file, or only the beginning of one")


def test_a_file_that_is_still_being_written(tmp_path):
    path = write(tmp_path / "x.parquet")
    path.write_bytes(path.read_bytes()[:-5])
    assert "x.parquet: is not a Parquet file, or only the beg" in refused(InputError, tmp_path)


def test_an_encrypted_footer(tmp_path):
    path = write(tmp_path / "x.parquet")
    path.write_bytes(path.read_bytes()[:-4] + b"PARE")
    assert refused(InputError, path) == (
        "x.parquet: is encrypted, which cannot be read; decrypt it first"
    )


def test_a_damaged_footer(tmp_path):
    path = write(tmp_path / "x.parquet")
    whole = path.read_bytes()
    length = int.from_bytes(whole[-8:-4], "little")
    path.write_bytes(whole[: -8 - length] + bytes(length) + whole[-8:])
    message = refused(InputError, path)
    assert message.startswith("x.parquet: its footer is damaged (")
    assert message.endswith("; restore or rewrite the file")
    path.write_bytes(whole[:-8] + (10**6).to_bytes(4, "little") + b"PAR1")
    assert "its length is more than the file's" in refused(InputError, path)


def test_a_footer_that_contradicts_itself(tmp_path):
    path = write(tmp_path / "x.parquet")
    whole = path.read_bytes()
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    messages = set()
    for at in range(start, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 2]) + whole[at + 1 :])
        try:
            plan(path)
        except InputError as error:
            messages.add(str(error))
    assert (
        "x.parquet: its footer is damaged (row counts contradict each other); restore or rewrite "
        "the file"
    ) in messages


@contextmanager
def without_privileges():
    # The superuser may read everything.
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(mine)


def test_permission_denied(tmp_path):
    write(tmp_path / "in" / "x.parquet")
    (tmp_path / "in" / "x.parquet").chmod(0)
    closed = [each for each in (tmp_path, *tmp_path.parents) if ~each.stat().st_mode & 0o5]
    modes = [path.stat().st_mode for path in closed]
    for path in closed:
        path.chmod(0o755)
    with without_privileges():
        message = refused(InputError, tmp_path / "in")
    assert message.startswith("x.parquet: cannot be read (permission denied)")
    (tmp_path / "in").chmod(0)
    with without_privileges():
        message = refused(InputError, tmp_path / "in")
    (tmp_path / "in").chmod(0o700)
    for path, mode in zip(closed, modes, strict=True):
        path.chmod(mode)
    assert message == f"{tmp_path}/in: cannot be listed (permission denied)"


def test_a_link_to_nowhere(tmp_path):
    (tmp_path / "x.parquet").symlink_to("gone")
    message = refused(InputError, tmp_path)
    assert message.startswith("x.parquet: cannot be read (no such file or directory)")


def test_addresses_that_cannot_be_read(tmp_path):
    message = refused(InputError, "gs://bucket/x")
    assert message == "gs://bucket/x: gs:// cannot be read; give a local path or s3://"
    assert "secret" not in refused(InputError, "gs://user:secret@bucket/x?token=secret")
    assert "names the machine 'data'" in refused(InputError, "file://data/x")
    assert "NUL" in refused(InputError, f"{tmp_path}/a\0b")
    assert refused(InputError, "x" * 256).endswith("cannot be listed (file name too long)")


def test_an_address_of_a_file_may_hold_any_character(tmp_path):
    write(tmp_path / "a#b 1.parquet")
    assert names(f"file://{tmp_path}/a#b%201.parquet") == ["a#b 1.parquet"]


def test_links_that_lead_in_a_circle(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert "/loop: its symbolic links lead in a circle" in refused(InputError, tmp_path / "loop")
    assert "lead in a circle" in refused(InputError, tmp_path / "loop" / "x.parquet")
    write(tmp_path / "x.parquet")
    assert names(tmp_path) == ["x.parquet"]  # no file of the input leads there
    (tmp_path / "y.parquet").symlink_to("y.parquet")
    assert refused(InputError, tmp_path).startswith("y.parquet: cannot be read (too many levels")
    assert refused(InputError, tmp_path / "y*").startswith("y.parquet: cannot be read (too many")


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIAKEY:secret@bucket/x",
        "s3://bucket/x?region=eu&access_key=AKIAKEY&secret_key=secret",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(address):
    message = refused(InputError, address)
    assert "AWS_SECRET_ACCESS_KEY" in message
    assert "AKIAKEY" not in message
    assert "secret@" not in message


def seconds_to_plan(path, columns):
    """CPU seconds that planning takes, the least of three."""
    tries = []
    for _ in range(3):
        begin = time.process_time()
        plan(path, columns)
        tries.append(time.process_time() - begin)
    return min(tries)


def test_planning_takes_time_in_proportion_to_the_columns(tmp_path, measure):
    """A look-up that passes over all columns for each of them would take 64 times as long."""
    seconds = []
    for d in (400, 3200):
        columns = [f"c{i}" for i in range(d)]
        wide = write(tmp_path / f"{d}.parquet", columns={name: [1.0] for name in columns})
        seconds.append(measure(seconds_to_plan, wide, columns))
    assert seconds[1] < 25 * seconds[0]


# Refusals: of columns


def test_unknown_column(tmp_path):
    write(tmp_path / "x.parquet", columns={"height": [1.0], "weight": [2.0]})
    message = refused(SchemaError, tmp_path, ["heigth"])
    assert message == "x.parquet: has no column 'heigth'; did you mean 'height'?"
    assert refused(SchemaError, tmp_path, ["Height"]).endswith("did you mean 'height'?")
    message = refused(SchemaError, tmp_path, ["zzz"])
    assert message == "x.parquet: has no column 'zzz'; there are height, weight"
    assert "did you mean 'weight'?" in refused(
        SchemaError, tmp_path, ["height"], sample_weight="weights"
    )


def test_a_column_that_later_files_lack_or_spell_otherwise(tmp_path):
    write(tmp_path / "1.parquet", columns={"a": [1.0]})
    write(tmp_path / "2.parquet", columns={"A": [1.0]})
    message = refused(SchemaError, tmp_path)
    assert message == "2.parquet: has no column 'a'; did you mean 'A'?"


REFUSED_TYPES = {
    "text": (pa.array(["x"]), "is of type string, not a number"),
    "large text": (pa.array(["x"], pa.large_string()), "is of type large_string, not a number"),
    "binary": (pa.array([b"x"]), "is of type binary, not a number"),
    "null": (pa.nulls(1), "has the type null, which holds no value"),
    "list": (pa.array([[1.0]]), "is nested (list<element: double>)"),
    "fixed list": (pa.array([[1.0]], pa.list_(pa.float64(), 1)), "is nested (fixed_size_list<"),
    "struct": (pa.array([{"x": 1.0}]), "is nested (struct<x: double>)"),
    "map": (pa.array([[("k", 1.0)]], pa.map_(pa.string(), pa.float64())), "is nested (map<"),
    "categories": (pa.array(["x"]).dictionary_encode(), "holds categories of type string"),
    "decimal": (pa.array([Decimal("1.5")]), 'is decimal128(2, 1): float64 may not hold it exactly; '
                'allow that by [input.convert] "float"'),
    "date": (pa.array([date(2020, 1, 1)]), '[input.convert] "seconds"'),
    "timestamp": (pa.array([1], pa.timestamp("ns", "UTC")), "is timestamp[ns, tz=UTC]: float64"),
    "time": (pa.array([1], pa.time64("us")), '[input.convert] "seconds"'),
    "duration": (pa.array([1], pa.duration("s")), '[input.convert] "seconds"'),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED_TYPES)
def test_types_that_are_no_numbers(tmp_path, kind):
    array, expected = REFUSED_TYPES[kind]
    write(tmp_path / "x.parquet", columns={"a": [1.0], "odd": array})
    message = refused(SchemaError, tmp_path, ["a", "odd"])
    assert message.startswith("x.parquet: column 'odd' ")
    assert expected in message
    assert plan(tmp_path).rows == 1  # it may be there, unused


def test_conversions_that_do_not_fit(tmp_path):
    write(
        tmp_path / "x.parquet", columns={"a": [1.0], "d": [Decimal("1.5")], "t": [date(2020, 1, 1)]}
    )
    assert plan(tmp_path, ["a"], convert={"a": "float"}).columns[0].type == "double"
    text = write(tmp_path / "_text.parquet", columns={"s": ["1"]})
    assert 'is string, which [input.convert] cannot turn into "float"; only numbers' in refused(
        SchemaError, text, ["s"], convert={"s": "float"}
    )
    assert '[input.convert] "float" instead of "seconds"' in refused(
        SchemaError, tmp_path, ["d"], convert={"d": "seconds"}
    )
    assert '[input.convert] "seconds" instead of "float"' in refused(
        SchemaError, tmp_path, ["t"], convert={"t": "float"}
    )
    assert refused(ConfigError, tmp_path, ["a", "d"], convert={"dd": "float"}) == (
        "input.convert names 'dd', which is not among input.columns; did you mean 'd'?"
    )
    assert [c.type for c in plan(tmp_path, ["d"], convert={"d": "float"}).columns] == [
        "decimal128(2, 1)"
    ]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (pa.float32(), pa.float64(), "double"),
        (pa.float64(), pa.float32(), "double"),
        (pa.float16(), pa.float32(), "float"),
        (pa.float32(), pa.float32(), "float"),
        (pa.float16(), pa.float64(), "double"),
        (pa.int32(), pa.int32(), "int32"),
        (pa.int32(), pa.int64(), None),
        (pa.int32(), pa.float64(), None),
        (pa.bool_(), pa.int8(), None),
        (pa.uint8(), pa.int8(), None),
    ],
)
def test_only_float_widths_may_differ_between_files(tmp_path, first, second, expected):
    for name, kind in (("1", first), ("2", first), ("3", second)):
        value = np.float16(1) if kind == pa.float16() else True if kind == pa.bool_() else 1
        write(tmp_path / f"{name}.parquet", columns={"a": pa.array([value], kind), "z": [1.0]})
    if expected is None:
        assert refused(SchemaError, tmp_path) == (
            f"column 'a' is {first} in 2 files (the first of them 1.parquet) and {second} in 1 "
            'file (3.parquet); [input.convert] a = "float" reads all of them as float64, or '
            "rewrite some"
        )
    else:
        assert plan(tmp_path).columns[0].type == expected
    converted = plan(tmp_path, convert={"a": "float"})
    assert converted.columns[0].type == "double"
    assert parquet_chunks(converted).dtype == np.float64
    (rows,) = parquet_chunks(converted).read(0, 1)
    assert rows.values.tolist() == [[1.0]] * 3


def test_a_type_of_a_few_files_that_is_no_number_is_counted(tmp_path):
    for day in range(4):
        write(tmp_path / f"{day}.parquet", columns={"a": ["1"] if day == 2 else [1.0]})
    assert refused(SchemaError, tmp_path).endswith(
        "encode it as numbers first; it is double in 3 files (the first of them 0.parquet) and "
        "string in 1 file (2.parquet)"
    )


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (pa.timestamp("ms"), pa.timestamp("us"), "timestamp[us]"),
        (pa.timestamp("us", "UTC"), pa.timestamp("ms", "CET"), "timestamp[us, tz=UTC]"),
        (pa.time32("ms"), pa.time64("us"), "time64[us]"),
        (pa.timestamp("ms"), pa.timestamp("ms", "UTC"), None),
        (pa.timestamp("ms"), pa.time32("ms"), None),
        (pa.date32(), pa.timestamp("ms"), None),
    ],
)
def test_units_of_time_may_differ_where_they_become_seconds(tmp_path, first, second, expected):
    for name, kind in (("1", first), ("2", second)):
        write(tmp_path / f"{name}.parquet", columns={"a": pa.array([7], kind)})
    if expected is None:
        message = refused(SchemaError, tmp_path, convert={"a": "seconds"})
        assert f"is {first} in 1 file (1.parquet) and {second} in 1 file (2.parquet)" in message
    else:
        assert plan(tmp_path, convert={"a": "seconds"}).columns[0].type == expected


def test_a_column_that_is_all_null_in_a_file_holds_nulls(tmp_path):
    write(tmp_path / "1.parquet", columns={"a": pa.nulls(2), "n": pa.nulls(2), "id": [1, 2]})
    write(tmp_path / "2.parquet", columns={"a": pa.array([1, 2], pa.int32()), "n": pa.nulls(2),
                                           "id": pa.nulls(2)})  # fmt: skip
    found = plan(tmp_path, nulls="drop")
    assert found.columns[0].type == "int32"
    assert found.types["id"] == "int64"
    (rows,) = parquet_chunks(found, key_columns=["id"]).read(0, 1)
    np.testing.assert_array_equal(rows.values, [[np.nan], [np.nan], [1.0], [2.0]])
    assert rows.keys["id"].to_pylist() == [1, 2, None, None]
    assert refused(SchemaError, tmp_path, ["n"]).startswith("1.parquet: column 'n' has the type nu")


NIGHTS = {
    "int64": pa.array([1, 2**53], pa.int64()),
    "double": pa.array([None, 0.1]),
    "uint8": pa.array([1, 255], pa.uint8()),
    "float": pa.array([0.1, None], pa.float32()),
    "bool": pa.array([True, None]),
    "decimal": pa.array([Decimal("0.1"), None]),
    "null": pa.nulls(2),
}


@pytest.mark.parametrize("order", [1, -1])
def test_numbers_that_drift_are_float64_to_the_last_bit(tmp_path, order):
    for day, array in enumerate([*NIGHTS.values()][::order]):
        write(tmp_path / f"{day}.parquet", columns={"a": array})
    assert "in 1 file (" in refused(SchemaError, tmp_path)
    found = plan(tmp_path, convert={"a": "float"}, nulls="drop")
    assert found.columns[0].type == "double"
    chunks = parquet_chunks(found)
    (rows,) = chunks.read(0, 1, digests=True)
    expected = np.concatenate(
        [[np.nan if value is None else float(value) for value in array.to_pylist()]
         for array in [*NIGHTS.values()][::order]]
    )  # fmt: skip
    np.testing.assert_array_equal(rows.values[:, 0], expected)
    # What a file holds is said by its own type: drift elsewhere makes no file a changed one.
    alone = parquet_chunks(plan(tmp_path / "1.parquet", nulls="drop", convert={"a": "float"}))
    assert next(alone.read(0, 1, digests=True)).digests == rows.digests[1:2]


def test_an_integer_that_float64_cannot_hold_is_refused_by_file_and_row(tmp_path):
    write(tmp_path / "1.parquet", columns={"a": [0.5], "id": [0.5]})
    write(tmp_path / "2.parquet", columns={"a": [1, 2, 2**53 + 1], "id": [1, 2, 2**53 + 1]})
    chunks = parquet_chunks(plan(tmp_path, convert={"a": "float"}))
    with pytest.raises(
        SchemaError, match=r"^2\.parquet: column 'a' row 2 is 9007199254740993, bey"
    ):
        next(chunks.read(0, 1))
    write(tmp_path / "2.parquet", columns={"a": [0.5] * 3, "id": [1, 2, 2**53 + 1]})
    keyed = parquet_chunks(plan(tmp_path), key_columns=["id"])
    with pytest.raises(SchemaError, match=r"^2\.parquet: key column 'id' is int64, and double in"):
        next(keyed.read(0, 1))


def test_key_columns_have_the_type_that_holds_all(tmp_path):
    kinds = {
        "a": (pa.int32(), pa.int64()),
        "b": (pa.int64(), pa.float64()),
        "c": (pa.string(), pa.large_string()),
        "d": (pa.null(), pa.timestamp("us")),
    }
    for file in (0, 1):
        keys = {name: pa.nulls(1, both[file]) for name, both in kinds.items()}
        write(tmp_path / f"{file}.parquet", columns={"x": [1.0], **keys, "e": [("1", 1)[file]]})
    found = plan(tmp_path, ["x"])
    assert found.types == {
        "a": "int64", "b": "double", "c": "large_string", "d": "timestamp[us]", "x": "double"
    }  # fmt: skip
    (rows,) = parquet_chunks(found, key_columns=[*kinds]).read(0, 1)
    assert {field.name: str(field.type) for field in rows.keys.schema} == {
        name: kind for name, kind in found.types.items() if name != "x"
    }


def test_a_filter_on_a_column_that_drifts_prunes_and_masks_by_value(tmp_path):
    days = ([1, 2, 3], [0.5, 2.0, None], [9, 9, 9], [7.5, 8.5, 9.5])
    for day, values in enumerate(days):
        kind = pa.float64() if day % 2 else pa.int64()
        write(tmp_path / f"{day}.parquet", columns={"a": pa.array(values, kind)})
    found = plan(tmp_path, convert={"a": "float"}, filter="a <= 2")
    assert [file.path for file in found.files] == ["0.parquet", "1.parquet"]
    (rows,) = parquet_chunks(found).read(0, 1)
    assert rows.values[:, 0].tolist() == [1.0, 2.0, 0.5, 2.0]


def test_a_column_named_twice(tmp_path):
    write(tmp_path / "x.parquet")
    message = refused(ConfigError, tmp_path, ["a", "b", "a"])
    assert message == "input.columns names 'a' twice; name each column once"


def test_two_columns_of_one_name_in_a_file(tmp_path):
    table = pa.Table.from_arrays(
        [pa.array([1.0]), pa.array([2.0]), pa.array([3.0])], ["a", "a", "z"]
    )
    write(tmp_path / "x.parquet", columns=table)
    message = refused(SchemaError, tmp_path)
    assert message == "x.parquet: 2 columns are named 'a'; rename them when writing"
    assert plan(tmp_path, ["z"]).types == {"z": "double"}


# Key columns


def test_key_columns_must_be_in_every_file_with_one_type(tmp_path):
    write(tmp_path / "1.parquet", columns={"a": [1.0], "id": ["x"], "only": [1]})
    write(tmp_path / "2.parquet", columns={"a": [1.0], "id": ["x"]})
    found = plan(tmp_path)
    assert found.types == {"a": "double", "id": "string"}
    with pytest.raises(SchemaError, match=r"key column 'ids' is not in every .*mean 'id'\?"):
        parquet_chunks(found, key_columns=["ids"])
    with pytest.raises(SchemaError, match="key column 'only' is not in every file with one type"):
        parquet_chunks(found, key_columns=["only"])
    with pytest.raises(ConfigError, match="key_columns names 'id' twice"):
        parquet_chunks(found, key_columns=["id", "id"])


# S3: pyarrow's own client against a server that knows enough of the protocol


DAY = "Mon, 01 Jan 2024 00:00:00 GMT"


class Bucket(BaseHTTPRequestHandler):
    folder: Path

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if "list-type" in query:
            return self.answer(200, self.listing(query), body)
        path = self.folder / unquote(url.path).lstrip("/")
        if path.parent == self.folder and path.is_dir():
            return self.answer(200, b"", body)  # a bucket
        if not path.is_file():
            return self.answer(404, b"", body)
        content = path.read_bytes()
        if "Range" in self.headers:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            last = min(int(last), len(content) - 1)
            extra = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
            return self.answer(206, content[int(first) : last + 1], body, extra)
        tag = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Last-Modified": DAY}
        return self.answer(200, content, body, tag)

    def listing(self, query):
        bucket = self.folder / unquote(urlsplit(self.path).path).strip("/")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        keys = sorted(p.relative_to(bucket).as_posix() for p in bucket.rglob("*") if p.is_file())
        entries, folders = "", []
        for key in (key for key in keys if key.startswith(prefix)):
            head, mark, _ = key[len(prefix) :].partition(delimiter or "\0")
            if mark:
                folders.append(prefix + head + mark)
                continue
            size = (bucket / key).stat().st_size
            entries += (
                f"<Contents><Key>{key}</Key><Size>{size}</Size>"
                "<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
            )
        for folder in dict.fromkeys(folders):
            entries += f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"
        count = entries.count("<Key>") + entries.count("<Prefix>")
        return (
            '<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>'
            f"<KeyCount>{count}</KeyCount>{entries}</ListBucketResult>"
        ).encode()

    def answer(self, status, content, body, extra=()):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in dict(extra).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def s3(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "from-the-environment")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    handler = type("Handler", (Bucket,), {"folder": tmp_path})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    options = f"?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{server.server_port}"
    yield lambda key: f"s3://{key}{options}"
    server.shutdown()
    thread.join()
    server.server_close()
    _s3.cache_clear()


def test_s3_is_listed_and_read_like_a_directory(tmp_path, s3, monkeypatch):
    for i in range(3):
        write(tmp_path / "bucket" / "data" / f"day={i}" / "x.parquet", rows=i + 1)
    write(tmp_path / "bucket" / "data" / "_temporary" / "x.parquet")
    write(tmp_path / "bucket" / "data" / "day=0" / "notes.txt")
    found = plan(s3("bucket/data"), ["a", "day"])
    members = ["day=0/x.parquet", "day=1/x.parquet", "day=2/x.parquet"]
    assert [file.path for file in found.files] == members
    local = plan(tmp_path / "bucket" / "data", ["a", "day"])
    assert found.digest == local.digest
    assert names(s3("bucket/data/day=[12]/*.parquet")) == members[1:]
    assert names(s3("bucket/data/day=1/x.parquet")) == ["day=1/x.parquet"]
    # The server says when an object was written: in 2024.
    assert names(s3("bucket/data"), settled_for="2h") == members
    monkeypatch.setattr(usable_files.time, "time", lambda: 1_704_067_200.0 + 60)
    assert "no file is at rest" in refused(TooFewRowsError, s3("bucket/data"), settled_for="2h")
    assert names(s3("bucket/data/**/x.parquet")) == members
    chunks = pickle.loads(pickle.dumps(parquet_chunks(found)))
    (rows,) = chunks.read(0, 1)
    (expected,) = parquet_chunks(local).read(0, 1)
    np.testing.assert_array_equal(rows.values, expected.values)
    assert "from-the-environment" not in json.dumps(found.to_json())
    assert b"from-the-environment" not in pickle.dumps(chunks)
    message = refused(InputError, s3("bucket/dat"))
    assert "no such file or directory; did you mean 'data'?" in message


def test_the_hint_of_an_object_is_its_entity_tag_and_time(tmp_path, s3):
    path = tmp_path / "bucket" / "x.parquet"
    write(path)
    tag = hashlib.md5(path.read_bytes()).hexdigest()
    assert [file.hint for file in plan(s3("bucket/x.parquet")).files] == [
        f'"{tag}" 2024-01-01T00:00:00Z'
    ]


def test_a_plan_is_a_value(tmp_path):
    write(tmp_path / "x.parquet")
    found = plan(tmp_path)
    assert replace(found, nulls="drop") != found
    assert "files" not in repr(found)
