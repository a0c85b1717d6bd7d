"""A table of a run file or cluster file, and the forms of its numbers."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Days = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, le=1)]

_DURATION = re.compile(r"([0-9]{1,6})(s|min|h)")
_SECONDS = {"s": 1, "min": 60, "h": 3600}


def seconds_of(duration: str) -> int:
    """Return the seconds of a duration such as "90s", "10min" or "2h"; raises `ValueError`."""
    written = _DURATION.fullmatch(duration)
    if written is None:
        raise ValueError(
            f'{duration!r}: not a duration; write a whole number and its unit: "90s", "10min", "2h"'
        )
    return int(written[1]) * _SECONDS[written[2]]


def _checked(duration: str) -> str:
    seconds_of(duration)
    return duration


Duration = Annotated[str, AfterValidator(_checked)]


class Section(BaseModel):
    """A table of a file; it cannot be changed and has no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
