"""The workers of a cluster as the executor: same bits, cached rows, and errors in time."""

from __future__ import annotations

import gc
import pickle
import threading
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client, Future

from gmm_dask import GaussianMixture
from gmm_dask.chunked.cluster import (
    ClusterExecutor,
    flights,
    joining,
    open_executor,
    placement,
    scan,
)
from gmm_dask.chunked.cluster.placement import cut_tasks
from gmm_dask.chunked.cluster.worker import Source
from gmm_dask.chunked.fit import FitOptions, FitResult, fit
from gmm_dask.chunked.rows import MemoryChunks, Rows
from gmm_dask.chunked.scan import Executor, Scanner, Work
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import Deadlines, InputSection, LocalProcesses
from gmm_dask.errors import ClusterError, ValuesChangedError
from gmm_dask.events import Event, Stage, StageAdvanced
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.nulls import NullPolicy
from gmm_dask.storage.input.digests import file_digests, read_digest
from gmm_dask.storage.input.plan import plan_input
from gmm_dask.storage.input.reader import parquet_chunks
from tests.relay import relayed
from tests.row_sources import (
    DrawnRows,
    chunk_numbers,
    drawn,
    process_ids,
    resident_keys,
    row_sums,
    wide_sums,
)
from tests.waiting import until

OPTIONS = FitOptions(
    MixtureSpec(3),
    em=EMOptions(tol=1e-6, max_iter=4),
    n_init=2,
    search_rows=500,
    nulls=NullPolicy.DROP,
)


def fitted(executor: Executor, source: DrawnRows, cached: bool) -> FitResult:
    scanner = Scanner(source, executor, cache=cached)
    return fit(scanner, OPTIONS)


@pytest.fixture(scope="module")
def source() -> DrawnRows:
    return drawn(40, 600, missing=0.01, weighted=True)


@pytest.fixture
def reference(source: DrawnRows, small_groups: int) -> FitResult:
    result = fitted(Threads(1), source, cached=False)
    assert not result.in_memory
    assert result.scans == 5
    return result


@pytest.mark.parametrize("cached", [False, True])
def test_threads_give_the_same_bits(source: DrawnRows, reference: FitResult, cached: bool) -> None:
    assert fitted(Threads(3), source, cached).parameters.digest == reference.parameters.digest


@pytest.mark.parametrize("cached", [False, True])
def test_two_processes_give_the_same_bits(
    source: DrawnRows, reference: FitResult, executor: ClusterExecutor, cached: bool
) -> None:
    result = fitted(executor, source, cached)
    assert result.parameters.digest == reference.parameters.digest
    assert result.best.lower_bounds == reference.best.lower_bounds
    assert result.scans == reference.scans


def test_workers_that_share_a_row_group_give_its_digest_once(
    executor: ClusterExecutor, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).normal(size=300_000)
    pq.write_table(pa.table({"a": values}), tmp_path / "a.parquet")
    plan = plan_input(InputSection(path=str(tmp_path), columns=["a"]))
    scanner = Scanner(parquet_chunks(plan), executor)
    assert len(scanner.lanes) == 1
    assert len(scanner.lanes[0].groups) > 2
    scanner.reduce(row_sums, 1.0, Stage.SURVEY)
    assert file_digests(plan, scanner.digests) == (read_digest(plan, 0),)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (1, 3), (4, 1)])
def test_any_number_of_processes_gives_the_same_bits(
    source: DrawnRows, reference: FitResult, workers: int, threads: int
) -> None:
    kind = LocalProcesses(
        kind="local", workers=workers, threads_per_worker=threads, memory_limit="1GiB"
    )
    with open_executor(kind) as executor:
        assert executor.threads == workers * threads
        result = fitted(executor, source, cached=True)
    assert result.parameters.digest == reference.parameters.digest


def test_the_estimator_takes_a_client(client: Client) -> None:
    X = da.random.default_rng(0).normal(size=(4000, 3), chunks=(300, 3))
    on_threads = GaussianMixture(2, random_state=0, search_rows=1000).fit(X)
    on_cluster = GaussianMixture(2, random_state=0, search_rows=1000).fit(X, client=client)
    np.testing.assert_array_equal(on_threads.means_, on_cluster.means_)
    np.testing.assert_array_equal(on_threads.covariances_, on_cluster.covariances_)


def test_both_workers_compute_and_cache_what_they_read(
    executor: ClusterExecutor, small_groups: int, tmp_path: Path
) -> None:
    source = drawn(64, 300, place=str(tmp_path))
    scanner = Scanner(source, executor)
    assert scanner.cached
    first = scanner.reduce(process_ids, None, Stage.SURVEY)
    assert len(set(first)) == 2
    assert min(first.count(process) for process in set(first)) >= 16
    sums = scanner.reduce(row_sums, 1.0, Stage.SURVEY)
    np.testing.assert_array_equal(scanner.reduce(row_sums, 1.0, Stage.SURVEY), sums)
    # An idle worker may read some of the other's rows a second time, but not a third.
    assert len(source.readings()) <= 64 * 2
    readers = [source.readings(chunk) for chunk in range(64)]
    assert sum(len(pids) == 1 for pids in readers) >= 32
    assert all(len(set(pids)) == len(pids) for pids in readers)


