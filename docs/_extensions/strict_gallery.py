"""A warning in a page of the gallery is an error, as it is in a test."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import Any

_page = ExitStack()


def set_filters(gallery: dict[str, Any], path: str, when: str) -> None:
    """Raise warnings from before a page until after it."""
    if when == "before":
        _page.enter_context(warnings.catch_warnings(action="error"))
    else:
        _page.close()
