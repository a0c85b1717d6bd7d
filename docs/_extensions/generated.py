"""What the directives share that write a part of the reference from the code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles


class Generated(SphinxDirective):
    """A directive with one argument, whose content is reStructuredText that it writes itself."""

    required_arguments = 1

    def write(self, argument: str) -> Iterable[str]:
        """Write the lines."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse the lines at the place of the directive."""
        lines = StringList(list(self.write(self.arguments[0])), self.arguments[0])
        parent = nodes.Element()
        nested_parse_with_titles(self.state, lines, parent)
        return parent.children


def load(name: str) -> Any:
    """Import ``module:attribute``."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def escaped(text: str) -> str:
    """Write a text in which no character is markup."""
    return re.sub(r"([*`|_\\])", r"\\\1", text)


def heading(text: str, underline: str) -> list[str]:
    """Write a heading."""
    return [text, underline * len(text), ""]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], widths: str) -> Iterator[str]:
    """Write a table."""
    yield from (".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", "")
    for first, *others in (header, *rows):
        yield f"   * - {first}"
        yield from (f"     - {cell}" for cell in others)
    yield ""
