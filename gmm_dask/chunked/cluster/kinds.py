"""Opening the kinds of cluster that a cluster file can name, and refusing unsafe ones."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask
from pydantic import TypeAdapter

from gmm_dask.chunked.cluster import worker
from gmm_dask.chunked.cluster.executor import ClusterExecutor
from gmm_dask.chunked.cluster.roster import POLL_SECONDS
from gmm_dask.chunked.scan import Executor
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import (
    ClusterKind,
    LocalProcesses,
    RunningScheduler,
    SchedulerFile,
    SlurmJobs,
    ThreadsCluster,
    TlsSection,
)
from gmm_dask.config.cluster_values import Address, memory_problem
from gmm_dask.errors import ClusterError, ConfigError

logger = logging.getLogger("gmm_dask")

#: Where Dask serves its dashboards: to this machine only, not on every interface.
LOOPBACK = "127.0.0.1:0"
ADDRESS = TypeAdapter(Address)


@contextmanager
def open_executor(kind: ClusterKind) -> Iterator[Executor]:
    """Open the threads or the cluster that a cluster file names, until the block ends.

    Processes and jobs are started and ended here; a scheduler that runs already is left running.

    Parameters
    ----------
    kind
        The ``[cluster]`` table of a cluster file.

    Raises
    ------
    ConfigError
        A key has a value that cannot be used: a memory limit, a TLS file, an address that is not
        on this machine without TLS.
    ClusterError
        The scheduler or the workers do not answer in time, or a worker differs from this process.
    """
    with ExitStack() as stack:
        executor: Executor
        match kind:
            case ThreadsCluster():
                executor = Threads(kind.threads, no_progress=kind.deadlines.no_progress)
            case LocalProcesses():
                executor = ClusterExecutor(_start_processes(stack, kind), kind.deadlines)
            case RunningScheduler():
                executor = _connect(stack, kind, kind.address, "cluster.address")
            case SchedulerFile():
                address = _read_address(Path(kind.path), kind.deadlines.connect)
                executor = _connect(stack, kind, address, "cluster.path")
            case SlurmJobs():
                client = _start_slurm_jobs(stack, kind)
                executor = ClusterExecutor(client, kind.deadlines, allow_mixed=kind.allow_mixed)
        yield stack.enter_context(closing(executor))


def _start_processes(stack: ExitStack, kind: LocalProcesses) -> Any:
    from distributed import Client, LocalCluster
    from distributed.worker_memory import parse_memory_limit

    # What "auto" or a part of this machine comes to; None is no limit.
    limit = parse_memory_limit(kind.memory_limit, kind.threads_per_worker, logger=logger)
    problem = "" if limit is None else memory_problem(limit)
    if problem:
        raise ConfigError(f"cluster.memory_limit = {kind.memory_limit!r}: {problem}")
    cluster = LocalCluster(
        n_workers=kind.workers,
        threads_per_worker=kind.threads_per_worker,
        memory_limit=kind.memory_limit,
        processes=True,
        dashboard_address=LOOPBACK,
        worker_dashboard_address=LOOPBACK,
        silence_logs=logging.CRITICAL,
        preload=[*dask.config.get("distributed.worker.preload"), worker.__name__],
    )
    stack.enter_context(cluster)
    return stack.enter_context(Client(cluster, set_as_default=False))


def _connect(
    stack: ExitStack, kind: RunningScheduler | SchedulerFile, address: str, key: str
) -> ClusterExecutor:
    from distributed import Client

    if "://" not in address:
        address = f"tls://{address}" if kind.tls else f"tcp://{address}"
    _require_safety(address, kind, key)
    security = None if kind.tls is None else _security(kind.tls)
    seconds = kind.deadlines.connect
    try:
        client = Client(address, security=security, timeout=seconds, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"{key}: no scheduler answers at {address} within {seconds:g} s; is it running (dask "
            "scheduler), and do its TLS files match [cluster.tls]? "
            "deadlines.connect sets the limit"
        ) from error
    stack.enter_context(client)
    return ClusterExecutor(client, kind.deadlines, allow_mixed=kind.allow_mixed)


def _require_safety(address: str, kind: RunningScheduler | SchedulerFile, key: str) -> None:
    """Refuse an address on another machine without TLS: whoever can connect can run code."""
    scheme, host = urlsplit(address).scheme, urlsplit(address).hostname
    if scheme not in ("tcp", "tls") or not host:
        raise ConfigError(f"{key} = {address!r}: write tcp://host:port or tls://host:port")
    if (scheme == "tls") != (kind.tls is not None):
        raise ConfigError(
            f"{key} = {address!r}: a tls:// address and the [cluster.tls] files go together"
        )
    if scheme == "tcp" and not kind.allow_insecure and not _is_loopback(host):
        raise ConfigError(
            f"{key} = {address!r} is not on this machine, and without TLS whoever can reach it can "
            "run code there and here; set [cluster.tls], or allow_insecure = true on a network "
            "that you trust"
        )


def _is_loopback(host: str) -> bool:
    try:
        addresses = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(address[4][0]).is_loopback for address in addresses)


def _security(tls: TlsSection) -> Any:
    from distributed import Security

    for name, path in (("ca_file", tls.ca_file), ("cert", tls.cert), ("key", tls.key)):
        if not Path(path).is_file():
            raise ConfigError(f"cluster.tls.{name} = {path!r}: file not found")
    return Security(
        tls_ca_file=tls.ca_file,
        tls_client_cert=tls.cert,
        tls_client_key=tls.key,
        require_encryption=True,
    )


def _read_address(path: Path, seconds: float) -> str:
    """Wait for the file that the scheduler writes, and read the scheduler's address from it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            address = json.loads(path.read_text(encoding="utf-8"))["address"]
            return ADDRESS.validate_python(address)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"cluster.path: no scheduler address in {path} within {seconds:g} s "
                    f"({type(error).__name__}); start dask scheduler --scheduler-file {path}, or "
                    "raise deadlines.connect"
                ) from error
        time.sleep(POLL_SECONDS)


def _start_slurm_jobs(stack: ExitStack, kind: SlurmJobs) -> Any:
    from distributed import Client, Security

    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ConfigError(
            "cluster.kind = 'slurm' needs dask-jobqueue; install it: pip install 'gmm-dask[slurm]'"
        ) from error
    directory = Path.cwd()
    if not re.fullmatch(r"[\w./+@=:,-]+", str(directory)):
        raise ConfigError(
            f"{str(directory)!r} becomes part of a job script, where it would be read as several "
            "words; run the command in a directory whose path has letters, digits and ./+@=:,- only"
        )
    cluster = SLURMCluster(
        cores=kind.cores,
        processes=1,
        memory=kind.memory,
        queue=kind.queue,
        walltime=kind.walltime,
        interface=kind.interface,
        # A new certificate for each run; only the owner of the jobs can read its files.
        security=None if kind.allow_insecure else Security.temporary(),
        shared_temp_directory=str(directory),
        scheduler_options={"dashboard_address": LOOPBACK},
        silence_logs="critical",
    )
    stack.enter_context(cluster)
    cluster.scale(jobs=kind.jobs)
    return stack.enter_context(Client(cluster, set_as_default=False))
