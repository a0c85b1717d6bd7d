"""Filters: SQL's WHERE read, bound, decided unread, and as masks; DuckDB says what is right."""

import datetime as dt
import io
from decimal import Decimal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_dask.errors import ConfigError
from gmm_dask.storage.input.filters.binding import Family, bind, family_of
from gmm_dask.storage.input.filters.input_filter import InputFilter, names_present
from gmm_dask.storage.input.filters.mask import mask_of
from gmm_dask.storage.input.filters.outcomes import FALSE, NULL, TRUE, outcomes, simplify
from gmm_dask.storage.input.filters.predicate import Negation, text_of
from gmm_dask.storage.input.filters.sql import parse_filter
from gmm_dask.storage.input.filters.statistics import row_group_domains
from gmm_dask.storage.input.footer import read_footer

NOW = dt.datetime(2026, 7, 29, 3, 15, 7, 250_000, tzinfo=dt.UTC)
DAY, TIME = dt.date(2026, 1, 31), dt.datetime(2026, 1, 31, 12, 0, 0, 500_000)

#: Columns of every type that can be compared, with values at and around the literals below.
COLUMNS = {
    "i8": pa.array([-128, 127, None, 0, 2, -1, 1, 3], pa.int8()),
    "i": pa.array([1, 2, None, 3, 2**53 + 1, -5, 0, 2**62], pa.int64()),
    "u": pa.array([0, 2**64 - 1, 5, None, 2, 3, 1, 2**63], pa.uint64()),
    "f": pa.array([0.1, -0.0, None, 1.5, 2.0, 1e300, 3.0, -1.0]),
    "f32": pa.array([0.1, 0.5, None, 1.5, 2.0, -0.0, 3.0, -1.0], pa.float32()),
    "x": pa.array([Decimal(v) if v else None for v in
                   ("1.50", "0.10", "", "-2.00", "3.00", "2.00", "99999999.99", "0.00")],
                  pa.decimal128(10, 2)),
    "s": pa.array(["a", "b", None, "", "it's", "ä", "B", "ab"]),
    "c": pa.array(["a", "b", None, "a", "b", "", "ä", "a"]).dictionary_encode(),
    "b": pa.array([True, False, None, True, None, False, True, False]),
    "d": pa.array([DAY, None, DAY - dt.timedelta(1), DAY + dt.timedelta(1), DAY, DAY, None, DAY]),
    "t": pa.array([TIME, None, TIME - dt.timedelta(1), dt.datetime(2026, 1, 31), TIME,
                   dt.datetime(2026, 2, 1), None, TIME], pa.timestamp("us")),
    "ms": pa.array([TIME, dt.datetime(2026, 1, 31), None, TIME, None, TIME, TIME, TIME],
                   pa.timestamp("ms")),
    "odd \"name": pa.array([1, 2, 3, None, 5, 6, 7, 8]),
}  # fmt: skip
TABLE = pa.table(COLUMNS)
FAMILIES = {field.name: family_of(field.type) for field in TABLE.schema}
LITERALS = {
    Family.NUMBER: ["0", "1", "2", "-1", "1.5", "0.1", "0.5", "2.0", "127", "128", "-129", "3.001",
                    str(2**53 + 1), str(2**63), "99999999.99", "1e3"],
    Family.TEXT: ["'a'", "'b'", "''", "'it''s'", "'ä'", "'B'"],
    Family.BOOLEAN: ["true", "false"],
    Family.MOMENT: ["date '2026-01-31'", "date '2026-02-01'", "'2026-01-31'",
                    "timestamp '2026-01-31 12:00:00.5'", "timestamp '2026-01-31 12:00:00.5001'",
                    "timestamp '2026-01-31 00:00:00'", "date '2026-02-02' - 2",
                    "date '2026-02-01' - interval '36' hour",
                    "date '2026-03-31' - interval '1' month"],
}  # fmt: skip


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


