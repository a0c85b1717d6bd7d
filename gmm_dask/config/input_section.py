"""``[input]`` of a run file: what is read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gmm_dask.config.section import Days, Duration, Section
from gmm_dask.mixture.spec import TransformName
from gmm_dask.nulls import NullPolicy


class HalflifeSection(Section):
    """Weights that decay with age: 2^(−age/days), times ``sample_weight`` where there is one."""

    column: str = Field(description="dates or timestamps, or a partition key of dates")
    days: Days = Field(description="age at which a row weighs half")


class InputSection(Section):
    """``[input]``: the Parquet data and the columns to use."""

    path: str = Field(
        min_length=1, description="file, directory, glob or s3:// address of Parquet data"
    )
    columns: list[str] = Field(min_length=1, description="numeric columns, the features")
    nulls: NullPolicy = Field(
        NullPolicy.ERROR,
        description="what to do with rows that hold a null or NaN: refuse them, leave them out, or "
        "use what they have ('marginalize')",
    )
    sample_weight: str | None = Field(None, description="column of weights ≥ 0")
    weight_halflife: HalflifeSection | None = Field(
        None,
        description="weights that decay with age, 2^(−age/days), times sample_weight: "
        '{column = "dt", days = 14}',
    )
    filter: str | None = Field(
        None, description="rows to use, as after SQL's WHERE: dt >= current_date - 30"
    )
    transform: dict[str, TransformName] = Field(
        default_factory=dict,
        description="transforms of columns: 'log', 'log1p', 'asinh', 'sqrt', 'logit' or "
        "'standardise'; part of the model",
    )
    convert: dict[str, Literal["float", "seconds"]] = Field(
        default_factory=dict,
        description="columns to convert: numbers of any type to 'float', times to 'seconds'",
    )
    bad_files: Literal["error", "skip"] = Field(
        "error", description="what to do with files that cannot be used"
    )
    max_bad_files: Annotated[int, Field(ge=0)] = Field(
        1, description="the most files to skip; a run that meets more of them fails"
    )
    settled_for: Duration | None = Field(
        None, description='leave out files that were written less than this ago: "90s", "10min"'
    )
