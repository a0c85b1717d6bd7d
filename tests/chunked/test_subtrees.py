"""Sums of groups in a fixed tree."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gmm_dask.chunked.groups import Group, GroupResult
from gmm_dask.chunked.subtrees import TreeSum, join_subtrees
from gmm_dask.mixture.statistics import pack_symmetric, unpack_symmetric


class Words(str):
    """Words that add in brackets, so that the order shows."""

    def __add__(self, other: Any) -> Words:
        return Words(f"({self} {other})")


def results(start: int, stop: int) -> list[GroupResult]:
    return [
        GroupResult(Group(index, index, index + 1, 1), Words(index), (index,))
        for index in range(start, stop)
    ]


def sum_of(groups: list[GroupResult]) -> Any:
    tree = TreeSum()
    for result in groups:
        if result.span:
            tree.add(result.group.index, result.span, result.total)
    return tree.total


def test_seven_groups_are_added_by_pairs_of_pairs() -> None:
    assert sum_of(results(0, 7)) == "(((0 1) (2 3)) ((4 5) 6))"
    assert sum_of([]) is None


@given(st.integers(1, 60).flatmap(lambda n: st.permutations(range(n))))
def test_any_order_gives_the_same_tree(order: list[int]) -> None:
    shuffled = [results(index, index + 1)[0] for index in order]
    assert sum_of(shuffled) == sum_of(results(0, len(order)))


@given(st.integers(1, 200), st.data())
def test_any_cut_into_runs_gives_the_same_tree(n: int, data: st.DataObject) -> None:
    cuts = data.draw(st.sets(st.integers(1, n)))
    bounds = sorted({0, n, *cuts})
    runs = [join_subtrees(results(start, stop)) for start, stop in pairwise(bounds)]
    assert sum_of([result for run in runs for result in run]) == sum_of(results(0, n))
    # Every group is still there; few of them bring a sum.
    assert [result.fingerprints for run in runs for result in run] == [(i,) for i in range(n)]
    for run in runs:
        sums = [result for result in run if result.span]
        assert sum(result.span for result in sums) == len(run)
        assert len(sums) <= 2 * len(run).bit_length()
        assert all(result.total is None for result in run if not result.span)


@given(st.integers(1, 9), st.integers(1, 4), st.booleans())
def test_symmetric_products_travel_as_triangles_without_loss(
    d: int, k: int, symmetric: bool
) -> None:
    products = np.random.default_rng(d + 10 * k).normal(size=(k, d, d))
    if symmetric:
        products = products + products.swapaxes(1, 2)
    packed, size = pack_symmetric(products)
    assert packed.size == (k * d * (d + 1) // 2 if symmetric or d == 1 else k * d * d)
    np.testing.assert_array_equal(unpack_symmetric(packed, size), products)
