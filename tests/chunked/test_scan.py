"""Groups and lanes, and scans on every kind of executor."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gmm_dask.chunked.groups import (
    GROUPS,
    LEAST_GROUP_PRODUCTS,
    LEAST_GROUP_ROWS,
    LEAST_NARROW_ROWS,
    MOST_GROUP_ROWS,
    cut_array,
    group_rows,
    lanes_of,
)
from gmm_dask.chunked.rows import MemoryChunks, Rows
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.subtrees import TreeSum
from gmm_dask.chunked.threads import Threads
from gmm_dask.errors import InputChangedError, TooFewRowsError
from gmm_dask.events import Event, Stage, StageAdvanced, StageFinished, StageStarted
from gmm_dask.nulls import NullPolicy
from tests.row_sources import DrawnRows, bounds, chunk_numbers, drawn, row_sums


@st.composite
def sources(draw: st.DrawFn) -> DrawnRows:
    rows = draw(st.lists(st.integers(0, 90_000), min_size=1, max_size=60))
    entries = [0, *(i for i in range(1, len(rows)) if draw(st.booleans()))]
    return DrawnRows(tuple(rows), tuple(entries))


@given(sources())
@example(DrawnRows((65_536, 0), (0,)))
@example(DrawnRows((65_536, 65_536, 0, 0), (0, 2)))
def test_groups_partition_the_chunks_and_lanes_begin_where_reading_may(source: DrawnRows) -> None:
    lanes = lanes_of(source)
    groups = [group for lane in lanes for group in lane.groups]
    assert [chunk for group in groups for chunk in range(group.start, group.stop)] == list(
        range(len(source.rows))
    )
    assert [group.index for group in groups] == list(range(len(groups)))
    assert all(group.rows == sum(source.rows[group.start : group.stop]) for group in groups)
    assert {lane.start for lane in lanes} <= set(source.entries)


@given(sources())
def test_row_groups_are_joined_or_cut_to_groups_of_the_size_that_is_wanted(
    source: DrawnRows,
) -> None:
    lanes = lanes_of(source)
    wanted = group_rows(sum(source.rows), source.d)
    for lane in lanes:
        if len(lane.groups) > 1:  # one row group, or two could only be decoded by the same worker
            assert not set(source.entries) & set(range(lane.start + 1, lane.stop))
            widest = max(source.rows[lane.start : lane.stop])
            assert all(group.rows > 0.75 * wanted - widest for group in lane.groups)
        else:
            (group,) = lane.groups
            alone = not set(source.entries) & set(range(group.start + 1, group.stop))
            assert group.rows < 2 * wanted or alone
    groups = [group for lane in lanes for group in lane.groups]
    assert len(groups) <= 2.5 * sum(source.rows) / wanted + 1


def test_sliced_row_groups_are_joined_where_they_are_small() -> None:
    # Row groups of 122,880 rows in two slices each: one lane of its own for each while a group is
    # half of it; joined by threes where that makes a group.
    source = DrawnRows((61_440,) * 2000, tuple(range(0, 2000, 2)), d=64)
    assert group_rows(122_880_000, 64) == 60_000
    assert len(lanes_of(source)) == 1000
    source = DrawnRows((61_440,) * 20_000, tuple(range(0, 20_000, 2)), d=64)
    assert len(lanes_of(source)) == -(-20_000 // 6)


def test_groups_are_large_enough_and_not_too_many() -> None:
    assert group_rows(1, 1) == LEAST_NARROW_ROWS
    assert group_rows(1, 16) == LEAST_GROUP_PRODUCTS // (16 * 24)
    assert group_rows(1, 1000) == LEAST_GROUP_ROWS
    assert group_rows(100_000_000, 8) == -(-100_000_000 // GROUPS)
    assert group_rows(10**10, 8) == MOST_GROUP_ROWS
    # A million rows still keep the cores of most machines busy.
    assert len(lanes_of(drawn(100, 10_000))) == 15


@pytest.mark.parametrize("n", [0, 1, 65_536, 65_537, 70_000, 140_000, 1_000_000])
def test_an_array_is_cut_into_groups_that_are_alike(n: int) -> None:
    chunks = cut_array(np.zeros((n, 2)), None, ("a", "b"))
    sizes = [group.rows for lane in lanes_of(chunks) for group in lane.groups]
    assert sum(sizes) == n
    assert len(sizes) == -(-n // LEAST_NARROW_ROWS)
    assert not sizes or max(sizes) - min(sizes) < len(sizes)


def test_a_scan_adds_in_the_order_of_the_plan(any_executor: Any, small_groups: int) -> None:
    sizes = tuple(np.random.default_rng(5).integers(1, 900, 40).tolist())
    source = DrawnRows(sizes, tuple(i for i in range(40) if i % 3 != 1))
    scanner = Scanner(source, any_executor)
    assert len([group for lane in scanner.lanes for group in lane.groups]) > 10
    assert scanner.reduce(chunk_numbers, None, Stage.SURVEY) == tuple(range(40))
    total = scanner.reduce(row_sums, 2.0, Stage.SURVEY)
    by_group = [
        reduce(np.add, [row_sums(rows, 2.0) for rows in source.read(group.start, group.stop)])
        for lane in scanner.lanes
        for group in lane.groups
    ]
    tree = TreeSum()
    for number, of_group in enumerate(by_group):
        tree.add(number, 1, of_group)
    np.testing.assert_array_equal(total, tree.total)


def test_scans_are_counted_and_send_events(small_groups: int) -> None:
    events: list[Event] = []
    source = drawn(7, 500)
    scanner = Scanner(source, Threads(2), events.append)
    scanner.reduce(chunk_numbers, None, Stage.POLISH)
    scanner.reduce(chunk_numbers, None, Stage.SURVEY)
    assert scanner.scans == 2
    assert events[0] == StageStarted(Stage.POLISH, 3500, "rows")
    done = [event.done for event in events if isinstance(event, StageAdvanced)]
    assert done == [1000, 2000, 3000, 3500] * 2
    ends = [event for event in events if isinstance(event, StageFinished)]
    assert [event.stage for event in ends] == [Stage.POLISH, Stage.SURVEY]
    assert ends[0].detail.startswith("3,500 rows at ")


def test_a_source_without_rows_is_refused() -> None:
    scanner = Scanner(DrawnRows((), ()), Threads(1))
    with pytest.raises(TooFewRowsError, match="the input has no rows"):
        scanner.reduce(chunk_numbers, None, Stage.SURVEY)


def fails_at_four(rows: Rows, argument: Any) -> int:
    if rows.chunk == 4:
        raise InputChangedError(f"chunk {rows.chunk} is not what it was")
    return 1


def test_an_error_arrives_as_itself(any_executor: Any, small_groups: int) -> None:
    scanner = Scanner(drawn(8, 600), any_executor)
    with pytest.raises(InputChangedError, match=r"^chunk 4 is not what it was$"):
        scanner.reduce(fails_at_four, None, Stage.SURVEY)
    assert scanner.scans == 0
    assert scanner.reduce(chunk_numbers, None, Stage.SURVEY) == tuple(
        range(8)
    )  # it can be used again


def test_a_value_that_changes_after_the_first_scan_stops_the_second(
    any_executor: Any, small_groups: int, tmp_path: Path
) -> None:
    source = drawn(6, 700, weighted=True, place=str(tmp_path))
    scanner = Scanner(source, any_executor, cache=False)
    scanner.reduce(chunk_numbers, None, Stage.SURVEY)
    scanner.reduce(chunk_numbers, None, Stage.SURVEY)
    source.rule("change", 3).touch()
    with pytest.raises(InputChangedError, match=r"drawn chunk 3: the values are not those of the"):
        scanner.reduce(chunk_numbers, None, Stage.SURVEY)


def test_missing_rows_are_noticed_at_once(
    any_executor: Any, small_groups: int, tmp_path: Path
) -> None:
    source = drawn(6, 700, place=str(tmp_path))
    source.rule("short", 5).touch()
    with pytest.raises(InputChangedError, match=r"chunk 5: 699 rows were read, 700 were expected"):
        Scanner(source, any_executor).reduce(chunk_numbers, None, Stage.SURVEY)


class EndsEarly(DrawnRows):
    """Reads one chunk less than its `rows` promise."""

    def read(self, start: int, stop: int, digests: bool = False) -> Any:
        return super().read(start, min(stop, len(self.rows) - 1), digests)


def test_missing_chunks_are_noticed_at_once(any_executor: Any, small_groups: int) -> None:
    source = EndsEarly((500,) * 5, tuple(range(5)))
    with pytest.raises(InputChangedError, match=r"chunk 4: no rows could be read, 500 were exp"):
        Scanner(source, any_executor).reduce(chunk_numbers, None, Stage.SURVEY)


def count_used(rows: Rows, argument: Any) -> np.ndarray:
    assert not np.isnan(rows.values).any()
    assert rows.sample_weight is not None
    assert len(rows.sample_weight) == len(rows.values)
    return np.array([len(rows.values), rows.source_rows])


@pytest.mark.parametrize("cached", [False, True])
def test_rows_with_nulls_are_dropped_where_the_policy_says_so(
    any_executor: Any, small_groups: int, cached: bool
) -> None:
    source = drawn(9, 400, missing=0.1, weighted=True)
    scanner = Scanner(source, any_executor, cache=cached)
    scanner.reduce(chunk_numbers, None, Stage.SURVEY)
    complete = sum(int((~np.isnan(rows.values)).all(axis=1).sum()) for rows in source.read(0, 9))
    for _ in range(2):
        assert scanner.reduce(count_used, None, Stage.POLISH, NullPolicy.DROP).tolist() == [
            complete,
            3600,
        ]


def test_rows_are_read_once_when_they_fit(
    any_executor: Any, small_groups: int, tmp_path: Path
) -> None:
    source = drawn(9, 400, place=str(tmp_path))
    scanner = Scanner(source, any_executor)
    assert scanner.cached
    first = scanner.reduce(row_sums, 1.0, Stage.SURVEY)
    np.testing.assert_array_equal(scanner.reduce(row_sums, 1.0, Stage.SURVEY), first)
    assert len(source.readings()) == 9
    scanner.close()
    np.testing.assert_array_equal(scanner.reduce(row_sums, 1.0, Stage.SURVEY), first)
    assert len(source.readings()) == 18


def test_rows_of_one_source_are_not_taken_for_another(any_executor: Any, small_groups: int) -> None:
    first, second = drawn(5, 400, seed=1), drawn(5, 400, seed=2)
    sums = [
        Scanner(source, any_executor).reduce(row_sums, 1.0, Stage.SURVEY)
        for source in (first, second, first)
    ]
    np.testing.assert_array_equal(sums[0], sums[2])
    assert (sums[0] != sums[1]).all()


def test_rows_that_do_not_fit_are_not_cached() -> None:
    source = drawn(10, 1000, weighted=True)  # 3 features and a weight of 8 bytes
    assert Scanner(source, Threads(1, memory=320_000)).cached
    assert not Scanner(source, Threads(1, memory=319_999)).cached
    array = MemoryChunks(np.zeros((10, 2)), None, 5, ("a", "b"))
    assert not Scanner(array, Threads(1)).cached  # they are in memory already


def test_an_array_in_memory_is_cut_into_views() -> None:
    X = np.arange(22.0).reshape(11, 2)
    chunks = MemoryChunks(X, np.arange(11.0), 4, ("a", "b"))
    assert chunks.rows == (4, 4, 3)
    read = list(chunks.read(0, 3))
    assert all(np.shares_memory(rows.values, X) for rows in read)
    np.testing.assert_array_equal(np.concatenate([rows.values for rows in read]), X)
    assert [rows.first for rows in read] == bounds(chunks.rows)[:-1]
    assert chunks.describe(2) == "rows 8–11"
    assert chunks.describe(2, 1) == "row 9"
