"""Weights by age: their values against the textbook, and rows or columns without an age."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_dask.config import InputSection, check_config
from gmm_dask.errors import ConfigError, InputError, SchemaError
from gmm_dask.estimator import GaussianMixture
from gmm_dask.storage.input.decay import Decay, power_of_two
from gmm_dask.storage.input.plan import InputPlan, plan_input
from gmm_dask.storage.input.reader import parquet_chunks, read_parquet

NOW = dt.datetime(2026, 2, 9, 15, tzinfo=dt.UTC)
TODAY = NOW.date()


@settings(max_examples=50)
@given(st.lists(st.floats(-1080.0, 0.0), min_size=1, max_size=30))
def test_powers_of_two_are_those_of_numpy(exponents):
    exponents = np.array(exponents)
    np.testing.assert_allclose(power_of_two(exponents), np.exp2(exponents), rtol=1e-15, atol=5e-324)
    whole = np.rint(exponents)
    np.testing.assert_array_equal(power_of_two(whole), np.exp2(whole))


def test_ages_that_leave_the_range_weigh_nothing():
    np.testing.assert_array_equal(power_of_two(np.array([-1e300, -1e5, 0.0])), [0.0, 0.0, 1.0])


@settings(max_examples=50)
@given(
    st.lists(st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2026, 2, 10)), min_size=1),
    st.sampled_from(["s", "ms", "us", "ns"]),
    st.sampled_from([None, "UTC", "Pacific/Auckland"]),
    st.floats(0.1, 1e4),
)
def test_a_row_weighs_half_for_each_halflife(moments, unit, zone, days):
    moments = [moment.replace(microsecond=0) for moment in moments]
    stored = pa.array(moments, pa.timestamp(unit)).cast(pa.timestamp(unit, zone))
    ages = [(dt.datetime(2026, 2, 9) - moment) / dt.timedelta(1) for moment in moments]
    expected = [2.0 ** (-max(age, 0.0) / days) for age in ages]
    decay = Decay("t", days, TODAY)
    np.testing.assert_allclose(decay.factors(stored), expected, rtol=1e-11, atol=1e-300)
    dates = [moment.date() for moment in moments]
    keys = [decay.key_factor(str(date)) for date in dates]
    for kind in (pa.date32(), pa.date64()):
        np.testing.assert_array_equal(decay.factors(pa.array(dates, kind)), keys)


def write(root, partition="dt=2026-02-08", **columns):
    path = root / "rows" / partition / "part.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"x": np.arange(6.0), "y": np.arange(6.0) ** 2, **columns}
    pq.write_table(pa.table(columns), path)


def section(root, column="dt", days=2.0, **keys):
    tables = {"path": str(root / "rows"), "columns": ["x", "y"], **keys}
    return check_config(
        InputSection, {**tables, "weight_halflife": {"column": column, "days": days}}, "run.toml"
    )


def weights(root, **keys):
    chunks = parquet_chunks(plan_input(section(root, **keys), NOW))
    return [row for rows in chunks.read(0, len(chunks.rows)) for row in rows.sample_weight.tolist()]


def test_keys_and_columns_weigh_and_multiply_a_column_of_weights(tmp_path):
    when = [TODAY - dt.timedelta(days) for days in (0, 2, 4, 6, 8, -1)]
    write(tmp_path, since=pa.array(when), w=np.arange(6.0))
    write(tmp_path, "dt=2026-02-05", since=pa.array(when, pa.date64()), w=np.ones(6))
    assert weights(tmp_path) == pytest.approx([0.25] * 6 + [2.0**-0.5] * 6, rel=1e-15)
    powers = [1.0, 0.5, 0.25, 0.125, 0.0625, 1.0]
    assert weights(tmp_path, column="since") == powers * 2
    weighed = weights(tmp_path, column="since", sample_weight="w")
    assert weighed == [*powers, *(np.arange(6.0) * powers)]
    assert weights(tmp_path, column="since", filter="since = date '2026-02-05'") == [0.25] * 2


def test_the_day_belongs_to_the_snapshot_and_the_hour_does_not(tmp_path):
    write(tmp_path)
    plan = plan_input(section(tmp_path), NOW)
    assert plan_input(section(tmp_path), NOW - dt.timedelta(hours=14)).digest == plan.digest
    assert plan_input(section(tmp_path), NOW + dt.timedelta(hours=14)).digest != plan.digest
    assert plan_input(section(tmp_path, days=3.0), NOW).digest != plan.digest
    assert InputPlan.from_json(plan.to_json()) == plan
    assert plan.as_of == NOW


@pytest.mark.parametrize("key", ["dt=2026-02-11", "dt=__HIVE_DEFAULT_PARTITION__"])
def test_a_partition_without_an_age_is_refused(tmp_path, key):
    write(tmp_path)
    write(tmp_path, key)
    problem = "is null" if "HIVE" in key else "is more than a day after 2026-02-09"
    with pytest.raises(InputError, match=rf"part.parquet row 0: column 'dt', .* {problem}"):
        weights(tmp_path)


@pytest.mark.parametrize("value", [None, dt.date(2026, 2, 11)])
def test_a_row_without_an_age_is_refused_by_its_number(tmp_path, value):
    write(tmp_path, since=pa.array([TODAY] * 4 + [value, TODAY]), keep=[1, 0, 1, 1, 1, 1])
    problem = "is null, .*is not null" if value is None else "is more than a day after"
    for keys in ({}, {"filter": "keep = 1"}):
        with pytest.raises(InputError, match=rf"row 4: column 'since', .* {problem}"):
            weights(tmp_path, column="since", **keys)
    assert len(weights(tmp_path, column="since", filter="since <= current_date")) == 5


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (
            "since",
            "column 'since', which weight_halflife names, holds text; give a column of dates",
        ),
        ("x", "holds numbers"),
        ("day", "holds numbers"),
        ("clock", "holds values that cannot be compared"),
        ("sinse", "has no column 'sinse', which weight_halflife names; did you mean"),
    ],
)
def test_a_column_that_says_nothing_of_time_is_refused(tmp_path, column, problem):
    clock = pa.array([dt.time(3)] * 6)
    write(tmp_path, "day=20260208", since=["2026-02-08"] * 6, clock=clock)
    with pytest.raises(SchemaError, match=problem):
        plan_input(section(tmp_path, column=column), NOW)


@pytest.mark.parametrize("days", [0.0, -1.0, float("inf")])
def test_a_halflife_is_above_0_and_finite(tmp_path, days):
    with pytest.raises(ConfigError, match=r"weight_halflife.days"):
        section(tmp_path, days=days)


def test_an_estimator_weighs_the_rows_of_read_parquet(tmp_path):
    random = np.random.default_rng(0)
    X = random.normal(size=(500, 2)) + 5 * random.integers(2, size=500)[:, None]
    today = dt.datetime.now(dt.UTC).date()
    when = [today - dt.timedelta(int(days)) for days in random.integers(30, size=500)]
    write(tmp_path, x=X[:, 0], y=X[:, 1], since=pa.array(when))
    halflife = {"column": "since", "days": 5.0}
    array = read_parquet(tmp_path / "rows", ["x", "y"], weight_halflife=halflife)
    by_hand = Decay("since", 5.0, today).factors(pa.array(when))
    weighed = GaussianMixture(2, random_state=0).fit(array)
    expected = GaussianMixture(2, random_state=0).fit(X, sample_weight=by_hand)
    np.testing.assert_array_equal(weighed.means_, expected.means_)
    np.testing.assert_array_equal(weighed.predict(array), expected.predict(X))
    for lost in (array[:100], array + 1.0):
        with pytest.raises(ConfigError, match="the weights are lost"):
            GaussianMixture(2).fit(lost)
        GaussianMixture(2, random_state=0).fit(lost, sample_weight=np.ones(lost.shape[0]))
    with pytest.raises(ConfigError, match="leave one out"):
        GaussianMixture(2).fit(array, sample_weight=by_hand)