@st.composite
def conditions(draw, names=tuple(COLUMNS), depth=3):
    """A condition as text, of columns and literals that can be compared."""
    if depth and draw(st.booleans()):
        word = draw(st.sampled_from(["and", "or", "not"]))
        first = draw(conditions(names, depth - 1))
        if word == "not":
            return f"not ({first})"
        return f"({first}) {word} ({draw(conditions(names, depth - 1))})"
    name = draw(st.sampled_from(names))
    family = FAMILIES[name]
    literal = st.sampled_from(LITERALS[family])
    kind = draw(st.sampled_from(["compare", "mirror", "between", "in", "null", "columns", "flag"]))
    maybe_not = draw(st.sampled_from(["", "not "]))
    operator = draw(st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="]))
    column = quoted(name)
    if kind == "null":
        return f"{column} is {maybe_not}null"
    if kind == "between":
        return f"{column} {maybe_not}between {draw(literal)} and {draw(literal)}"
    if kind == "in":
        values = draw(st.lists(st.one_of(literal, st.just("null")), min_size=1, max_size=4))
        return f"{column} {maybe_not}in ({', '.join(values)})"
    if kind == "columns":
        # DuckDB compares these through float32 or casts that overflow; not what a table has.
        alike = [n for n in names if FAMILIES[n] is family and {n, name}.isdisjoint({"f32", "u"})]
        if alike:
            return f"{column} {operator} {quoted(draw(st.sampled_from(alike)))}"
    if kind == "flag" and family is Family.BOOLEAN:
        return column
    if kind == "mirror":
        return f"{draw(literal)} {operator} {column}"
    return f"{column} {operator} {draw(literal)}"


def bound(text, families=FAMILIES):
    return bind(parse_filter(text, NOW), families, text)


def mask(text, table=TABLE):
    (batch,) = table.combine_chunks().to_batches()
    return mask_of(bound(text), batch)


@pytest.fixture(scope="module")
def database():
    numbered = TABLE.append_column("#", pa.array(range(TABLE.num_rows)))
    with duckdb.connect() as connection:
        connection.execute("set threads = 1")
        connection.register("rows", numbered)
        yield connection


def duckdb_mask(database, condition):
    inside = database.sql(f'select "#" from rows where {condition}').fetchall()
    return np.isin(np.arange(TABLE.num_rows), [row for (row,) in inside])


#: Columns whose comparison with literals is the same in DuckDB: not float32, which DuckDB compares
#: with 0.1 as float32, where PostgreSQL and we compare as float64.
AS_DUCKDB = tuple(name for name in COLUMNS if name != "f32")


@settings(max_examples=200)
@given(condition=conditions(AS_DUCKDB))
def test_a_mask_keeps_the_rows_that_duckdb_keeps(database, condition):
    np.testing.assert_array_equal(mask(condition), duckdb_mask(database, condition), condition)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        # SQL's three values: of a null nobody knows whether it is more than 1, or not.
        ("i > 1", [1, 3, 4, 7]),
        ("not (i > 1)", [0, 5, 6]),
        ("i > 1 or true", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("i not in (1, null)", []),
        ("i = null", []),
        ("null", []),
        ("not b", [1, 5, 7]),
        # Exact beyond 2^53, and between the cents of a decimal.
        (f"i > {2**53}", [4, 7]),
        (f"i = {2**53}", []),
        ("x < 1.505 and x > 1.495", [0]),
        ("x in (1.5, 1.505)", [0]),
        ("u >= 9223372036854775808", [1, 7]),
        ("u > i", [1, 5, 6, 7]),
        ("f = 0", [1]),
        ("f in (0)", [1]),
        ("f < 1e999", [0, 1, 3, 4, 5, 6, 7]),
        # Columns of float32 are compared as float64.
        ("f32 = 0.1", []),
        ("f32 = 0.5", [1]),
        # Text by its bytes; quotes are doubled; names keep their case.
        ("s > 'a'", [1, 4, 5, 7]),
        ("s = 'it''s'", [4]),
        ("\"odd \"\"name\" >= 7", [6, 7]),
        # A date is its first instant.
        ("t >= d", [0, 2, 4, 5, 7]),
        ("t between '2026-01-31' and '2026-01-31 23:59:59'", [0, 3, 4, 7]),
        ("t < timestamp '2026-01-31 02:00:00+02:00'", [2]),
        ("ms = t", [0, 7]),
        ("d > date '2026-01-31' - 1 and d < date '2026-01-31' + 1", [0, 4, 5, 7]),
    ],
)  # fmt: skip
def test_the_rows_inside(condition, rows):
    assert np.flatnonzero(mask(condition)).tolist() == rows


