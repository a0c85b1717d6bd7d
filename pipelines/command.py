"""The command ``gmm-dask``, the face of the flows; each command imports what it needs."""

from __future__ import annotations

import gc
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gmm_dask.pipelines.exits import FAILED, exit_codes, print_error
from gmm_dask.pipelines.kinds import FIT, PREDICT, RETRAIN, SELECT, Kind, OutcomeT

if TYPE_CHECKING:
    from gmm_dask.config import ClusterKind, RunConfig
    from gmm_dask.events import Notify

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed while running, 2 refused before it started.",
)

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
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and Prefect's log.")]


def main() -> None:
    """Run the command."""
    # A short command spends most of its time on imports. They fill the memory with objects that
    # stay, and a tenth of the time goes into searching all of them for garbage. Young objects are
    # still searched.
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 100)
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"gmm-dask {version('gmm-dask')}")
        raise typer.Exit


@app.callback()
def gmm_dask(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    """Fit Gaussian mixtures to Parquet data of any size, and predict with them."""


@app.command()
def fit(
    run_file: RunFile,
    overrides: Overrides = [],  # noqa: B006 - Typer copies it
    cluster_file: ClusterFile = None,
    direct: Direct = False,
    debug: Debug = False,
) -> None:
    """Fit the model of a run file and publish it as a new version."""
    _run(FIT, run_file, overrides, cluster_file, direct, debug)


@app.command()
def select(
    run_file: RunFile,
    overrides: Overrides = [],  # noqa: B006
    cluster_file: ClusterFile = None,
    direct: Direct = False,
    debug: Debug = False,
) -> None:
    """Compare numbers of components and covariance types, and publish the best as a new version."""
    _run(SELECT, run_file, overrides, cluster_file, direct, debug)


@app.command()
def predict(
    run_file: RunFile,
    overrides: Overrides = [],  # noqa: B006
    cluster_file: ClusterFile = None,
    direct: Direct = False,
    debug: Debug = False,
) -> None:
    """Assign every row of the input to a component of the current model."""
    _run(PREDICT, run_file, overrides, cluster_file, direct, debug)


@app.command()
def retrain(
    run_file: RunFile,
    overrides: Overrides = [],  # noqa: B006
    cluster_file: ClusterFile = None,
    force: Annotated[bool, typer.Option("--force", help="Fit even if nothing is new.")] = False,
    direct: Direct = False,
    debug: Debug = False,
) -> None:
    """Fit again if anything is new, publish what passes the gate of the run file, and predict."""
    _run(RETRAIN, run_file, overrides, cluster_file, direct, debug, force=force)


@app.command()
def serve(
    run_file: RunFile,
    overrides: Overrides = [],  # noqa: B006
    cluster_file: ClusterFile = None,
    cron: Annotated[
        str | None, typer.Option(metavar="CRON", help="When to retrain, '0 3 * * *' for example.")
    ] = None,
    every: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=1, help="Or how often.")
    ] = None,
    predict_cron: Annotated[
        str | None, typer.Option(metavar="CRON", help="When to predict what is new in between.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Wait for the schedule and run the flows of a run file, until interrupted."""
    with exit_codes(debug):
        run, cluster = _read(run_file, overrides, cluster_file)

        from gmm_dask.pipelines.settings import prepare_environment, require_home, require_server

        prepare_environment(debug=True)  # a service's log is Prefect's
        require_home()
        require_server(embedded=False)

        from gmm_dask.pipelines import serve as service

        service.serve(
            run, cluster, service.schedule(cron, every), service.schedule(predict_cron, None)
        )


@app.command()
def inspect(
    model: Annotated[  # text: a Path would make s3:/ of s3://
        str,
        typer.Argument(
            metavar="MODEL|RUN.toml", help="models/NAME, one version .../v000007, or a run file."
        ),
    ],
    overrides: Overrides = [],  # noqa: B006
    debug: Debug = False,
) -> None:
    """Show a model, after checking all its files; or what the filter of a run file leaves.

    A model is shown by its fit and its components in the data's units. Of an input only footers
    are read: its files, its row groups, and how many rows there are at most.
    """
    with exit_codes(debug):
        if model.endswith(".toml"):
            _inspect_input(Path(model), overrides)
            return
        if overrides:
            from gmm_dask.errors import ConfigError

            raise ConfigError(f"--set changes a run file, and {model} is a model; leave it out")

        from gmm_dask.pipelines.summary import model_summary, print_summary
        from gmm_dask.storage.files.choice import version_at
        from gmm_dask.storage.models.model import verify_files
        from gmm_dask.storage.models.registry import load_model_at

        stored = load_model_at(model)
        assert stored.path is not None
        verify_files(version_at(stored.path))
        print_summary(model_summary(stored))


def _inspect_input(run_file: Path, overrides: list[str]) -> None:
    from gmm_dask.pipelines.summary import input_summary, print_summary
    from gmm_dask.storage.input.plan import plan_input

    run, _ = _read(run_file, overrides, None)
    print_summary(input_summary(run.input.path, plan_input(run.input)))


@app.command()
def report(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="models/NAME, or one version: .../v000007.")
    ],
    versions: Annotated[
        list[int] | None,
        typer.Argument(metavar="VERSION", min=1, help="Several stand beside each other."),
    ] = None,
    predictions: Annotated[
        str | None, typer.Option(metavar="DIR", help="Its predictions, for the drift since.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: NAME-vN.html, in this folder.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    debug: Debug = False,
) -> None:
    """Write the report on any version of a model: one HTML file to open by a double click."""
    with exit_codes(debug):
        from gmm_dask.steps.reporting import write_report

        page = write_report(model, versions or (), predictions, output)
        typer.echo(page)
        if open_:
            import webbrowser

            if not webbrowser.open(page.absolute().as_uri()):
                print_error(f"no browser was found here; open {page} where there is one")
                sys.exit(FAILED)


@app.command()
def use(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Its version.")],
    models: Annotated[str, typer.Option(help="Directory of the model registry.")] = "models",
    debug: Debug = False,
) -> None:
    """Make a version of a model the current one: an earlier one rolls back."""
    with exit_codes(debug):
        from gmm_dask.storage.models.registry import Registry

        registry = Registry(models, name)
        registry.use(version)
        typer.echo(f"{registry.directory}: version {version} is current")


def _run(
    kind: Kind[Any],
    run_file: Path,
    overrides: list[str],
    cluster_file: Path | None,
    direct: bool,
    debug: bool,
    **options: bool,
) -> None:
    """Do a run, through Prefect or directly, and sum it up."""
    with exit_codes(debug) as begun:
        run, cluster = _read(run_file, overrides, cluster_file)
        how = _run_directly if direct else _run_as_flow
        outcome = how(kind, run, cluster, begun, debug, options)

        from gmm_dask.pipelines.summary import print_summary

        print_summary(kind.steps().sum_up(outcome))
        if outcome.refusal is not None:
            reason, path = outcome.refusal.reason, outcome.refusal.path
            print_error(f"the candidate was refused: {reason}; kept in {path}")
            sys.exit(FAILED)


def _read(
    run_file: Path, overrides: list[str], cluster_file: Path | None
) -> tuple[RunConfig, ClusterKind]:
    from gmm_dask.config import ClusterConfig, RunConfig, ThreadsCluster, read_config

    run = read_config(RunConfig, run_file, overrides)
    if cluster_file is None:
        return run, ThreadsCluster()
    return run, read_config(ClusterConfig, cluster_file).cluster


def _run_directly(
    kind: Kind[OutcomeT],
    run: RunConfig,
    cluster: ClusterKind,
    begun: Notify,
    debug: bool,
    options: dict[str, bool],
) -> OutcomeT:
    from gmm_dask.pipelines.sequences import directly
    from gmm_dask.pipelines.watching.listening import fan_out
    from gmm_dask.pipelines.watching.terminal import watch

    sequence = kind.steps().sequence
    with watch() as notify:
        listener = fan_out(begun, notify)
        return sequence(run, cluster, directly, listener, run_id=str(uuid.uuid4()), **options)


def _run_as_flow(
    kind: Kind[OutcomeT],
    run: RunConfig,
    cluster: ClusterKind,
    begun: Notify,
    debug: bool,
    options: dict[str, bool],
) -> OutcomeT:
    from gmm_dask.pipelines.settings import (
        prepare_environment,
        require_home,
        require_server,
        starting_embedded_server,
    )
    from gmm_dask.pipelines.watching.listening import fan_out, listening
    from gmm_dask.pipelines.watching.narration import log
    from gmm_dask.pipelines.watching.terminal import watch

    prepare_environment(debug)
    require_home()
    # With --debug Prefect writes the library's lines among its own.
    with watch(lines=not debug) as notify, listening(fan_out(begun, notify)):
        if require_server():
            flow = kind.flow()
        else:
            log.info("starting Prefect's embedded server, which takes some seconds")
            with starting_embedded_server():
                flow = kind.flow()
                kind.prepare()  # now there is time
        outcome = flow(run, cluster, return_state=True, **options).result(raise_on_failure=False)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
