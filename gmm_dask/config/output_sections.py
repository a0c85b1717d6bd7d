"""What a run file says of what is written: ``[predict] [output]``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, field_validator, model_validator

from gmm_dask.addresses import ObjectAddress, place_of
from gmm_dask.config.section import Days, NonNegative, Positive, Rate, Section


class PredictSection(Section):
    """``[predict]``: which rows, what is written for each, and when rows count as drifted."""

    filter: str | None = Field(
        None,
        description="rows to predict, instead of those of input.filter; 'true': every row; "
        "predictions of other rows stay as they are",
    )
    refresh: Literal["changed", "all"] = Field(
        "all",
        description="what a new version of the model predicts again: all files inside the "
        "filter, or only new and changed ones",
    )
    key_columns: list[str] = Field(
        default_factory=list, description="input columns to copy to the predictions"
    )
    probabilities: bool = Field(False, description="also write the responsibilities")
    cluster: StrictBool | Positive = Field(
        False, description="also write the cluster: true for the suggested number of them, or 2, 3…"
    )
    impute: StrictBool = Field(
        False,
        description="also write the expected values of missing features, as NAME_imputed; with "
        "nulls = 'marginalize'",
    )
    on_drift: Literal["warn", "fail"] = Field(
        "warn", description="what to do where rows differ by more than the limits below"
    )
    max_log_likelihood_drop: NonNegative = Field(
        0.5, description="nats per row that the mean may lie below that of the training rows"
    )
    max_low_density_share: Rate = Field(
        0.01, description="share of rows that may lie below the model's low-density threshold"
    )
    max_occupancy_change: Rate = Field(
        0.2, description="total variation distance from the training occupancy, 0 to 1"
    )

    @field_validator("filter", mode="before")
    @classmethod
    def _is_a_condition(cls, condition: Any) -> Any:
        """Take ``--set predict.filter=true``, which TOML reads as a boolean, for the condition."""
        return "true" if condition is True else condition


class KeepSection(Section):
    """``[output.keep]``: how long versions stay; what breaks every limit here is removed."""

    versions: Positive | None = Field(None, description="so many of the last versions stay")
    days: Days | None = Field(None, description="versions younger than this stay")

    @model_validator(mode="after")
    def _has_a_limit(self) -> KeepSection:
        if self.versions is None and self.days is None:
            raise ValueError("{}: say how many versions to keep, for how many days, or both")
        return self


class OutputSection(Section):
    """``[output]``: where models and predictions go."""

    models: str = Field(
        "models",
        min_length=1,
        description="directory of the model registry, or its address on a store: s3://…",
    )
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        max_length=128, description="name of the model in the registry"
    )
    predictions: str | None = Field(
        None,
        min_length=1,
        description="directory of predictions, or its address on a store: s3://…",
    )
    keep: KeepSection | None = Field(
        None,
        description="how long versions of models, refused candidates and predictions stay; "
        "default: models and candidates for ever, predictions until two later ones are published",
    )

    metrics: str | None = Field(
        None,
        description="file of Prometheus metrics, NAME.prom, in the directory that the node "
        "exporter's textfile collector reads; written after each run",
    )

    @field_validator("metrics")
    @classmethod
    def _is_a_metrics_file(cls, address: str | None) -> str | None:
        if address is None:
            return None
        if isinstance(place_of(address), ObjectAddress):
            raise ValueError("{}: the collector reads files of this machine; give a path")
        if not address.endswith(".prom"):
            raise ValueError("{}: the collector reads no file but those that end in .prom")
        return address

    @field_validator("models", "predictions")
    @classmethod
    def _is_a_place(cls, address: str | None) -> str | None:
        """Refuse what cannot be written to, before anything is read."""
        if address is not None:
            place_of(address)
        return address