def test_nan_counts_as_null():
    table = pa.table({"f": [np.nan, 1.0, None], "g": pa.array([np.nan, 2.0, 0.0], pa.float16())})
    families = dict.fromkeys(table.column_names, Family.NUMBER)
    (batch,) = table.to_batches()
    for condition, rows in {
        "f is null": [0, 2],
        "f > 0": [1],
        "not (f > 0)": [],
        "f <> 0": [1],
        "g is not null": [1, 2],
        "f = g or g = 2": [1],
    }.items():
        assert np.flatnonzero(mask_of(bound(condition, families), batch)).tolist() == rows


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("d >= current_date - 30", "\"d\" >= date '2026-06-29'"),
        ("d > current_date + interval '2' week", "\"d\" > date '2026-08-12'"),
        ("d > current_date() - interval '1 month'", "\"d\" > date '2026-06-29'"),
        ("t > current_timestamp - interval '36' hour",
         "\"t\" > timestamp '2026-07-27 15:15:07.250000'"),
        ("t > current_date - interval '36' hours", "\"t\" > timestamp '2026-07-27 12:00:00'"),
        ("t < current_timestamp - 1", "\"t\" < timestamp '2026-07-28 03:15:07.250000'"),
        ("d = date '2024-02-29' - interval '1' year", "\"d\" = date '2023-02-28'"),
        ("current_date >= d", "\"d\" <= date '2026-07-29'"),
        ("d between date '2026-01-01' and date '2026-01-02'",
         "\"d\" >= date '2026-01-01' and \"d\" <= date '2026-01-02'"),
        ("a != -1.50 and (b or c not in ('x', null)) and not (d is not null)",
         "\"a\" <> -1.50 and (\"b\" or \"c\" not in ('x', null)) and (not \"d\" is not null)"),
        ("a = 1e-300 -- a comment", "\"a\" = 1e-300"),
    ],
)  # fmt: skip
def test_the_present_is_put_in(text, resolved):
    predicate = parse_filter(text, NOW)
    assert text_of(predicate) == resolved
    assert text_of(parse_filter(resolved, NOW.replace(year=1999))) == resolved
    assert names_present(text) is ("current" in text)


def test_today_is_the_day_in_utc():
    late = dt.datetime(2026, 7, 29, 23, 30, tzinfo=dt.timezone(-dt.timedelta(hours=7)))
    assert text_of(parse_filter("d = current_date", late)) == "\"d\" = date '2026-07-30'"


@settings(max_examples=100)
@given(conditions())
def test_the_text_of_a_predicate_reads_as_the_predicate(condition):
    predicate = parse_filter(condition, NOW)
    again = parse_filter(text_of(predicate), NOW)
    assert again == predicate
    assert text_of(again) == text_of(predicate)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "filter: is empty; write a condition such as price > 0"),
        ("i >", "line 1, column 3, '>': is incomplete; something is missing before or after"),
        ("i = " + "9" * 5000, "is not a number that can be read"),
        ("i > 1 and (", "line 1, column 11, '(': is incomplete"),
        ("i > 1 limit 3", "line 1, column 7, 'limit 3': is not expected here; a filter has comp"),
        ("i > 1 i", "line 1, column 7, 'i': is not expected here"),
        ("i > 1 and\n  s like 'x%'", "line 2, column 3, \"s like 'x%'\": is not a condition"),
        ("i > 1; drop table rows", "line 1, column 8, 'drop table rows': is not expected here"),
        ("where i > 1", "line 1, column 1, 'where i > 1': write the condition without the word"),
        ("s = 'a", "has a quote or a comment without an end"),
        ("i + 1 > 2", "line 1, column 1, 'i + 1 > 2': is not a value that a filter can have"),
        ("lower(s) = 'a'", "line 1, column 1, \"lower(s) = 'a'\": is not a value"),
        ("i > 0 and 1 = 1", "line 1, column 11, '1 = 1': compares no column"),
        ("s in (select 1)", "line 1, column 1, 's in (select 1)': is not a condition"),
        ("i in (1, u)", "line 1, column 10, 'u)': is a column where only a value can stand"),
        ("rows.i = 1", "line 1, column 1, 'rows.i = 1': is not the plain name of a column"),
        ("d > '2026-13-01'", "line 1, column 5, \"'2026-13-01'\": column 'd' holds dates or "
                             "timestamps, and this is text; write a date such as '2026-01-31'"),
        ("d > date '31.1.2026'", "line 1, column 10, \"'31.1.2026'\": is not a date that can be"),
        ("d > current_date - 1.5", "column 20, '1.5': is not a whole number of days"),
        ("d > current_date - interval '1 day 2 hours'", "is not an interval that can be read"),
        ("d > current_date - 99999999", "is outside the years 1 to 9999"),
        ("s > 5", "line 1, column 5, '5': column 's' holds text, and this is a number; write text "
                  "in single quotes"),
        ("i = 'a'", "column 'i' holds numbers, and this is text; write a number without quotes"),
        ("b = 1", "column 'b' holds booleans, and this is a number; write true or false"),
        ("c between 'a' and 2", "column 19, '2': column 'c' holds text, and this is a number"),
        ("i in (1, 'a')", "column 10, \"'a')\": column 'i' holds numbers, and this is text"),
        ("i > s", "column 'i' holds numbers, and column 's' text, which cannot be compared"),
        ("i or b", "column 'i' holds numbers, which is no condition; compare it with something"),
        ("o = 1", "column 'o' holds values that cannot be compared; a filter can only ask whether"),
        ("(" * 500 + "b" + ")" * 500, "filter: is nested too deeply"),
        ("i between symmetric 2 and 1", "is not a condition that a filter can have"),
        ("i = :x", "is not a value that a filter can have"),
        ("s", "column 's' holds text, which is no condition"),
        ("select 1", "is not expected here"),
    ],
)  # fmt: skip
def test_what_lies_outside_the_subset_is_refused_where_it_stands(text, message):
    with pytest.raises(ConfigError) as error:
        bound(text, {**FAMILIES, "o": Family.OTHER})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_thousand_conditions_are_not_too_deep():
    text = " or ".join(f"i = {number}" for number in range(1000))
    assert mask(text).tolist() == [True, True, False, True, False, False, True, False]


