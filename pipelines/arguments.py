"""Arguments and options that several commands have, and the files that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gmm_dask.config import ClusterKind, RunConfig

RunFile = Annotated[Path, typer.Argument(metavar="RUN.toml", help="What to run.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key of the run file."),
]
ClusterFile = Annotated[
    Path | None,
    typer.Option("--cluster", metavar="CLUSTER.toml", help="Where to run; default: threads here."),
]
Direct = Annotated[bool, typer.Option("--direct", help="The same steps without Prefect.")]
AsJson = Annotated[bool, typer.Option("--json", help="For other programs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and Prefect's log.")]


def read_files(
    run_file: Path, overrides: list[str], cluster_file: Path | None
) -> tuple[RunConfig, ClusterKind]:
    """Read a run file with its overrides, and a cluster file; without one, threads here."""
    from gmm_dask.config import ClusterConfig, RunConfig, ThreadsCluster, read_config

    run = read_config(RunConfig, run_file, overrides)
    if cluster_file is None:
        return run, ThreadsCluster()
    return run, read_config(ClusterConfig, cluster_file).cluster
