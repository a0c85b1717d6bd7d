"""The directive ``commands``: every command, its arguments and options, from the Typer app."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from generated import Generated, escaped, heading, load, table
from sphinx.application import Sphinx


def name_of(parameter: Any) -> str:
    """Write a parameter as one types it."""
    if parameter.param_type_name == "argument":
        return f"``{parameter.metavar or parameter.name.upper()}``"
    value = "" if getattr(parameter, "is_flag", False) else parameter.metavar or "TEXT"
    return f"``{' '.join([*parameter.opts, value]).strip()}``"


def meaning_of(parameter: Any) -> str:
    """Say what a parameter does, and its default if that says anything."""
    default = parameter.default
    plain = isinstance(default, str | int | float) and not isinstance(default, bool)
    meaning = escaped(parameter.help)
    return f"{meaning} Default: ``{default}``." if plain else meaning


class Commands(Generated):
    """Write a section for each command of an app."""

    def write(self, argument: str) -> Iterator[str]:
        """Write the commands of a Typer app, ``module:app``."""
        group: Any = typer.main.get_command(load(argument))
        yield from (f"{group.help} {group.epilog}", "")
        rows = [(name_of(each), meaning_of(each)) for each in group.params]
        yield from table(("option", "meaning"), rows, "38 62")
        for name, command in group.commands.items():
            parameters = command.params
            arguments = [each for each in parameters if each.param_type_name == "argument"]
            typed = " ".join(each.metavar or each.name.upper() for each in arguments)
            yield from heading(f"gmm-dask {name}", "-")
            yield from (escaped(command.help), "")
            yield from (".. code-block:: text", "", f"   gmm-dask {name} {typed} [OPTIONS]", "")
            rows = [(name_of(each), meaning_of(each)) for each in parameters]
            yield from table(("argument or option", "meaning"), rows, "38 62")


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
