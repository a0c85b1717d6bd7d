"""Keep pages from asking other sites for anything: they can be read without a network."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

#: matplotlib's player asks for the icons of its buttons, which the theme has as well.
ICONS = re.compile(r'<link rel="stylesheet"\s+href="https://[^"]*font-awesome[^"]*">')


def strip(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Take the link to the icons out of a page."""
    if "body" in context:
        context["body"] = ICONS.sub("", context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the extension."""
    app.connect("html-page-context", strip)
    return {"parallel_read_safe": True}
