"""The commands that show models; they run no flow and change nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gmm_dask.pipelines.arguments import (
    AsJson,
    Debug,
    Overrides,
    check_predictions,
    read_run,
)
from gmm_dask.pipelines.exits import FAILED, exit_codes, print_error, print_failure


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
    are read: its files, its row groups, and how many rows there are at most, for a fit and, with
    predict.filter, for a prediction.
    """
    with exit_codes(debug):
        if model.endswith(".toml"):
            _inspect_input(Path(model), overrides)
            return
        if overrides:
            from gmm_dask.errors import ConfigError

            raise ConfigError(f"--set changes a run file, and {model} is a model; leave it out")

        from gmm_dask.pipelines.rendering import print_summary
        from gmm_dask.pipelines.summary import model_summary
        from gmm_dask.storage.files.choice import version_at
        from gmm_dask.storage.models.model import verify_files
        from gmm_dask.storage.models.paths import load_model_at

        stored = load_model_at(model)
        assert stored.path is not None
        verify_files(version_at(stored.path))
        print_summary(model_summary(stored))


def _inspect_input(run_file: Path, overrides: list[str]) -> None:
    from datetime import UTC, datetime

    from gmm_dask.pipelines.rendering import print_summary
    from gmm_dask.pipelines.summary import input_summary
    from gmm_dask.steps.filtering import plan_prediction
    from gmm_dask.storage.input.plan import plan_input

    run = read_run(run_file, overrides)
    path, present = run.input.path, datetime.now(UTC)
    if run.predict.filter is None:
        print_summary(input_summary(path, plan_input(run.input, present)))
        return
    print_summary(input_summary(path, plan_input(run.input, present), ", to fit"))
    print_summary(input_summary(path, plan_prediction(run, present), ", to predict"))


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

        check_predictions([] if predictions is None else [predictions])
        page = write_report(model, versions or (), predictions, output)
        typer.echo(page)
        if open_:
            import webbrowser

            if not webbrowser.open(page.absolute().as_uri()):
                print_error(f"no browser was found here; open {page} where there is one")
                sys.exit(FAILED)


def list_(
    models: Annotated[
        str, typer.Argument(metavar="MODELS", help="A directory of models, or models/NAME.")
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Only this model of the directory.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the versions of models, and the candidates that were refused."""
    with exit_codes(debug, print_failure if as_json else None):
        from gmm_dask.pipelines.tables import print_json, print_listing
        from gmm_dask.versions import list_models

        listed = list_models(models, name)
        if as_json:
            print_json([vars(model) for model in listed])
        else:
            print_listing(listed)


def drift(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="models/NAME, or one version: .../v000007.")
    ],
    predictions: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Its predictions, for what they have measured too."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show how the new rows of each night differed, in which feature and component, since when."""
    with exit_codes(debug, print_failure if as_json else None):
        from gmm_dask.pipelines.nights import nights_to_json, print_nights
        from gmm_dask.pipelines.tables import print_json
        from gmm_dask.versions import read_nights

        check_predictions([] if predictions is None else [predictions])
        nights = read_nights(model, predictions)
        if as_json:
            print_json(nights_to_json(nights))
        else:
            print_nights(nights)


def diff(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="models/NAME.")],
    before: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="One version.")],
    after: Annotated[
        int | None,
        typer.Argument(metavar="VERSION", min=1, help="Another; default: the current one."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare two versions of a model: which component is which, what moved, what was set."""
    with exit_codes(debug, print_failure if as_json else None):
        from gmm_dask.pipelines.differences import print_comparison
        from gmm_dask.pipelines.tables import print_json
        from gmm_dask.versions import compare_models

        comparison = compare_models(model, before, after)
        if as_json:
            print_json(comparison.to_json())
        else:
            print_comparison(comparison)
