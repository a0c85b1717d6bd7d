"""Threads as the executor of a scan: overlap within one row group, and deadlines."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from threadpoolctl import threadpool_info

from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.scan import Scanner, Work
from gmm_dask.chunked.threads import Threads, free_memory
from gmm_dask.errors import ClusterError
from gmm_dask.events import Stage
from gmm_dask.nulls import NullPolicy
from tests.row_sources import DrawnRows, chunk_numbers, drawn


def test_one_row_group_keeps_two_threads_busy(small_groups: int) -> None:
    barrier = threading.Barrier(2)

    def meet(rows: Rows, argument: Any) -> int:
        barrier.wait(timeout=20)  # breaks unless two groups are computed at the same time
        return 1

    scanner = Scanner(DrawnRows((1000,) * 6, (0,)), Threads(2))
    assert len(scanner.lanes) == 1
    assert scanner.reduce(meet, None, Stage.SURVEY) == 6


def test_a_thread_decodes_while_another_computes(small_groups: int) -> None:
    decoding = threading.Event()

    class AnnouncedRows(DrawnRows):
        def _drawn(self, chunk: int) -> Rows:
            if chunk == 1:
                decoding.set()
            return super()._drawn(chunk)

    def wait_for_the_next(rows: Rows, argument: Any) -> int:
        assert rows.chunk > 0 or decoding.wait(timeout=20)
        return 1

    scanner = Scanner(AnnouncedRows((1000,) * 4, (0,)), Threads(2))
    assert scanner.reduce(wait_for_the_next, None, Stage.SURVEY) == 4


def test_a_group_that_never_ends_is_an_error_in_time(small_groups: int) -> None:
    release = threading.Event()

    def stuck(rows: Rows, argument: Any) -> int:
        assert rows.chunk != 3 or release.wait(timeout=20)
        return 1

    executor = Threads(2, no_progress=0.2)
    with pytest.raises(ClusterError, match=r"no group of rows was finished for 0\.2 seconds; is "):
        Scanner(drawn(6, 1000), executor).reduce(stuck, None, Stage.SURVEY)
    release.set()
    executor.close()


def blas_threads(rows: Rows, argument: Any) -> Numbers:
    pools = (pool for pool in threadpool_info() if pool["user_api"] == "blas")
    return Numbers(pool["num_threads"] for pool in pools)


class Numbers(frozenset[int]):
    def __add__(self, other: Numbers) -> Numbers:
        return Numbers(self | other)


@pytest.mark.parametrize("threads", [1, 3])
def test_blas_runs_on_one_thread_within_a_scan(small_groups: int, threads: int) -> None:
    assert Scanner(drawn(6, 1000), Threads(threads)).reduce(blas_threads, None, Stage.SURVEY) == {1}


def test_an_abandoned_scan_leaves_the_threads_usable(small_groups: int) -> None:
    closed, seen = threading.Event(), list[int]()

    def wait_in_the_middle(rows: Rows, argument: None) -> tuple[int, ...]:
        seen.append(rows.chunk)
        if rows.chunk >= 20:
            assert closed.wait(60)
        return (rows.chunk,)

    with Scanner(drawn(50, 1000), Threads(2)) as scanner:
        work = Work(wait_in_the_middle, None, NullPolicy.ERROR, None, volatile=True)
        results = scanner.executor.run(scanner.chunks, scanner.lanes, work, cache=False)
        next(results)
        results.close()
        closed.set()
        assert scanner.reduce(chunk_numbers, None, Stage.SURVEY) == tuple(range(50))
    assert len(seen) < 50


@pytest.mark.parametrize(
    ("names", "below"),
    [
        (("memory.max", "memory.current", "inactive_file"), "."),
        (("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"), "memory"),
    ],
    ids=["version 2", "version 1"],
)
def test_the_limit_of_a_container_bounds_free_memory(
    tmp_path: Path, names: tuple[str, str, str], below: str
) -> None:
    limit_file, usage_file, reclaimable_key = names
    directory = tmp_path / below
    directory.mkdir(exist_ok=True)
    (directory / limit_file).write_text("1000000\n")
    (directory / usage_file).write_text("700000\n")
    (directory / "memory.stat").write_text(f"anon 500000\n{reclaimable_key} 200000\n")
    assert free_memory(tmp_path) == 500_000
    (directory / usage_file).write_text("1300000\n")
    assert free_memory(tmp_path) == 0
    (directory / limit_file).write_text("max\n")
    assert free_memory(tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
