"""Arguments and options that several commands have, and the files that they name."""

from __future__ import annotations

from collections.abc import Sequence
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


def read_run(run_file: Path, overrides: list[str]) -> RunConfig:
    """Read a run file with its overrides."""
    from gmm_dask.config import RunConfig, read_config

    return read_config(RunConfig, run_file, overrides)


def read_cluster(cluster_file: Path | None) -> ClusterKind:
    """Read a cluster file; without one, threads here."""
    from gmm_dask.config import ClusterConfig, ThreadsCluster, read_config

    return (
        ThreadsCluster()
        if cluster_file is None
        else read_config(ClusterConfig, cluster_file).cluster
    )


def check_predictions(outputs: Sequence[str]) -> None:
    """Refuse a directory that the command line names and that holds no predictions."""
    from gmm_dask.errors import ConfigError
    from gmm_dask.storage.predictions.dataset import read_predictions

    for output in outputs:
        if read_predictions(output) is None:
            raise ConfigError(f"{output}: holds no predictions; name the directory of a run file")