def footer_of(table, **options):
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    source = pa.BufferReader(buffer.getvalue())
    footer = read_footer(source, "x.parquet")
    return footer, footer.parse("x.parquet")


def domains_of(table, **options):
    footer, metadata = footer_of(table, **options)
    return row_group_domains(footer.raw, metadata, footer.schema(metadata), table.column_names)


@settings(max_examples=150)
@given(conditions(), st.sampled_from([1, 2, 3, 8]))
def test_statistics_never_decide_wrongly(condition, rows):
    predicate = bound(condition)
    truth = mask_of(predicate, TABLE.combine_chunks().to_batches()[0])
    falsehood = mask_of(Negation(predicate), TABLE.combine_chunks().to_batches()[0])
    for group, domains in enumerate(domains_of(TABLE, row_group_size=rows)):
        place = slice(group * rows, (group + 1) * rows)
        possible = outcomes(predicate, domains)
        assert possible & TRUE or not truth[place].any()
        assert possible & FALSE or not falsehood[place].any()
        assert possible & NULL or (truth | falsehood)[place].all()
        simple = simplify(predicate, domains)
        batch = TABLE.slice(place.start, rows).combine_chunks().to_batches()[0]
        np.testing.assert_array_equal(mask_of(simple, batch), truth[place])


def test_statistics_are_read_of_every_type():
    # Not of a column without a value, nor of float16, which the test of floats has.
    (domains,) = domains_of(TABLE)
    known = {name: (domain.low, domain.high) for name, domain in domains.items()}
    midnight = 1769817600 * 10**9
    assert known == {
        "i8": (-128, 127), "i": (-5, 2**62), "u": (0, 2**64 - 1), "f": (-1.0, 1e300),
        "f32": (-1.0, 3.0), "x": (Decimal("-2.00"), Decimal("99999999.99")),
        "s": (b"", "ä".encode()), "c": (b"", "ä".encode()), "b": (False, True),
        "d": (midnight - 86400 * 10**9, midnight + 86400 * 10**9),
        "t": (midnight - 43200 * 10**9 + 5 * 10**8, midnight + 86400 * 10**9),
        "ms": (midnight, midnight + 43200 * 10**9 + 5 * 10**8),
        "odd \"name": (1, 8),
    }  # fmt: skip
    assert all(domain.nulls and domain.values for domain in domains.values())
    (without,) = domains_of(TABLE, write_statistics=False)
    assert all(domain.low is None for domain in without.values())
    wide = pa.table({"x": pa.array([Decimal(10**37)], pa.decimal128(38, 0))})
    assert domains_of(wide)[0]["x"].low == Decimal(10**37)
    (nulls,) = domains_of(pa.table({"i": pa.nulls(3, pa.int64())}))
    assert not nulls["i"].values


def test_nested_columns_have_no_statistics():
    table = pa.table({"n": [{"i": 1}], "l": [[1]], "i": [1]})
    assert domains_of(table)[0].keys() == {"i"}


def test_a_damaged_footer_ends_no_process():
    footer, metadata = footer_of(TABLE, row_group_size=3)
    schema = footer.schema(metadata)
    random = np.random.default_rng(0)
    for _ in range(300):
        raw = bytearray(footer.raw)
        for place in random.integers(len(raw) - 8, size=random.integers(1, 5)):
            raw[place] = random.integers(256)
        domains = row_group_domains(bytes(raw), metadata, schema, TABLE.column_names)
        assert len(domains) == 3


def test_keys_of_partitions_decide_alone():
    families = {"day": Family.MOMENT, "country": Family.TEXT, "n": Family.NUMBER}
    wanted = InputFilter("day >= date '2026-01-31' and country in ('FR') and n > 1", families)
    for partitions, residual in [
        ({"day": "2026-01-31", "country": "FR"}, '"n" > 1'),
        ({"day": "2026-01-30", "country": "FR"}, "false"),
        ({"day": "2026-01-31", "country": None}, "null"),
        ({"day": "2026-01-31", "country": "FR", "n": "2"}, "true"),
        ({"day": "2026-01-31", "country": "DE", "n": "2"}, "false"),
    ]:
        simple = wanted.residual(partitions)
        if residual == "null":
            assert not outcomes(simple, {}) & TRUE
        else:
            assert text_of(simple) == residual
