"""``[labels]`` of a run file: what is known of some rows."""

from __future__ import annotations

from pydantic import Field

from gmm_dask.config.section import NonNegative, Positive, Section
from gmm_dask.mixture.spec import LEAST_LABEL_WEIGHT


class LabelsSection(Section):
    """``[labels]``: labels of some rows, which make the fit semi-supervised."""

    column: str = Field(
        min_length=1,
        description="column of labels, text, integers or booleans; null where a row has none",
    )
    components: Positive = Field(
        1, description="components that each label owns; the others are free"
    )
    least_weight: NonNegative = Field(
        LEAST_LABEL_WEIGHT,
        description="labelled rows that a component needs to have a label, else it is 'unknown'",
    )
