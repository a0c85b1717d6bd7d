"""The command that labels a model by rows of which the label is known; it runs no flow."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer

from gmm_dask.pipelines.arguments import Debug
from gmm_dask.pipelines.exits import exit_codes


def label(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="models/NAME, or its address.")],
    rows: Annotated[
        str,
        typer.Option(
            "--with",
            metavar="PARQUET",
            help="Rows with the model's features and a column of labels, null where there is none.",
        ),
    ],
    column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The column of labels; default: the only one that is no feature.",
            show_default=False,
        ),
    ] = None,
    least_weight: Annotated[
        float,
        typer.Option(
            metavar="W", min=0.0, help="Labelled rows that a component needs to have a label."
        ),
    ] = 1.5,
    debug: Debug = False,
) -> None:
    """Label the components of a model by a few rows, and publish that as its next version.

    A component has the label of most of the labelled rows in it, with their share as confidence.
    Predictions by the new version carry label and label_confidence. Nothing is fitted again.
    """
    with exit_codes(debug):
        from gmm_dask.steps.labelling import label_model

        labelled = label_model(model, rows, column, least_weight, f"label-{uuid.uuid4()}")
        labels = labelled.labels
        for identity, name, confidence, weight in zip(
            labelled.component_ids, labels.labels, labels.confidences, labels.weights, strict=True
        ):
            sure = "" if confidence is None else f", confidence {confidence:.0%}"
            typer.echo(f"component {identity}: {name}{sure}, {weight:,.1f} labelled rows")
        typer.echo(f"published {labelled.path}")
