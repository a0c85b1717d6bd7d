"""The policy for rows that hold a null. Imports nothing, since every layer needs it."""

from __future__ import annotations

from enum import StrEnum


class NullPolicy(StrEnum):
    """How rows that hold a null or NaN are treated."""

    #: They are refused; the message says where the first of them is.
    ERROR = "error"
    #: They are left out of a fit, and their predictions are null.
    DROP = "drop"
    #: They count by what they have: the likelihood is that of their observed features. Rows
    #: without any value are left out.
    MARGINALIZE = "marginalize"
