"""The command ``gmm-dask``, the face of the flows; each command imports what it needs.

What runs no flow stands in `gmm_dask.pipelines.model_commands` and `version_commands`.
"""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gmm_dask.pipelines.arguments import (
    AsJson,
    ClusterFile,
    Debug,
    Direct,
    Overrides,
    RunFile,
    read_cluster,
    read_run,
)
from gmm_dask.pipelines.exits import FAILED, Begun, exit_codes, print_error
from gmm_dask.pipelines.garbage import importing, spare_searches
from gmm_dask.pipelines.kinds import FIT, PREDICT, RETRAIN, SELECT, Kind, OutcomeT
from gmm_dask.pipelines.label_commands import label
from gmm_dask.pipelines.model_commands import diff, drift, inspect, list_, report
from gmm_dask.pipelines.version_commands import pin, prune, unpin, use

if TYPE_CHECKING:
    from gmm_dask.config import ClusterKind, RunConfig
    from gmm_dask.pipelines.sequences import Outcome

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed while running, 2 refused before it started.",
)


def main() -> None:
    """Run the command."""
    spare_searches()
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
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Fit the model of a run file and publish it as a new version."""
    _run(FIT, run_file, overrides, cluster_file, direct, debug, as_json)


@app.command()
def select(
    run_file: RunFile,
    overrides: Overrides = [],  # noqa: B006
    cluster_file: ClusterFile = None,
    direct: Direct = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare numbers of components and covariance types, and publish the best as a new version."""
    _run(SELECT, run_file, overrides, cluster_file, direct, debug, as_json)


@app.command()
def predict(
    run_file: RunFile,
    overrides: Overrides = [],  # noqa: B006
    cluster_file: ClusterFile = None,
    model_version: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Backfill: predict by this version of the model."),
    ] = None,
    direct: Direct = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Assign rows to components of the model: those of predict.filter, else of the input.

    Other rows keep the predictions that they have.
    """
    options = {} if model_version is None else {"model_version": model_version}
    _run(PREDICT, run_file, overrides, cluster_file, direct, debug, as_json, **options)


@app.command()
def retrain(
    run_file: RunFile,
    overrides: Overrides = [],  # noqa: B006
    cluster_file: ClusterFile = None,
    force: Annotated[bool, typer.Option("--force", help="Fit even if nothing is new.")] = False,
    direct: Direct = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Fit again if anything is new, publish what passes the gate of the run file, and predict."""
    _run(RETRAIN, run_file, overrides, cluster_file, direct, debug, as_json, force=force)


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
        run, cluster = read_run(run_file, overrides), read_cluster(cluster_file)

        from gmm_dask.pipelines.settings import prepare_environment, require_home, require_server

        prepare_environment(debug=True)  # a service's log is Prefect's
        require_home()
        require_server(embedded=False)

        from gmm_dask.pipelines import serve as service

        service.serve(
            run, cluster, service.schedule(cron, every), service.schedule(predict_cron, None)
        )


app.command("list")(list_)
for command in (inspect, diff, drift, report, label, use, pin, unpin, prune):
    app.command()(command)


def _run(
    kind: Kind[Any],
    run_file: Path,
    overrides: list[str],
    cluster_file: Path | None,
    direct: bool,
    debug: bool,
    as_json: bool,
    **options: int,
) -> None:
    """Do a run, through Prefect or directly, and sum it up."""
    began = time.time()

    def report_failure(begun: Begun, error: BaseException, code: int, reason: str) -> None:
        from gmm_dask.pipelines.run_record import RunStart, record_failure

        start = RunStart(kind.name, begun.run, begun.run_id, began)
        record = record_failure(start, error, code, reason)
        if begun.run is not None and begun.run_id is None:  # what begins leaves its own
            from gmm_dask.pipelines.recording import leave_metrics

            leave_metrics(begun.run, record)
        if as_json:
            from gmm_dask.pipelines.tables import print_json

            print_json(record.to_json())

    with exit_codes(debug, report_failure, kind.resumed) as begun:
        with importing():
            begun.run = run = read_run(run_file, overrides)
            cluster = read_cluster(cluster_file)
        how = _run_directly if direct else _run_as_flow
        outcome = how(kind, run, cluster, begun, debug, options)
        if as_json:
            from gmm_dask.pipelines.run_record import RunStart, record_outcome
            from gmm_dask.pipelines.tables import print_json

            start = RunStart(kind.name, run, begun.run_id, began)
            print_json(record_outcome(start, outcome).to_json())
        else:
            from gmm_dask.pipelines.rendering import print_summary

            print_summary(kind.steps().sum_up(outcome))
        _exit_if_failed(outcome)


def _exit_if_failed(outcome: Outcome) -> None:
    """End the command with a line on stderr if its run has not done what was asked."""
    from gmm_dask.pipelines.endings import ending_of, failure_words

    if not ending_of(outcome).failed:
        return
    sentences = [failure_words(outcome)]
    if outcome.refusal is not None:
        reason, path = outcome.refusal.reason, outcome.refusal.path
        sentences.insert(0, f"the candidate was refused: {reason}; kept in {path}")
    print_error("; ".join(filter(None, sentences)))
    sys.exit(FAILED)


def _run_directly(
    kind: Kind[OutcomeT],
    run: RunConfig,
    cluster: ClusterKind,
    begun: Begun,
    debug: bool,
    options: dict[str, int],
) -> OutcomeT:
    with importing():
        from gmm_dask.pipelines.recording import recorded
        from gmm_dask.pipelines.sequences import directly
        from gmm_dask.pipelines.watching.listening import fan_out
        from gmm_dask.pipelines.watching.terminal import watch

        sequence = kind.steps().sequence
    begun.run_id = run_id = str(uuid.uuid4())
    with watch() as notify:
        listener = fan_out(begun, notify)

        def execute() -> OutcomeT:
            return sequence(run, cluster, directly, listener, run_id=run_id, **options)

        return recorded(kind.name, run, run_id, execute)


def _run_as_flow(
    kind: Kind[OutcomeT],
    run: RunConfig,
    cluster: ClusterKind,
    begun: Begun,
    debug: bool,
    options: dict[str, int],
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
            with importing():
                flow = kind.flow()
        else:
            log.info("starting Prefect's embedded server, which takes some seconds")
            with starting_embedded_server(), importing():
                flow = kind.flow()
                kind.prepare()  # now there is time
        # A flow that is interrupted returns no state, so its id is noted when it begins.
        follow = flow.with_options(on_running=[begun.note_id])
        state = follow(run, cluster, return_state=True, **options)
        begun.run_id = str(state.state_details.flow_run_id)
        outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