def count_sources() -> int:
    gc.collect()
    return sum(isinstance(value, Source) for value in gc.get_objects())


def test_rows_are_freed_when_the_executor_is_closed(
    client: Client, executor: ClusterExecutor, small_groups: int
) -> None:
    Scanner(drawn(20, 500), executor).reduce(chunk_numbers, None, Stage.SURVEY)
    assert sum(client.run(count_sources).values()) == 2
    Scanner(drawn(20, 500, seed=1), executor).reduce(chunk_numbers, None, Stage.SURVEY)
    until(lambda: sum(client.run(count_sources).values()) == 2, "the first source is still there")
    executor.close()
    until(lambda: sum(client.run(count_sources).values()) == 0, "rows are still cached")


def test_a_source_moves_without_its_rows() -> None:
    source = Source(drawn(3, 100), 10**9)
    rows = next(source.chunks.read(0, 1))
    source.cache.put(0, rows, 1)
    moved = pickle.loads(pickle.dumps(source))
    assert moved.cache.get(0) is None
    assert (moved.budget, moved.chunks.rows) == (10**9, (100,) * 3)


def test_workers_cache_no_more_than_their_budget(small_groups: int) -> None:
    source = Source(drawn(10, 100), 3 * 100 * 24)
    for rows in source.chunks.read(0, 10):
        source.cache.put(rows.chunk, rows, 0)
    assert [source.cache.get(chunk) is not None for chunk in range(10)] == [True] * 3 + [False] * 7
    assert source.cache.size == 3 * 100 * 24


def test_half_of_the_workers_memory_is_for_rows(executor: ClusterExecutor) -> None:
    assert executor.memory == 2 * ((2 << 30) - (352 << 20)) // 2
    assert executor.threads == 2


def sum_of_argument(rows: Rows, argument: np.ndarray) -> np.ndarray:
    return np.array([argument.sum()])


def test_a_large_argument_reaches_every_worker(
    executor: ClusterExecutor, small_groups: int
) -> None:
    large = np.ones(3 << 20)  # 24 MiB, beyond what Dask takes in a message without a warning
    scanner = Scanner(drawn(12, 500), executor)
    for _ in range(2):
        assert scanner.reduce(sum_of_argument, large, Stage.SURVEY).tolist() == [12 * large.sum()]


def test_functions_without_a_module_are_sent_whole(
    executor: ClusterExecutor, small_groups: int
) -> None:
    assert (
        Scanner(drawn(9, 500), executor).reduce(
            lambda rows, by: len(rows.values) * by, 2, Stage.SURVEY
        )
        == 9000
    )


def test_one_row_group_is_shared_among_the_workers(
    executor: ClusterExecutor, small_groups: int
) -> None:
    source = DrawnRows((500,) * 20, (0,))
    pids = Scanner(source, executor).reduce(process_ids, None, Stage.SURVEY)
    assert len(set(pids)) == 2


def test_an_abandoned_scan_does_not_hinder_the_next(
    executor: ClusterExecutor, small_groups: int
) -> None:
    scanner = Scanner(drawn(40, 500), executor)
    work = Work(chunk_numbers, None, NullPolicy.ERROR, None, volatile=True)
    results = executor.run(scanner.chunks, scanner.lanes, work, cache=False)
    assert next(results).total[:2] == (0, 1)
    results.close()
    assert scanner.reduce(chunk_numbers, None, Stage.SURVEY) == tuple(range(40))


