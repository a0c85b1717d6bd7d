"""Which worker gets which groups, and who takes over from a lost worker; without a cluster."""

from __future__ import annotations

import heapq
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmm_dask.chunked.cluster.placement import (
    DEPTH,
    MOST_LANE_PIECES,
    MOST_TASK_ROWS,
    MOST_TASKS_PER_THREAD,
    Placement,
    Task,
    cut_tasks,
)
from gmm_dask.chunked.groups import Group, GroupResult, group_rows, lanes_of
from gmm_dask.storage.input.layout import CHUNK_BYTES
from tests.row_sources import DrawnRows, drawn


def result_of(group: Group) -> GroupResult:
    chunks = tuple(range(group.start, group.stop))
    return GroupResult(group, chunks, chunks)


def results_of(task: Task) -> list[GroupResult]:
    return [result_of(group) for group in task.groups]


def tasks_of(chunks: int, threads: int = 2) -> list[Task]:
    return cut_tasks(lanes_of(replace(drawn(chunks, 40_000), d=8)), threads)


def even_tasks(chunks: int, threads: int = 2) -> list[Task]:
    groups = [
        group for lane in lanes_of(replace(drawn(chunks, 40_000), d=8)) for group in lane.groups
    ]
    size = -(-len(groups) // (4 * threads))
    return [Task(tuple(groups[start : start + size])) for start in range(0, len(groups), size)]


@given(
    st.lists(st.integers(1, 2_000_000), min_size=1, max_size=60),
    st.sets(st.integers(1, 59)),
    st.integers(1, 9),
)
def test_tasks_hold_all_groups_in_order(rows: list[int], starts: set[int], threads: int) -> None:
    source = DrawnRows(tuple(rows), (0, *sorted(start for start in starts if start < len(rows))))
    lanes = lanes_of(source)
    tasks = cut_tasks(lanes, threads)
    groups = [group for lane in lanes for group in lane.groups]
    assert [group for task in tasks for group in task.groups] == groups
    # A lane is cut into few pieces, and only at the end, where too few are left for all threads.
    for lane in lanes:
        cut = {task.start for task in tasks} & {group.start for group in lane.groups[1:]}
        assert len(cut) < max(MOST_LANE_PIECES, -(-threads // len(lanes)))
        if cut:
            assert len(groups) - lane.groups[0].index < threads * len(lane.groups)


def test_tasks_are_few_and_shorter_towards_the_end() -> None:
    tasks = tasks_of(512)
    sizes = [len(task.groups) for task in tasks]
    assert sizes[:3] == [128, 64, 64]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 16
    assert len(tasks) <= 2 * MOST_TASKS_PER_THREAD


def billion_rows(workers: int, d: int, k: int) -> tuple[float, float, int]:
    """Seconds of the rows alone and of the busiest worker, and the tasks, of a simulated pass.

    10⁹ rows in row groups of a million, with what (d, k) was measured to cost: seconds a row,
    0.1 ms beside it for a group and 1 ms for a task.
    """
    most = group_rows(10**9, d)
    slices = -(-(10**6) // min(most, CHUNK_BYTES // (8 * d)))
    source = DrawnRows((10**6 // slices,) * slices * 1000, tuple(range(0, 1000 * slices, slices)))
    source = replace(source, d=d)
    row_seconds = k * (2.5 + 0.3 * d + 0.033 * d * d) * 1e-9
    ends = [0.0] * workers
    tasks = cut_tasks(lanes_of(source), workers)
    for task in tasks:
        seconds = sum(group.rows * row_seconds + 1e-4 for group in task.groups) + 1e-3
        heapq.heappush(ends, heapq.heappop(ends) + seconds)
    return sum(source.rows) * row_seconds, max(ends), len(tasks)


@pytest.mark.parametrize("workers", [2, 3, 7, 16, 50, 100, 177, 256])
@pytest.mark.parametrize("d", [8, 64])
def test_workers_are_busy_to_the_end(workers: int, d: int) -> None:
    work, busiest, _ = billion_rows(workers, d, 8)
    assert work >= 0.9 * workers * busiest


@pytest.mark.parametrize(("workers", "least"), [(64, 0.95), (256, 0.9), (512, 0.9), (1000, 0.7)])
def test_the_scheduler_keeps_up_with_many_workers(workers: int, least: float) -> None:
    # A task of 64 features and 16 components takes 1.1 ms of its time, a pass begins and ends in
    # 0.2 s (docs/scale.md).
    work, busiest, tasks = billion_rows(workers, 64, 16)
    assert work >= least * workers * (max(busiest, 1.1e-3 * tasks) + 0.2)


def test_tasks_of_many_rows_are_short_enough_to_show_progress() -> None:
    tasks = cut_tasks(lanes_of(drawn(1000, 1_000_000)), 2)
    assert all(sum(group.rows for group in task.groups) <= MOST_TASK_ROWS for task in tasks)
    assert len(tasks) > 100


def test_one_row_group_is_cut_for_every_thread() -> None:
    lanes = lanes_of(DrawnRows((80_000,) * 64, (0,)))
    assert len(lanes) == 1
    assert [len(task.groups) for task in cut_tasks(lanes, 4)] == [16] * 4


def test_tasks_are_dealt_out_evenly_and_go_back_to_their_owners() -> None:
    tasks = even_tasks(256)
    placement = Placement(tasks, {}, {"a": 1, "b": 1})
    assert [len(queue) for queue in placement.queues.values()] == [4, 4]
    owners = {task.start: "ab"[number < 4] for number, task in enumerate(tasks)}
    again = Placement(tasks, owners, {"a": 1, "b": 1})
    assert {task.start for task in again.queues["b"]} == {task.start for task in tasks[:4]}
    # A worker that owned all tasks shares them with one that has joined.
    shared = Placement(tasks, {task.start: "a" for task in tasks}, {"a": 1, "c": 1})
    assert [len(queue) for queue in shared.queues.values()] == [4, 4]
    assert [len(queue) for queue in Placement(tasks, {}, {"a": 3, "b": 1}).queues.values()] == [
        6,
        2,
    ]


def test_a_worker_holds_little_and_helps_when_it_idles() -> None:
    placement = Placement(even_tasks(256), {}, {"a": 1, "b": 1})
    held: list[Task] = []
    while (task := placement.next_for("a", 1, held)) is not None:
        held.append(task)
    assert len(held) == DEPTH
    for _ in range(2):
        assert placement.next_for("a", 1, []) is not None
    assert not placement.queues["a"]
    assert placement.next_for("a", 1, [held[0]]) is None  # a is busy, so b keeps its tasks
    assert placement.next_for("a", 1, []) is not None
    assert len(placement.queues["b"]) == 3


def test_what_waits_for_its_turn_is_bounded() -> None:
    placement = Placement(even_tasks(2560, threads=100), {}, {"a": 1, "b": 1})
    slow = placement.next_for("b", 1, [])
    first = placement.next_for("a", 1, [])
    assert slow is not None
    assert first is not None
    assert min(slow.start, first.start) == 0
    waiting = first if first.start == 0 else slow
    ahead = 0
    while (task := placement.next_for("a", 1, [])) is not None:
        placement.add_results(task, "a", results_of(task))
        assert not list(placement.results_in_order())
        ahead += 1
    assert 0 < ahead <= 4 * DEPTH
    placement.add_results(waiting, "b", results_of(waiting))
    assert list(placement.results_in_order())
    assert placement.next_for("a", 1, []) is not None


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 4))
def test_every_chunk_comes_out_once_and_in_order_whatever_dies(
    seed: int, chunks: int, workers: int
) -> None:
    chance = random.Random(seed)
    addresses = [f"w{number}" for number in range(workers)]
    placement = Placement(even_tasks(chunks, workers), {}, dict.fromkeys(addresses, 1))
    held: dict[str, list[Task]] = {address: [] for address in addresses}
    chunk_numbers: list[int] = []
    deaths = 0
    while not placement.done:
        for address, tasks in held.items():
            while (task := placement.next_for(address, 1, tasks)) is not None:
                tasks.append(task)
        address = chance.choice([worker for worker, tasks in held.items() if tasks])
        if deaths < 2 and chance.random() < 0.2:
            deaths += 1
            assert placement.take_back(held.pop(address), died=True) is None
            held[f"new{deaths}"] = []
        elif chance.random() < 0.1:
            assert placement.take_back(held[address], died=False) is None
            held[address] = []
        else:
            task = held[address].pop(chance.randrange(len(held[address])))
            placement.add_results(task, address, results_of(task))
        for group_result in placement.results_in_order():
            assert group_result.total == group_result.fingerprints
            chunk_numbers.extend(group_result.total)
    assert chunk_numbers == list(range(chunks))


def test_a_chunk_that_kills_three_workers_is_found_alone() -> None:
    poison, killed, culprit = 37, 0, None
    placement = Placement(even_tasks(64), {}, {"w0": 1, "w1": 1})
    held: dict[str, list[Task]] = {"w0": [], "w1": []}
    while culprit is None:
        for address, tasks in held.items():
            while (task := placement.next_for(address, 1, tasks)) is not None:
                tasks.append(task)
        for address in list(held):
            task = held[address].pop(0) if held[address] else None
            if task is None:
                continue
            if any(group.start <= poison < group.stop for group in task.groups):
                killed += 1
                culprit = placement.take_back([task, *held.pop(address)], died=True)
                held[f"new{killed}"] = []
            else:
                placement.add_results(task, address, results_of(task))
        list(placement.results_in_order())
    assert killed == 3
    assert (culprit.start, culprit.stop) == (poison, poison + 1)


def test_a_suspect_runs_alone_on_its_worker() -> None:
    placement = Placement(even_tasks(64), {}, {"w0": 4, "w1": 4})
    task = placement.next_for("w0", 4, [])
    assert task is not None
    assert placement.take_back([replace(task, strikes=1)], died=True) is None
    suspect = placement.next_for("w0", 4, [])
    assert suspect is not None
    assert suspect.stop == suspect.start + 1
    assert placement.next_for("w0", 4, [suspect]) is None
    assert placement.next_for("w1", 4, [task]) is None  # w1 ends its task first
    placement.suspects.clear()
    assert placement.next_for("w0", 4, [suspect]) is None
    assert placement.next_for("w1", 4, [task]) is not None


class Words(str):
    """Words that add in brackets, so that the order shows."""

    def __add__(self, other: Any) -> Words:
        return Words(f"({self} {other})")


def test_chunks_summed_apart_are_added_in_order() -> None:
    group = Group(0, 0, 4, 4)
    placement = Placement([Task((group,))], {}, {"a": 1})
    for chunk in (2, 0, 3, 1):
        assert not list(placement.results_in_order())
        part = replace(group, start=chunk, stop=chunk + 1)
        placement.add_results(Task((part,)), "a", [GroupResult(part, Words(chunk), (chunk,))])
    (whole,) = placement.results_in_order()
    assert whole.total == "(((0 1) 2) 3)"
    assert (whole.group, whole.fingerprints) == (group, (0, 1, 2, 3))
