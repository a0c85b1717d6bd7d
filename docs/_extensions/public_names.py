"""The directive ``public-names``: all that a module lists in ``__all__``, with its docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module

from generated import Generated
from sphinx.application import Sphinx


class PublicNames(Generated):
    """Write a table of a module's public names, then each with its members."""

    def write(self, argument: str) -> Iterator[str]:
        """Write the names of a module."""
        module = import_module(argument)
        names = list(module.__all__)
        yield from (
            f".. currentmodule:: {argument}",
            "",
            ".. autosummary::",
            "   :nosignatures:",
            "",
        )
        yield from (f"   {name}" for name in names)
        yield ""
        for name in names:
            kind = "class" if inspect.isclass(getattr(module, name)) else "function"
            yield from (name, "-" * len(name), "", f".. auto{kind}:: {argument}.{name}")
            yield from ("   :members:", "") if kind == "class" else ("",)


def skip(app: Sphinx, what: str, name: str, thing: object, skipped: bool, options: object) -> bool:
    """Leave out what scikit-learn puts on the class: requests for metadata routing."""
    return skipped or (name.startswith("set_") and name.endswith("_request"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
