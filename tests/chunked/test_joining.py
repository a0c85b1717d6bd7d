"""Which sums are joined on which worker, and what a loss means; without a cluster."""

from __future__ import annotations

import pickle
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmm_dask.chunked.cluster.joining import FAN, Joining
from gmm_dask.chunked.cluster.placement import cut_tasks
from gmm_dask.chunked.groups import group_rows, lanes_of
from gmm_dask.chunked.subtrees import TreeSum
from gmm_dask.mixture.statistics import SufficientStatistics
from gmm_dask.storage.input.layout import CHUNK_BYTES
from tests.row_sources import DrawnRows


class Workers:
    """Workers that hold the numbers of the tasks whose sums they have."""

    def __init__(self, tasks: int, addresses: list[str], chance: random.Random) -> None:
        self.joining = Joining(tasks)
        self.addresses = addresses
        self.chance = chance
        self.left = list(range(tasks))
        self.computed: Counter[int] = Counter()
        self.delivered: list[int] = []
        self.moved = 0

    def compute(self, deliver: bool = False) -> None:
        task = self.left.pop(self.chance.randrange(len(self.left)))
        self.computed[task] += 1
        if deliver:
            self.joining.deliver(task)
            self.delivered.append(task)
        else:
            self.joining.keep(task, self.chance.choice(self.addresses), (task,))

    def join(self) -> None:
        """Ask for all joins that can be made, and make one that was asked for before."""
        while self.joining.next_join(self.addresses) is not None:
            pass
        if self.joining.under_way:
            join = self.chance.choice(sorted(self.joining.under_way, key=lambda join: join.index))
            self.moved += sum(part.address != join.address for part in join.parts)
            tasks = tuple(task for part in join.parts for task in part.future)
            assert tasks == tuple(sorted(tasks))
            self.joining.add_joined(join, tasks)

    def lose(self) -> list[int]:
        address = self.addresses.pop(self.chance.randrange(len(self.addresses)))
        self.addresses.append(f"new{len(self.addresses)}{address}")
        lost = self.joining.lose(address)
        assert not any(
            part.address == address for join in self.joining.under_way for part in join.parts
        )
        self.left.extend(lost)
        return lost

    @property
    def all_tasks(self) -> list[int]:
        last = self.joining.last
        return sorted([*self.delivered, *(() if last is None else last.future)])


@given(st.integers(0, 10**6), st.integers(1, 3 * FAN**2), st.integers(1, 9))
def test_every_task_is_in_the_last_sums_once_whoever_dies(
    seed: int, tasks: int, workers: int
) -> None:
    chance = random.Random(seed)
    cluster = Workers(tasks, [f"w{number}" for number in range(workers)], chance)
    deaths = chance.randrange(4)
    while cluster.left or not cluster.joining.done:
        if deaths and chance.random() < 0.02:
            deaths -= 1
            cluster.lose()
        if cluster.left and chance.random() < 0.8:
            cluster.compute(deliver=chance.random() < 0.05)
        else:
            cluster.join()
    assert cluster.all_tasks == list(range(tasks))
    assert not cluster.joining.under_way


def test_sums_that_are_with_the_client_are_not_joined() -> None:
    joining = Joining(40)
    for task in range(40):
        joining.deliver(task)
    assert joining.done
    assert joining.last is None
    joining = Joining(1)
    joining.keep(0, "a", "sums")
    assert joining.done
    assert joining.last is not None
    assert joining.last.future == "sums"


def test_a_join_is_made_where_most_of_its_parts_are() -> None:
    joining = Joining(FAN)
    for task in range(FAN):
        joining.keep(task, "a" if task % 4 else "b", task)
    join = joining.next_join(["b", "a"])
    assert join is not None
    assert join.address == "a"
    assert joining.next_join(["b", "a"]) is None
    # It is lost with its worker, and then made by another that has some of the parts.
    assert joining.lose("a") == [task for task in range(FAN) if task % 4]
    assert not joining.under_way
    for task in range(FAN):
        if task % 4:
            joining.keep(task, "c", task)
    join = joining.next_join(["b"])
    assert join is not None
    assert join.address == "b"
    # A part that is lost is missed only once what it was joined to is lost too.
    joining.add_joined(join, "joined")
    assert joining.lose("c") == []
    assert joining.lose("b") == list(range(FAN))


def test_the_last_join_is_made_again_of_what_others_have() -> None:
    cluster = Workers(FAN**2, [f"w{number}" for number in range(200)], random.Random(3))
    while not cluster.joining.done:
        if cluster.left:
            cluster.compute()
        cluster.join()
    last = cluster.joining.last
    assert last is not None
    there = [part for part in last.parts if part.address == last.address]
    lost = cluster.joining.lose(last.address)
    assert len(lost) == FAN * len(there) < FAN**2
    assert not cluster.joining.done


@pytest.mark.parametrize("workers", [1, 30, 1000])
def test_a_pass_over_a_billion_rows_brings_little_to_the_client(workers: int) -> None:
    # 64 features, full covariances of 16 components; row groups of a million rows.
    d, k = 64, 16
    slices = -(-(10**6) // min(group_rows(10**9, d), CHUNK_BYTES // (8 * d)))
    source = DrawnRows((10**6 // slices,) * slices * 1000, tuple(range(0, 1000 * slices, slices)))
    products = np.eye(d) + np.zeros((k, 1, 1))
    sums = SufficientStatistics(np.ones(k), np.ones((k, d)), products, 1, 1.0, 1.0, "digest")
    lanes = lanes_of(DrawnRows(source.rows, source.entries, d))
    tasks = cut_tasks(lanes, workers)
    cluster = Workers(len(tasks), [f"w{number}" for number in range(workers)], random.Random(0))
    while cluster.left or not cluster.joining.done:
        if cluster.left:
            cluster.compute()
        cluster.join()
    tree = TreeSum()
    for group in range(sum(len(lane.groups) for lane in lanes)):
        tree.add(group, 1, 0)
    assert len(tree.subtrees) * len(pickle.dumps(sums)) < 5e6
    assert cluster.all_tasks == list(range(len(tasks)))
    # Each sum travels once from worker to worker, and a sixteenth of them once more.
    assert cluster.moved <= len(tasks) * (1 + 1 / FAN + 2 / FAN**2) + FAN
