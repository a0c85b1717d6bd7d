"""A run file: what to do."""

from __future__ import annotations

from pydantic import model_validator

from gmm_dask.config.fit_sections import FitSection, ModelSection, RetrainSection, SelectSection
from gmm_dask.config.input_section import InputSection
from gmm_dask.config.output_sections import OutputSection, PredictSection
from gmm_dask.config.section import Section


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
