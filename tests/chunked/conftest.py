"""Small groups, so that few rows make many groups; and a cluster that several tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from distributed import Client, LocalCluster

from gmm_dask.chunked import groups
from gmm_dask.chunked.cluster import ClusterExecutor
from gmm_dask.chunked.scan import Executor


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> int:
    """Rows of the smallest group."""
    monkeypatch.setattr(groups, "LEAST_NARROW_ROWS", 1000)
    return 1000


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """A client of two worker processes with a thread each."""
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit="2GiB",
            dashboard_address="127.0.0.1:0",
            silence_logs=False,  # True would also silence the handlers of caplog in all later tests
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def executor(client: Client) -> Iterator[ClusterExecutor]:
    """An executor on the session's cluster."""
    executor = ClusterExecutor(client)
    yield executor
    executor.close()


@pytest.fixture(params=["inline", "threads", "cluster"])
def any_executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Each kind of executor in turn: one thread, three, and the cluster."""
    from gmm_dask.chunked.threads import Threads

    if request.param == "cluster":
        yield request.getfixturevalue("executor")
    else:
        threads = Threads(1 if request.param == "inline" else 3)
        yield threads
        threads.close()
