"""What a file holds: its digest, whatever cut the rows, and whether it holds the same today."""

import json
import os
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask.chunked.cluster.placement import cut_tasks
from gmm_dask.chunked.groups import lanes_of
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import InputSection
from gmm_dask.errors import InputError
from gmm_dask.events import Stage
from gmm_dask.storage.input import content, hints
from gmm_dask.storage.input.content import (
    FileContent,
    contents_of,
    decode_contents,
    encode_contents,
    unchanged_files,
)
from gmm_dask.storage.input.digests import RowGroupDigest, file_digests, read_digest
from gmm_dask.storage.input.hints import hint_of
from gmm_dask.storage.input.plan import InputPlan, plan_input
from gmm_dask.storage.input.reader import parquet_chunks
from tests.waiting import until

ROWS = 3_000


def write(path, seed, rows=ROWS, nulls=True, **options):
    """A file whose footer says nothing of its values."""
    random = np.random.default_rng(seed)
    mask = nulls & (np.arange(rows) % 7 == 3)
    table = pa.table(
        {
            "a": pa.array(random.normal(size=rows), mask=mask),
            "b": random.integers(100, size=rows),
            "text": pa.array([f"{seed} {n}" for n in range(rows)], pa.string(), mask=mask),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, path, **(plain | options))


def plan_of(root, columns=("a", "b")):
    return plan_input(InputSection(path=str(root), columns=list(columns), nulls="drop"))


def settled(root):
    """The plan once every file has a hint: the clock has moved on since it was written."""

    def plan_with_hints():
        plan = plan_of(root)
        return plan if all(file.hint for file in plan.files) else None

    return until(plan_with_hints, "a file has no hint")


def reverse(path, columns=("a",)):
    """Rewrite a file: other values, and the same size and footer."""
    before = path.stat().st_size, plan_of(path.parent).files[0].footer
    table = pq.read_table(path, partitioning=None)
    for name in columns:
        values = table[name].combine_chunks()
        inner = values[1:-1].take(pa.array(np.arange(len(values) - 3, -1, -1)))
        turned = pa.concat_arrays([values[:1], inner, values[-1:]])
        table = table.set_column(table.schema.get_field_index(name), name, turned)
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    assert (path.stat().st_size, plan_of(path.parent).files[0].footer) == before


def count(rows, argument):
    return rows.source_rows


def scanned(plan, threads=1, keys=(), **cut):
    """The digest of each file as a scan takes it."""
    chunks = parquet_chunks(plan, key_columns=keys, **cut)
    with Scanner(chunks, Threads(threads, memory=0), once=True) as scanner:
        scanner.reduce(count, None, Stage.PREDICT)
        return file_digests(plan, scanner.digests)


# The digest


@pytest.fixture
def root(tmp_path):
    for day, groups in ((1, 3_000), (2, 400), (3, 1_000)):
        write(tmp_path / "input" / f"day={day}" / "part.parquet", day, row_group_size=groups)
    write(tmp_path / "input" / "day=4" / "part.parquet", 4, rows=0)
    return tmp_path / "input"


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("split_files", [False, True])
@pytest.mark.parametrize("chunk_bytes", [16 * 97, 16 * 650, 16 * 2_000, 31 << 20])
def test_the_digest_does_not_depend_on_the_cut(root, threads, split_files, chunk_bytes):
    plan = plan_of(root)
    again = [read_digest(plan, number) for number in range(len(plan.files))]
    cut = {"split_files": split_files, "chunk_bytes": chunk_bytes}
    assert list(scanned(plan, threads, **cut)) == again
    assert len(set(again)) == 4


@pytest.mark.parametrize("batch", [64, 1_000])
def test_batches_that_end_within_chunks_change_nothing(root, monkeypatch, batch):
    monkeypatch.setattr("gmm_dask.storage.input.digests._BATCH_ROWS", batch)
    plan = plan_of(root)
    expected = [read_digest(plan, number, ("text",)) for number in range(len(plan.files))]
    for chunk_bytes in (16 * 97, 16 * 650, 31 << 20):
        assert list(scanned(plan, keys=("text",), chunk_bytes=chunk_bytes)) == expected


def test_tasks_that_begin_within_a_row_group_bring_each_digest_once(root):
    plan = plan_of(root)
    chunks = parquet_chunks(plan, chunk_bytes=16 * 97)
    whole = [digest for rows in chunks.read(0, len(chunks.rows), True) for digest in rows.digests]
    parts = []
    for start in range(len(chunks.rows)):
        (rows,) = chunks.read(start, start + 1, True)
        parts.extend(rows.digests)
    assert parts == whole
    assert len(whole) == 1 + 8 + 3
    assert cut_tasks(lanes_of(chunks), 8)  # what such tasks are made of


def test_the_digest_is_of_the_values_and_not_of_path_encoding_or_time(root, tmp_path):
    plan = plan_of(root)
    other = tmp_path / "elsewhere" / "x.parquet"
    write(other, 1, compression="zstd", use_dictionary=True, row_group_size=3_000)
    assert read_digest(plan_of(other.parent), 0) == read_digest(plan, 0)
    assert read_digest(plan_of(root, ("a",)), 0) != read_digest(plan, 0)
    assert read_digest(plan, 0, ("text",)) != read_digest(plan, 0)


def test_no_digest_is_taken_where_none_is_asked_for(root):
    chunks = parquet_chunks(plan_of(root))
    assert [rows.digests for rows in chunks.read(0, len(chunks.rows))] == [()] * len(chunks.rows)
    assert file_digests(plan_of(root), ()) == (None,) * 4
    with pytest.raises(ValueError, match="3 digests for 12 row groups"):
        file_digests(plan_of(root), ("a", "b", "c"))


VALUES = {
    "float64": pa.array([1.5, 2.5, None, -0.0]),
    "float32": pa.array([1.5, 2.5, None, 0.0], pa.float32()),
    "float16": pa.array(np.array([1.5, 2.5, 3.0, 0.0], np.float16)),
    "int8": pa.array([1, None, 3, 4], pa.int8()),
    "bool": pa.array([True, False, None, True]),
    "text": pa.array(["ab", "c", None, ""]),
    "large text": pa.array(["ab", "c", None, ""], pa.large_string()),
    "binary": pa.array([b"ab", b"c", None, b""]),
    "fixed": pa.array([b"ab", b"cd", None, b"ef"], pa.binary(2)),
    "decimal": pa.array([Decimal("1.5"), Decimal("2.5"), None, Decimal(0)], pa.decimal128(9, 1)),
    "timestamp": pa.array([1, 2, None, 3], pa.timestamp("ns", "UTC")),
    "date": pa.array([1, 2, None, 3], pa.date32()),
    "dictionary": pa.array(["x", "y", None, "x"]).dictionary_encode(),
    "list": pa.array([[1, 2], [], None, [3]]),
    "struct": pa.array([{"a": 1}, {"a": None}, None, {"a": 2}]),
    "null": pa.nulls(4),
}


def digest_of(array):
    digest = RowGroupDigest()
    digest.update(pa.RecordBatch.from_arrays([array], ["x"]))
    return digest.hexdigest()


@pytest.mark.parametrize("kind", VALUES)
def test_columns_of_every_type_have_a_digest_of_their_values(kind):
    array = VALUES[kind]
    # The same rows as a slice of more, whose other bytes are not theirs.
    padded = pa.concat_arrays([array.take([3, 3, 3]), array, array.take([0])])
    assert digest_of(padded.slice(3, 4)) == digest_of(array)
    if kind != "null":
        assert digest_of(array.take([1, 0, 2, 3])) != digest_of(array)
        assert digest_of(array.take([0, 1, 3, 2])) != digest_of(array)


def test_views_have_a_digest_too():
    first, second = (pa.array([text, None, "c"], pa.string_view()) for text in ("ab", "ba"))
    padded = pa.concat_arrays([second, first, second])
    assert digest_of(padded.slice(3, 3)) == digest_of(first) != digest_of(second)
    nested, other = (pa.array([[text]], pa.list_(pa.string_view())) for text in ("ab", "ba"))
    assert digest_of(nested) != digest_of(other)


def test_bytes_behind_a_null_are_no_values():
    valid = pa.array([True, False, True]).buffers()[1]
    first, second = (
        pa.Array.from_buffers(pa.float64(), 3, [valid, pa.py_buffer(np.array(values))])
        for values in ([1.0, 7.0, 2.0], [1.0, -3.0, 2.0])
    )
    assert digest_of(first) == digest_of(second)
    assert digest_of(pa.array([1.0, 2.0, None])) != digest_of(pa.array([1.0, None, 2.0]))


# Whether a file holds what it held


@pytest.fixture
def path(tmp_path):
    """One file, at rest for longer than a tick of the clock."""
    file = tmp_path / "input" / "a.parquet"
    write(file, 1, nulls=False)
    settled(file.parent)
    return file


def known_of(path):
    plan = settled(path.parent)
    return contents_of(plan, scanned_groups(plan))


def scanned_groups(plan):
    chunks = parquet_chunks(plan)
    return [digest for rows in chunks.read(0, len(chunks.rows), True) for digest in rows.digests]


def count_readings(monkeypatch):
    numbers, real = [], content.read_digest

    def counted(plan, number, key_columns=()):
        numbers.append(number)
        return real(plan, number, key_columns)

    monkeypatch.setattr(content, "read_digest", counted)
    return numbers


def test_a_file_at_rest_is_not_read(path, monkeypatch):
    known = known_of(path)
    readings = count_readings(monkeypatch)
    assert unchanged_files(settled(path.parent), known) == known
    assert readings == []


def test_a_file_that_was_touched_is_read_once(path, monkeypatch, caplog):
    known = known_of(path)
    os.utime(path)
    readings = count_readings(monkeypatch)
    plan = settled(path.parent)
    caplog.set_level("INFO", "gmm_dask")
    same = unchanged_files(plan, known)
    assert readings == [0]
    assert caplog.messages[0].startswith("1 of 1 input file(s) may have been written since")
    assert same == {"a.parquet": replace(known["a.parquet"], hint=plan.files[0].hint)}
    assert unchanged_files(plan, same) == same
    assert readings == [0]


def test_a_copy_in_its_place_is_read_once_and_is_the_same(path, monkeypatch):
    known = known_of(path)
    status = path.stat()
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    copy.replace(path)
    readings = count_readings(monkeypatch)
    assert set(unchanged_files(settled(path.parent), known)) == {"a.parquet"}
    assert readings == [0]


@pytest.mark.parametrize("clock", ["as it is", "set back"])
def test_a_file_that_was_rewritten_has_changed(path, clock):
    known = known_of(path)
    status = path.stat()
    reverse(path)
    if clock == "set back":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert unchanged_files(settled(path.parent), known) == {}
    assert unchanged_files(plan_of(path.parent), known) == {}


def test_a_key_column_is_part_of_what_a_file_holds(path):
    plan = settled(path.parent)
    known = contents_of(plan, [read_groups(plan, ("text",))])
    reverse(path, ("text",))
    plan = settled(path.parent)
    assert unchanged_files(plan, known, ("text",)) == {}


def read_groups(plan, keys):
    (rows,) = parquet_chunks(plan, key_columns=keys).read(0, 1, True)
    (digest,) = rows.digests
    return digest


def test_what_is_not_known_counts_as_changed(path):
    plan, known = settled(path.parent), known_of(path)["a.parquet"]
    for content_before in (
        replace(known, digest=None),
        replace(known, size=known.size + 1),
        replace(known, footer="another"),
    ):
        assert unchanged_files(plan, {"a.parquet": content_before}) == {}
    assert unchanged_files(plan, {}) == {}
    assert unchanged_files(plan, {"other.parquet": known}) == {}


def test_a_file_that_cannot_be_read_again_is_an_error(path):
    known = known_of(path)
    text = bytearray(path.read_bytes())
    text[4:200] = bytes(196)
    path.write_bytes(text)
    with pytest.raises(InputError, match=r"^a\.parquet: row group 0 cannot be decoded"):
        unchanged_files(plan_of(path.parent), known)


def test_contents_can_be_stored(path):
    known = known_of(path)
    assert decode_contents(encode_contents(known)) == known
    for text in (b"", b"{}", b"[]", b'{"format": 2, "files": {}}', b'{"format": 1, "files": []}'):
        with pytest.raises(ValueError, match=r"."):
            decode_contents(text)


# Hints


def test_a_file_changed_within_this_tick_has_no_hint(path, monkeypatch):
    with pa.OSFile(str(path)) as source:
        changed = path.stat().st_ctime_ns
        for later, known in ((0, False), (10_000_000, False), (30_000_000, True)):
            monkeypatch.setattr(hints.time, "time_ns", lambda later=later: changed + later)
            assert (hint_of(str(path.parent), path.name, source) is not None) == known


def test_hints_are_no_part_of_the_plan(path):
    plan = settled(path.parent)
    assert plan.files[0].hint not in json.dumps(plan.to_json())
    os.utime(path)
    other = settled(path.parent)
    assert other.files[0].hint != plan.files[0].hint
    assert other == plan
    assert other.digest == plan.digest
    assert InputPlan.from_json(plan.to_json()).files[0].hint is None


def test_an_object_store_gives_its_entity_tag():
    class Source:
        def metadata(self):
            return {b"ETag": b'"5afe"', b"Last-Modified": b"Mon", b"Content-Length": b"7"}

    class Silent:
        def metadata(self):
            return {}

    assert hint_of("s3://bucket", "a.parquet", Source()) == '"5afe" Mon'
    assert hint_of("s3://bucket", "a.parquet", Silent()) is None


def test_contents_of_an_older_format_have_no_digest():
    assert FileContent(*[7, "f00d"]) == FileContent(7, "f00d", None, None)
