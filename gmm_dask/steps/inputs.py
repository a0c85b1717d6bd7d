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
from gmm_dask.storage.plan import InputPlan, plan_input
from gmm_dask.storage.predictions import refuse_overlap
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
    targets = [run.output.models]
    if run.output.predictions is not None:
        targets.append(run.output.predictions)
    for target in targets:
        refuse_overlap(target, plan)
    check_writable(Path(run.output.models))
    return plan


@contextmanager
def open_scanner(
    run: RunConfig, plan: InputPlan, cluster: ClusterKind, notify: Notify
) -> Iterator[Scanner]:
    """Scan the features of a plan, for a fit; rows that fit in memory are kept there."""
    with (
        _executor(cluster) as executor,
        Scanner(parquet_chunks(plan), executor, notify) as scanner,
    ):
        yield scanner


@contextmanager
def open_prediction_scanner(
    run: RunConfig, plan: InputPlan, cluster: ClusterKind, notify: Notify
) -> Iterator[Scanner]:
    """Scan features and key columns file by file, for predictions; nothing is kept."""
    chunks = parquet_chunks(plan, split_files=True, key_columns=tuple(run.predict.key_columns))
    with _executor(cluster) as executor, Scanner(chunks, executor, notify) as scanner:
        scanner.kept = False
        yield scanner


@contextmanager
def _executor(cluster: ClusterKind) -> Iterator[Executor]:
    if isinstance(cluster, ThreadsCluster):
        threads = Threads(cluster.threads, no_progress=cluster.deadlines.no_progress)
        try:
            yield threads
        finally:
            threads.close()
    else:
        # Here, because a run on threads need not wait half a second for this import.
        from gmm_dask.chunked.cluster import open_executor

        with open_executor(cluster) as executor:
            yield executor
