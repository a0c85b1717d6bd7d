"""The commands that change which versions there are, and which is in use; they run no flow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gmm_dask.pipelines.arguments import (
    AsJson,
    Debug,
    Overrides,
    check_predictions,
    read_run,
)
from gmm_dask.pipelines.exits import exit_codes, print_failure

if TYPE_CHECKING:
    from gmm_dask.storage.files.retention import Keep, Pruned
    from gmm_dask.storage.models.registry import Registry

Model = Annotated[str, typer.Argument(metavar="MODEL", help="models/NAME.")]
VersionNumber = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Its version.")]


def use(
    model: Model,
    version: VersionNumber,
    debug: Debug = False,
) -> None:
    """Make a version of a model the current one: an earlier one rolls back."""
    with exit_codes(debug):
        from gmm_dask.storage.models.listing import registry_at

        registry = registry_at(model)
        registry.use(version)
        typer.echo(f"{registry.directory}: version {version} is current")


def prune(
    where: Annotated[
        str,
        typer.Argument(
            metavar="RUN.toml|MODELS", help="A run file; or a directory of models, or models/NAME."
        ),
    ],
    overrides: Overrides = [],  # noqa: B006
    keep_versions: Annotated[
        int | None,
        typer.Option(metavar="N", help="So many of the last versions stay.", show_default=False),
    ] = None,
    keep_days: Annotated[
        float | None,
        typer.Option(metavar="D", help="Versions younger than this stay.", show_default=False),
    ] = None,
    predictions: Annotated[
        list[str],
        typer.Option(
            metavar="DIR",
            help="Predictions to prune too; the model version that made them stays. "
            "Those of a run file need not be named.",
        ),
    ] = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Remove old versions of models, refused candidates and predictions.

    What breaks both limits goes: it is neither among the last N nor younger than D days. Without
    these options, output.keep of the run file says it; with one of them, only the options count.
    The current version stays, the last one, those that are pinned or being read, and those that
    others go by.
    """
    report = print_failure if as_json else None
    with exit_codes(debug, report, "it removes the rest") as begun:
        from gmm_dask.pipelines.tables import print_json
        from gmm_dask.steps.pruning import prune as prune_versions
        from gmm_dask.storage.files.retention import Pruned

        keep = _keep_asked(keep_versions, keep_days)
        registries, outputs, keep = _what_to_prune(where, overrides, predictions, keep)
        total = Pruned()
        for pruned in prune_versions(registries, outputs, keep, dry_run):
            if not as_json:
                _print_pruned(pruned)
            total += pruned
            begun.value = begun.value or bool(pruned.paths)
        if as_json:
            print_json({**vars(total), "dry_run": dry_run})
            return
        going = "would be removed" if dry_run else "removed"
        typer.echo(f"{total} {going}" if total.paths else "nothing is to be removed")


def _print_pruned(pruned: Pruned) -> None:
    for path in pruned.paths:
        typer.echo(path)
    for path in pruned.read:
        typer.echo(f"{path} stays: somebody reads it")
    for path in pruned.in_grace:
        typer.echo(f"{path} stays: readers have a day after the next version was stored")


def pin(
    model: Model,
    version: VersionNumber,
    debug: Debug = False,
) -> None:
    """Keep a version of a model from being pruned, until it is unpinned."""
    with exit_codes(debug):
        from gmm_dask.storage.models.listing import registry_at
        from gmm_dask.storage.models.pruning import pin as pin_version

        registry = registry_at(model)
        pin_version(registry, version)
        typer.echo(f"{registry.directory}: version {version} is pinned")


def unpin(
    model: Model,
    version: VersionNumber,
    debug: Debug = False,
) -> None:
    """Let a version of a model be pruned again."""
    with exit_codes(debug):
        from gmm_dask.storage.models.listing import registry_at
        from gmm_dask.storage.models.pruning import unpin as unpin_version

        registry = registry_at(model)
        unpin_version(registry, version)
        typer.echo(f"{registry.directory}: version {version} is no longer pinned")


def _keep_asked(versions: int | None, days: float | None) -> Keep | None:
    """Return the rule that the options give; None without options."""
    from gmm_dask.errors import ConfigError
    from gmm_dask.storage.files.retention import Keep

    if versions is None and days is None:
        return None
    try:
        return Keep(versions, days)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _what_to_prune(
    where: str, overrides: list[str], predictions: Sequence[str], keep: Keep | None
) -> tuple[Sequence[Registry], Sequence[str], Keep]:
    """Return the models, the predictions and the rule, from a run file or a directory."""
    from gmm_dask.errors import ConfigError
    from gmm_dask.steps.pruning import keep_of
    from gmm_dask.steps.resuming import registry_of
    from gmm_dask.storage.models.listing import registries_at

    check_predictions(predictions)
    if where.endswith(".toml"):
        run = read_run(Path(where), overrides)
        keep = keep or keep_of(run)
        if keep is None:
            raise ConfigError(
                f"{where}: key output.keep is missing; give it, such as "
                "keep = {versions = 30, days = 90}, or --keep-versions, or --keep-days"
            )
        outputs = [] if run.output.predictions is None else [run.output.predictions]
        return [registry_of(run)], [*outputs, *predictions], keep
    if overrides:
        raise ConfigError(f"--set changes a run file, and {where} is none; leave it out")
    if keep is None:
        raise ConfigError("say what to keep: --keep-versions N, --keep-days D, or both")
    return registries_at(where), predictions, keep
