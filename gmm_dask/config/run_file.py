"""A run file: what to do."""

from __future__ import annotations

from pydantic import model_validator

from gmm_dask.config.fit_sections import FitSection, ModelSection, RetrainSection, SelectSection
from gmm_dask.config.input_section import InputSection
from gmm_dask.config.labels_section import LabelsSection
from gmm_dask.config.output_sections import OutputSection, PredictSection
from gmm_dask.config.section import Section
from gmm_dask.nulls import NullPolicy


class RunConfig(Section):
    """A run file."""

    input: InputSection
    model: ModelSection = ModelSection()
    select: SelectSection | None = None
    fit: FitSection = FitSection()
    labels: LabelsSection | None = None
    retrain: RetrainSection = RetrainSection()
    predict: PredictSection = PredictSection()
    output: OutputSection

    @model_validator(mode="after")
    def _says_which_mixture(self) -> RunConfig:
        if self.model.n_components is None and self.select is None:
            raise ValueError("key model.n_components is missing")
        return self

    @model_validator(mode="after")
    def _fits_with_labels(self) -> RunConfig:
        if self.labels is None:
            return self
        if self.select is not None:
            raise ValueError(
                "[labels] and [select] exclude each other: a selection does not take labels into "
                "account; leave [labels] out and label the model that it chooses, by gmm-dask label"
            )
        if self.labels.column in self.input.columns:
            raise ValueError(
                f"labels.column is {self.labels.column!r}, which is one of input.columns; a label "
                "is no feature: take it out of there"
            )
        if self.fit.on_collapse == "replace":
            raise ValueError(
                "fit.on_collapse is 'replace', which would take a component away from its label; "
                "with [labels], leave it at 'report'"
            )
        if self.retrain.start == "incremental":
            raise ValueError(
                "retrain.start is 'incremental', which keeps no labels of the rows that it does "
                "not read; with [labels], set it to 'both'"
            )
        return self

    @model_validator(mode="after")
    def _imputes_what_is_predicted(self) -> RunConfig:
        if self.predict.impute and self.input.nulls is not NullPolicy.MARGINALIZE:
            raise ValueError(
                f"predict.impute is true, but with input.nulls = '{self.input.nulls}' no row with "
                "a null is predicted; set input.nulls = 'marginalize'"
            )
        return self