def test_tasks_are_asked_for_together(
    executor: ClusterExecutor, small_groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one they take twice as much of the scheduler's time (docs/scale.md)."""
    monkeypatch.setattr(placement, "DEPTH", 100)  # so that all are given at once
    monkeypatch.setattr(flights, "MOST_TOGETHER", 8)
    together: list[int] = []
    ask = executor.client.map

    def spied(function: Any, *columns: Any, **options: Any) -> Any:
        futures = ask(function, *columns, **options)
        together.append(len(futures))
        return futures

    monkeypatch.setattr(executor.client, "map", spied)
    scanner = Scanner(drawn(40, 600), executor, cache=False)
    assert scanner.reduce(chunk_numbers, None, Stage.SURVEY) == tuple(range(40))
    tasks = len(cut_tasks(scanner.lanes, 2))
    assert tasks > 8
    assert together == [8] * (tasks // 8) + [tasks % 8] * (tasks % 8 > 0)


def test_large_sums_are_joined_by_the_workers(
    client: Client, small_groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "PASSED_ON_BYTES", 0)
    monkeypatch.setattr(joining, "FAN", 4)
    source = drawn(40, 600)
    expected = Scanner(source, Threads(1)).reduce(wide_sums, 1.0, Stage.SURVEY)
    events: list[Event] = []
    with (
        relayed(client.scheduler.address) as relay,
        Client(relay.address, set_as_default=False) as relayed_client,
    ):
        scanner = Scanner(source, ClusterExecutor(relayed_client), events.append, cache=False)
        brought = []
        for _ in range(3):
            before = relay.bytes_back
            sums = scanner.reduce(wide_sums, 1.0, Stage.SURVEY)
            assert sums.tobytes() == expected.tobytes()
            brought.append(relay.bytes_back - before)
        scanner.close()
    # The first scan brings the sums of each task, beside their fingerprints; the others bring
    # those of two subtrees, of 16 and of 4 groups, and what is said of the tasks.
    tasks = cut_tasks(scanner.lanes, 2)
    assert len(tasks) * sums.nbytes < brought[0]
    assert 2 * sums.nbytes < max(brought[1:]) < 3 * sums.nbytes < len(tasks) * sums.nbytes
    # Every group is told of when it is done, and nothing is left on the workers.
    assert sum(isinstance(event, StageAdvanced) for event in events) == 3 * 20
    until(lambda: not any(client.run(resident_keys).values()), "sums are still there")


def test_an_error_among_sums_that_stay_on_workers_names_the_rows(
    executor: ClusterExecutor,
    small_groups: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan, "PASSED_ON_BYTES", 0)
    source = drawn(40, 600, place=str(tmp_path))
    scanner = Scanner(source, executor, cache=False)
    scanner.reduce(wide_sums, 1.0, Stage.SURVEY)
    source.rule("change", 33).touch()
    with pytest.raises(ValuesChangedError, match=r"^drawn chunk 33: the values are not those of"):
        scanner.reduce(wide_sums, 1.0, Stage.SURVEY)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle this result")

    def __add__(self, other: Any) -> Any:
        return self


def unpicklable(rows: Rows, argument: Any) -> Unpicklable:
    return Unpicklable()


def test_a_result_that_cannot_travel_is_an_error(
    executor: ClusterExecutor, small_groups: int
) -> None:
    with pytest.raises(TypeError, match=r"[Cc]ould not serialize|cannot pickle"):
        Scanner(drawn(4, 500), executor).reduce(unpicklable, None, Stage.SURVEY)


def test_an_array_in_memory_is_not_sent(executor: ClusterExecutor) -> None:
    chunks = MemoryChunks(np.zeros((10, 1)), None, 5, ("a",))
    with pytest.raises(ClusterError, match="an array in this process's memory is not sent to a"):
        Scanner(chunks, executor).reduce(chunk_numbers, None, Stage.SURVEY)


def test_a_client_that_is_closed_or_asynchronous_is_refused(client: Client) -> None:
    executor = ClusterExecutor(Client(client.scheduler.address, set_as_default=False))
    executor.client.close()
    with pytest.raises(ClusterError, match="the connection to the scheduler is lost; start it and"):
        Scanner(drawn(4, 500), executor).reduce(chunk_numbers, None, Stage.SURVEY)
    with pytest.raises(ClusterError, match="the connection to the scheduler is lost"):
        ClusterExecutor(executor.client)

    class Asynchronous:
        asynchronous = True

    with pytest.raises(ClusterError, match=r"give a Client\(asynchronous=False\)"):
        ClusterExecutor(Asynchronous())


def test_cancelling_from_outside_is_an_error(
    client: Client, executor: ClusterExecutor, small_groups: int, tmp_path: Path
) -> None:
    source = drawn(8, 500, place=str(tmp_path))
    source.rule("hold", 0).touch()

    def cancel() -> None:
        until(lambda: source.rule("at", 0).exists(), "the reading did not begin")
        tasks = [Future(key, client) for key in client.futures if "sum_groups" in str(key)]
        client.cancel(tasks)
        source.rule("hold", 0).unlink()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(ClusterError, match="tasks were cancelled from outside; start again"):
        Scanner(source, executor).reduce(chunk_numbers, None, Stage.SURVEY)
    thread.join()


def test_no_progress_is_an_error_that_names_the_workers(
    client: Client, small_groups: int, tmp_path: Path
) -> None:
    source = drawn(8, 500, place=str(tmp_path))
    source.rule("hold", 5).touch()
    executor = ClusterExecutor(client, Deadlines(no_progress=1.0))
    message = (
        r"no group of rows was finished within 1 s; at work: "
        r"tcp://127\.0\.0\.1:\d+ \(running\);"
    )
    with pytest.raises(ClusterError, match=message):
        Scanner(source, executor).reduce(chunk_numbers, None, Stage.SURVEY)
    source.rule("hold", 5).unlink()
    assert Scanner(source, executor).reduce(chunk_numbers, None, Stage.SURVEY) == tuple(range(8))
    executor.close()
