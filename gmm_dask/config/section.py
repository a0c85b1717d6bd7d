"""A table of a run file or cluster file, and the forms of its numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Days = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A table of a file; it cannot be changed and has no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
