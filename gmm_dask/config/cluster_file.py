"""A cluster file: where to do it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gmm_dask.config import cluster_values
from gmm_dask.config.section import Positive, Seconds, Section


class Deadlines(Section):
    """``[deadlines]`` of a cluster file: how long a run waits."""

    connect: Seconds = Field(30.0, description="seconds to wait for the first worker")
    no_progress: Seconds = Field(600.0, description="seconds to wait for the next group")
    worker_lost: Seconds = Field(60.0, description="seconds without a sign of any worker")


class ThreadsCluster(Section):
    """Threads of this process: the default."""

    kind: Literal["threads"] = "threads"
    threads: Positive | None = Field(None, description="default: the cores of this machine")
    deadlines: Deadlines = Deadlines()


class LocalProcesses(Section):
    """Worker processes on this machine."""

    kind: Literal["local"]
    workers: Positive = Field(2, description="processes to start")
    threads_per_worker: Positive = Field(1, description="threads of each")
    memory_limit: cluster_values.MemoryLimit = Field(
        "auto", description="of each worker, in Dask's notation: '4GiB'"
    )
    deadlines: Deadlines = Deadlines()


class TlsSection(Section):
    """``[tls]``: PEM files."""

    ca_file: cluster_values.Path = Field(description="certificate of the authority")
    cert: cluster_values.Path = Field(description="certificate of this client")
    key: cluster_values.Path = Field(description="private key of this client")


class RunningScheduler(Section):
    """A running ``dask scheduler``, by its address."""

    kind: Literal["address"]
    address: cluster_values.Address = Field(description="of the scheduler: tls://10.0.0.5:8786")
    tls: TlsSection | None = None
    allow_insecure: bool = Field(False, description="connect beyond loopback without TLS")
    allow_mixed: bool = Field(False, description="accept workers of other versions or CPUs")
    deadlines: Deadlines = Deadlines()


class SchedulerFile(Section):
    """A running ``dask scheduler``, by the file that it writes."""

    kind: Literal["scheduler_file"]
    path: cluster_values.Path = Field(description="the file, on a disk that both can read")
    tls: TlsSection | None = None
    allow_insecure: bool = Field(False, description="connect beyond loopback without TLS")
    allow_mixed: bool = Field(False, description="accept workers of other versions or CPUs")
    deadlines: Deadlines = Deadlines()


class SlurmJobs(Section):
    """Workers as Slurm jobs, through dask-jobqueue."""

    kind: Literal["slurm"]
    jobs: Positive = Field(description="jobs to submit, each one worker")
    cores: Positive = Field(description="cores of each job, and threads of its worker")
    memory: cluster_values.JobMemory = Field(description="of each job: '32GB'")
    queue: cluster_values.Queue | None = Field(None, description="partition; default: Slurm's")
    walltime: cluster_values.Walltime = Field("01:00:00", description="time limit of each job")
    interface: cluster_values.Interface | None = Field(
        None, description="network interface of the workers"
    )
    allow_insecure: bool = Field(False, description="let workers connect without TLS")
    allow_mixed: bool = Field(False, description="accept workers of other versions or CPUs")
    deadlines: Deadlines = Deadlines()


ClusterKind = ThreadsCluster | LocalProcesses | RunningScheduler | SchedulerFile | SlurmJobs


class ClusterConfig(Section):
    """A cluster file: a ``[cluster]`` table whose ``kind`` decides which keys it may have."""

    cluster: Annotated[ClusterKind, Field(discriminator="kind")] = ThreadsCluster()
