"""The beginning of every run: look at the input, refuse what cannot work, open a scanner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gmm_dask.chunked.scan import Executor, Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import ClusterKind, RunConfig, ThreadsCluster
from gmm_dask.errors import TooFewRowsError
from gmm_dask.events import Notify
from gmm_dask.storage.atomic import check_writable
from gmm_dask.storage.dataset import check_output
from gmm_dask.storage.overlap import refuse_overlap
from gmm_dask.storage.plan import InputPlan, plan_input
from gmm_dask.storage.reader import parquet_chunks


def inspect_input(run: RunConfig) -> InputPlan:
    """Make the input plan from the footers, and refuse what can be refused before any row is read.

    Raises
    ------
    InputError
        The input cannot be used, or has fewer rows than components.
    StorageError
        A target cannot be written, or lies in the input.
    """
    plan = plan_input(run.input)
    if plan.rows < run.model.n_components:
        raise TooFewRowsError(
            f"{run.input.path}: {plan.rows:,} rows are too few for model.n_components = "
            f"{run.model.n_components}"
        )
    for target in (run.output.models, run.output.predictions):
        if target is not None:
            refuse_overlap(target, run.input.path, plan)
    check_writable(Path(run.output.models))
    if run.output.predictions is not None:
        check_output(run.output.predictions)
        check_writable(Path(run.output.predictions).parent)
    return plan


@contextmanager
def open_scanner(
    run: RunConfig, plan: InputPlan, cluster: ClusterKind, notify: Notify
) -> Iterator[Scanner]:
    """Scan the features of a plan, for a fit; rows that fit in memory are kept there."""
    with (
        open_executor(cluster) as executor,
        Scanner(parquet_chunks(plan), executor, notify) as scanner,
    ):
        yield scanner


@contextmanager
def open_executor(cluster: ClusterKind) -> Iterator[Executor]:
    """Start what a cluster file asks for, and end it; a run on threads starts nothing."""
    if isinstance(cluster, ThreadsCluster):
        threads = Threads(cluster.threads, no_progress=cluster.deadlines.no_progress)
        try:
            yield threads
        finally:
            threads.close()
    else:
        # Here, because a run on threads need not wait half a second for this import.
        from gmm_dask.chunked import cluster as clusters

        with clusters.open_executor(cluster) as executor:
            yield executor
