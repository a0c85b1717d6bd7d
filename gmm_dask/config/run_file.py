"""A run file: what to do."""

from __future__ import annotations

from pydantic import model_validator

from gmm_dask.config.fit_sections import FitSection, ModelSection, RetrainSection, SelectSection
from gmm_dask.config.input_section import InputSection
from gmm_dask.config.output_sections import OutputSection, PredictSection
from gmm_dask.config.section import Section
from gmm_dask.nulls import NullPolicy


class RunConfig(Section):
    """A run file."""

    input: InputSection
    model: ModelSection = ModelSection()
    select: SelectSection | None = None
    fit: FitSection = FitSection()
    retrain: RetrainSection = RetrainSection()
    predict: PredictSection = PredictSection()
    output: OutputSection

    @model_validator(mode="after")
    def _says_which_mixture(self) -> RunConfig:
        if self.model.n_components is None and self.select is None:
            raise ValueError("key model.n_components is missing")
        return self

    @model_validator(mode="after")
    def _imputes_what_is_predicted(self) -> RunConfig:
        if self.predict.impute and self.input.nulls is not NullPolicy.MARGINALIZE:
            raise ValueError(
                f"predict.impute is true, but with input.nulls = '{self.input.nulls}' no row with "
                "a null is predicted; set input.nulls = 'marginalize'"
            )
        return self
