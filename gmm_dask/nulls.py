"""What becomes of rows that hold a null. Imports nothing: every layer names the policy."""

from __future__ import annotations

from enum import StrEnum


class NullPolicy(StrEnum):
    """What becomes of rows that hold a null or NaN."""

    #: They are refused, and the message says where the first one is.
    ERROR = "error"
    #: They are left out of a fit, and get null predictions.
    DROP = "drop"
